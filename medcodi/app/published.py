"""The published MedCoDi-M in numbers, part by part, and the way from its count to ours, to the last parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Parameters of one part in the published checkpoint.

    Attributes:
        stored: In the file (a tied matrix once).
        live: Of these, the ones that some generation of still images, or encoding of a prompt, executes.
    """

    stored: int
    live: int


PAPER_TOTAL = 6.77e9  # arXiv 2501.04614, abstract
# Counted from the public code; tests/golden/xgem_prefixes.json holds the sums by prefix that these come from.
PUBLISHED: dict[str, Published] = {
    "prompt_encoders.image_tower": Published(613_996_912, 303_966_208),
    "prompt_encoders.text_tower": Published(123_650_304, 123_650_304),
    "prompt_encoders.logit_scale": Published(1, 0),
    "autoencoder_image": Published(101_951_463, 83_653_863),
    "autoencoder_text": Published(241_599_744, 241_599_744),
    "denoiser_frontal": Published(1_422_027_851, 859_520_964),
    "denoiser_frontal.connectors": Published(243_947_200, 243_947_200),
    "denoiser_lateral": Published(1_422_027_851, 859_520_964),
    "denoiser_lateral.connectors": Published(243_947_200, 243_947_200),
    "denoiser_report": Published(1_708_848_448, 1_708_848_448),
    "denoiser_report.connectors": Published(243_947_200, 243_947_200),
    "environment_frontal": Published(106_809_196, 52_352_800),
    "environment_lateral": Published(106_809_196, 52_352_800),
    "environment_report": Published(95_589_760, 95_589_760),
}
_NONE = Published(0, 0)
_TEMPERATURE, _TIME = "prompt_encoders.logit_scale", ".time"


def published_part(component: str, name: str) -> str:
    """The part that a parameter belongs to: a key of ``PUBLISHED``, ``environment_*.time``, or the component."""
    first = f"{component}.{name.split('.', 1)[0]}"
    if first in PUBLISHED or (component.startswith("environment_") and first.endswith(_TIME)):
        return first
    return f"{component}.connectors" if ".connector." in name else component


def is_comparable(parts: Mapping[str, int]) -> bool:
    """Whether a model's parts are the published ones: at least one denoiser has the same size."""
    return any(
        count == PUBLISHED.get(part, _NONE).live for part, count in parts.items() if part.startswith("denoiser_")
    )


@dataclass(frozen=True)
class Line:
    """One line of the reckoning: a sum so far, or what is added to it."""

    kind: str  # "sum" or "change"
    parameters: int
    what: str


def reckoning(parts: Mapping[str, int]) -> list[Line]:
    """From the published file's parameters to a model's, every difference named.

    Args:
        parts: Parameters of each part (see :func:`published_part`).

    Returns:
        Lines whose changes add up from each sum to the next: the file, what runs of it, the model.
    """
    stored, live = sum(p.stored for p in PUBLISHED.values()), sum(p.live for p in PUBLISHED.values())
    temperature = PUBLISHED[_TEMPERATURE].stored - PUBLISHED[_TEMPERATURE].live
    lines = [
        Line("sum", stored, "in the published file"),
        Line("change", live - stored + temperature, "video layers, which no still image runs"),
        Line("change", -temperature, "the temperature of the prompt encoders: generation does not use it"),
        Line("sum", live, "of these can run"),
    ]
    changes: dict[str, int] = {}
    for part in [*PUBLISHED, *(part for part in parts if part not in PUBLISHED)]:
        change = parts.get(part, 0) - PUBLISHED.get(part, _NONE).live
        if change:
            reason = _reason(part, parts.get(part, 0))
            changes[reason] = changes.get(reason, 0) + change
    lines += [Line("change", change, reason) for reason, change in changes.items()]
    return [*lines, Line("sum", sum(parts.values()), "here")]


def _reason(part: str, count: int) -> str:
    if part == _TEMPERATURE:
        return "the temperature again: the stage align trains it"
    if part.endswith(_TIME):
        return "the time embedding: each environment encoder has its own, a copy of its denoiser's"
    return f"{part}: {count:,} here, {PUBLISHED.get(part, _NONE).live:,} there"
