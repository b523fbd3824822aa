"""In which order a reader sees the items: balanced over readers and arms, never one patient twice in a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcodi.errors import DataError
from medcodi.randomness import Key, numpy_generator
from medcodi.turing.design.items import Item

_TRIES = 60  # candidate orders of a block; the best is taken


def reader_order(blocks: Sequence[Sequence[Item]], reader: int, num_readers: int, *keys: Key) -> list[Item]:
    """The order for one reader: block by block, practice first.

    An item that one reader sees early, another sees late: the items of a block are dealt into parts, arm by arm, and each reader begins
    with another part.

    Args:
        blocks: Items of each task, in block order.
        reader: Counted from 0.
        num_readers: Of the study.
        *keys: Keys of the randomness, the same for all readers.

    Raises:
        DataError: If one patient would have to be shown twice in a row.
    """
    ordered: list[Item] = []
    for number, items in enumerate(blocks):
        for practice in (True, False):
            part = [item for item in items if item.practice == practice]
            if part:
                before = ordered[-1].patients if ordered else ()
                ordered += _best_order(part, before, reader, num_readers, "turing-order", number, practice, *keys)
    return ordered


def _best_order(
    items: Sequence[Item], before: tuple[str, ...], reader: int, num_readers: int, *keys: Key
) -> list[Item]:
    parts = _parts(items, num_readers, *keys)
    turned = parts[reader % len(parts) :] + parts[: reader % len(parts)]
    best, best_score = None, -np.inf
    for attempt in range(_TRIES):
        generator = numpy_generator(*keys, "reader", reader, attempt)
        order = _without_neighbours(turned, before, generator) if attempt < _TRIES // 2 or best else None
        if order is None:  # the parts cannot be kept: all in one
            order = _without_neighbours([[item for part in turned for item in part]], before, generator)
        if order is not None and (score := _score(order)) > best_score:
            best, best_score = order, score
    if best is None:
        raise DataError(
            f"task {items[0].task!r}: one patient would be shown twice in a row, whatever the order of its {len(items)} items",
            expected="items of more patients",
            fix="real studies of more patients, or paired: false",
        )
    return _originals_first(best)


def _originals_first(order: list[Item]) -> list[Item]:
    """The same order; where a repeat came before what it repeats, the two change places."""
    place = {item.name: number for number, item in enumerate(order)}
    for item in list(order):
        first, again = place.get(item.repeat_of), place[item.name]
        if first is not None and again < first:
            order[first], order[again] = order[again], order[first]
    return order


def _parts(items: Sequence[Item], num_readers: int, *keys: Key) -> list[list[Item]]:
    """The items dealt like cards into as many parts as readers (each of at least four), arm by arm; alike for all readers."""
    num = max(1, min(num_readers, len(items) // 4))
    shuffled = [items[place] for place in numpy_generator(*keys, "parts").permutation(len(items))]
    dealt = sorted(shuffled, key=lambda item: item.arm)
    return [dealt[start::num] for start in range(num)]


def _without_neighbours(
    parts: Sequence[Sequence[Item]], before: tuple[str, ...], generator: np.random.Generator
) -> list[Item] | None:
    """The parts one after the other, each shuffled, no patient twice in a row; None where the draw leads nowhere."""
    order: list[Item] = []
    last = set(before)
    for part in parts:
        rest = [part[place] for place in generator.permutation(len(part))]
        while rest:
            place = next((place for place, item in enumerate(rest) if not last & set(item.patients)), None)
            if place is None:
                return None
            order.append(rest.pop(place))
            last = set(order[-1].patients)
    return order


def _score(order: Sequence[Item]) -> float:
    """High where repeats stand far from their originals, arms are even over time, and runs of one arm are short."""
    place = {item.name: number for number, item in enumerate(order)}
    num = len(order)
    gaps = [abs(place[item.name] - place[item.repeat_of]) for item in order if item.repeat_of in place]
    apart = min([*gaps, num // 3]) / max(1, num // 3)
    arms = np.array([item.arm for item in order])
    uneven = max(abs(np.flatnonzero(arms == arm).mean() / max(1, num - 1) - 0.5) for arm in np.unique(arms))
    changes = np.flatnonzero(arms[1:] != arms[:-1])
    longest = int(np.diff(np.concatenate([[-1], changes, [num - 1]])).max())
    return apart - uneven - 0.05 * max(0, longest - 5)
