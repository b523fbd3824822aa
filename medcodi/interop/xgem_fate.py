"""What becomes of a tensor of a published checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["used", "kept", "dropped", "derivable"]
Shaping = Literal["same", "matrix", "transposed"]  # matrix: a 1x1 convolution there, a linear map here
WB = r"(weight|bias)"
VIDEO = "video layer: never runs on a still image"


@dataclass(frozen=True)
class Target:
    """Where a published tensor goes.

    Attributes:
        component: Which of our files.
        key: Which tensor in it.
        shaping: What is done to the published tensor.
        part: Its place among several that are joined along the first axis.
        num_parts: How many are joined.
    """

    component: str
    key: str
    shaping: Shaping = "same"
    part: int = 0
    num_parts: int = 1


@dataclass(frozen=True)
class Fate:
    """What becomes of a published key.

    Attributes:
        status: ``used`` (generation runs it), ``kept`` (training goes on from it), ``dropped``, or ``derivable`` (the same
            for every model: checked, then made anew).
        why: The reason, where it is not simply used.
        targets: Where it goes; empty for what goes nowhere.
    """

    status: Status
    why: str = ""
    targets: tuple[Target, ...] = ()


def used(component: str, key: str, shaping: Shaping = "same", part: int = 0, num_parts: int = 1) -> Fate:
    """A tensor that goes to one place."""
    return Fate("used", targets=(Target(component, key, shaping, part, num_parts),))
