"""Members and non-members: opened, refused where they overlap, matched, and compared without any model (the bias floor)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medcodi.data.dataset import read_study
from medcodi.data.loading import StudyDataset
from medcodi.distributed import ALONE, Ranks
from medcodi.errors import DataError
from medcodi.evaluation.studies import HeldOutStudies
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.record import Record, RecordValue
from medcodi.study import CHEXPERT_LABELS, Study
from medcodi.trust.privacy.statistics import LEFT_OUT, MEMBER, NON_MEMBER
from medcodi.turing.lint.features import WHITE, image_appearance, text_appearance
from medcodi.turing.lint.separation import auc_of, classifier_scores

LEAST_STUDIES = 20  # of each, for an audit
AGE_BAND = 20  # years
FEMALE = {"F": 1.0, "M": 0.0}


class JoinedStudies:
    """Members, then non-members, as one dataset; a study's id says which it is of."""

    def __init__(self, members: StudyDataset, non_members: StudyDataset) -> None:
        if members.image_size != non_members.image_size:
            raise DataError(
                f"members are {members.image_size} pixels a side, non-members {non_members.image_size}",
                expected="one size",
                fix="prepare both at the model's image size",
            )
        self.parts = (members, non_members)
        self.name = f"{members.name} against {non_members.name}"
        self.image_size = members.image_size
        self.fingerprint = f"{members.fingerprint}+{non_members.fingerprint}"

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def is_member(self, index: int) -> bool:
        """Whether a study is one of the members."""
        return index < len(self.parts[0])

    def __getitem__(self, index: int) -> Study:
        inside = self.is_member(index)
        study = read_study(self.parts[0 if inside else 1], index if inside else index - len(self.parts[0]))
        return replace(study, study_id=f"{'member' if inside else 'non-member'}:{study.study_id}")


class AuditedStudies(HeldOutStudies):
    """Both populations by row, with the label of each study: member, non-member, or left out by matching.

    Attributes:
        labels: int8 ``[N]``: 1, 0, or -1.
        facts: What was matched and how the groups differ, ready for JSON.
        alarms: What a reader must know of the populations, a sentence each.
        records: For each study, what its record and its metadata say of the patient.
    """

    def __init__(
        self,
        dataset: JoinedStudies,
        *,
        matching: str = "exact",
        num_studies: int | None = None,
        seed: int = 0,
        shard_size: int = 32,
        ranks: Ranks = ALONE,
    ) -> None:
        """Read both, refuse an overlap, and match.

        Raises:
            DataError: If a patient is in both, the non-members are too few, or nothing is left after matching.
        """
        self.labels = np.zeros(0, np.int8)  # the rows are not known yet
        super().__init__(dataset, shard_size=shard_size, ranks=ranks)
        inside = np.array([dataset.is_member(place) for place in self.studies.places])
        refuse_overlap(self.patients, inside)
        self.records = [record_of(study) for study in self.studies.without_images]
        strata = list(map(stratum, self.studies.without_images, self.records, self.modalities))
        self.labels = choose(strata, inside, matching, num_studies, seed)
        counts = {"members": int((self.labels == MEMBER).sum()), "non_members": int((self.labels == NON_MEMBER).sum())}
        for name, count in counts.items():
            if count < LEAST_STUDIES:
                raise DataError(
                    f"{count} {name.replace('_', '-')} are left of {int((inside == (name == 'members')).sum())}"
                    + (" after matching" if matching == "exact" else ""),
                    expected=f"at least {LEAST_STUDIES}, and a thousand for figures that mean something",
                    fix="give larger pools (num_studies of members and non_members), or matching=none",
                )
        self.facts: dict[str, Any] = {
            "matching": matching,
            "pools": {"members": int(inside.sum()), "non_members": int((~inside).sum())},
            **counts,
            "patients": {
                name: len({self.patients[row] for row in self.rows(label)})
                for name, label in (("members", MEMBER), ("non_members", NON_MEMBER))
            },
            "differences": differences(self),
            "bias_floor": bias_floor(self),
        }
        self.alarms = self._alarms()

    def having(self, modalities: Iterable[str]) -> list[int]:
        """Rows that have all of the modalities and were not left out by matching."""
        rows = super().having(modalities)
        return [row for row in rows if not len(self.labels) or self.labels[row] != LEFT_OUT]

    def rows(self, label: int) -> list[int]:
        """Rows of one label."""
        return [int(row) for row in np.flatnonzero(self.labels == label)]

    def _alarms(self) -> list[str]:
        alarms = []
        floor = self.facts["bias_floor"]
        if floor["low"] > 0.5:
            alarms.append(
                f"Members and non-members differ: a classifier that sees no model tells them apart with AUROC {floor['value']:.2f} "
                f"[{floor['low']:.2f}, {floor['high']:.2f}]; no membership figure below that shows a leak."
            )
        # The same film under two names is no non-member.
        images = [name for name in self.modality_names() if MODALITIES[name].kind == "image"]
        hashes = [
            {self.hashes[row][name] for row in self.rows(label) for name in images if name in self.hashes[row]}
            for label in (MEMBER, NON_MEMBER)
        ]
        if shared := len(hashes[0] & hashes[1]):
            alarms.append(f"{shared} films are in both populations, pixel by pixel, under other names.")
        return alarms

    def modality_names(self) -> list[str]:
        """Every modality that some study has, in table order."""
        present = set().union(*self.modalities)
        return [name for name in MODALITIES if name in present]


def refuse_overlap(patients: Sequence[str], inside: np.ndarray) -> None:
    """Refuse patients who are members and non-members at once, by a DataError that counts them."""
    both = {name for name, member in zip(patients, inside, strict=True) if member} & {
        name for name, member in zip(patients, inside, strict=True) if not member
    }
    if both:
        some = ", ".join(repr(name) for name in sorted(both)[:3])
        raise DataError(
            f"{len(both)} patients are among members and non-members: {some}{' …' if len(both) > 3 else ''}",
            expected="groups without a common patient",
            fix="give the training split as members, and a split of other patients as non-members",
        )


# ---- matching --------------------------------------------------------------------------------------------------------
def record_of(study: Study) -> dict[str, RecordValue]:
    """The record of a study; sex and age may come from its metadata."""
    known = {name: study.metadata[name] for name in ("sex", "age") if study.metadata.get(name) not in (None, "")}
    return {**known, **(study.record or {})}


def stratum(study: Study, record: Record, modalities: Iterable[str]) -> tuple[Any, ...]:
    """The attributes that a member and a non-member must have in common: source, sex, age band, positive findings, modalities."""
    age = _number(record.get("age"))
    band = None if np.isnan(age) else int(age // AGE_BAND)
    positive = tuple(label for label in CHEXPERT_LABELS if study.labels.get(label) == 1)
    source = str(study.metadata.get("source", ""))
    return (source, str(record.get("sex")), band, positive, tuple(sorted(modalities)))


def choose(
    strata: Sequence[tuple[Any, ...]], inside: np.ndarray, matching: str, num_studies: int | None, seed: int
) -> np.ndarray:
    """Labels int8 ``[N]``: as many members as non-members of each stratum (``exact``), drawn by the seed, or all (``none``)."""
    order = numpy_generator("audit matching", seed).permutation(len(strata))
    pools: dict[Any, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for row in order:
        pools[strata[row] if matching == "exact" else ""][0 if inside[row] else 1].append(int(row))
    pairs: list[tuple[int, int]] = []  # of one stratum each
    alone: tuple[list[int], list[int]] = ([], [])
    for members, others in pools.values():
        pairs += list(zip(members, others, strict=False))
        if matching == "none":
            shorter = min(len(members), len(others))
            alone[0].extend(members[shorter:])
            alone[1].extend(others[shorter:])
    pairs.sort(key=lambda pair: min(pair))  # so that a cut does not prefer frequent strata
    rng = numpy_generator("audit sample", seed)
    pairs = [pairs[place] for place in rng.permutation(len(pairs))][:num_studies]
    labels = np.full(len(strata), LEFT_OUT, np.int8)
    room = 0 if num_studies is None else num_studies - len(pairs)
    for side, label in ((0, MEMBER), (1, NON_MEMBER)):
        more = alone[side] if num_studies is None else alone[side][:room]
        labels[[pair[side] for pair in pairs] + more] = label
    return labels


# ---- how the groups differ -------------------------------------------------------------------------------------------
def differences(studies: AuditedStudies) -> list[dict[str, Any]]:
    """Each attribute that both groups have: its mean in each, and the standardised difference."""
    columns: dict[str, np.ndarray] = {label: studies.truth[:, place] for place, label in enumerate(CHEXPERT_LABELS)}
    columns["age"] = np.array([_number(record.get("age")) for record in studies.records])
    columns["female"] = np.array([FEMALE.get(str(record.get("sex")), np.nan) for record in studies.records])
    words = [len((study.report or "").split()) for study in studies.studies.without_images]
    columns["words of the report"] = np.array([float(count) if count else np.nan for count in words])
    rows = []
    for name, values in columns.items():
        groups = [values[studies.rows(label)] for label in (MEMBER, NON_MEMBER)]
        groups = [group[np.isfinite(group)] for group in groups]
        if not all(map(len, groups)):
            continue
        spread = np.sqrt((groups[0].var() + groups[1].var()) / 2)
        if spread == 0:
            continue
        first, second = (float(group.mean()) for group in groups)
        standardised = (first - second) / float(spread)
        rows.append({"what": name, "members": first, "non_members": second, "standardised": standardised})
    return rows


def bias_floor(studies: AuditedStudies) -> dict[str, Any]:
    """How well a classifier that sees the studies, and no model, tells the groups apart: out-of-fold AUROC over patients."""
    rows = [*studies.rows(MEMBER), *studies.rows(NON_MEMBER)]
    features = np.stack([_appearance(studies, row) for row in rows])
    member = studies.labels[rows] == MEMBER
    scores = classifier_scores(features, member, [studies.patients[row] for row in rows])
    auc = auc_of(scores, member)
    return {"value": auc.value, "low": auc.low, "high": auc.high, "features": int(features.shape[1])}


def _appearance(studies: AuditedStudies, row: int) -> np.ndarray:
    """Findings, age, sex, and what is seen at a glance of every film and report; 0 where absent."""
    study = studies.studies[row]
    parts = [np.nan_to_num(studies.truth[row], nan=0.5)]
    record = studies.records[row]
    parts.append(np.array([_number(record.get("age")), FEMALE.get(str(record.get("sex")), 0.5)]))
    for name in studies.modality_names():
        kind = MODALITIES[name].kind
        if kind == "table":
            continue
        blank: Any = " " if kind == "text" else np.zeros((studies.image_size,) * 2, np.float32)
        value: Any = study.contents.get(name, blank)
        seen = text_appearance(value) if kind == "text" else image_appearance((value * WHITE).astype(np.uint16))
        parts.append(np.array([float(name in study.contents), *seen.values()]))
    return np.nan_to_num(np.concatenate(parts))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
