"""One tiny model for a module's tests."""

from __future__ import annotations

from typing import Any

import pytest

from medcodi.model import STAGES, tiny_model


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny model that may enter every stage."""
    tiny = tiny_model(seed=0)
    tiny.trained_stages = STAGES
    return tiny
