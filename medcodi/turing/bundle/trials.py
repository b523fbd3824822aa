"""Trials of one reader: the order of the items, random ids, the side of the real item of a pair, and the object in ``study.js``.

Orders are balanced over readers and arms, and never show one patient twice in a row. Every draw is keyed by the salt of the answer key:
without it, order and ids cannot be recomputed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcodi.config import to_dict
from medcodi.errors import DataError
from medcodi.modality import MODALITIES
from medcodi.randomness import Key, numpy_generator
from medcodi.turing.bundle.canonical import sha256_of
from medcodi.turing.bundle.key import FORMAT, AnswerKey
from medcodi.turing.design.config import ReaderStudyConfig, ScaleConfig, TaskConfig
from medcodi.turing.design.items import ItemContent, ReaderItem
from medcodi.turing.design.tasks import TaskKind, task_kind

ID_DIGITS = 16  # hexadecimal digits of trial and payload ids
_TRIES = 60  # candidate orders of a block; the best is used


@dataclass(frozen=True)
class Panel:
    """One image or text of a trial."""

    slot: str  # side of a pair: A or B; else ""
    content: ItemContent
    payload: str  # random id


@dataclass(frozen=True)
class ReaderTrial:
    """One item as one reader sees it."""

    position: int  # in this reader's order, from 0
    trial: str  # random id
    item: ReaderItem
    truth: Mapping[str, Any]  # the right answer, for a pair the side of the real item
    panels: tuple[Panel, ...]  # in the order shown

    def key_entry(self) -> dict[str, Any]:
        """Entry of the answer key."""
        return {
            "position": self.position,
            "item": self.item.name,
            "case": self.item.case,
            "patient": self.item.patients[0],
            "task": self.item.task,
            "arm": self.item.arm,
            "truth": dict(self.truth),
            "repeat_of": self.item.repeat_of,
            "practice": self.item.practice,
            "payloads": {
                panel.payload: {
                    "origin": panel.content.origin,
                    "case": panel.content.case,
                    "modality": panel.content.modality,
                    "direction": "" if panel.content.direction is None else str(panel.content.direction),
                }
                for panel in self.panels
            },
        }

    def page_entry(self) -> dict[str, Any]:
        """Entry of ``study.js``: nothing that discloses the answer."""
        return {
            "position": self.position,
            "trial": self.trial,
            "task": self.item.task,
            "practice": self.item.practice,
            "panels": [
                {
                    "slot": panel.slot,
                    "title": MODALITIES[panel.content.modality].title,
                    "kind": MODALITIES[panel.content.modality].kind,
                    "payload": panel.payload,
                }
                for panel in self.panels
            ],
        }


def reader_trials(study: ReaderStudyConfig, items: Sequence[ReaderItem], reader: int, salt: str) -> list[ReaderTrial]:
    """The trials of one reader, whose index is from 0; ``salt`` is that of the answer key."""
    blocks = [[item for item in items if item.task == task.id] for task in study.blocks]
    kinds = {task.id: task_kind(task.kind) for task in study.tasks}
    order = reader_order(blocks, reader, study.readers, salt)
    real_sides = _real_sides(order, reader, salt)
    trials = []
    for position, item in enumerate(order):
        slots = kinds[item.task].sides
        sides, truth = list(item.sides), dict(item.truth)
        # A pair has its real side first; it is shown on the side drawn for it.
        if len(slots) > 1:
            truth = {"real": slots[real_sides[item.name]]}
            sides = sides if real_sides[item.name] == 0 else sides[::-1]
        panels = tuple(
            Panel(slot, content, _random_id(salt, "payload", reader, item.name, slot, content.modality))
            for slot, side in zip(slots, sides, strict=True)
            for content in side
        )
        trials.append(ReaderTrial(position, _random_id(salt, "trial", reader, item.name), item, truth, panels))
    return trials


def _real_sides(order: Sequence[ReaderItem], reader: int, salt: str) -> dict[str, int]:
    """Side of the real item of each pair: left as often as right within a task, in a random order."""
    sides: dict[str, int] = {}
    for task in dict.fromkeys(item.task for item in order):
        pairs = [item.name for item in order if item.task == task and len(item.sides) > 1]
        generator = numpy_generator("turing-sides", salt, reader, task)
        offset = int(generator.integers(2))
        for rank, index in enumerate(generator.permutation(len(pairs))):
            sides[pairs[index]] = (rank + offset) % 2
    return sides


def _random_id(salt: str, *parts: Any) -> str:
    return sha256_of(list(parts), salt=salt)[:ID_DIGITS]


# ---- order -----------------------------------------------------------------------------------------------------------
def reader_order(blocks: Sequence[Sequence[ReaderItem]], reader: int, num_readers: int, *keys: Key) -> list[ReaderItem]:
    """The order for one reader: block by block, practice first.

    The items of a block are dealt into parts, arm by arm, and each reader begins with another part: an item that one reader sees
    early, another sees late.

    Args:
        blocks: Items of each task, in block order.
        reader: Index of the reader, from 0.
        num_readers: Number of readers.
        *keys: Keys of the randomness, the same for all readers.

    Raises:
        DataError: If every order shows one patient twice in a row.
    """
    ordered: list[ReaderItem] = []
    for number, items in enumerate(blocks):
        for practice in (True, False):
            part = [item for item in items if item.practice == practice]
            if part:
                before = ordered[-1].patients if ordered else ()
                ordered += _best_order(part, before, reader, num_readers, "turing-order", number, practice, *keys)
    return ordered


def _best_order(
    items: Sequence[ReaderItem], before: tuple[str, ...], reader: int, num_readers: int, *keys: Key
) -> list[ReaderItem]:
    """The best of 60 random orders; ``before`` are the patients shown last."""
    parts = _parts(items, num_readers, *keys)
    rotated = parts[reader % len(parts) :] + parts[: reader % len(parts)]
    best, best_score = None, -np.inf
    for attempt in range(_TRIES):
        generator = numpy_generator(*keys, "reader", reader, attempt)
        order = _without_neighbours(rotated, before, generator) if attempt < _TRIES // 2 or best else None
        if order is None:  # no order part by part: shuffle all items together
            order = _without_neighbours([[item for part in rotated for item in part]], before, generator)
        if order is not None and (score := _score(order)) > best_score:
            best, best_score = order, score
    if best is None:
        raise DataError(
            f"task {items[0].task!r}: every order of its {len(items)} items shows one patient twice in a row",
            expected="items of more patients",
            fix="real studies of more patients, or paired: false",
        )
    return _originals_first(best)


def _originals_first(order: list[ReaderItem]) -> list[ReaderItem]:
    """Swap a repeat with its original where it comes first."""
    place = {item.name: number for number, item in enumerate(order)}
    for item in list(order):
        first, again = place.get(item.repeat_of), place[item.name]
        if first is not None and again < first:
            order[first], order[again] = order[again], order[first]
    return order


def _parts(items: Sequence[ReaderItem], num_readers: int, *keys: Key) -> list[list[ReaderItem]]:
    """The items dealt like cards, arm by arm, into one part per reader of at least four items; the same for all readers."""
    num = max(1, min(num_readers, len(items) // 4))
    shuffled = [items[index] for index in numpy_generator(*keys, "parts").permutation(len(items))]
    dealt = sorted(shuffled, key=lambda item: item.arm)
    return [dealt[start::num] for start in range(num)]


def _without_neighbours(
    parts: Sequence[Sequence[ReaderItem]], before: tuple[str, ...], generator: np.random.Generator
) -> list[ReaderItem] | None:
    """The parts one after the other, each shuffled, no patient twice in a row; None where this draw fails."""
    order: list[ReaderItem] = []
    last = set(before)
    for part in parts:
        rest = [part[index] for index in generator.permutation(len(part))]
        # Take the next item that shows none of the patients shown last.
        while rest:
            index = next((index for index, item in enumerate(rest) if not last & set(item.patients)), None)
            if index is None:
                return None
            order.append(rest.pop(index))
            last = set(order[-1].patients)
    return order


def _score(order: Sequence[ReaderItem]) -> float:
    """Quality of an order: repeats far from their originals, arms evenly spread, runs of one arm short."""
    place = {item.name: number for number, item in enumerate(order)}
    num = len(order)
    # Smallest distance of a repeat from its original, as a share of a third of the block.
    gaps = [abs(place[item.name] - place[item.repeat_of]) for item in order if item.repeat_of in place]
    apart = min([*gaps, num // 3]) / max(1, num // 3)
    # Distance of an arm's mean position from the middle.
    arms = np.array([item.arm for item in order])
    uneven = max(abs(np.flatnonzero(arms == arm).mean() / max(1, num - 1) - 0.5) for arm in np.unique(arms))
    # Longest run of one arm; up to 5 costs nothing.
    changes = np.flatnonzero(arms[1:] != arms[:-1])
    longest = int(np.diff(np.concatenate([[-1], changes, [num - 1]])).max())
    return apart - uneven - 0.05 * max(0, longest - 5)


# ---- study.js --------------------------------------------------------------------------------------------------------
def reader_page(study: ReaderStudyConfig, key: AnswerKey, reader: str, trials: Sequence[ReaderTrial]) -> dict[str, Any]:
    """The JSON object of ``study.js``."""
    return {
        "format": FORMAT,
        "bundle_id": key.bundle_id,
        "reader": reader,
        "title": study.title,
        "key_sha256": key.sha256,
        "study_sha256": key.study_sha256,
        "pages": to_dict(study.pages),
        "tasks": [_task_entry(task, task_kind(task.kind)) for task in study.blocks],
        "trials": [trial.page_entry() for trial in trials],
        "windows": [to_dict(window) for window in study.windows],
        "pixel_spacing": None,
    }


def _task_entry(task: TaskConfig, kind: TaskKind) -> dict[str, Any]:
    first, *others = (MODALITIES[name].title for name in task.modalities)
    titles = " and ".join([first, *(title[0].lower() + title[1:] for title in others)])
    return {
        "id": task.id,
        "kind": task.kind,
        "title": task.title or titles,
        "question": task.question or kind.question,
        "instructions": task.instructions or kind.instructions,
        "scale": _scale_entry(task.scale, kind) if kind.answer == "rating" else None,
        "choices": list(kind.choices) or None,
        "confidence": _scale_entry(task.confidence, kind) if kind.confidence else None,
        "findings": list(task.findings) if kind.answer == "findings" else None,
        "free_text": task.free_text,
    }


def _scale_entry(scale: ScaleConfig, kind: TaskKind) -> dict[str, Any]:
    labels = scale.labels or {scale.min: kind.labels[0], scale.max: kind.labels[1]}
    return {"min": scale.min, "max": scale.max, "labels": {str(rating): words for rating, words in labels.items()}}
