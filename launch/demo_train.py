"""Train the shipped demo checkpoint from scratch: phantoms, eight runs of the four stages, the finding classifier.

    python launch/demo_train.py                                    # or: make demo-train; the same command resumes
    python launch/demo_train.py --scale 0.01 --work runs/try --out runs/try/demo     # the whole chain, in minutes

DeepSpeed's launcher starts each run on every GPU, or on every core without one. The recipes are configs/train/demo/*.yaml
in the order of their names; each run starts from the model of the one before. The data come from configs/data/demo.yaml,
the classifier's recipe is configs/eval/classifier.yaml. From `diffuse` on, training reads the cache of latents and prompts
that its first start creates.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from medcodi.config import load
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.errors import ConfigError, MedCoDiError, TrainingError
from medcodi.evaluation.annotators.classifier_training import ClassifierTrainConfig, train_classifier
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.training.config import TrainConfig

RECIPES = Path("configs/train/demo")
LEAST_STUDIES, LEAST_STEPS, FEW = 400, 12, 64  # if --scale is below 1


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/demo"), help="the finished model (float16)")
    parser.add_argument("--work", type=Path, default=Path("runs/demo"), help="runs and cache; kept, to resume from")
    parser.add_argument("--data", type=Path, help="prepared phantoms; default: that of configs/data/demo.yaml")
    parser.add_argument("--ranks", type=int, help="processes of each run; default: one per GPU, or one per core")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the studies and of the steps, for a short trial"
    )
    options = parser.parse_args(arguments)
    if not 0 < options.scale <= 1:
        parser.error(f"--scale is {options.scale}, must be in (0, 1]")
    if options.ranks is not None and options.ranks < 1:
        parser.error(f"--ranks is {options.ranks}, must be at least 1")
    return options


def ranks_for(batch: int, wanted: int | None) -> int:
    """The largest number of processes, at most one per device or ``wanted``, that divides the global batch."""
    most = wanted or torch.cuda.device_count() or torch.get_num_threads()
    return next(ranks for ranks in range(most, 0, -1) if batch % ranks == 0)


def launched(ranks: int) -> list[str]:
    """Command that starts a training script on ``ranks`` processes."""
    if find_spec("deepspeed") is None:
        return (
            [sys.executable]
            if ranks == 1
            else [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        )
    runner = [sys.executable, "-m", "deepspeed.launcher.runner"]
    return [*runner, "--num_gpus" if torch.cuda.is_available() else "--num_accelerators", str(ranks)]


def can_compile() -> bool:
    """Whether torch finds the compiler that it needs for the device of the runs."""
    try:
        ExecutionConfig(compile=True).check("cuda" if torch.cuda.is_available() else "cpu")
    except ConfigError:
        return False
    return True


def prepared(options: argparse.Namespace) -> Path:
    """Folder of the phantoms, which are prepared if they are missing."""
    config = load(PrepareConfig, "configs/data/demo.yaml")
    if options.scale < 1:
        studies = max(LEAST_STUDIES, round(options.scale * config.options["num_studies"]))
        few = {**config.options, "num_studies": studies, "val": FEW}
        config = replace(config, out=str(options.work / "phantoms"), options=few)
    config = replace(config, out=str(options.data or config.out))
    if not Path(config.out).exists():
        prepare(config)
    return Path(config.out)


def run_recipe(recipe: Path, before: Path | None, data: Path, options: argparse.Namespace) -> Path:
    """Train one recipe, unless it is finished; returns the folder of its model."""
    config = load(TrainConfig, recipe)
    run = options.work / recipe.stem
    if (run / "model").exists():
        return run / "model"
    steps = max(LEAST_STEPS, round(options.scale * config.steps)) if options.scale < 1 else config.steps
    values = {
        "out": run,
        "steps": steps,
        "data.path": data,
        "init": before,
        "validation.path": config.validation and data,
    }
    values["cache"] = config.cache and options.work / "cache"
    if config.compile and (options.scale < 1 or not can_compile()):  # compiling takes minutes
        values["compile"] = False
    ranks = ranks_for(config.batch.global_size, options.ranks)
    command = [*launched(ranks), "launch/train.py", "--config", str(recipe)]
    command += [f"{key}={value}" for key, value in values.items() if value is not None]
    command += ["--resume", "latest"]  # from the start if there is no checkpoint
    print(f"== {recipe.stem}: {steps} steps on {ranks} ranks", flush=True)
    start = time.monotonic()
    code = subprocess.run(command).returncode
    if code or not (run / "model").exists():
        raise TrainingError(f"{recipe} stopped (exit code {code})", fix="see above; the same command resumes")
    print(f"== {recipe.stem} took {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return run / "model"


def main(arguments: list[str]) -> int:
    """Run every part that is not finished; exit code 2 with one message for an error."""
    options = parse(arguments)
    try:
        data = prepared(options)
        model = None
        for recipe in sorted(RECIPES.glob("*.yaml")):
            model = run_recipe(recipe, model, data, options)
        if model is None:
            raise TrainingError(f"no recipe in {RECIPES}", fix="run it from the root of the repository")
        MedCoDi.from_pretrained(model).save_pretrained(options.out, dtype=torch.float16)
        print(f"model in {options.out}; next, the finding classifier in the same folder", flush=True)
        classifier = load(ClassifierTrainConfig, "configs/eval/classifier.yaml")
        parts = {name: replace(getattr(classifier, name), path=str(data)) for name in ("train", "validation")}
        if options.scale < 1:
            parts["train"] = replace(parts["train"], num_studies=LEAST_STUDIES)
            parts["validation"] = replace(parts["validation"], num_studies=FEW)
            parts["test"] = replace(classifier.test, num_studies=FEW)
        steps = max(LEAST_STEPS, round(options.scale * classifier.num_steps))
        train_classifier(replace(classifier, out=str(options.out), num_steps=steps, **parts))
    except MedCoDiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
