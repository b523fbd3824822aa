"""Whether synthetic studies are useful: tasks trained with and without them, under the same rules, tested on real studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcodi.lazy import lazy_names

if TYPE_CHECKING:
    from medcodi.trust.utility.config import UtilityConfig
    from medcodi.trust.utility.cost import estimate
    from medcodi.trust.utility.job import run

__all__ = ["UtilityConfig", "estimate", "run"]

# Imported on first use.
__getattr__ = lazy_names(__name__, {"UtilityConfig": ".config", "estimate": ".cost", "run": ".job"})
