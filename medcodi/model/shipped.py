"""Where the shipped demo checkpoint lies: in the repository, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from medcodi.errors import CheckpointError

_PACKAGE = Path(__file__).resolve().parents[1]
# The wheel carries the repository's checkpoints/demo as medcodi/shipped/demo (pyproject.toml, wheel.sources).
_PLACES = (_PACKAGE / "shipped" / "demo", _PACKAGE.parent / "checkpoints" / "demo")


def demo_checkpoint() -> Path:
    """The folder of the shipped demo model.

    Returns:
        A folder that holds ``model_index.json``.

    Raises:
        CheckpointError: If it lies in neither place.
    """
    for place in _PLACES:
        if (place / "model_index.json").is_file():
            return place
    raise CheckpointError(
        f"the demo checkpoint is not in {_PLACES[1]}",
        expected="a folder with model_index.json",
        fix="check the repository out whole, or train it with `make demo-train`",
    )
