"""The invisible watermark: false alarms on phantoms and real films, detection after changes of a film, and what it costs in quality.

    python benchmarks/watermark.py --phantoms 1000 --keys 50 --generated 96 --real ../shared/data/cxr-open/images
    python benchmarks/watermark.py --only detection --real ../shared/data/cxr-open/images   # the others stay as they were

- null: films without the mark against many keys (p-values are exact over keys), and against the key that ships
- detection: films of the demo, phantoms and real films, marked and then changed: share with p < 1e-8
- quality: PSNR of marked against unmarked films; macro F1 of the demo's classifier on the same generated films, paired by prompt
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import RESULTS, machine, report
from PIL import Image

from medcodi.data.dataset import read_study
from medcodi.data.image_files import read_image
from medcodi.data.images import fit_square, to_uint8
from medcodi.data.loading import DataConfig
from medcodi.data.sources.phantom import phantom_study
from medcodi.evaluation.annotators.image_annotators import findings_from_probabilities, load_image_annotator
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.generation.pipeline import generate_batch, load
from medcodi.generation.watermark import KEY, P_VALUE, detect, embed, pattern, placements, score
from medcodi.metrics.findings import finding_scores
from medcodi.metrics.labeler import label_matrix
from medcodi.modality import names
from medcodi.model import demo_checkpoint
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import CHEXPERT_LABELS

Film = np.ndarray  # float32 [H, W] in [0, 1]
SEED = 4021  # of phantoms that nothing else uses
BATCH = 32


# ---- changes of a film -----------------------------------------------------------------------------------------------
def jpeg(quality: int) -> Callable[[Film], Film]:
    def change(film: Film) -> Film:
        file = io.BytesIO()
        Image.fromarray(to_uint8(film)).save(file, "JPEG", quality=quality)
        return _unit(Image.open(file))

    return change


def resized(factor: float) -> Callable[[Film], Film]:
    def change(film: Film) -> Film:
        size = (round(film.shape[1] * factor), round(film.shape[0] * factor))
        return _unit(Image.fromarray(to_uint8(film)).resize(size, Image.Resampling.BICUBIC))

    return change


def cropped(down: float, across: float, top: float, left: float) -> Callable[[Film], Film]:
    """A part of a film: shares of its sides, and where in the rest it begins."""

    def change(film: Film) -> Film:
        height, width = round(film.shape[0] * down), round(film.shape[1] * across)
        y, x = round((film.shape[0] - height) * top), round((film.shape[1] - width) * left)
        return film[y : y + height, x : x + width]

    return change


def window(width: float, level: float = 0.0) -> Callable[[Film], Film]:
    return lambda film: to_uint8((film - 0.5 - level) / width + 0.5).astype(np.float32) / 255


def _unit(picture: Image.Image) -> Film:
    return np.asarray(picture, np.float32) / 255


SIDE = 0.8**0.5  # of a square of 80 % of the area
CHANGES: dict[str, list[Callable[[Film], Film]]] = {
    "none, 8 bits": [window(1.0)],
    "JPEG 90": [jpeg(90)],
    "JPEG 75": [jpeg(75)],
    "JPEG 50": [jpeg(50)],
    "resized 0.5": [resized(0.5)],
    "resized 0.75": [resized(0.75)],
    "resized 1.5": [resized(1.5)],
    "resized 2": [resized(2.0)],
    "cropped to 80 %, centre": [cropped(SIDE, SIDE, 0.5, 0.5)],
    "cropped to 80 %, corner": [cropped(SIDE, SIDE, 1.0, 0.0)],
    "cropped to 80 %, one side": [cropped(0.8, 1.0, 0.3, 0.0)],
    "cropped to 90 %": [cropped(0.9**0.5, 0.9**0.5, 0.2, 0.7)],
    "window 0.8": [window(0.8)],
    "window 1.2": [window(1.2)],
    "level +20 %": [window(1.0, 0.2)],
    "level -20 %": [window(1.0, -0.2)],
    "cropped to 80 %, resized 2": [cropped(SIDE, SIDE, 0.5, 0.5), resized(2.0)],
    "resized 0.5, JPEG 75": [resized(0.5), jpeg(75)],
    "cropped to 90 %, JPEG 75": [cropped(0.9**0.5, 0.9**0.5, 0.2, 0.7), jpeg(75)],
}


# ---- figures ---------------------------------------------------------------------------------------------------------
def null(films: Iterator[Film], num_keys: int) -> dict[str, Any]:
    """Films without the mark against the key that ships, and against others."""
    others = [pattern(f"key {number}") for number in range(num_keys)]
    ours, p_values, scores = [], [], []
    for film in films:
        places = placements(film)
        if places:  # long and narrow films are not parts of a frame
            ours.append(score(places, pattern(KEY)).p_value)
            detections = [score(places, other) for other in others]
            p_values += [detection.p_value for detection in detections]
            scores += [detection.score for detection in detections]
    whole = np.array(scores)[np.isfinite(scores)]
    return {
        "films": len(ours),
        "least p-value": float(np.min(ours)),
        "pairs of film and key": len(p_values),
        "pairs with p below": {
            f"{p:g}": int(np.sum(np.array(p_values) < p)) for p in (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
        },
        "score of whole films": {"mean": float(whole.mean()), "deviation": float(whole.std())} if len(whole) else None,
    }


def detection(films: Sequence[Film]) -> dict[str, Any]:
    """Change -> share of marked films that are found, and the least of the 1st percentile's -log10 p."""
    marked = [embed(film) for film in films]
    rows = {}
    for name, changes in CHANGES.items():
        p_values = []
        for film in marked:
            for change in changes:
                film = change(film)
            p_values.append(detect(film).p_value)
        exponents = -np.log10(np.maximum(p_values, 1e-300))
        rows[name] = {
            "found": float(np.mean(np.array(p_values) < P_VALUE)),
            "1st percentile of -log10 p": round(float(np.percentile(exponents, 1)), 1),
        }
    return {"N": len(films), "threshold": P_VALUE, "changes": rows}


def quality(films: dict[str, list[Film]], reports: Sequence[str]) -> dict[str, Any]:
    """PSNR, and the classifier's macro F1 on the same films with and without the mark."""
    annotator = load_image_annotator("demo", LoadRequest(weights=str(demo_checkpoint()), device="cpu"))
    truth, rows = label_matrix(reports), {}
    for view, plain in films.items():
        labels = []
        for images in (plain, [embed(film) for film in plain]):
            probabilities = annotator.annotate(images, view)
            thresholds, judged = annotator.thresholds(view), annotator.judged(view)
            labels.append(
                findings_from_probabilities(annotator.targets, thresholds, judged, probabilities)[0].astype(float)
            )
        columns = [column for column in range(14) if not np.isnan(labels[0][:, column]).any()]

        def macro_f1(read: np.ndarray, chosen: np.ndarray, columns: list[int] = columns) -> float:
            titles = [CHEXPERT_LABELS[column] for column in columns]
            return float(finding_scores(truth[chosen][:, columns], read[chosen][:, columns], titles).macro_f1)

        # The difference over the same resampled prompts.
        rng, everyone = np.random.default_rng(0), np.arange(len(plain))
        draws = [rng.choice(everyone, len(everyone)) for _ in range(200)]
        differences = [macro_f1(labels[1], draw) - macro_f1(labels[0], draw) for draw in draws]
        psnr = [-10 * np.log10(np.mean((embed(film) - film) ** 2)) for film in plain]
        rows[view] = {
            "N": len(plain),
            "PSNR": {"median": round(float(np.median(psnr)), 1), "least": round(float(np.min(psnr)), 1)},
            "F1": {"without": macro_f1(labels[0], everyone), "with": macro_f1(labels[1], everyone)},
            "F1 difference, 95 %": np.round(np.percentile(differences, [2.5, 97.5]), 4).tolist(),
            "findings read differently": int(np.sum(labels[0][:, columns] != labels[1][:, columns])),
            "findings read": int(labels[0][:, columns].size),
        }
    return rows


# ---- films -----------------------------------------------------------------------------------------------------------
def phantoms(num: int, size: int = 128) -> Iterator[Film]:
    for index in range(num):
        yield from phantom_study(SEED, index, size).images.values()


def distinct_phantoms(num: int, size: int = 128) -> Iterator[Film]:
    """Films of version 2, which is three times as fast; every study is another patient."""
    options = {"num_studies": num, "version": 2, "studies_per_patient": 1}
    dataset = DataConfig(source="phantom", split="train", image_size=size, seed=SEED, **options).build()
    for index in range(num):
        yield from read_study(dataset, index).images.values()


def real_films(folder: Path, size: int | None) -> Iterator[Film]:
    """Real films as they are, or in a square."""
    for path in sorted(folder.rglob("*.jpg")):
        film = read_image(path)
        yield film if size is None else fit_square(film, size)


def generated(num: int) -> tuple[dict[str, list[Film]], list[str]]:
    """Films that the demo generates from reports of held-out phantoms."""
    model = load(None, "cpu")
    reports = [str(phantom_study(SEED, index).contents["report"]) for index in range(num)]
    config, films = GenerationConfig(preset="faster"), []
    with ExecutionConfig().running(model, model.components_for(("report",), names("image"))), torch.no_grad():
        for start in range(0, num, BATCH):
            prompts = [{"report": report} for report in reports[start : start + BATCH]]
            seeds = list(range(start, start + len(prompts)))
            films += generate_batch(model, prompts, names("image"), seeds, config)
    return {view: [np.asarray(film[view]) for film in films] for view in names("image")}, reports


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument(
        "--distinct", type=int, default=0, help="phantoms of version 2, against the key that ships alone"
    )
    parser.add_argument("--generated", type=int, default=96)
    parser.add_argument("--real", type=Path, help="a folder of real films; they are read, and never stored")
    parser.add_argument("--only", default="", help="quality, detection or null; the other results stay as they were")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = RESULTS / "watermark.json"
    results = json.loads(file.read_text(encoding="utf-8")) if arguments.only else {}
    results["what"] = "the invisible watermark, version 1: false alarms, detection after changes, quality"

    def measure(name: str, figures: Callable[[], dict[str, Any]]) -> None:
        if not name.startswith(arguments.only):
            return
        started = time.process_time()
        how = {"command": "python benchmarks/watermark.py " + " ".join(sys.argv[1:]), "machine": machine()}
        results[name] = {**how, **figures()}
        results[name]["cpu_seconds"] = round(time.process_time() - started, 1)
        print(name, json.dumps(results[name]), flush=True)

    films, reports = generated(arguments.generated if arguments.only != "null" else 0)
    measure("quality", lambda: quality(films, reports))
    both = [film for view in films.values() for film in view]
    measure("detection, generated films, 128 pixels", lambda: detection(both))
    measure("null, phantoms", lambda: null(phantoms(arguments.phantoms), arguments.keys))
    if arguments.distinct:
        measure("null, distinct phantoms", lambda: null(distinct_phantoms(arguments.distinct), 0))
    if arguments.real:
        measure("null, real films", lambda: null(real_films(arguments.real, None), 20))
        measure("null, real films in a square", lambda: null(real_films(arguments.real, 128), 20))
        measure(
            "detection, real films, 256 pixels",
            lambda: detection(list(islice(real_films(arguments.real, 256), 0, None, 4))),
        )
    detections = [name for name in results if name.startswith("detection")]
    rows = [
        [change, *(f"{results[name]['changes'][change]['found']:.3f}" for name in detections)] for change in CHANGES
    ]
    report("watermark", results, ["change", *detections], rows)


if __name__ == "__main__":
    main()
