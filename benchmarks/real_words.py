"""Real words: frontals generated from real reports of Open-i, judged by the demo's classifier against the reports' gold labels.

    python benchmarks/real_words.py --reports PATH/openi_reports.csv [--model demo] [--preset fast] [--num-normal 40] [--most N]

The reports are those of which a gold column that the phantom can draw is 1 (cardiomegaly, effusion, pneumothorax, consolidation, edema,
nodule), and a few of ``gold_normal``. They are measured on, never trained on, and no text or film is stored. Micro F1 over the six findings,
with an interval over reports. 496 films at 20 guided steps take about 10 core-minutes. Writes benchmarks/results/real_words.json.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from measuring import machine

from medcodi.data.reports import compose_report, normalise_report
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.evaluation.annotators.image_annotators import findings_from_probabilities
from medcodi.generation.pipeline import generate_batch, load
from medcodi.metrics.bootstrap import bootstrap_interval, resampling_weights
from medcodi.metrics.findings import Confusion
from medcodi.model import demo_checkpoint
from medcodi.model.generation_config import GenerationConfig
from medcodi.model.identity import model_identity
from medcodi.randomness import numpy_generator, seed_from_keys
from medcodi.storage import atomic
from medcodi.study import CHEXPERT_LABELS

# Gold column -> the finding that the phantom draws.
GOLD = {
    "gold_cardiomegaly": "Cardiomegaly",
    "gold_effusion": "Pleural Effusion",
    "gold_pneumothorax": "Pneumothorax",
    "gold_consolidation": "Consolidation",
    "gold_edema": "Edema",
    "gold_nodule": "Lung Lesion",
}
COLUMNS = [CHEXPERT_LABELS.index(label) for label in GOLD.values()]
RESAMPLES = 1000


def read_reports(path: Path, num_normal: int, most: int | None) -> tuple[list[str], list[str], np.ndarray]:
    """Ids, reports and truth ``[N, 6]`` of 0 and 1: the abnormal ones in the table's order, then normal ones drawn by seed 0."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Both kinds of reports, among those that have words and every gold label.
    labelled = [row for row in rows if all(row[column] for column in (*GOLD, "gold_normal"))]
    labelled = [row for row in labelled if row["findings"] or row["impression"]]
    abnormal = [row for row in labelled if any(float(row[column]) for column in GOLD)]
    normal = [row for row in labelled if float(row["gold_normal"])]
    drawn = numpy_generator("real words", 0).permutation(len(normal))[:num_normal]
    chosen = [*abnormal[:most], *(normal[int(place)] for place in sorted(drawn))]

    # As prompts and as truth.
    texts = [normalise_report(compose_report(row["findings"], row["impression"])) for row in chosen]
    truth = np.array([[float(row[column]) for column in GOLD] for row in chosen])
    return [row["uid"] for row in chosen], texts, truth


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate, judge, score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reports", type=Path, required=True, help="openi_reports.csv")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--preset", help="of sampler and steps; default: the model's own")
    parser.add_argument("--num-normal", type=int, default=40)
    parser.add_argument("--most", type=int, help="only the first N abnormal reports")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "real_words.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ids, texts, truth = read_reports(options.reports, options.num_normal, options.most)

    # Generate the films, 32 at a time, and judge them.
    model, config = load(options.model, "cpu"), GenerationConfig(preset=options.preset)
    classifier = FindingClassifier.load(demo_checkpoint())
    thresholds = classifier.thresholds[classifier.view("frontal")].cpu().numpy()
    targets, judged = classifier.config.targets, classifier.judged("frontal")
    labels, began = [], time.process_time()
    for start in range(0, len(texts), 32):
        seeds = [seed_from_keys("real words", options.seed, each) for each in ids[start : start + 32]]
        prompts = [{"report": text} for text in texts[start : start + 32]]
        films = [each["frontal"] for each in generate_batch(model, prompts, ["frontal"], seeds, config)]
        probabilities, _ = classifier.predict([np.asarray(film) for film in films], "frontal")
        labels.append(findings_from_probabilities(targets, thresholds, judged, probabilities)[0][:, COLUMNS])
        print(f"generated {min(start + 32, len(texts))} of {len(texts)}", flush=True)
    seconds = time.process_time() - began
    predicted = np.concatenate(labels)

    # Score the findings that the classifier is a judge of.
    known = ~np.isnan(predicted).any(axis=0)
    findings = [label for label, counts in zip(GOLD.values(), known, strict=True) if counts]
    confusion = Confusion.of(truth[:, known], predicted[:, known])
    weights = resampling_weights(ids, RESAMPLES, 0)
    ones = np.ones((1, len(ids)))
    per_finding = confusion.f1(ones)[0]
    result: dict[str, Any] = {
        "command": f"python benchmarks/real_words.py --model {options.model} --num-normal {options.num_normal}"
        + (f" --preset {options.preset}" if options.preset else ""),
        "machine": machine(),
        "model": model_identity(model),
        "num_reports": len(ids),
        "num_abnormal": int(truth.any(axis=1).sum()),
        "findings": {
            label: {"positives": int(truth[:, known][:, place].sum()), "f1": _rounded(per_finding[place])}
            for place, label in enumerate(findings)
        },
        "micro_f1": bootstrap_interval(confusion.micro_f1(), weights).to_dict(),
        "macro_f1": bootstrap_interval(confusion.macro_f1(), weights).to_dict(),
        "cpu_seconds_a_film": round(seconds / len(ids), 3),
    }
    atomic.write_json(options.out, result)
    low, value, high = (result["micro_f1"][key] for key in ("low", "value", "high"))
    print(f"micro F1 {value:.3f} ({low:.3f} to {high:.3f}) over {', '.join(findings)}, {len(ids)} reports")


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


if __name__ == "__main__":
    main()
