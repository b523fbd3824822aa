"""MedCoDi-M at full size, once, for real, on a CPU: a film from a report, and two optimiser steps of `align` and of `diffuse`.

    python benchmarks/full_size.py [--parts generate,align,diffuse] [--size full] [--folder DISK] [--dry-run]

- generate: `medcodi generate`, report to frontal, 4 guided steps, weights in bfloat16
- align: two steps of the recipe train/medcodi-m/2-align, 2 studies each
- diffuse: two steps of train/medcodi-m/3-diffuse, the frontal's denoiser, 1 study, from a cache made before, blocks checkpointed

Each is the command that a user types, in a process of its own, with random weights. A training is ended by SIGTERM in its first
step, as Slurm does: it saves after it. The same command with --resume latest takes the second step, and is killed after it, so that
only one checkpoint has to be on the disk. No moving average: it would not fit.

Needs 16 GiB of free memory and 13 GiB of disk. --dry-run: the tiny model, nothing written. Measured: seconds of the clock and of
processor time, the most memory that a process held (its high-water mark, mapped files included) and held of its own (without
them). Counted: weights, gradients and moments, and activations without checkpointing, as `medcodi train --estimate` does. Writes
benchmarks/results/full_size.json after every part, and keeps the parts that were not run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measuring import RESULTS, machine
from measuring.networks import FILM_COMPONENTS, SIZES, model_config, write_folder

from medcodi.config import load
from medcodi.model import ModelConfig
from medcodi.training.config import TrainConfig
from medcodi.training.cost import stage_cost

ROOT = Path(__file__).parents[1]
PARTS = ("generate", "align", "diffuse")
ENCODERS = ("prompt_encoders", "autoencoder_image", "autoencoder_text")
STUDIES, STEPS = 2, 3  # the third step is never taken: a run that is not finished writes no model
GIB = 2**30
# What does not fit beside the states in 24 GiB, or needs data that are not here.
SETTINGS = (
    "engine.name=plain", "ema.enabled=false", "checkpoint.every=0", "checkpoint.keep=1", "checkpoint.background=false",
    "data.path=null", "data.source=phantom", f"data.num_studies={STUDIES}", "validation=null", "num_workers=0",
    "tracking.validate_every=0", "tracking.samples_every=0", "tracking.log_every=1", "tracking.mfu=false",
    "tracking.tensorboard=false", "tracking.summary=false", f"steps={STEPS}",
)  # fmt: skip


# ---- commands, watched -----------------------------------------------------------------------------------------------
def watched(words: Sequence[str], on_look: Callable[[subprocess.Popen[bytes]], None] = lambda process: None) -> dict:
    """Run a command of ours to its end; ``on_look`` may end it before. Its seconds and memory.

    Raises:
        RuntimeError: If it fails.
    """
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    peaks = {"VmHWM": 0.0, "RssAnon": 0.0}
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-W", "ignore", *words]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            for line in _status(process.pid):
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]) * 1024 / GIB)
            on_look(process)
            time.sleep(0.05)
        if process.returncode not in (0, -signal.SIGKILL):
            output.seek(0)
            raise RuntimeError(f"{' '.join(words)} failed:\n{output.read().decode(errors='replace')[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(used, 1),
        "peak_gib": round(peaks["VmHWM"], 2),
        "own_peak_gib": round(peaks["RssAnon"], 2),
    }


def _status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended meanwhile
        return []


def logged(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that are complete."""
    log = run / "log.jsonl"
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    return [line for line in map(json.loads, text.splitlines()[: text.count("\n")]) if "loss" in line]


def two_steps(recipe: str, run: Path, config: ModelConfig, settings: Sequence[str]) -> dict[str, Any]:
    """A step, saved; a second one, resumed; and what was counted of the same run."""
    values = [
        *SETTINGS,
        *settings,
        f"init={run.parent / 'model'}",
        f"data.image_size={config.image_size}",
        f"out={run}",
    ]
    words = ["launch/train.py", "--config", f"train/medcodi-m/{recipe}", *values]
    stopped: list[int] = []

    def stop_after_first(process: subprocess.Popen[bytes]) -> None:
        if (run / "config.yaml").exists() and not stopped:  # everything is built
            process.terminate()
            stopped.append(process.pid)

    def kill_after_second(process: subprocess.Popen[bytes]) -> None:
        if len(logged(run)) == 2:
            process.kill()

    first = watched(words, stop_after_first)
    saved = run / "checkpoints/step-00000001"
    size = sum(file.stat().st_size for file in saved.iterdir()) / GIB
    resumed = watched([*words, "--resume", "latest"], kill_after_second)
    lines = logged(run)
    losses = [line["loss"] for line in lines]
    assert losses and all(map(math.isfinite, losses)), losses

    # Counted for the CPU, without a moving average: weights, gradients and two moments of what is trained.
    planned = load(TrainConfig, f"train/medcodi-m/{recipe}", values)
    cost = stage_cost(planned, config, device="cpu")
    states, study = 16 * cost.trained + 4 * cost.frozen, max(cost.study_activations, cost.study_transient)
    activations = cost.fixed_activations + planned.batch.global_size * study
    return {
        "trained": cost.trained,
        "frozen": cost.frozen,
        "steps": len(losses),  # 1: the resumed process was killed before, by want of memory
        "losses": losses,
        "grad_norms": [line["grad_norm"] for line in lines],
        "step_seconds": [round(line["timing"]["seconds_per_step"], 1) for line in lines],
        "first": first,
        "resumed": resumed,
        "checkpoint_gib": round(size, 2),
        "counted_states_gib": round(states / GIB, 2),
        "counted_activations_gib": round(activations / GIB, 2),
    }


# ---- the parts -------------------------------------------------------------------------------------------------------
def generate(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """A film from a report."""
    words = ["-m", "medcodi", "generate", "--model", str(folder / "model"), "--target", "frontal", "--steps", "4"]
    prompt = ["--prompt", "report=Large left pleural effusion.", "--out", str(folder / "film")]
    fast = ["--execution", "precision=bfloat16", "--execution", "channels_last=true"]
    result = watched([*words, *prompt, *fast])
    assert list((folder / "film").rglob("*.png")), "no film"
    return {"pixels": config.image_size, "steps": 4, **result}


def align(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """Two steps of the prompt encoders."""
    return two_steps("2-align", folder / "align", config, [f"batch.global_size={STUDIES}"])


def diffuse(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """Two steps of the frontal's denoiser, from a cache; the encoders leave the disk before the checkpoint comes."""
    data = ["source=phantom", f"num_studies={STUDIES}", f"image_size={config.image_size}"]
    words = ["-m", "medcodi", "data", "cache", "--model", str(folder / "model"), "--out", str(folder / "cache"), *data]
    cached = watched(words)
    for name in ENCODERS:
        (folder / "model" / f"{name}.safetensors").unlink()
    settings = ["batch.global_size=1", "stage.options.targets=[frontal]", "engine.activation_checkpointing=true"]
    return {
        "cache": cached,
        **two_steps("3-diffuse", folder / "diffuse", config, [*settings, f"cache={folder / 'cache'}"]),
    }


def measure(parts: Sequence[str], size: str, folder: Path, *, write: bool) -> None:
    """The parts, with the model in ``folder``, one after the other: the last one removes its encoders."""
    config = model_config(size)
    file = RESULTS / "full_size.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and write else {}
    for part in (name for name in PARTS if name in parts):
        result = {"size": size, **globals()[part](folder, config), "machine": machine()}
        shutil.rmtree(folder / part, ignore_errors=True)  # its checkpoint
        results[part] = result
        print(part, json.dumps({key: value for key, value in result.items() if key != "machine"}), flush=True)
        if write:
            file.write_text(json.dumps({"command": "python benchmarks/full_size.py", **results}, indent=1) + "\n")
            print(f"written: benchmarks/results/{file.name}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="names, with commas; by default all")
    parser.add_argument("--size", choices=SIZES, default="full", help="mid: a denoiser of 142 M parameters, 2 GiB")
    parser.add_argument("--folder", help="a folder on a disk with room; what is written there is removed")
    parser.add_argument("--dry-run", action="store_true", help="the tiny model; nothing is written")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]}; there are {', '.join(PARTS)}")
    size = "tiny" if arguments.dry_run else arguments.size
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="full-size-") as folder:
        # In a process of its own, whose memory is free again when the measurements begin.
        components = (*FILM_COMPONENTS, "autoencoder_text")
        writer = get_context("fork").Process(
            target=write_folder, args=(model_config(size), components, Path(folder) / "model")
        )
        writer.start()
        writer.join()
        if writer.exitcode:
            return 1
        measure(parts, size, Path(folder), write=not arguments.dry_run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
