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
from measuring import fill, machine, peak_mib, report

from medcodi.config import load
from medcodi.data.sources.phantom import phantom_report
from medcodi.generation.pipeline import generate
from medcodi.model import MedCoDi, ModelConfig
from medcodi.model.components import write_weights
from medcodi.model.execution import ExecutionConfig
from medcodi.model.files import INDEX, write_index
from medcodi.networks.tokenizer import ReportTokenizer, Tokenizers

FULL = Path(__file__).parents[1] / "configs/models/medcodi-m.yaml"
ALLOWANCE_MIB, TARGET = 1536, "frontal"


def write_folder(folder: Path) -> None:
    """A model folder that has the files of one direction; the other components are named in its index only."""
    from accelerate import init_empty_weights

    config = load(ModelConfig, FULL)
    tokenizer = ReportTokenizer.train([phantom_report(seed=0, index=index) for index in range(64)], vocab_size=2048)
    with init_empty_weights(include_buffers=False):
        model = MedCoDi(config, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    needed = model.components_for(["report"], [TARGET])
    entries: dict[str, dict[str, Any]] = {}
    for name, module in model.components().items():
        count = sum(parameter.numel() for parameter in module.parameters())
        entries[name] = {"file": f"{name}.safetensors", "sha256": "", "num_parameters": count}
        if name in needed:
            fill(module, dtype=torch.bfloat16)
            state, weights = module.state_dict(), dict(module.named_parameters())
            specs = {
                key: (tuple(value.shape), torch.bfloat16 if key in weights and value.dim() else torch.float32)
                if value.is_floating_point()
                else (tuple(value.shape), value.dtype)
                for key, value in state.items()
            }
            entries[name] |= write_weights(folder / f"{name}.safetensors", specs, state.__getitem__)
            module.to("meta")
    write_index(folder, config, Tokenizers.one(tokenizer), entries, trained_stages=(), provenance={"weights": "random"})


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
            write_folder(folder)
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
