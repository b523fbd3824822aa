"""Any-to-any generation: a request is checked, encoded, denoised, decoded and signed; ``bulk/`` serves thousands of requests."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcodi.generation.editing import edit
    from medcodi.generation.pipeline import generate, generate_batch
    from medcodi.generation.result import Generation
    from medcodi.model.generation_config import GenerationConfig

__all__ = ["Generation", "GenerationConfig", "edit", "generate", "generate_batch"]

_MODULES = {
    "Generation": "medcodi.generation.result",
    "GenerationConfig": "medcodi.model.generation_config",
    "edit": "medcodi.generation.editing",
    "generate": "medcodi.generation.pipeline",
    "generate_batch": "medcodi.generation.pipeline",
}


def __getattr__(name: str) -> Any:
    if name == "GenerationSettings":  # its name until version 0.1
        name = "GenerationConfig"
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
