"""Any-to-any generation: a request is checked, encoded, denoised, decoded and signed; ``bulk/`` serves thousands of requests."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcodi.generation.config import GenerationConfig
    from medcodi.generation.pipeline import generate, generate_batch
    from medcodi.generation.result import Generation

__all__ = ["Generation", "GenerationConfig", "generate", "generate_batch"]

_MODULES = {"Generation": "result", "GenerationConfig": "config", "generate": "pipeline", "generate_batch": "pipeline"}


def __getattr__(name: str) -> Any:
    if name == "GenerationSettings":  # its name until version 0.1
        name = "GenerationConfig"
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
