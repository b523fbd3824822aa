"""Shuffled prompts without a second generation: every study is given another patient's truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcodi.errors import DataError
from medcodi.randomness import numpy_generator


def derangements(patients: Sequence[str], num: int, seed: int) -> list[np.ndarray]:
    """Permutations that give every study the place of another *patient's* study.

    Patients are put in a random order, their studies side by side, and shifted in a circle by at least as many places as one patient has
    studies; every shift is another derangement.

    Args:
        patients: Patient of each of ``N`` studies.
        num: How many at most.
        seed: Of the order and the choice of shifts.

    Returns:
        int ``[N]`` each: study ``i`` is given ``permutation[i]``'s truth.

    Raises:
        DataError: If one patient has more than half of the studies, so that there is none.
    """
    names, cluster, sizes = np.unique(
        np.asarray(patients, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    largest, total = int(sizes.max()), len(patients)
    if total < 2 * largest:
        raise DataError(
            f"one patient has {largest} of {total} studies, so prompts cannot be shuffled between patients",
            expected=f"at least {2 * largest} studies",
            fix="score more patients",
        )
    generator = numpy_generator("derangement", seed)
    order = np.argsort(generator.permutation(len(names))[cluster], kind="stable")
    shifts = generator.permutation(np.arange(largest, total - largest + 1))[:num]
    found = []
    for shift in shifts:
        permutation = np.empty(total, dtype=np.int64)
        permutation[order] = np.roll(order, -int(shift))
        found.append(permutation)
    return found
