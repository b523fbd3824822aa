"""What is odd about images and reports before they are scored: found, named, and by an explicit policy stopped at, left out or flagged.

Nothing is ever replaced. What a caller does not name a policy for follows ``DEFAULT_POLICY``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medcodi.errors import ConfigError, DataError, one_of
from medcodi.evaluation.annotators.feature_cache import content_key
from medcodi.evaluation.annotators.language import looks_english

Action = Literal["stop", "exclude", "flag"]
ACTIONS: tuple[Action, ...] = ("stop", "exclude", "flag")

REASONS = {
    "duplicate": "the same content as another study's",
    "constant": "an image of (almost) one value, such as all black",
    "other size": "an image of another size than most",
    "not finite": "an image with NaN, infinity, or values outside [0, 1]",
    "empty": "a report without a word",
    "not English": "a report in another language, by its script or its function words",
}
# A generated constant image, a repeated report or an empty one is what a system made, and is scored as such; of files, a copy or a blank is
# more often a mistake of whoever made the list: callers who score files stop there.
DEFAULT_POLICY: dict[str, Action] = {
    "duplicate": "flag",
    "constant": "flag",
    "other size": "stop",
    "not finite": "stop",
    "empty": "flag",
    "not English": "flag",
}
FILES_POLICY: dict[str, Action] = {**DEFAULT_POLICY, "duplicate": "stop", "constant": "stop"}
CONSTANT_RANGE = 0.02  # of [0, 1]: five of 256 levels


@dataclass(frozen=True)
class Oddity:
    """One thing that is odd about one item."""

    index: int
    name: str
    reason: str
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """As a results bundle lists it."""
        return {"id": self.name, "reason": self.reason, "detail": self.detail}


@dataclass(frozen=True)
class Screening:
    """What was found among ``total`` items, in their order."""

    total: int
    oddities: tuple[Oddity, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    def applied(self, policy: Mapping[str, Action] | None = None, what: str = "items") -> Screened:
        """Follow a policy.

        Args:
            policy: Reason -> ``"stop"``, ``"exclude"`` or ``"flag"``; others as in ``DEFAULT_POLICY``.
            what: The items, for messages: "real frontal images".

        Raises:
            ConfigError: If a reason or an action is not known.
            DataError: If there is something to stop at; names the first three and the number.
        """
        for reason, action in (policy or {}).items():
            one_of("reason", reason, REASONS, ConfigError)
            one_of("action", action, ACTIONS, ConfigError)
        actions = {**DEFAULT_POLICY, **(policy or {})}
        for reason in REASONS:
            found = [one for one in self.oddities if one.reason == reason]
            if found and actions[reason] == "stop":
                shown = "; ".join(f"{one.name} ({one.detail})" for one in found[:3])
                raise DataError(
                    f"{len(found)} of {self.total} {what}: {reason}: {shown}{' …' if len(found) > 3 else ''}",
                    expected=f"none that is {REASONS[reason]}",
                    fix=f"look at them, or leave them out and have them listed (policy {reason!r}: exclude)",
                )
        out = {one.index for one in self.oddities if actions[one.reason] == "exclude"}
        return Screened(
            tuple(index for index in range(self.total) if index not in out),
            tuple(one for one in self.oddities if one.index in out),
            tuple(one for one in self.oddities if one.index not in out),
        )


@dataclass(frozen=True)
class Screened:
    """What is scored after a policy was followed.

    Attributes:
        kept: Places of the items that are scored.
        excluded: What was left out, and why.
        flagged: What is odd and scored all the same.
    """

    kept: tuple[int, ...]
    excluded: tuple[Oddity, ...]
    flagged: tuple[Oddity, ...]

    def to_dict(self) -> dict[str, Any]:
        """As a results bundle lists it."""
        return {
            "num_scored": len(self.kept),
            "excluded": [one.to_dict() for one in self.excluded],
            "flagged": [one.to_dict() for one in self.flagged],
        }


class ImageScreen:
    """Looks at images one after the other, keeping 32 bytes of each."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._first: dict[bytes, str] = {}
        self._oddities: list[Oddity] = []
        self._shapes: list[tuple[int, ...]] = []

    def look(self, name: str, image: np.ndarray) -> None:
        """Look at one image ``[H, W]``, uint8 or float in [0, 1], of the study ``name``."""
        index = len(self._names)
        self._names.append(name)
        self._shapes.append(tuple(np.shape(image)))
        scale = 255.0 if image.dtype == np.uint8 else 1.0
        low, high = (float(image.min()) / scale, float(image.max()) / scale) if image.size else (np.nan, np.nan)
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            self._add(index, "not finite", f"values from {low:.4g} to {high:.4g}")
            return
        if high - low < CONSTANT_RANGE:
            self._add(index, "constant", f"values from {low:.3f} to {high:.3f}")
        key = content_key(image)
        if key in self._first:
            self._add(index, "duplicate", f"the same as {self._first[key]}")
        else:
            self._first[key] = name

    def _add(self, index: int, reason: str, detail: str) -> None:
        self._oddities.append(Oddity(index, self._names[index], reason, detail))

    def result(self) -> Screening:
        """What was found; sizes other than the most frequent are odd."""
        counts = Counter(self._shapes)
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            for index, shape in enumerate(self._shapes):
                if shape != usual:
                    self._add(index, "other size", f"{_size(shape)}, most are {_size(usual)}")
        order = sorted(self._oddities, key=lambda one: (one.index, one.reason))
        return Screening(len(self._names), tuple(order), {_size(shape): count for shape, count in counts.most_common()})


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(str(side) for side in reversed(shape))


def screen_images(images: Sequence[np.ndarray], names: Sequence[str]) -> Screening:
    """Look at images ``[H, W]`` of studies: constant, repeated, not finite, of another size than most."""
    screen = ImageScreen()
    for name, image in zip(names, images, strict=True):
        screen.look(name, np.asarray(image))
    return screen.result()


def screen_reports(reports: Sequence[str], names: Sequence[str]) -> Screening:
    """Look at reports of studies: empty, repeated word for word, or not in English (which no labeler here reads)."""
    oddities: list[Oddity] = []
    first: dict[str, str] = {}
    for index, (name, report) in enumerate(zip(names, reports, strict=True)):
        words = re.findall(r"\w+", report)
        if not words:
            oddities.append(Oddity(index, name, "empty", f"{len(report)} characters"))
            continue
        if not looks_english(report):
            oddities.append(Oddity(index, name, "not English", f"begins {report.strip()[:40]!r}"))
        text = " ".join(words).lower()
        if text in first:
            oddities.append(Oddity(index, name, "duplicate", f"the same as {first[text]}"))
        first.setdefault(text, name)
    return Screening(len(reports), tuple(oddities))
