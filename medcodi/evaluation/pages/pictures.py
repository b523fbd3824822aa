"""Which studies a page shows, by stated rules, and their prompts, truth and generated contents side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medcodi.evaluation.held_out import HeldOut, Value
from medcodi.evaluation.kept import KeptSystem
from medcodi.evaluation.materials import Counts
from medcodi.evaluation.reading import Readers
from medcodi.evaluation.scoring import PRIMARY, DirectionScores
from medcodi.metrics.findings import sides_of
from medcodi.modality import modality
from medcodi.pages.page import Cell, PictureRow
from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS, Direction, Finding

if TYPE_CHECKING:
    from medcodi.evaluation.matrix import Scored

RULE = (
    "Random studies: drawn by a generator keyed with the seed and the direction, before anything was looked at. Worst studies: the most "
    "findings wrong (missed or invented, over all targets; of the first system), the same draw deciding between equals. "
    "Blue: prompt. Orange: generated. Green: truth. Below each: the findings that classifier or labeler read from it, held against those "
    "that the study truly has; without a reader's errors, a real target has all of them right. Pictures stand 256 pixels wide, whatever their own size."
)


def errors(scores: DirectionScores) -> np.ndarray:
    """How many findings are wrong in each scored study, over all targets: float64 ``[N]``."""
    wrong = np.zeros(len(scores.rows))
    for one in scores.targets.values():
        made = one.materials.get(PRIMARY)
        if isinstance(made, Counts):
            wrong += sum((part.fp + part.fn).sum(1) for part in made.confusions)
    return wrong


def shown_studies(scores: DirectionScores, seed: int, num: int) -> list[tuple[str, int]]:
    """(why, row) of the studies on the page: ``num`` random ones, then the ``num`` worst of the others."""
    order = numpy_generator("pictures", seed, str(scores.direction)).permutation(len(scores.rows))
    random = [int(place) for place in order[:num]]
    wrong = errors(scores)
    worst = [place for place in sorted(order.tolist(), key=lambda place: -wrong[place]) if place not in random][:num]
    return [("random study", scores.rows[place]) for place in random] + [
        (f"worst study: {wrong[place]:.0f} of its findings wrong", scores.rows[place])
        for place in worst
        if wrong[place] > 0
    ]


def _side(findings: Sequence[Finding], label: str) -> str:
    sides = sides_of(findings, label)
    return "" if not sides else " (both sides)" if len(sides) > 1 else f" ({next(iter(sides))})"


def _labels(row: np.ndarray) -> tuple[set[str], set[str]]:
    """Those that are there, and those of which nothing is known."""
    named = list(zip(CHEXPERT_LABELS, row, strict=True))
    return {label for label, one in named if one == 1}, {label for label, one in named if np.isnan(one)}


def _read(readers: Readers, name: str, value: Value, held: HeldOut, row: int) -> str:
    """What was read from a content against what the study truly has: right, missed, not true, on the wrong side."""
    reading = readers.findings_of(name, [value])
    sides, true = reading.sides[0], held.findings[row]
    seen, unread = _labels(reading.labels[0])
    there, untold = _labels(held.truth[row])
    wrong = (seen ^ there) - {"No Finding"}  # which the others say
    turned = {
        label
        for label in seen & there
        if sides_of(sides, label) and sides_of(true, label) not in (frozenset(), sides_of(sides, label))
    }
    parts = (
        ("right", [label + _side(sides, label) for label in CHEXPERT_LABELS if label in seen & there - turned]),
        ("wrong side", [label + _side(sides, label) for label in CHEXPERT_LABELS if label in turned]),
        ("missed", [label + _side(true, label) for label in CHEXPERT_LABELS if label in wrong & there - unread]),
        ("not true", [label + _side(sides, label) for label in CHEXPERT_LABELS if label in wrong & seen - untold]),
    )
    return "\n".join(f"{what}: {', '.join(labels)}" for what, labels in parts if labels) or "nothing read"


def _cell(name: str, role: str, value: Value, readers: Readers, held: HeldOut, row: int, label: str = "") -> Cell:
    note = _read(readers, name, value, held, row) if readers.can_read(name) else ""
    return Cell(caption=modality(name).title, role=role, value=value, note=note, label=label)


def picture_rows(
    direction: Direction,
    each: Mapping[str, DirectionScores],
    held: HeldOut,
    readers: Readers,
    scored: Scored,
    generated: Path,
    *,
    num: int,
    seed: int,
) -> list[PictureRow]:
    """Rows of one direction.

    Args:
        direction: Which.
        each: System -> scores of it.
        held: The real studies.
        readers: Of findings.
        scored: Where the systems' blocks are.
        generated: Folder of kept contents.
        num: Random and worst studies, so many of each.
        seed: Of the choice.
    """
    first = next(iter(each.values()))
    chosen = shown_studies(first, seed, num)
    rows = [row for _, row in chosen]
    contents = {
        name: KeptSystem(generated / name).of_rows(direction, scored.produced[name][direction].blocks, rows)
        for name in each
    }
    found = []
    for why, row in chosen:
        cells = [_cell(name, "prompt", held.values(name, [row])[0], readers, held, row) for name in direction.prompts]
        for target in direction.targets:
            for name in each:
                label = name if len(each) > 1 else ""
                cells.append(_cell(target, "generated", contents[name][row][target], readers, held, row, label))
            cells.append(_cell(target, "truth", held.values(target, [row])[0], readers, held, row))
        true = [
            label + _side(held.findings[row], label)
            for label, told in zip(CHEXPERT_LABELS, held.truth[row], strict=True)
            if told == 1
        ]
        found.append(
            PictureRow(
                title=why,
                cells=cells,
                note=f"study {held.ids[row]}; truth: {', '.join(true) or 'nothing told'}",
            )
        )
    return found
