"""Peak memory of one full-size report -> frontal generation with bfloat16 weights, loaded lazily from a model folder.

    python benchmarks/generation_memory.py [--work DIR] [--steps 2]

A folder of the full-size model with random bfloat16 weights is written first, of the three components that the direction
needs (about 3.5 GB, in a temporary folder unless ``--work`` names one, which is kept and used again). A process of its own then
loads and generates, and says how much memory it held at most (``VmHWM``: everything, Python and PyTorch included, and file
pages while they are mapped). More steps take longer, not more memory. Writes benchmarks/results/generation_memory.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from measuring import machine, peak_mib, report
from measuring.networks import FILM_COMPONENTS, model_config, write_folder

from medcodi.generation.pipeline import generate
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.model.index import INDEX

ALLOWANCE_MIB, TARGET = 1536, "frontal"


def generate_once(folder: Path, steps: int, channels_last: bool) -> dict[str, Any]:
    """In a process of its own: load what the direction needs, generate one image, and tell the peak."""
    imported = peak_mib()
    model = MedCoDi.from_pretrained(folder, dtype=torch.bfloat16, lazy=True)
    names = model.components_for(["report"], [TARGET])
    model.load_components(names)
    loaded = peak_mib()
    components = model.components()
    used = sum(p.numel() * p.element_size() for name in names for p in components[name].parameters()) / 2**20
    result = generate(
        {"report": "Large left pleural effusion."},
        [TARGET],
        model=model,
        num_inference_steps=steps,
        execution=ExecutionConfig(channels_last=channels_last),
    )
    assert result.images[TARGET].shape == (256, 256)
    return {
        "components": list(names),
        "components_mib": round(used),
        "peak_mib": round(peak_mib()),
        "peak_mib_after_imports": round(imported),
        "peak_mib_after_loading": round(loaded),
        "not_loaded": sorted(model.pending),
    }


def measure(folder: Path, steps: int) -> list[dict[str, Any]]:
    """Both layouts, each in a process of its own."""
    found = []
    for layout in ("contiguous", "channels_last"):
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--work",
            str(folder),
            "--steps",
            str(steps),
            "--measure",
            layout,
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append({"layout": layout, **json.loads(done.stdout.splitlines()[-1])})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--measure", choices=("contiguous", "channels_last"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(generate_once(arguments.work, arguments.steps, arguments.measure == "channels_last")))
        return
    with tempfile.TemporaryDirectory() if arguments.work is None else nullcontext(arguments.work) as work:
        folder = Path(work)
        if not (folder / INDEX).is_file():
            write_folder(model_config("full"), FILM_COMPONENTS, folder)
        runs = measure(folder, arguments.steps)
    for run in runs:
        run["over_components_mib"] = run["peak_mib"] - run["components_mib"]
    command = f"python benchmarks/generation_memory.py --steps {arguments.steps}"
    found = {"command": command, "machine": machine(), "allowance_mib": ALLOWANCE_MIB, "runs": runs}
    header = ["layout", "components used, MiB", "peak, MiB", "over them, MiB", "goal"]
    rows = [
        [r["layout"], r["components_mib"], r["peak_mib"], r["over_components_mib"], f"<= {ALLOWANCE_MIB}"] for r in runs
    ]
    report("generation_memory", found, header, rows)


if __name__ == "__main__":
    main()
