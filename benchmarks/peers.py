"""Ours beside the libraries that people would use otherwise, in turns in one process; one part for each.

    python benchmarks/peers.py [--parts contrastive,dicom,features,reports,loop] [--turns 5] [--threads 1] [--dry-run]

- contrastive: a step of `align` beside open_clip's of the same towers (its model and loss, AdamW fused)
- dicom: DICOM of 2048 x 2048 to a tensor of 256 x 256, beside MONAI's reader and transforms, and torchxrayvision's
- features: Inception-v3 of PNG files, beside torch-fidelity's pipeline, first pass
- reports: 100 tokens from the full-size decoder, a batch of 16, beside `generate` of transformers' GPT-2 of that size
- loop: steps of `diffuse` from the cache as the command `train` takes them, beside the loop of diffusers' text-to-image example
  (files, encoders and all) on the same network and batch

A part whose peer is not installed is skipped and says so (MONAI is no dependency of ours: install it beside). A ratio is the median
over turns of our seconds over the peer's; below 1, ours is faster. All weights are random. --dry-run: tiny sizes, one turn,
nothing written. Writes benchmarks/results/peers.json after every part, and keeps the parts that were not run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measuring import RESULTS, machine
from peer import Comparison, Sizes, in_turns

PARTS = ("contrastive", "dicom", "features", "reports", "loop")


def measured(part: str, sizes: Sizes) -> dict[str, Any]:
    """The figures of one part, or why there are none."""
    comparison: Callable[[Sizes, Path], Comparison] = import_module(f"peer.{part}").comparison
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = in_turns(comparison(sizes, Path(folder)), sizes.turns)
    except ModuleNotFoundError as error:
        return {"skipped": f"{error.name} is not installed"}
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {
        **result,
        "machine": machine(),
        "load_average_at_the_end": load,
        "took_s": round(time.perf_counter() - began),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="names, with commas; by default all")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, one turn, nothing written")
    options = parser.parse_args()
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown part {', '.join(unknown)}; expected {', '.join(PARTS)}")
    torch.set_num_threads(options.threads)
    sizes = Sizes(tiny=options.dry_run, turns=1 if options.dry_run else options.turns)

    # Each part is written as soon as it is there; parts of an earlier run stay.
    path = RESULTS / "peers.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() and not options.dry_run else {"parts": {}}
    results["command"] = f"python benchmarks/peers.py --turns {sizes.turns} --threads {options.threads}"
    for name in names:
        part = measured(name, sizes)
        print(f"== {name}: {part.get('skipped') or part['what']}", flush=True)
        for row, times in part.get("times", {}).items():
            ratio = part["ratios"].get(row)
            told = "" if ratio is None else f"  ours / it {ratio['median']} ({ratio['min']} to {ratio['max']})"
            print(
                f"   {row:45s} {times['seconds']['median']:9.4f} s, CPU {times['cpu_seconds']['median']:9.4f} s{told}"
            )
        if not options.dry_run:
            results["parts"][name] = part
            path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
