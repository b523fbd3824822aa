"""The model: MedCoDi put together, its config, its files on disk, its components, and how it is executed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcodi.model.config import ModelConfig, tiny_config
    from medcodi.model.medcodi import STAGES, MedCoDi, build_model, tiny_model

__all__ = ["STAGES", "MedCoDi", "ModelConfig", "build_model", "tiny_config", "tiny_model"]

# Imported on first use: a config or a file's index is read without torch's networks.
_MODULES = {name: "medcodi" for name in __all__} | {"ModelConfig": "config", "tiny_config": "config"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
