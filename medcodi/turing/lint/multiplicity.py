"""How often the same bytes are shown: an arm whose contents are shown more or less often than the others' tells itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medcodi.turing.bundle.files import ReaderBundle, ReaderFolder
from medcodi.turing.bundle.key import AnswerKey
from medcodi.turing.design.items import GENERATED, MISMATCHED, REAL
from medcodi.turing.lint.features import PayloadFeatures
from medcodi.turing.lint.files import Leak
from medcodi.turing.lint.separation import SHARE, auc_of, outlier_test

_FIX = "more real studies, so that none is shown in two places; then export again"


@dataclass(frozen=True)
class _Shown:
    """One panel of a trial that counts."""

    task: str
    arm: str
    panel: str  # its title, such as "Frontal view"
    in_task: int  # how often its bytes are shown in this task
    in_folder: int  # and in the whole folder


def multiplicity_leaks(bundle: ReaderBundle, key: AnswerKey, features: PayloadFeatures) -> list[Leak]:
    """Arms that can be recognised by how often their contents are shown, task by task and panel by panel.

    Generated items are compared with real ones within a task; mismatched items with the others, which are made of real contents too, also
    within the whole folder.
    """
    # Every reader is shown the same items: the first one with a leak is enough.
    for reader in bundle.readers:
        if leaks := list(_of_reader(reader, key, features)):
            return leaks
    return []


def _of_reader(reader: ReaderFolder, key: AnswerKey, features: PayloadFeatures) -> Iterator[Leak]:
    shown = list(_shown(reader, key, features))
    # Contrasts: task, panel, the arm that may tell itself, what it is compared with, and where contents are counted.
    contrasts = [
        (task, panel, arm, others, where)
        for task, panel in dict.fromkeys((entry.task, entry.panel) for entry in shown)
        for arm, others, where in (
            (GENERATED, (REAL,), "in_task"),
            (MISMATCHED, (REAL, GENERATED), "in_task"),
            (MISMATCHED, (REAL,), "in_folder"),
        )
    ]
    alpha = SHARE / max(1, 2 * len(contrasts))
    for task, panel, arm, others, where in contrasts:
        own = [entry for entry in shown if (entry.task, entry.panel) == (task, panel) and entry.arm in (arm, *others)]
        times, marked = (
            np.array([getattr(entry, where) for entry in own]),
            np.array([entry.arm == arm for entry in own]),
        )
        if not own or marked.all() or not marked.any() or not np.ptp(times):
            continue
        if auc_of(times, marked, 1 - alpha).separates or outlier_test(times, marked)[1] < alpha:
            place = "the task" if where == "in_task" else "the folder"
            yield Leak(
                "multiplicity",
                f"{reader.name}, task {task!r}: {panel} of {arm} items is shown {times[marked].mean():.1f} times in {place}, "
                f"of {' and '.join(others)} items {times[~marked].mean():.1f} times",
                _FIX,
            )


def _shown(reader: ReaderFolder, key: AnswerKey, features: PayloadFeatures) -> Iterator[_Shown]:
    """Every panel of the trials that count; those of practice and repeats are counted, but not compared."""
    panels = [
        (
            key.trials.get(reader.name, {}).get(trial["trial"]),
            panel,
            features.digests.get((reader.name, panel["payload"])),
        )
        for trial in reader.study["trials"]
        for panel in trial["panels"]
    ]
    known = [(entry, panel, digest) for entry, panel, digest in panels if entry is not None and digest is not None]
    in_task = Counter((entry["task"], digest) for entry, _, digest in known)
    in_folder = Counter(digest for *_, digest in known)
    for entry, panel, digest in known:
        if not entry["practice"] and not entry["repeat_of"]:
            counts = in_task[entry["task"], digest], in_folder[digest]
            yield _Shown(entry["task"], entry["arm"], str(panel["title"]), *counts)
