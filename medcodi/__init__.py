"""MedCoDi: any-to-any generation of chest examinations (frontal X-ray, lateral X-ray, report)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcodi.lazy import lazy_names

if TYPE_CHECKING:
    from medcodi.errors import DomainWarning
    from medcodi.generation import Generation, edit, generate
    from medcodi.generation.bulk.job import SynthesisConfig, synthesize
    from medcodi.generation.bulk.streaming import Request, generate_many
    from medcodi.model import MedCoDi

__version__ = "0.1.0"
__all__ = [
    "DomainWarning",
    "Generation",
    "MedCoDi",
    "Request",
    "SynthesisConfig",
    "__version__",
    "edit",
    "generate",
    "generate_many",
    "synthesize",
]

# Loaded on first use, so that `import medcodi` and `medcodi --help` do not wait for torch.
__getattr__ = lazy_names(
    __name__,
    {
        "DomainWarning": "medcodi.errors",
        "edit": "medcodi.generation",
        "generate": "medcodi.generation",
        "Generation": "medcodi.generation",
        "MedCoDi": "medcodi.model",
        "Request": "medcodi.generation.bulk.streaming",
        "SynthesisConfig": "medcodi.generation.bulk.job",
        "generate_many": "medcodi.generation.bulk.streaming",
        "synthesize": "medcodi.generation.bulk.job",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
