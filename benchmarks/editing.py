"""What an edit changes and what it leaves: phantoms of the test split, each given one finding that it does not have.

    python benchmarks/editing.py --num 64 --strength 0.5 --strength 0.35

Read from the edited films by the demo's finding classifier and geometry annotator, beside report -> film with the same new reports:

- asked: share of studies that show the finding asked for; F1: macro over findings, against the new report's labels
- others: Cohen's kappa of the findings not asked for, edited against original film (both read by the classifier)
- geometry: correlation of the body's attributes, edited against original film, over the studies whose heart is to stay
- identity: PSNR in dB of an edit with the study's own report, beside the autoencoder's round trip
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from measuring import RESULTS, machine

from medcodi.data.loading import DataConfig
from medcodi.evaluation.annotators.geometry import GeometryAnnotator, geometry_agreement
from medcodi.evaluation.annotators.image_annotators import findings_from_probabilities, load_image_annotator
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.generation.editing import edit_batch
from medcodi.generation.pipeline import generate_batch, load
from medcodi.generation.statements import merged_report
from medcodi.metrics.coherence import Contingency
from medcodi.metrics.findings import finding_scores
from medcodi.metrics.labeler import label_matrix
from medcodi.modality import names
from medcodi.model import demo_checkpoint
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import CHEXPERT_LABELS

STATEMENTS = {
    "Pleural Effusion": "Moderate left pleural effusion.",
    "Pneumothorax": "Large right pneumothorax.",
    "Cardiomegaly": "Severe cardiomegaly.",
    "Consolidation": "Left lower lobe consolidation.",
    "Edema": "Severe pulmonary edema.",
    "Support Devices": "Pacemaker in place.",
}
BATCH = 32
# What follows from others, and is no finding of its own.
DERIVED = [CHEXPERT_LABELS.index(label) for label in ("No Finding", "Lung Opacity")]
Films = dict[str, list[np.ndarray]]  # film -> one of each study


class Bench:
    """Test phantoms with their edits, and the annotators."""

    def __init__(self, num: int) -> None:
        data = DataConfig(source="phantom", split="test", num_studies=num, image_size=128).build()
        self.studies = [data[index] for index in range(num)]
        self.model, folder = load(None, "cpu"), demo_checkpoint()
        self.execution = ExecutionConfig(precision="bfloat16", channels_last=True)
        self.classifier = load_image_annotator("demo", LoadRequest(weights=str(folder), device="cpu"))
        self.geometry = GeometryAnnotator.load(folder)
        # Of each study, one finding that it does not have.
        self.asked = []
        for place, study in enumerate(self.studies):
            absent = [label for label in STATEMENTS if study.labels.get(label, 0) != 1]
            self.asked.append(absent[place % len(absent)])
        self.old = [str(study.contents["report"]) for study in self.studies]
        pairs = zip(self.old, self.asked, strict=True)
        self.new = [merged_report(report, STATEMENTS[label]) for report, label in pairs]
        self.real: Films = {
            film: [np.asarray(study.contents[film]) for study in self.studies] for film in names("image")
        }

    def in_batches(self, run: Callable[[slice], Sequence[Mapping[str, object]]]) -> Films:
        """Films of all studies, batch after batch."""
        needed = self.model.components_for(("report",), names("image"))
        with self.execution.running(self.model, needed), torch.no_grad():
            starts = range(0, len(self.studies), BATCH)
            rows = [row for start in starts for row in run(slice(start, start + BATCH))]
        return {film: [np.asarray(row[film]) for row in rows] for film in names("image")}

    def edits(self, reports: Sequence[str], strength: float, config: GenerationConfig) -> Films:
        """Every study edited to a report."""
        old, new = ([{"report": report} for report in each] for each in (self.old, reports))
        contents, seeds = [study.contents for study in self.studies], list(range(len(self.studies)))
        return self.in_batches(
            lambda own: edit_batch(
                self.model, contents[own], names("image"), old[own], new[own], seeds[own], config, strength
            )
        )

    def generated(self, config: GenerationConfig) -> Films:
        """Every study generated from its new report."""
        prompts, seeds = [{"report": report} for report in self.new], list(range(len(self.studies)))
        return self.in_batches(lambda own: generate_batch(self.model, prompts[own], names("image"), seeds[own], config))

    def labels(self, film: str, images: Sequence[np.ndarray]) -> np.ndarray:
        """Findings that the classifier reads: ``[N, 14]``."""
        annotator = self.classifier
        probabilities = annotator.annotate(images, film)
        thresholds, judged = annotator.thresholds(film), annotator.judged(film)
        return findings_from_probabilities(annotator.targets, thresholds, judged, probabilities)[0].astype(float)

    def row(self, film: str, films: Films) -> dict[str, float]:
        """The figures of one kind of film."""
        labels, original, rows = (
            self.labels(film, films[film]),
            self.labels(film, self.real[film]),
            range(len(self.asked)),
        )
        columns = [CHEXPERT_LABELS.index(label) for label in self.asked]
        judged = [column for column in range(14) if not np.isnan(labels[:, column]).any() and column not in DERIVED]
        f1 = finding_scores(
            label_matrix(self.new)[:, judged], labels[:, judged], [CHEXPERT_LABELS[k] for k in judged]
        ).macro_f1
        asked = float(np.mean([labels[row, columns[row]] == 1 for row in rows]))
        # Findings that were not asked for.
        pair = [labels.copy(), original.copy()]
        for each in pair:
            each[list(rows), columns] = np.nan
        kappa = Contingency.of(*(each[:, judged] for each in pair)).kappa(np.ones((1, len(rows))))
        # The body, of studies whose heart is to stay.
        stays = [row for row in rows if self.asked[row] != "Cardiomegaly"]
        chosen = list(self.geometry.judged(*names("image")))
        bodies = [
            self.geometry.annotate([images[row] for row in stays], film)[:, chosen]
            for images in (films[film], self.real[film])
        ]
        geometry = geometry_agreement(*bodies)(np.ones((1, len(stays))))[0]
        figures = {"asked": asked, "F1": f1, "others": float(np.nanmean(kappa)), "geometry": float(geometry)}
        return {name: round(float(value), 3) for name, value in figures.items()}

    def psnr(self, film: str, images: Sequence[np.ndarray]) -> float:
        """Mean PSNR to the original film, in dB."""
        pairs = zip(images, self.real[film], strict=True)
        return round(float(np.mean([-10 * np.log10(np.mean((one - other) ** 2)) for one, other in pairs])), 2)

    def round_trip(self, film: str) -> float:
        """PSNR of the autoencoder's round trip."""
        with torch.no_grad():
            images = torch.from_numpy(np.stack(self.real[film]))[:, None]
            decoded = self.model.decode(film, self.model.latent(film, images))
        return self.psnr(film, list(np.asarray(decoded)[:, 0]))


def main() -> None:
    """Print one JSON line for each setting and film, and write them to results/editing.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--strength", type=float, action="append")
    parser.add_argument("--guidance", type=float, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench, config = Bench(arguments.num), GenerationConfig(guidance_scale=arguments.guidance)

    rows = []

    def show(what: str, films: Films, started: float) -> None:
        for film in names("image"):
            line = {"what": what, "film": film, **bench.row(film, films), "psnr": bench.psnr(film, films[film])}
            rows.append({**line, "seconds": round(time.monotonic() - started, 1)})
            print(json.dumps(rows[-1]), flush=True)

    started = time.monotonic()
    show("from the new report, no edit", bench.generated(config), started)
    for strength in arguments.strength or [0.4, 0.5, 0.6]:
        started = time.monotonic()
        show(f"strength {strength}", bench.edits(bench.new, strength, config), started)
    strength = (arguments.strength or [0.5])[0]
    same = bench.edits(bench.old, strength, config)
    for film in names("image"):
        figures = {"psnr": bench.psnr(film, same[film]), "round_trip": bench.round_trip(film)}
        rows.append({"what": f"the same report, strength {strength}", "film": film, **figures})
        print(json.dumps(rows[-1]), flush=True)
    results = {
        "what": "edits of phantoms of the test split, each given one finding that it does not have, by the shipped demo",
        "command": "python benchmarks/editing.py " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "model_sha256": bench.model.identity(),
        "N": arguments.num,
        "rows": rows,
    }
    (RESULTS / "editing.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
