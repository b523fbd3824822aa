"""What a run tells is the same on one rank and on two: by prompts, by timestep, by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medcodi.config import load
from medcodi.training.config import TrainConfig

from .forked import finished, log

WORDS = (
    "tracking.tensorboard=false",
    "tracking.log_every=2",
    "tracking.validate_every=4",
    "tracking.samples_every=0",
    "checkpoint.every=0",
    "steps=4",
)


def lines(out: Path, runs: dict[str, Path], ranks: int, *words: str) -> list[dict[str, Any]]:
    values = [f"out={out}", f"init={runs['align'] / 'model'}", *WORDS, *words]
    return log(finished(load(TrainConfig, "configs/train/tiny/diffuse.yaml", values), ranks=ranks))


@pytest.mark.timeout(600)
def test_two_ranks_tell_what_one_tells(tiny_runs: dict[str, Path], tmp_path: Path) -> None:
    one = lines(tmp_path / "one", tiny_runs, 1)
    two = lines(tmp_path / "two", tiny_runs, 2, "batch.micro_size=1")
    assert [sorted(line) for line in one] == [sorted(line) for line in two]
    names = set().union(*one)
    assert sum(name.startswith("validation/t/") for name in names) == 30
    assert sum(name.startswith("loss/frontal/from ") for name in names) >= 3 and "moved/report" in names
    for first, second in zip(one, two, strict=True):
        for name, value in first.items():
            close = 3e-2 if name.startswith("moved/") else 1e-3 if name == "grad_norm" else 1e-4
            assert second[name] == pytest.approx(value, rel=close), name
    assert (tmp_path / "two" / "summary.html").is_file()
