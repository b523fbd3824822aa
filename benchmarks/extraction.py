"""Feature extraction beside torch-fidelity's own pipeline: same network, same files, first and second time; memory at N and 4 N.

    python benchmarks/extraction.py [--num 64] [--repeats 3] [--batch 16] [--threads 1]

The network is torch-fidelity's Inception-v3 with random weights (speed does not depend on them); its pipeline is its own data set,
loader (its default number of workers) and loop. Ours reads the same PNG files in threads, into an empty cache (first) and from it
(second). Each repetition runs all three, taking turns. Features must agree. Memory: peak of a process that takes the moments of
N and of 4 N films of 512 pixels with the finding classifier, through a cache. Writes benchmarks/results/extraction.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import machine, peak_mib, report, spread
from PIL import Image

from medcodi.evaluation.annotators.features import FeatureExtractor, load_extractor
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.metrics.distances import Moments
from medcodi.storage.atomic import sha256_file

BARS = {"first": 0.95, "second": 3.0}


def random_inception(path: Path) -> None:
    """A file of weights in torch-fidelity's format: its class reads weights as it is made, so that is put off."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    loaded, read = module.load_state_dict_from_url, module.FeatureExtractorInceptionV3.load_state_dict
    try:
        module.load_state_dict_from_url = lambda *args, **options: {}
        module.FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None  # type: ignore[method-assign]
        torch.manual_seed(0)
        torch.save(module.FeatureExtractorInceptionV3("random", ["2048"]).state_dict(), path)
    finally:
        module.load_state_dict_from_url, module.FeatureExtractorInceptionV3.load_state_dict = loaded, read


def film(seed: int, side: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    wave = np.sin(draw.uniform(2, 9) * rows + draw.uniform(2, 9) * columns)
    return np.clip(128 + 90 * wave + 12 * draw.normal(size=(side, side)), 0, 255).astype(np.uint8)


def processor_seconds() -> float:
    """Of this process and of the ones it has waited for (a loader's workers)."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    started, used = time.perf_counter(), processor_seconds()
    call()
    return time.perf_counter() - started, processor_seconds() - used


def speed(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    from torch_fidelity import utils

    weights = folder / "inception.pth"
    random_inception(weights)
    (folder / "films").mkdir()
    paths = [folder / "films" / f"{index:04}.png" for index in range(options.num)]
    for index, path in enumerate(paths):
        Image.fromarray(film(index, options.side)).save(path)
    peer = utils.create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(weights), verbose=False
    )
    ours = load_extractor("inception", weights=weights, sha256=sha256_file(weights))
    found: dict[str, np.ndarray] = {}

    def torch_fidelity() -> None:
        dataset = utils.ImagesPathDataset([str(path) for path in paths])
        told = utils.get_featuresdict_from_dataset(dataset, peer, options.batch, False, False, False)
        found["peer"] = told["2048"].numpy()

    def ours_through(root: Path) -> None:
        request = LoadRequest(cache=root, batch_size=options.batch)
        found["ours"] = FeatureExtractor(ours.row, ours.network, request).annotate(paths, "frontal")

    cache, times = folder / "cache", {name: [] for name in ("torch-fidelity", "first", "second")}
    for turn in range(options.repeats + 1):
        shutil.rmtree(cache, ignore_errors=True)
        calls = {
            "torch-fidelity": torch_fidelity,
            "first": lambda: ours_through(cache),
            "second": lambda: ours_through(cache),
        }
        for name, call in calls.items():
            measured = timed(call)
            if turn:  # the first round warms up
                times[name].append(measured)
    gap = float(np.abs(found["ours"] - found["peer"]).max() / np.abs(found["peer"]).max())
    seconds = {name: spread([one[0] for one in each]) for name, each in times.items()}
    processor = {name: spread([one[1] for one in each]) for name, each in times.items()}
    ratios = {
        kind: {name: round(each["torch-fidelity"]["median"] / each[name]["median"], 3) for name in ("first", "second")}
        for kind, each in (("wall", seconds), ("processor", processor))
    }
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "images_per_second": {name: round(options.num / each["median"], 2) for name, each in seconds.items()},
        "ratio_to_torch_fidelity": ratios,
        "bars": BARS,
        "largest_relative_difference": gap,
    }


def memory(options: argparse.Namespace) -> dict[str, float]:
    """Peak of a fresh process for N and 4 N films, in MiB."""
    peaks = {}
    for num in (options.films, 4 * options.films):
        command = [sys.executable, __file__, "--stream", str(num), "--threads", str(options.threads)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        peaks[str(num)] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def stream(num: int) -> None:
    """What one such process does."""
    with tempfile.TemporaryDirectory() as folder:
        extractor = load_extractor("demo", cache=Path(folder))
        films = (film(index, 512) for index in range(num))
        moments = Moments.empty(extractor.dim)
        for features in extractor.blocks(films, "frontal"):
            moments = moments.merge(Moments.of(features))
    assert moments.count == num
    print(json.dumps(round(peak_mib(), 1)))


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--stream", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.stream:
        return stream(options.stream)
    with tempfile.TemporaryDirectory() as folder:
        measured = speed(options, Path(folder))
    result = {
        "what": "Inception-v3 features of PNG files, ours and torch-fidelity's pipeline; interleaved, medians",
        "machine": machine(),
        "N": options.num,
        "pixels": options.side,
        "batch": options.batch,
        **measured,
        "peak_mib": memory(options),
    }
    rows = [
        (name, result["images_per_second"][name], result["seconds"][name]["median"], processor["median"])  # type: ignore[index]
        for name, processor in result["processor_seconds"].items()  # type: ignore[attr-defined]
    ]
    report("extraction", result, ("pipeline", "images/s", "seconds", "processor seconds"), rows)
    print(result["ratio_to_torch_fidelity"], result["peak_mib"], os.getloadavg()[0])


if __name__ == "__main__":
    main()
