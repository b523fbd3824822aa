"""Any-to-any generation: a request is checked, encoded, denoised, decoded and recorded; ``bulk/`` serves thousands of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcodi.lazy import lazy_names

if TYPE_CHECKING:
    from medcodi.generation.editing import edit
    from medcodi.generation.pipeline import generate, generate_batch
    from medcodi.generation.result import Generation
    from medcodi.model.generation_config import GenerationConfig

__all__ = ["Generation", "GenerationConfig", "edit", "generate", "generate_batch"]

__getattr__ = lazy_names(
    __name__,
    {
        "Generation": "medcodi.generation.result",
        "GenerationConfig": "medcodi.model.generation_config",
        "edit": "medcodi.generation.editing",
        "generate": "medcodi.generation.pipeline",
        "generate_batch": "medcodi.generation.pipeline",
        "GenerationSettings": "medcodi.model.generation_config:GenerationConfig",  # its name until version 0.1
    },
)
