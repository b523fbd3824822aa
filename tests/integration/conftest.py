"""The four stages at tiny size, trained once for all integration tests, by the plain engine in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medcodi.config import load
from medcodi.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("autoencode", "align", "diffuse", "join")


def tiny_config(stage: str, out: Path, init: Path | None, *overrides: str) -> TrainConfig:
    """The tiny config of a stage, writing to ``out`` and starting from the model folder ``init``."""
    start = [f"model={ROOT / 'configs/models/tiny.yaml'}"] if init is None else [f"init={init}"]
    return load(TrainConfig, ROOT / f"configs/train/tiny/{stage}.yaml", [f"out={out}", *start, *overrides])


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Stage -> folder of its finished run, each begun from the one before."""
    from medcodi.training.loop import train

    root = tmp_path_factory.mktemp("runs")
    runs: dict[str, Path] = {}
    init: Path | None = None
    for stage in STAGES:
        runs[stage] = train(tiny_config(stage, root / stage, init))
        init = runs[stage] / "model"
    return runs
