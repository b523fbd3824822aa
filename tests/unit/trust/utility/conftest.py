"""Configs of studies on the toy population."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.config import from_dict
from medcodi.trust.utility.config import UtilityConfig

NETWORK = {"channels": [8, 12, 16], "blocks": [0, 1, 1], "buckets": 2048, "width": 24}
DATA = {"source": "phantom", "num_studies": 1, "image_size": 32}  # not opened: the tests hand in toy studies


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., UtilityConfig]:
    """A config; by default of films, one seed, few steps."""

    def build(arms: dict, **values) -> UtilityConfig:
        defaults = {
            "train": DATA,
            "validation": DATA,
            "test": DATA,
            "network": NETWORK,
            "training": {"num_steps": 4, "batch_size": 8, "num_checks": 2, "warmup_steps": 1},
            "seeds": 1,
            "sampling_seeds": 1,
            "bootstrap_samples": 100,
            "findings": ["Cardiomegaly", "Pleural Effusion"],
            "min_positives": 4,
            "out": str(tmp_path / "study"),
        }
        return from_dict(UtilityConfig, {**defaults, "arms": arms, **values})

    return build
