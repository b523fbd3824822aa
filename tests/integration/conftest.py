"""The four stages at tiny size, trained once for all integration tests, by the plain engine in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medcodi.config import from_dict, load
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.model import tiny_model
from medcodi.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("autoencode", "align", "diffuse", "join")
QUIET = (
    "tracking.tensorboard=false",
    "tracking.samples_every=0",
    "tracking.validate_every=0",
    "tracking.log_every=1",
    "optimizer.schedule_horizon=1000",
)


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


# ---- runs that things happen to -------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen phantoms as a dataset on disk: read in no time."""
    out = tmp_path_factory.mktemp("data") / "phantoms"
    values = {"source": "phantom", "out": str(out), "image_size": 32, "options": {"num_studies": 16, "val": 4}}
    prepare(from_dict(PrepareConfig, values))
    return out


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that any stage can start from."""
    made = tiny_model(seed=0)
    made.trained_stages = ("autoencode", "align", "diffuse")
    return made.save_pretrained(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def config(prepared: Path, untrained: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Gives the config of a run in ``tmp_path/run``, of stage ``align`` unless told, on the prepared phantoms."""

    def made(*words: str, stage: str = "align") -> TrainConfig:
        words = words if "init=null" in words else ("model=null", *words)
        data = ("data.source=null", f"data.path={prepared}", "data.num_studies=null", "validation.num_studies=null")
        return tiny_config(stage, tmp_path / "run", untrained, *data, "faults.rank_s=10", *QUIET, *words)

    return made
