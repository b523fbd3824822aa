"""Few steps: what samplers at 20 steps or fewer cost and give, beside 50-step DDIM, on the demo model and held-out phantoms.

    python benchmarks/few_steps.py [--num-studies 256] [--work runs/few_steps] [--score-only]

Every setting generates the same studies from the same starting noise. Settings take turns, 32 studies at a time, in one
process on one thread, so a ratio of times compares neighbours. A run that was stopped goes on where it was; what is
kept in ``--work`` is used again. 32 studies take 6 to 7 minutes of one core. Writes benchmarks/results/few_steps.json and prints
the table of docs/PERFORMANCE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from medcodi.config import from_dict
from medcodi.data.generated_files import direction_folder
from medcodi.data.loading import DataConfig
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.evaluation.annotators.image_annotators import findings_from_probabilities
from medcodi.evaluation.scoring.findings import counted_findings
from medcodi.evaluation.studies import HeldOutStudies, Value
from medcodi.evaluation.systems.contents import read_contents, write_contents
from medcodi.evaluation.systems.systems import generate_studies
from medcodi.generation.pipeline import load
from medcodi.metrics.bootstrap import (
    Statistic,
    bootstrap_interval,
    paired_difference,
    resampling_weights,
    weighted_mean,
)
from medcodi.metrics.distances import Moments, frechet_distance
from medcodi.metrics.findings import Confusion
from medcodi.metrics.labeler import label_matrix
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi, demo_checkpoint
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction

CHUNK, RESAMPLES, FRECHET_RESAMPLES, MIN_POSITIVES, OTHER_SEED = 32, 1000, 200, 5, 1
DIRECTIONS = [Direction.parse(text) for text in ("report->frontal", "frontal->report", "frontal->lateral+report")]


@dataclass(frozen=True)
class Setting:
    """A sampler, its steps, and the seed of generation."""

    sampler: str
    steps: int
    seed: int = 0

    @property
    def name(self) -> str:
        """As it stands in table and folder."""
        return f"{self.sampler} {self.steps}" + (", other seed" if self.seed else "")


REFERENCE = Setting("ddim", 50)
SETTINGS = [
    REFERENCE,
    Setting("ddim", 50, OTHER_SEED),
    *(
        Setting(sampler, steps)
        for sampler in ("ddim", "dpm++", "unipc", "deis", "sde-dpm++")
        for steps in (20, 15, 10, 8, 5)
    ),
]
Contents = dict[tuple[Direction, Setting], dict[str, list[Value]]]


def contents_file(work: Path, setting: Setting, chunk: int, direction: Direction) -> Path:
    """File of one setting's contents of one chunk; its CPU time is in a file beside it."""
    folder = work / setting.name.replace(", ", "_").replace(" ", "_") / f"{chunk:03d}"
    return folder / f"{direction_folder(direction)}.npz"


def stored(path: Path, direction: Direction, key: str) -> dict[str, list[Value]] | None:
    """Contents of a file, if it was made with the same model and setting."""
    found = read_contents(path, direction)
    return found[1] if found is not None and found[0] == key else None


def generate_chunk(model: MedCoDi, held: HeldOutStudies, work: Path, chunk: int, fingerprint: str) -> None:
    """Generate one chunk of studies with every setting; settings take turns, in an order that turns with the chunk."""
    rows = list(range(chunk * CHUNK, (chunk + 1) * CHUNK))
    turn = chunk % len(SETTINGS)
    for direction in DIRECTIONS:
        for setting in SETTINGS[turn:] + SETTINGS[:turn]:
            path, key = contents_file(work, setting, chunk, direction), f"{fingerprint}/{setting}"
            clock = path.with_suffix(".seconds")
            if clock.is_file() and stored(path, direction, key) is not None:
                continue
            sampling = GenerationConfig(sampler=setting.sampler, num_inference_steps=setting.steps)
            started = time.process_time()
            contents = generate_studies(model, direction, held, rows, sampling, setting.seed)
            seconds = (time.process_time() - started) / CHUNK
            write_contents(path, key, contents)
            clock.write_text(repr(seconds))


def read_back(work: Path, num_chunks: int, fingerprint: str) -> tuple[Contents, dict[Any, list[float]]]:
    """Everything that was generated: contents and CPU seconds a study, chunk by chunk."""
    contents: Contents = {}
    seconds: dict[Any, list[float]] = {}
    for direction in DIRECTIONS:
        for setting in SETTINGS:
            whole: dict[str, list[Value]] = {target: [] for target in direction.targets}
            for chunk in range(num_chunks):
                path = contents_file(work, setting, chunk, direction)
                part = stored(path, direction, f"{fingerprint}/{setting}")
                if part is None:
                    raise SystemExit(f"nothing in {path.parent} for {direction}: run without --score-only")
                for target in direction.targets:
                    whole[target] += part[target]
                clock = float(path.with_suffix(".seconds").read_text())
                seconds.setdefault((direction, setting), []).append(clock)
            contents[direction, setting] = whole
    return contents, seconds


def mean_of(parts: Sequence[Statistic]) -> Statistic:
    """The mean of several statistics."""
    return lambda weights: np.mean([part(weights) for part in parts], axis=0)


@dataclass(frozen=True)
class Annotated:
    """Labels ``[N, 14]`` of contents, and features ``[N, D]`` of images."""

    labels: np.ndarray
    features: np.ndarray | None = None


def annotated(classifier: FindingClassifier | None, modality: str, values: Sequence[Value]) -> Annotated:
    """By the classifier at its thresholds, or the rule labeler."""
    if MODALITIES[modality].kind == "text":
        return Annotated(label_matrix([str(value) for value in values]).astype(np.float32))
    assert classifier is not None
    probabilities, features = classifier.predict([np.asarray(value) for value in values], modality)
    thresholds = classifier.thresholds[classifier.view(modality)].cpu().numpy()
    judged = classifier.judged(modality)
    labels, _ = findings_from_probabilities(classifier.config.targets, thresholds, judged, probabilities)
    return Annotated(labels, features)


def agreement(target: str, ours: Sequence[Value], reference: Sequence[Value]) -> tuple[str, np.ndarray]:
    """How alike two generations of each study are: dB between images, 1 or 0 for equal texts; ``[N]``."""
    if MODALITIES[target].kind == "text":
        return "same_text", np.array([float(a == b) for a, b in zip(ours, reference, strict=True)])
    errors = [
        float(np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2))
        for a, b in zip(ours, reference, strict=True)
    ]
    return "psnr_db", -10 * np.log10(np.maximum(errors, 1e-6))  # 60 dB: the same 8-bit image


def score(
    direction: Direction,
    contents: Contents,
    held: HeldOutStudies,
    classifier: FindingClassifier,
    seconds: dict[Any, list[float]],
    on_done: Callable[[str], None],
) -> list[dict[str, Any]]:
    """One row for each setting."""
    num = len(contents[direction, REFERENCE][direction.targets[0]])
    rows = list(range(num))
    weights = resampling_weights([held.patients[row] for row in rows], RESAMPLES, 0)
    truth = held.truth[rows]
    readings: dict[Setting, dict[str, Annotated]] = {
        setting: {
            target: annotated(classifier, target, contents[direction, setting][target]) for target in direction.targets
        }
        for setting in SETTINGS
    }
    real = {target: annotated(classifier, target, held.values(target, rows)) for target in direction.targets}
    columns = {
        target: counted_findings(truth, np.asarray(~np.isnan(real[target].labels).any(0)), MIN_POSITIVES)
        for target in direction.targets
    }

    def f1(read: dict[str, Annotated]) -> Statistic:
        return mean_of(
            [Confusion.of(truth[:, c], read[target].labels[:, c]).macro_f1() for target, c in columns.items()]
        )

    reference, found = f1(readings[REFERENCE]), []
    for setting in SETTINGS:
        ratios = [
            a / b for a, b in zip(seconds[direction, REFERENCE], seconds[direction, setting], strict=True)
        ]  # of neighbours
        row: dict[str, Any] = {
            "setting": setting.name,
            "sampler": setting.sampler,
            "steps": setting.steps,
            "finding_f1": bootstrap_interval(f1(readings[setting]), weights).to_dict(),
            "finding_f1_minus_reference": paired_difference(f1(readings[setting]), reference, weights).to_dict(),
            "finding_f1_of_real": float(f1(real)(np.ones((1, num)))[0]),
            "cpu_seconds_a_study": spread(seconds[direction, setting]),
            "times_faster": spread(ratios),
            "targets": {},
        }
        for target in direction.targets:
            read, first = readings[setting][target], readings[REFERENCE][target]
            same = (read.labels[:, columns[target]] == first.labels[:, columns[target]]).mean(1)
            name, alike = agreement(
                target, contents[direction, setting][target], contents[direction, REFERENCE][target]
            )
            row["targets"][target] = {
                "same_findings": bootstrap_interval(weighted_mean(same), weights).to_dict(),
                name: bootstrap_interval(weighted_mean(alike), weights).to_dict(),
                "frechet": frechet(read, real[target], weights),
            }
        found.append(row)
        on_done(f"{direction}: {setting.name}")
    return found


def frechet(read: Annotated, real: Annotated, weights: np.ndarray) -> dict[str, float | None] | None:
    """Fréchet distance to the real images, with its spread; None for texts, and with fewer studies than features."""
    if read.features is None or real.features is None or len(read.features) < read.features.shape[1]:
        return None
    made, true = read.features, real.features

    def statistic(resamples: np.ndarray) -> np.ndarray:
        return np.array(
            [frechet_distance(Moments.of(made, one), Moments.of(true, one), strict=False) for one in resamples]
        )

    return bootstrap_interval(statistic, weights[:FRECHET_RESAMPLES], centred=True).to_dict()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def shown(interval: dict[str, Any], digits: int, signed: bool = False) -> str:
    """A value with its interval."""
    sign = "+" if signed else ""
    value, low, high = (format(interval[key], f"{sign}.{digits}f") for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def cells_of(row: dict[str, Any]) -> list[str]:
    """What the table shows of one setting in one direction: finding F1, then what its targets have, then speed."""
    alone = row["setting"] == REFERENCE.name
    cells = [shown(row["finding_f1"], 3) if alone else shown(row["finding_f1_minus_reference"], 3, signed=True)]
    for found in row["targets"].values():
        if found["frechet"] is not None:
            cells.append(shown(found["frechet"], 2))
        if "psnr_db" in found:
            cells.append("" if alone else f"{found['psnr_db']['value']:.1f}")
        if "same_text" in found:
            cells.append("" if alone else f"{100 * found['same_text']['value']:.0f} %")
    seconds, faster = row["cpu_seconds_a_study"]["median"], row["times_faster"]["median"]
    return [*cells, f"{seconds:.2f} s" if alone else f"{faster:.1f} x"]


def head_of(direction: str, row: dict[str, Any]) -> list[str]:
    """The headings of :func:`cells_of`."""
    head = [f"{direction}: F1"]
    for target, found in row["targets"].items():
        names = {"frechet": f"Fréchet, {target}", "psnr_db": f"dB, {target}", "same_text": f"same {target}"}
        head += [name for key, name in names.items() if found.get(key) is not None]
    return [*head, "speed"]


def table(scores: dict[str, list[dict[str, Any]]]) -> str:
    """A Markdown table: a row for each setting, the directions side by side."""
    head = ["sampler, steps", *(name for direction, rows in scores.items() for name in head_of(direction, rows[0]))]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for rows in zip(*scores.values(), strict=True):
        cells = [rows[0]["setting"], *(cell for row in rows for cell in cells_of(row))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Generate what is missing, score it, print the tables and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num-studies", type=int, default=128, help=f"a multiple of {CHUNK}")
    parser.add_argument("--work", type=Path, default=Path("runs/few_steps"))
    parser.add_argument("--score-only", action="store_true", help="score what is kept; generate nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "few_steps.json")
    asked = parser.parse_args()
    num_chunks, rest = divmod(asked.num_studies, CHUNK)
    if rest or not num_chunks:
        parser.error(f"--num-studies is {asked.num_studies}, expected a multiple of {CHUNK}")
    torch.set_num_threads(1)
    model = load(None, "cpu")
    fingerprint = model.fingerprint()
    data = {"source": "phantom", "split": "test", "num_studies": num_chunks * CHUNK}
    dataset = from_dict(DataConfig, {**data, "image_size": model.config.image_size}).build()
    held, classifier = HeldOutStudies(dataset), FindingClassifier.load(demo_checkpoint())
    for chunk in range(0 if asked.score_only else num_chunks):
        generate_chunk(model, held, asked.work, chunk, fingerprint)
        print(f"generated {(chunk + 1) * CHUNK} of {num_chunks * CHUNK} studies", flush=True)
    contents, seconds = read_back(asked.work, num_chunks, fingerprint)
    scores = {
        str(direction): score(direction, contents, held, classifier, seconds, lambda text: print(text, flush=True))
        for direction in DIRECTIONS
    }
    result = {
        "what": "samplers at 20 steps or fewer beside 50-step DDIM: the demo model, held-out phantoms",
        "command": f"python benchmarks/few_steps.py --num-studies {num_chunks * CHUNK}",
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": 1,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "model_sha256": fingerprint,
        "N": num_chunks * CHUNK,
        "guidance_scale": model.config.generation.guidance_scale,
        "intervals": f"95 % percentile bootstrap over patients, {RESAMPLES} resamples (Fréchet: {FRECHET_RESAMPLES}, centred)",
        "times": f"CPU time of one thread, median over {num_chunks} turns of {CHUNK} studies; times faster: ratio within a turn",
        "directions": scores,
    }
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(scores))


if __name__ == "__main__":
    main()
