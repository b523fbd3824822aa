"""A generation in files, in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.data.sources.phantom import phantom_study
from medcodi.generation.result import Generation, Sample
from medcodi.study import Direction

PROVENANCE = {
    "direction": "lateral->frontal+report+record",
    "model": {"name": "demo", "sha256": "ab" * 32, "trained_stages": []},
    "prompts": {},
    "seeds": [3, 4],
    "settings": {},
    "notice": "Synthetic. Not for diagnosis.",
}


@pytest.fixture(scope="session")
def film():
    return phantom_study(21, 0, 64).images["frontal"]


@pytest.fixture
def generated(tmp_path: Path, film) -> Callable[..., Path]:
    """Write samples into a new folder."""

    def write(format: str = "png", num_samples: int = 1, image=film, **more) -> Path:
        contents = {"frontal": image, "report": "No finding.", "record": {"age": 61}}
        samples = [Sample(seed=3 + index, contents=contents) for index in range(num_samples)]
        direction = Direction.parse(PROVENANCE["direction"])
        folder = tmp_path / f"{format}-{num_samples}-{len(list(tmp_path.iterdir()))}"
        return Generation(direction, samples, {**PROVENANCE, **more}).save(folder, format)

    return write
