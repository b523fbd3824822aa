"""A sanity row: Fréchet and kernel distances between two halves of real frontals, and between them and the phantom's and the demo's frontals.

    python benchmarks/frechet_sanity.py REAL [--generated DIR] [--extractor demo] [--weights FILE --sha256 HASH] [--num N]

REAL is a folder with ``metadata.csv`` (columns ``file`` and ``view_group``) and images. Two halves of one set must be near, other sets
further away; if not, extractor or metric is broken. Without ``--generated`` (a folder of images), the demo model makes N frontals
from phantom reports. Writes benchmarks/results/frechet_sanity.json. No image leaves REAL.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from measuring import machine, report

from medcodi.data.dataset import PHANTOMS_PER_SPLIT
from medcodi.data.dataset import SPLITS as DATA_SPLITS
from medcodi.data.image_files import read_image
from medcodi.data.images import fit_square
from medcodi.data.loading import DataConfig
from medcodi.evaluation.annotators.annotator import content_key
from medcodi.evaluation.annotators.features import load_extractor
from medcodi.metrics.distances import Moments, frechet_distance, mmd2
from medcodi.randomness import numpy_generator

SPLITS = 10
CONSTANT_RANGE = 0.02  # of [0, 1]: an image that spans less shows nothing


def real_frontals(folder: Path, size: int) -> tuple[list[np.ndarray], dict[str, int]]:
    """Every frontal, aspect kept, antialiased, in a square; constant ones and copies are left out and counted."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["view_group"] == "frontal"]
    images = [fit_square(read_image(folder / name), size) for name in names]
    first = {content_key(image): row for row, image in reversed(list(enumerate(images)))}
    rows = [row for row in sorted(first.values()) if float(np.ptp(images[row])) >= CONSTANT_RANGE]
    counts = {"listed": len(names), "scored": len(rows), "left_out": len(names) - len(rows)}
    return [images[row] for row in rows], counts


def made_frontals(num: int, folder: Path | None, steps: int) -> list[np.ndarray]:
    if folder is not None:
        return [read_image(path) for path in sorted(folder.glob("*.png"))[:num]]
    from medcodi.data.sources.phantom import phantom_report
    from medcodi.generation.pipeline import generate_batch, load
    from medcodi.model import demo_checkpoint
    from medcodi.model.generation_config import GenerationConfig

    model = load(str(demo_checkpoint()), "cpu")
    settings = GenerationConfig(num_inference_steps=steps).resolved(model)
    offset, images = DATA_SPLITS.index("test") * PHANTOMS_PER_SPLIT, []
    for start in range(0, num, 16):
        rows = range(start, min(start + 16, num))
        prompts = [{"report": phantom_report(0, offset + row)} for row in rows]
        made = generate_batch(model, prompts, ("frontal",), list(rows), settings)
        images += [np.asarray(one["frontal"]) for one in made]
    return images


def between(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    return {
        "frechet": frechet_distance(Moments.of(first), Moments.of(second), strict=False),
        "kernel": mmd2(first, second),
    }


def main() -> None:
    """Extract, split, measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("real", type=Path)
    parser.add_argument("--generated", type=Path)
    parser.add_argument("--extractor", default="demo")
    parser.add_argument("--weights")
    parser.add_argument("--sha256")
    parser.add_argument("--num", type=int, default=320)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    started = time.perf_counter()
    extractor = load_extractor(options.extractor, weights=options.weights, sha256=options.sha256)
    images, counts = real_frontals(options.real, options.size)
    phantoms = DataConfig(source="phantom", split="test", num_studies=options.num, image_size=options.size).build()
    made = made_frontals(options.num, options.generated, options.steps)
    real = extractor.annotate(images, "frontal")
    phantom = extractor.annotate((phantoms[row].images["frontal"] for row in range(len(phantoms))), "frontal")
    demo = extractor.annotate(made, "frontal")
    halves = []
    for split in range(SPLITS):
        order = numpy_generator("halves", split).permutation(len(real))
        halves.append(between(real[order[: len(real) // 2]], real[order[len(real) // 2 :]]))
    order, num = numpy_generator("halves", 0).permutation(len(real)), len(real) // 2
    rows = {
        "real half - other half": {
            name: {
                "mean": float(np.mean([one[name] for one in halves])),
                "min": float(min(one[name] for one in halves)),
                "max": float(max(one[name] for one in halves)),
            }
            for name in ("frechet", "kernel")
        },
        "real - phantom": between(real[order[:num]], phantom[:num]),
        "real - demo": between(real[order[:num]], demo[:num]),
        "phantom - demo": between(phantom[:num], demo[:num]),
    }
    result = {
        "what": "distances between sets of frontals; halves of the real ones must be near, other sets far",
        "machine": machine(),
        "extractor": extractor.describe(),
        "real": counts,
        "num_per_set": {"real half": num, "phantom": len(phantom[:num]), "demo": len(demo[:num])},
        "demo_frontals": "made here, from phantom reports"
        if options.generated is None
        else "a folder of earlier generations",
        "size": f"aspect kept, antialiased, in a square of {options.size} pixels",
        "rows": rows,
        "seconds": round(time.perf_counter() - started, 1),
    }
    table = [
        (name, *(f"{value['mean'] if isinstance(value, dict) else value:.4f}" for value in row.values()))
        for name, row in rows.items()
    ]
    report("frechet_sanity", result, ("sets", "Fréchet", "kernel"), table)


if __name__ == "__main__":
    main()
