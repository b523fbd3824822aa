"""The disposition of a key of the published checkpoint: used, kept, dropped or derivable, and where its tensor goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["used", "kept", "dropped", "derivable"]
Shaping = Literal["same", "matrix", "transposed"]  # matrix: a 1x1 convolution there, a linear map here
WB = r"(weight|bias)"  # the last part of most keys, as a group of a pattern
_SHOWN = 5
VIDEO = "video layer: never runs on a still image"


@dataclass(frozen=True)
class Target:
    """The place of a published tensor in our model."""

    component: str  # one of our files
    key: str  # the tensor in it
    shaping: Shaping = "same"  # how the published tensor is reshaped
    part: int = 0  # position among several that are concatenated along the first axis
    num_parts: int = 1


@dataclass(frozen=True)
class Disposition:
    """The disposition of one published key."""

    # used: by generation; kept: for further training; derivable: the same for every model, checked, then computed anew.
    status: Status
    why: str = ""  # the reason, unless it is simply used
    targets: tuple[Target, ...] = ()  # empty where it is dropped or derivable


def some_of(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def used(component: str, key: str, shaping: Shaping = "same", part: int = 0, num_parts: int = 1) -> Disposition:
    """The disposition of a tensor that goes to one place."""
    return Disposition("used", targets=(Target(component, key, shaping, part, num_parts),))
