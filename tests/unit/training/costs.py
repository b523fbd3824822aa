"""Runs of every stage at tiny size, and their counted cost."""

from __future__ import annotations

from functools import cache

from medcodi.config import load
from medcodi.training.config import TrainConfig
from medcodi.training.cost import Cost, stage_cost

STAGES = ("autoencode", "align", "diffuse", "join")


def run(stage: str, **changes: object) -> TrainConfig:
    overrides = ["init=null", "model=configs/models/tiny.yaml", "cache=null", "precision=fp32", "data.image_size=32"]
    options = {"autoencode": ["stage.options.crop_size=null"]}.get(stage, [])
    values = [f"{key}={value}" for key, value in changes.items()]
    return load(TrainConfig, f"configs/train/{stage}.yaml", [*overrides, *options, *values])


@cache
def cost_of(stage: str, **changes: object) -> Cost:
    return stage_cost(run(stage, **changes))
