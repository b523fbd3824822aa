"""Tracking settings that cannot work are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from medcodi.config import from_dict
from medcodi.errors import ConfigError
from medcodi.training.monitoring.config import TrackingConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"log_every": 0}, "log_every is 0, must be above 0"),
        ({"peak_tflops": -1.0}, "peak_tflops is -1.0"),
        ({"validate_every": -1}, "must not be negative"),
        ({"wandb": {"project": ""}}, "project is empty"),
        ({"wandb": {"mode": "of-line"}}, "mode"),
        ({"alerts": {"window": 2}}, "at least 3"),
        ({"log_evry": 5}, "log_every"),  # the nearest spelling
    ],
)
def test_refusals(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(TrackingConfig, values)


def test_defaults_log_without_a_network() -> None:
    tracking = from_dict(TrackingConfig, {})
    assert tracking.tensorboard and tracking.wandb is None and tracking.samples_every == tracking.validate_every == 0
