"""Which studies a page shows, by stated rules, and their prompts, truth and generated contents side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medcodi.evaluation.held_out import HeldOut, Value
from medcodi.evaluation.kept import KeptSystem
from medcodi.evaluation.materials import Counts
from medcodi.evaluation.pages.page import Cell, PictureRow
from medcodi.evaluation.reading import Readers
from medcodi.evaluation.scoring import PRIMARY, DirectionScores
from medcodi.modality import modality
from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS, Direction

if TYPE_CHECKING:
    from medcodi.evaluation.matrix import Scored

RULE = (
    "Random studies: drawn by a generator keyed with the seed and the direction, before anything was looked at. Worst studies: the most "
    "findings wrong (missed or invented, over all targets; of the first system), the same draw deciding between equals. "
    "Blue: prompt. Green: truth. Orange: generated. Below each: the findings that classifier or labeler read from it."
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


def _read(readers: Readers, target: str, value: Value) -> str:
    labels = readers.findings_of(target, [value]).labels[0]
    told = [name for name, present in zip(CHEXPERT_LABELS, labels, strict=True) if present == 1]
    return "read: " + (", ".join(told) or "nothing")


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
        cells = [
            Cell(caption=modality(name).title, role="prompt", value=held.values(name, [row])[0])
            for name in direction.prompts
        ]
        for target in direction.targets:
            value, caption = held.values(target, [row])[0], modality(target).title
            cells.append(Cell(caption=caption, role="truth", value=value, note=_read(readers, target, value)))
            for name in each:
                value = contents[name][row][target]
                label = name if len(each) > 1 else ""
                cells.append(
                    Cell(
                        caption=caption, role="generated", value=value, note=_read(readers, target, value), label=label
                    )
                )
        true = [label for label, told in zip(CHEXPERT_LABELS, held.truth[row], strict=True) if told == 1]
        found.append(
            PictureRow(
                title=why,
                cells=cells,
                note=f"study {held.ids[row]}; truth: {', '.join(true) or 'nothing told'}",
            )
        )
    return found
