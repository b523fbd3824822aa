"""The model: MedCoDi assembled from its components, its config, its files, its identity, and how it is executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medcodi.errors import CheckpointError
from medcodi.lazy import lazy_names

if TYPE_CHECKING:
    from medcodi.model.config import ModelConfig, tiny_config
    from medcodi.model.fresh import build_model, tiny_model
    from medcodi.model.generation_config import GenerationConfig
    from medcodi.model.medcodi import STAGES, MedCoDi
    from medcodi.model.merging import merge

__all__ = [
    "STAGES",
    "GenerationConfig",
    "MedCoDi",
    "ModelConfig",
    "build_model",
    "demo_checkpoint",
    "merge",
    "named_model",
    "tiny_config",
    "tiny_model",
]

# Imported on first use: a config or a file's index is read without torch's networks.
__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("STAGES", "MedCoDi"), ".medcodi"),
        **dict.fromkeys(("build_model", "tiny_model"), ".fresh"),
        **dict.fromkeys(("ModelConfig", "tiny_config"), ".config"),
        "GenerationConfig": ".generation_config",
        "merge": ".merging",
    },
)
# The shipped demo model: the wheel carries checkpoints/demo as medcodi/shipped/demo (pyproject.toml, wheel.sources).
_PACKAGE = Path(__file__).resolve().parents[1]
_DEMO_FOLDERS = (_PACKAGE / "shipped" / "demo", _PACKAGE.parent / "checkpoints" / "demo")
_DEMO, _DEMO_IN_CLONE = "demo", "checkpoints/demo"


def demo_checkpoint() -> Path:
    """The folder of the shipped demo model, in the installed package or in the repository.

    Raises:
        CheckpointError: If it is in neither.
    """
    for folder in _DEMO_FOLDERS:
        if (folder / "model_index.json").is_file():
            return folder
    raise CheckpointError(
        f"the demo checkpoint is not in {_DEMO_FOLDERS[1]}",
        expected="a folder with model_index.json",
        fix="install medcodi again, check the repository out completely, or train it with `make demo-train`",
    )


def named_model(source: str | Path) -> str | Path:
    """The shipped model's folder for the name ``"demo"``; anything else as it is.

    ``"checkpoints/demo"``, its place in the repository, names it too where no such folder is. ``"./demo"`` and a ``Path`` name a
    folder of the working directory.

    Raises:
        CheckpointError: If the working directory holds a model folder ``demo`` too, so that the name could mean either.
    """
    if source == _DEMO:  # never true of a Path
        if (Path(_DEMO) / "model_index.json").is_file():
            raise CheckpointError(
                "'demo' names the shipped model, and the working directory holds a model folder demo too",
                expected="a name that means one model",
                fix="./demo for the folder; for the shipped model, rename that folder or work in another one",
            )
        return demo_checkpoint()
    if Path(source).as_posix() == _DEMO_IN_CLONE and not Path(source).exists():
        return demo_checkpoint()
    return source
