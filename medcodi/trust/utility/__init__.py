"""Whether synthetic studies are useful: tasks trained with and without them, under the same rules, tested on real studies."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcodi.trust.utility.config import UtilityConfig
    from medcodi.trust.utility.cost import estimate
    from medcodi.trust.utility.job import run

__all__ = ["UtilityConfig", "estimate", "run"]

_MODULES = {"UtilityConfig": "config", "estimate": "cost", "run": "job"}  # imported on first use


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
