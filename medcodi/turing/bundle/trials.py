"""What one reader gets: trials in an order of their own, under ids of their own, and the study file of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medcodi.config import to_dict
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.turing.bundle.canonical import sha256_of
from medcodi.turing.bundle.key import FORMAT, Key
from medcodi.turing.bundle.order import reader_order
from medcodi.turing.design.config import ReaderStudyConfig, ScaleConfig, TaskConfig
from medcodi.turing.design.items import Content, Item
from medcodi.turing.design.tasks import TaskKind, task_kind

ID_DIGITS = 16  # hexadecimal, of trials and payloads


@dataclass(frozen=True)
class Panel:
    """One image or text of a trial, as shown."""

    slot: str
    content: Content
    payload: str


@dataclass(frozen=True)
class ReaderTrial:
    """One item as one reader sees it."""

    position: int  # in this reader's order, from 0
    trial: str  # random id
    item: Item  # what it shows
    truth: Mapping[str, Any]  # what is right, the side of the real one of a pair among it
    panels: tuple[Panel, ...]  # in the order shown

    def entry(self) -> dict[str, Any]:
        """For the key."""
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
            "payloads": {panel.payload: _content_entry(panel.content) for panel in self.panels},
        }

    def shown(self) -> dict[str, Any]:
        """For the reader's page."""
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


def _content_entry(content: Content) -> dict[str, str]:
    return {
        "origin": content.origin,
        "case": content.case,
        "modality": content.modality,
        "direction": "" if content.direction is None else str(content.direction),
    }


def reader_trials(study: ReaderStudyConfig, items: Sequence[Item], reader: int, salt: str) -> list[ReaderTrial]:
    """The trials of one reader.

    Args:
        study: The study.
        items: Of all tasks.
        reader: Counted from 0.
        salt: The key's: whoever does not hold it cannot find the order or the ids again.
    """
    blocks = [[item for item in items if item.task == task.id] for task in study.blocks]
    order = reader_order(blocks, reader, study.readers, salt)
    real_sides = _real_sides(order, reader, salt)
    trials = []
    for position, item in enumerate(order):
        slots = task_kind(next(task.kind for task in study.tasks if task.id == item.task)).sides
        sides, truth = list(item.sides), dict(item.truth)
        if len(slots) > 1:  # the real side comes first in the item
            truth = {"real": slots[real_sides[item.name]]}
            sides = sides if real_sides[item.name] == 0 else sides[::-1]
        panels = tuple(
            Panel(slot, content, _random_id(salt, "payload", reader, item.name, slot, content.modality))
            for slot, side in zip(slots, sides, strict=True)
            for content in side
        )
        trials.append(ReaderTrial(position, _random_id(salt, "trial", reader, item.name), item, truth, panels))
    return trials


def _real_sides(order: Sequence[Item], reader: int, salt: str) -> dict[str, int]:
    """On which side the real one of each pair stands: as often left as right, in a random order, task by task."""
    sides: dict[str, int] = {}
    for task in dict.fromkeys(item.task for item in order):
        pairs = [item.name for item in order if item.task == task and len(item.sides) > 1]
        generator = numpy_generator("turing-sides", salt, reader, task)
        offset = int(generator.integers(2))
        for place, row in enumerate(generator.permutation(len(pairs))):
            sides[pairs[row]] = (place + offset) % 2
    return sides


def reader_study(study: ReaderStudyConfig, key: Key, reader: str, trials: Sequence[ReaderTrial]) -> dict[str, Any]:
    """The JSON object of ``study.js``."""
    return {
        "format": FORMAT,
        "bundle_id": key.bundle_id,
        "reader": reader,
        "title": study.title,
        "key_sha256": key.sha256,
        "study_sha256": key.study_sha256,
        "pages": to_dict(study.pages),
        "tasks": [_task(task, task_kind(task.kind)) for task in study.blocks],
        "trials": [trial.shown() for trial in trials],
        "windows": [to_dict(window) for window in study.windows],
        "pixel_spacing": None,
    }


def _task(task: TaskConfig, kind: TaskKind) -> dict[str, Any]:
    first, *others = (MODALITIES[name].title for name in task.modalities)
    titles = " and ".join([first, *(title[0].lower() + title[1:] for title in others)])
    rated = kind.answer == "rating"
    return {
        "id": task.id,
        "kind": task.kind,
        "title": task.title or titles,
        "question": task.question or kind.question,
        "instructions": task.instructions or kind.instructions,
        "scale": _scale(task.scale, kind) if rated else None,
        "choices": list(kind.choices) or None,
        "confidence": _scale(task.confidence, kind) if kind.confidence else None,
        "findings": list(task.findings) if kind.answer == "findings" else None,
        "free_text": task.free_text,
    }


def _scale(scale: ScaleConfig, kind: TaskKind) -> dict[str, Any]:
    labels = scale.labels or {scale.min: kind.labels[0], scale.max: kind.labels[1]}
    return {"min": scale.min, "max": scale.max, "labels": {str(rating): words for rating, words in labels.items()}}


def _random_id(salt: str, *parts: Any) -> str:
    return sha256_of(list(parts), salt=salt)[:ID_DIGITS]
