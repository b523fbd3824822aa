"""The studies of an arm: which real ones, which are added, and with which labels; a function of (arm, sampling seed, pools)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medcodi.errors import DataError
from medcodi.randomness import numpy_generator
from medcodi.trust.utility.config import ArmConfig, UtilityConfig
from medcodi.trust.utility.pools import Pool


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The studies that one arm is trained on under one sampling seed."""

    pool: Pool  # its real studies, then those that are added; labels as the arm wants them
    num_real: int  # how many of them are real ones of its own
    num_cut: int  # real cases that were cut
    prompt_patients: int  # patients beyond its own whose contents prompted what is added
    patients: frozenset[str]  # of its real studies

    @property
    def num_added(self) -> int:
        """Number of studies added."""
        return len(self.pool) - self.num_real

    def describe(self, findings: Sequence[str]) -> dict[str, Any]:
        """Counts, the hash of the studies in order, and the findings without a case, for the record of a training."""
        positives = (self.pool.truth == 1).sum(0).tolist()
        ids = "\n".join(self.pool.ids) + repr(self.pool.truth.nan_to_num(-1).tolist())
        return {
            "num_real": self.num_real,
            "num_real_patients": len(self.patients),
            "num_added": self.num_added,
            "num_cut": self.num_cut,
            "prompt_patients": self.prompt_patients,
            "studies_sha256": hashlib.sha256(ids.encode()).hexdigest(),
            "without_cases": [name for name, count in zip(findings, positives, strict=True) if count == 0],
        }


def select(
    name: str,
    arm: ArmConfig,
    sampling: int,
    pools: Mapping[str, Pool],
    findings: Sequence[str],
    added_from: str = "",
) -> Selection:
    """Choose the studies of an arm.

    Args:
        name: Of the arm, for refusals.
        arm: Its row of the table.
        sampling: The sampling seed: decides the real subset (smaller shares are part of larger ones) and what is added.
        pools: ``train``, ``oracle`` where there is one, and the synthetic pools.
        findings: Of the pools' columns.
        added_from: Name of the synthetic pool, of an arm that adds synthetic studies.

    Raises:
        DataError: If the real set is smaller than the arm needs, there are too few studies to add, or no case is left.
    """
    train = pools["train"]
    real, kept, removed = _real_rows(name, arm, sampling, train, findings)
    own = {train.patients[row] for row in real}
    # The studies that are added.
    source, rows = train, np.zeros(0, np.int64)
    if arm.add != "nothing":
        number = _number(arm, real, removed, train)
        source = pools[added_from] if arm.add == "synthetic" else pools.get(arm.add, train)
        candidates = _candidates(arm, source, train, kept, own, findings)
        rows = _draw(name, arm, sampling, candidates, number, added_from or arm.add)
    added = _labelled(arm, source.take(rows), sampling)
    if arm.labels == "annotator" and added.truth.isnan().all():
        raise DataError(
            f"arm {name!r} takes the annotator's labels, and it reads none of {', '.join(findings)} in {added_from}",
            expected="an annotator of these views and findings",
            fix="annotator: the folder of a finding classifier that was trained on such studies",
        )
    prompting = {train.patients[row] for row in added.sources.tolist() if row >= 0}
    return Selection(
        pool=Pool.joined(train.take(kept), added),
        num_real=len(kept),
        num_cut=len(removed),
        prompt_patients=len(prompting - own),
        patients=frozenset(own),
    )


def number_added(name: str, arm: ArmConfig, sampling: int, train: Pool, findings: Sequence[str]) -> int:
    """How many studies an arm adds; arguments and refusals as of :func:`select`."""
    real, _, removed = _real_rows(name, arm, sampling, train, findings)
    return _number(arm, real, removed, train)


def _number(arm: ArmConfig, real: np.ndarray, removed: np.ndarray, train: Pool) -> int:
    number = arm.times * (len(removed) if arm.cut else len(real) or len(train))
    return max(1, int(np.floor(number + 0.5)))


def _real_rows(
    name: str, arm: ArmConfig, sampling: int, train: Pool, findings: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the real studies, those of them that stay, and the cases that are cut."""
    real = _of_patients(name, arm, sampling, train)
    if not arm.cut:
        return real, real, np.zeros(0, np.int64)
    return real, *_cut(name, arm, sampling, train, real, findings.index(arm.cut))


def _of_patients(name: str, arm: ArmConfig, sampling: int, train: Pool) -> np.ndarray:
    patients = sorted(set(train.patients))
    number = int(np.floor(arm.real * len(patients) + 0.5))
    if arm.real and number < 1:
        raise DataError(
            f"arm {name!r} has {arm.real:.3g} of {len(patients)} training patients: none",
            expected="at least one patient",
            fix=f"real: {1 / len(patients):.3g} or more, or more training studies",
        )
    order = numpy_generator("utility patients", sampling).permutation(len(patients))
    chosen = {patients[index] for index in order[:number]}
    return np.array([row for row, patient in enumerate(train.patients) if patient in chosen], dtype=np.int64)


def _cut(
    name: str, arm: ArmConfig, sampling: int, train: Pool, real: np.ndarray, column: int
) -> tuple[np.ndarray, np.ndarray]:
    """The real rows that stay, and the cases that are cut."""
    cases = real[(train.truth[torch.from_numpy(real), column] == 1).numpy()]
    stay = int(np.floor(arm.cut_to * len(cases) + 0.5))
    if stay < 1:
        raise DataError(
            f"arm {name!r} leaves {arm.cut_to:.3g} of {len(cases)} cases of {arm.cut}: none",
            expected="at least one case",
            fix="a larger cut_to, or more training studies",
        )
    order = numpy_generator("utility cut", arm.cut, sampling).permutation(len(cases))
    removed = np.sort(cases[order[stay:]])
    return np.setdiff1d(real, removed), removed


def _candidates(
    arm: ArmConfig, source: Pool, train: Pool, kept: np.ndarray, own: set[str], findings: Sequence[str]
) -> np.ndarray:
    """Rows of the source that may be added."""
    rows = np.arange(len(source))
    if arm.add == "duplicates":
        rows = kept
    elif arm.add == "oracle" and source is train:
        rows = np.array([row for row, patient in enumerate(train.patients) if patient not in own], dtype=np.int64)
    elif arm.add == "synthetic":
        if arm.prompts == "own":
            prompts = set(kept.tolist())  # cases that were cut do not prompt either
            rows = rows[[source.sources[row].item() in prompts for row in rows]]
        if arm.filter:
            rows = rows[agrees(source, findings)[rows]]
    # What is added to an arm with a cut finding are cases of it.
    if arm.cut:
        rows = rows[(source.truth[torch.from_numpy(rows), findings.index(arm.cut)] == 1).numpy()]
    return rows


def agrees(pool: Pool, findings: Sequence[str]) -> np.ndarray:
    """Whether the annotator finds, of the labels that it judges, exactly those that the prompt has: bool ``[N]``."""
    labels = [column for column, name in enumerate(findings) if "/" not in name]
    truth, reread = pool.truth[:, labels], pool.reread[:, labels]
    known = ~truth.isnan() & ~reread.isnan()
    return (((truth == reread) | ~known).all(1) & known.any(1)).numpy()


def _draw(name: str, arm: ArmConfig, sampling: int, candidates: np.ndarray, number: int, what: str) -> np.ndarray:
    shuffled = numpy_generator("utility added", what, sampling).permutation(candidates)
    if arm.add == "duplicates":
        return np.resize(shuffled, number)  # each as often as the others, but for one
    if len(candidates) < number and not (arm.filter and len(candidates)):
        of = f" of {arm.cut}" if arm.cut else ""
        passed = " that pass the filter" if arm.filter else ""
        fixes = {
            "oracle": "more oracle studies, or smaller times or real",
            "synthetic": "more num_studies of the generator (or more files), or smaller times",
        }
        raise DataError(
            f"arm {name!r} adds {number:,} studies, and {what} has {len(candidates):,}{of}{passed} (sampling seed {sampling})",
            expected="at least as many as are added",
            fix=fixes[arm.add],
        )
    return shuffled[:number]


def _labelled(arm: ArmConfig, added: Pool, sampling: int) -> Pool:
    truth = added.reread if arm.labels == "annotator" else added.truth
    if arm.shuffle_labels:
        order = numpy_generator("utility labels", sampling).permutation(len(added))
        truth = truth[torch.from_numpy(order)]
    return replace(added, truth=truth)


def num_samplings(config: UtilityConfig, arm: ArmConfig) -> int:
    """How many sampling seeds an arm is trained with: one, where no draw changes its studies."""
    return 1 if arm.add == "nothing" and arm.real == 1 and not arm.cut else config.sampling_seeds
