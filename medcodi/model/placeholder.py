"""A module that stands in for another one, which is still on disk and which nobody who walks the tree of modules is to meet."""

from __future__ import annotations

from typing import Any

from torch import nn


class Aside(nn.Module):
    """Passes everything on to the module it stands for, and has no parameters, buffers or children of its own.

    So ``parameters()``, ``to``, ``state_dict``, optimisers and engines pass the module by; whoever uses it sees no difference.

    Attributes:
        inside: The module it stands for.
    """

    inside: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["inside"] = module  # assigned as usual it would become a child

    def __getattr__(self, name: str) -> Any:
        if "inside" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["inside"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        return self.inside(*args, **kwargs)


def inside(module: nn.Module) -> nn.Module:
    """The module that ``module`` stands for, or itself."""
    return module.inside if isinstance(module, Aside) else module
