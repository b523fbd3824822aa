"""Train the shipped demo checkpoint from nothing: phantoms, six runs of the four stages, the finding classifier.

    python launch/demo_train.py                # or: make demo-train; goes on where it was stopped

The recipes are configs/data/demo.yaml, configs/train/demo/*.yaml and configs/eval/classifier.yaml, in the order of their names.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from medcodi.config import load
from medcodi.data.prepare import PrepareConfig, prepare
from medcodi.errors import MedCoDiError
from medcodi.model import MedCoDi
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train

RECIPES = Path("configs/train/demo")
OUT = Path("checkpoints/demo")


def main() -> int:
    """Every part that is not there yet; exit code 2 with one message when something cannot be."""
    try:
        data = load(PrepareConfig, "configs/data/demo.yaml")
        if not Path(data.out).exists():
            prepare(data)
        model = Path()
        for recipe in sorted(RECIPES.glob("*.yaml")):
            config = load(TrainConfig, recipe)
            model = Path(config.out) / "model"
            if not model.exists():
                print(f"== {recipe}", flush=True)
                train(config, resume="latest" if any(Path(config.out).glob("checkpoints/*")) else None)
        MedCoDi.from_pretrained(model).save_pretrained(OUT, dtype=torch.float16)
        print(f"model in {OUT}; now the finding classifier beside it", flush=True)
        from medcodi.evaluation.classifier_training import ClassifierTrainConfig, train_classifier

        train_classifier(load(ClassifierTrainConfig, "configs/eval/classifier.yaml"))
    except MedCoDiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
