"""Attacks on a bundle's order and on its words: what the key's holder can check without looking at a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.stats import binomtest, norm

from medcodi.turing.bundle.folder import Bundle
from medcodi.turing.bundle.key import Key
from medcodi.turing.design.items import GENERATED, REAL
from medcodi.turing.lint.files import Leak
from medcodi.turing.lint.separation import ALPHA, auc_of


def order_leaks(bundle: Bundle, key: Key) -> list[Leak]:
    """Arms by position, arms by turns, the real one of a pair on one side, a patient twice in a row."""
    leaks = []
    by_task: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    turns: dict[str, list[list[bool]]] = defaultdict(list)
    sides: list[bool] = []
    for reader in bundle.readers:
        told = [key.trials.get(reader.name, {}).get(trial["trial"]) for trial in reader.study["trials"]]
        known = [one for one in told if one is not None]
        if len(known) < len(told):
            leaks.append(Leak("order", f"{reader.name}: {len(told) - len(known)} trials are not in the key"))
        patients = [set(key.items[one["item"]]["patients"]) for one in known]
        near = sum(bool(first & second) for first, second in pairwise(patients))
        if near:
            leaks.append(Leak("order", f"{reader.name}: {near} times one patient is shown twice in a row"))
        sides += [one["truth"]["real"] == "A" for one in known if "real" in one["truth"]]
        for task in dict.fromkeys(one["task"] for one in known):
            arms = [
                one["arm"] == GENERATED
                for one in known
                if one["task"] == task and not one["practice"] and one["arm"] in (REAL, GENERATED)
            ]
            by_task[task] += [(place / max(1, len(arms) - 1), generated) for place, generated in enumerate(arms)]
            turns[task].append(arms)
    for task, pairs in by_task.items():
        found = auc_of(np.array([p for p, _ in pairs]), np.array([g for _, g in pairs]), 1 - ALPHA / (2 * len(by_task)))
        if found.separates:
            leaks.append(
                Leak(
                    "order",
                    f"task {task!r}: generated items come {'late' if found.value > 0.5 else 'early'}, {found.words()}",
                )
            )
        chance = chance_of_turns(turns[task])
        if chance < ALPHA / (2 * len(by_task)):
            leaks.append(Leak("order", f"task {task!r}: the arms follow a pattern (runs test, p = {chance:.1g})"))
    if sides and binomtest(sum(sides), len(sides)).pvalue < ALPHA:
        leaks.append(Leak("order", f"the real one of a pair stands on the left {sum(sides)} times of {len(sides)}"))
    return leaks


def chance_of_turns(orders: Sequence[Sequence[bool]]) -> float:
    """Wald and Wolfowitz's runs test, readers pooled: how likely so many, or so few, changes of arm are in a random order."""
    excess = variance = 0.0
    for arms in orders:
        m, n = sum(arms), len(arms) - sum(arms)
        if min(m, n) < 2:
            continue
        expected = 2 * m * n / (m + n) + 1
        runs = 1 + sum(first != second for first, second in pairwise(arms))
        excess += runs - expected
        variance += (expected - 1) * (expected - 2) / (m + n - 1)
    return float(2 * norm.sf(abs(excess) / np.sqrt(variance))) if variance > 0 else 1.0


def told_words(bundle: Bundle, key: Key) -> list[Leak]:
    """Names that only the key may hold, in what readers get: studies, patients, the salt."""
    secret = {str(key.values["salt"])}
    for item in key.items.values():
        secret |= {str(item["case"]), *(str(patient) for patient in item["patients"])}
    secret = {word for word in secret if len(word) >= 4}
    leaks = []
    for reader in bundle.readers:
        names = " ".join(path.relative_to(reader.path).as_posix() for path in reader.files())
        text = names + (reader.path / "study.js").read_text(encoding="utf-8")
        told = sorted(word for word in secret if word in text)
        if told:
            leaks.append(Leak("name", f"{reader.name} names what only the key may: {told[0]}"))
    return leaks
