"""How far `medcodi train --estimate` is off: counted against measured peaks of real training steps.

    python benchmarks/estimate.py

Each case trains for a few steps in a process of its own, at two micro-batches, on the CPU (one thread, the demo's and a
mid-size model). The kernel's high-water mark of the process gives the bytes that a study adds; what the process holds
before the first step gives the states. Writes benchmarks/results/estimate.json.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from medcodi.config import load
from medcodi.data.batches import GlobalBatches
from medcodi.data.sources.phantom import phantom_report
from medcodi.distributed import Ranks
from medcodi.model import ModelConfig, build_model
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.training.config import TrainConfig
from medcodi.training.cost import stage_cost
from medcodi.training.ema import Ema
from medcodi.training.engine import PlainEngine

STAGES = ("autoencode", "align", "diffuse", "join")
LARGER = [
    "image_denoiser.base_channels=128",
    "report_denoiser.base_channels=96",
    "prompt_encoders.image.width=512",
    "prompt_encoders.text.width=384",
    "image_autoencoder.channels=[32,64,96,128,192]",
    "name=larger",
]
CASES = [
    ("demo", stage, precision, sizes)
    for stage, sizes in (("autoencode", (4, 12)), ("align", (16, 48)), ("diffuse", (8, 24)), ("join", (8, 24)))
    for precision in ("fp32", "bf16")
] + [("larger", "diffuse", "fp32", (24, 64)), ("larger", "align", "fp32", (8, 24))]


def config(size: str, stage: str, precision: str, batch: int) -> tuple[TrainConfig, ModelConfig]:
    """A run of that size, and its model."""
    model = load(ModelConfig, "configs/models/demo.yaml", LARGER if size == "larger" else [])
    options = ["stage.options.crop_size=64"] if stage == "autoencode" else []
    settings = ["init=null", "model=configs/models/demo.yaml", "cache=null", "validation=null", "num_workers=0"]
    values = [*settings, "tracking.validate_every=0", f"precision={precision}", f"batch.global_size={batch}", *options]
    return load(TrainConfig, f"configs/train/{stage}.yaml", values), model


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(size: str, stage_name: str, precision: str, batch: int) -> None:
    """Train two steps here; print what was held before, and the peak."""
    run, described = config(size, stage_name, precision, batch)
    before = status("VmRSS")
    model = build_model(described, [phantom_report(seed=0, index=index) for index in range(256)])
    model.trained_stages = STAGES
    stage = build_stage(stage_name, model, run.stage.options)
    engine = PlainEngine(stage, run, Ranks())
    ema = Ema(engine.shards(), run.ema)
    batches = GlobalBatches(run.data.build(), batch_size=batch, seed=0)
    held = status("VmRSS")
    for number, step in enumerate(batches.iterate(0, 3)):
        draws = [StepRandomness(seed=0, step=step.step, samples=part.samples) for part in step.micro]
        engine.run_step(step.micro, draws)
        ema.update(number)
    print(json.dumps({"model": held - before, "states": status("VmRSS") - before, "peak": status("VmHWM") - before}))


def measured(*case: object) -> dict[str, int]:
    """The same in a process of its own, whose allocator gives memory back at once."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-W", "ignore", __file__, "--case", *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Every case: counted, measured, error."""
    rows = []
    for size, stage, precision, (small, large) in CASES:
        run, described = config(size, stage, precision, large)
        cost = stage_cost(run, described, device="cpu")
        peaks = {batch: measured(size, stage, precision, batch) for batch in (small, large)}
        slope = (peaks[large]["peak"] - peaks[small]["peak"]) / (large - small)
        # weights, gradients, moments and average of what is trained; weights alone of what is not
        states = (4 + 4 + 8 + 4) * cost.trained + 4 * cost.frozen
        counted = states + cost.fixed_activations + large * max(cost.study_activations, cost.study_transient)
        row = {
            "model": size,
            "stage": stage,
            "precision": precision,
            "micro_batches": [small, large],
            "study_counted_mib": round(cost.study_activations / 2**20, 2),
            "study_measured_mib": round(slope / 2**20, 2),
            "peak_counted_mib": round(counted / 2**20, 1),
            "peak_measured_mib": round(peaks[large]["peak"] / 2**20, 1),
        }
        row["study_error"] = round(row["study_counted_mib"] / row["study_measured_mib"] - 1, 3)
        row["peak_error"] = round(row["peak_counted_mib"] / row["peak_measured_mib"] - 1, 3)
        rows.append(row)
        print(json.dumps(row), flush=True)
    machine = {
        "cpu_count": os.cpu_count(),
        "processor": platform.processor(),
        "torch": torch.__version__,
        "device": "cpu",
    }
    out = Path("benchmarks/results/estimate.json")
    out.write_text(
        json.dumps({"machine": machine, "command": "python benchmarks/estimate.py", "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    if "--case" in sys.argv:
        size, stage, precision, batch = sys.argv[sys.argv.index("--case") + 1 :]
        measure(size, stage, precision, int(batch))
    else:
        main()
