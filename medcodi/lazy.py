"""Names of a package that are imported on first use, so that ``import medcodi`` and ``medcodi --help`` do not wait for torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package: name -> its module, such as ``".config"``; ``".config:Other"`` where it has another name there."""

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = modules[name].partition(":")
        return getattr(import_module(module, package), attribute or name)

    return get
