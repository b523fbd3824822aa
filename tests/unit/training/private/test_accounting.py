"""What a run promises: as dp-accounting computes it, and refused where it would be worth nothing."""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Any

import pytest

from medcodi.config import from_dict
from medcodi.distributed import Ranks
from medcodi.errors import ConfigError, TrainingError
from medcodi.training.config import TrainConfig
from medcodi.training.private.accounting import Mechanism, mechanism_of, noise_for, secret_of

dp_accounting = pytest.importorskip("dp_accounting")


def run(**changes: Any) -> TrainConfig:
    values = {
        "stage": {"name": "diffuse"},
        "data": {"source": "phantom", "num_studies": 100},
        "init": "demo",
        "out": "runs/x",
        "steps": 50,
        "batch": {"global_size": 10},
        "low_rank": {"rank": 4},
        "privacy": {"noise": 1.0, "delta": 1e-3},
    }
    return from_dict(TrainConfig, {**values, **changes})


def test_epsilon_is_that_of_dp_accounting_for_the_schedule() -> None:
    mechanism = mechanism_of(run(), 100)
    assert mechanism == Mechanism(noise=1.0, clip=1.0, delta=1e-3, patients=100, expected=10)
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.0)), 50
    )
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(event)
    spent = mechanism.spent(50)
    assert spent["epsilon"] == accountant.get_epsilon(1e-3) and 1 < spent["epsilon"] < 10
    assert (spent["delta"], spent["patients"], spent["sampling_rate"], spent["steps"]) == (1e-3, 100, 0.1, 50)
    # Rényi accounting, another theory, bounds the same from above.
    renyi = dp_accounting.rdp.RdpAccountant(orders=range(2, 65))
    renyi.compose(event)
    assert spent["epsilon"] <= renyi.get_epsilon(1e-3) < 1.5 * spent["epsilon"]
    assert mechanism.epsilon(0) == 0 and mechanism.epsilon(10) < mechanism.epsilon(50)


def test_the_noise_of_an_epsilon_spends_it_and_no_more() -> None:
    mechanism = mechanism_of(run(privacy={"epsilon": 3.0, "delta": 1e-3}), 100)
    assert mechanism is not None and 2.9 < mechanism.epsilon(50) <= 3.0
    with pytest.raises(TrainingError, match="privacy.epsilon is 1e-09 over 50 steps.*a larger epsilon"):
        noise_for(1e-9, 1.0, 50, 1e-9)


def test_without_noise_there_is_no_promise() -> None:
    mechanism = mechanism_of(run(privacy={"noise": 0, "delta": 1e-3, "clip": math.inf}), 100)
    assert mechanism is not None and mechanism.epsilon(50) == math.inf
    assert mechanism.spent(50)["epsilon"] is None and mechanism.spent(50)["clip"] is None
    assert mechanism_of(run(privacy=None), 100) is None


def test_promises_that_are_worth_nothing_are_refused() -> None:
    with pytest.raises(TrainingError, match="delta is 0.01 with 100 patients.*less than 1 / patients, which is 0.01"):
        mechanism_of(run(privacy={"noise": 1.0, "delta": 0.01}), 100)
    with pytest.raises(TrainingError, match="global_size is 10, and the data hold 8 patients.*global_size=1"):
        mechanism_of(run(), 8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy": {"delta": 1e-5}}, "epsilon=None and noise=None: give one"),
        ({"privacy": {"delta": 1e-5, "noise": 1, "epsilon": 1}}, "give one"),
        ({"privacy": {"delta": 0, "noise": 1}}, "delta is 0"),
        ({"privacy": {"delta": 1e-5, "epsilon": -1}}, "epsilon is -1"),
        ({"privacy": {"delta": 1e-5, "noise": 1, "clip": math.inf}}, "no noise hides a gradient without limit"),
        ({"low_rank": None}, "privacy without low_rank"),
        ({"stage": {"name": "align"}}, "InfoNCE compares every study with all others of its batch"),
        ({"stage": {"name": "join"}}, "low_rank in stage 'join': expected 'diffuse' or 'align'"),
        ({"init": None, "model": "tiny"}, "give init alone"),
        ({"compile": True}, "privacy with compile=True"),
        ({"precision": "fp16"}, "privacy with precision=fp16"),
        ({"engine": {"name": "deepspeed"}}, "engine.name=plain trains them"),
    ],
)
def test_what_cannot_be_made_private_is_refused_with_the_reason(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(**changes)


def test_the_secret_is_for_its_owner_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "privacy.secret"
    secret = secret_of(path, Ranks())
    assert len(secret) == 64 and secret_of(path, Ranks()) == secret != secret_of(tmp_path / "other", Ranks())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
