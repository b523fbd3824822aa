"""``medcodi turing lint``: attacks on a bundle. Whatever tells the arms apart by other means than anatomy is named, and fails.

The exporter makes files, names, times, order and encoding equal, so any difference between the arms there is a leak. What pixels and words
tell is what readers judge: its area under the curve is reported and fails nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from medcodi.config import from_dict
from medcodi.errors import DataError
from medcodi.storage.checked_json import foreign
from medcodi.turing.bundle.files import READER_STUDY, ReaderBundle, open_bundle
from medcodi.turing.bundle.key import AnswerKey, read_key
from medcodi.turing.design.blinding import BlindingConfig
from medcodi.turing.design.items import GENERATED, REAL
from medcodi.turing.lint.features import PayloadFeatures, file_features, name_features
from medcodi.turing.lint.files import Leak, check_files
from medcodi.turing.lint.separation import (
    ALPHA,
    SHARE,
    Auc,
    auc_of,
    chance_of_classifier,
    chance_of_turns,
    classifier_scores,
    multiplicity_leaks,
    outlier_test,
)

FIXES = {
    "grey offset": "both arms through the exporter's grey range; blinding.depth no finer than the coarser arm",
    "border": "blinding.crop: square, or a larger blinding.margin",
    "resolution": "blinding.native_size: that of the coarser arm",
    "burnt-in mark": "a larger blinding.corner_mask, or real studies without markers",
    "text format": "blinding.text_case: upper, or blinding.max_words",
}
# Encodings that a reader can compare without the key: (probe, feature).
_VISIBLE = (("resolution", "finest band"), ("grey offset", "grey step"), ("burnt-in mark", "in the corners"))
_Places = Mapping[tuple[str, str, str], list[tuple[str, str]]]  # (origin, case, direction) -> payloads (reader, id)
_Features = Mapping[Any, float]


@dataclass(frozen=True)
class Separation:
    """How well one feature separates the arms."""

    what: str
    auc: Auc
    fails: bool


@dataclass
class LintReport:
    """Outcome of a lint."""

    leaks: list[Leak] = field(default_factory=list)  # each fails the bundle
    tested: list[Separation] = field(default_factory=list)  # features that must not separate the arms
    reported: list[Separation] = field(default_factory=list)  # appearance: pixels and words
    notes: list[str] = field(default_factory=list)  # what could not be tested, or is worth a look

    @property
    def clean(self) -> bool:
        """Whether there is no leak."""
        return not self.leaks

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"clean": self.clean, **asdict(self)}


@foreign("the bundle", expected="a bundle as medcodi turing export writes it", fix="export it again")
def lint_bundle(
    place: str | Path, key: str | Path | AnswerKey | None = None, on_step: Callable[[int, int], None] | None = None
) -> LintReport:
    """Attack a bundle.

    Args:
        place: Folder of the bundle, or of one reader.
        key: The custodian's folder; None: only rules that need no key, as a reader could apply them.
        on_step: Called with (payloads read, total).

    Raises:
        DataError: If there is no bundle, or the key is of another bundle.
    """
    bundle = open_bundle(place)
    key = key if isinstance(key, AnswerKey) or key is None else read_key(key)
    if key is not None:
        _check_key(bundle, key)
    # Rules without the key; on the way, features of every payload.
    features = PayloadFeatures(_blinding(bundle, key))
    report = LintReport()
    leaks, files = check_files(bundle, features, on_step)
    report.leaks += leaks
    if key is None:
        report.notes.append("no key: whether the arms differ was not tested")
        report.leaks += _outliers(features)
        return report
    # With the key: names, separation of the arms, order.
    report.leaks += _secret_names(bundle, key)
    contents = _contents(key)
    averaged = (_averaged(modality, places, features.encoding.get) for modality, places in contents.items())
    tables = [table for table in averaged if table]
    tables += [table for kind in ("image", "text") if (table := _file_table(kind, bundle, key, files, features))]
    _test_columns(report, tables)
    report.leaks += _order_leaks(bundle, key) + multiplicity_leaks(bundle, key, features)
    _test_classifiers(report, tables, contents, features)
    smallest = min((int(min(table.generated.sum(), (~table.generated).sum())) for table in tables), default=0)
    if smallest < 8:
        report.notes.append(f"only {smallest} items of an arm in the smallest comparison: a weak leak would go unseen")
    return report


def _check_key(bundle: ReaderBundle, key: AnswerKey) -> None:
    page = bundle.readers[0].study
    if page.get("bundle_id") != key.bundle_id:
        raise DataError(
            f"the key is of bundle {key.bundle_id}, not of this one", fix="give this bundle's custodian folder"
        )
    if (bundle.facts.get("key_sha256") or page.get("key_sha256")) != key.sha256:
        raise DataError(
            "the key is not the one whose SHA-256 the bundle holds", expected="the key unchanged", fix="use its copy"
        )


def _blinding(bundle: ReaderBundle, key: AnswerKey | None) -> BlindingConfig:
    if key is not None:
        return key.study.blinding
    return from_dict(BlindingConfig, bundle.facts.get("blinding") or {}, source="bundle.json")


# ---- names and encodings, as a reader sees them ----------------------------------------------------------------------
def _outliers(features: PayloadFeatures) -> list[Leak]:
    """Images whose encoding differs from the others', which a reader can see without the key."""
    leaks = []
    for probe, name in _VISIBLE:
        values = [row[probe, name] for row in features.encoding.values() if (probe, name) in row]
        num = sum(abs(value - np.median(values)) > 0.3 for value in values)
        if num:
            leaks.append(Leak(probe, f"{num} of {len(values)} images stand out by {name}", FIXES[probe]))
    return leaks


def _secret_names(bundle: ReaderBundle, key: AnswerKey) -> list[Leak]:
    """Names that only the key may hold (studies, patients, the salt) in a reader's folder."""
    secret = {str(key.values["salt"])}
    for item in key.items.values():
        secret |= {str(item["case"]), *(str(patient) for patient in item["patients"])}
    secret = {word for word in secret if len(word) >= 4}
    leaks = []
    for reader in bundle.readers:
        names = " ".join(path.relative_to(reader.path).as_posix() for path in reader.files())
        text = names + (reader.path / READER_STUDY).read_text(encoding="utf-8")
        disclosed = sorted(word for word in secret if word in text)
        if disclosed:
            leaks.append(Leak("name", f"{reader.name} names what only the key may: {disclosed[0]}"))
    return leaks


# ---- separation of the arms ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Table:
    """Features of real and generated samples, one row each."""

    what: str  # `frontal`, `image`
    generated: np.ndarray  # bool [N]
    cases: list[str]  # [N]
    columns: dict[Any, np.ndarray]  # (probe, feature) -> float [N]

    @classmethod
    def of(cls, what: str, rows: Sequence[tuple[bool, str, _Features]]) -> _Table | None:
        """From (generated, case, features) of each row; None unless both arms are there."""
        if len({generated for generated, _, _ in rows}) < 2:
            return None
        columns = {name: np.array([features[name] for _, _, features in rows]) for name in rows[0][2]}
        return cls(what, np.array([generated for generated, _, _ in rows]), [case for _, case, _ in rows], columns)


def _contents(key: AnswerKey) -> Mapping[str, _Places]:
    """Modality -> real or generated content -> its payloads."""
    contents: dict[str, dict[tuple[str, str, str], list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for reader, trials in key.trials.items():
        for trial in trials.values():
            for pid, content in trial["payloads"].items():
                if content["origin"] in (REAL, GENERATED):
                    name = content["origin"], content["case"], content["direction"]
                    contents[content["modality"]][name].append((reader, pid))
    return contents


def _averaged(what: str, places: _Places, features_of: Callable[[tuple[str, str]], _Features | None]) -> _Table | None:
    """One row per content, averaged over the readers who share it."""
    rows = []
    for (origin, case, _), payloads in places.items():
        measured = [features for place in payloads if (features := features_of(place)) is not None]
        if measured:
            mean = {name: float(np.mean([features[name] for features in measured])) for name in measured[0]}
            rows.append((origin == GENERATED, case, mean))
    return _Table.of(what, rows)


def _file_table(
    kind: str, bundle: ReaderBundle, key: AnswerKey, files: Mapping, features: PayloadFeatures
) -> _Table | None:
    """Names, sizes and times of the payload files of all readers, images or texts."""
    rows = []
    for reader in bundle.readers:
        for trial in reader.study["trials"]:
            entry = key.trials.get(reader.name, {}).get(trial["trial"], {})
            for pid, content in entry.get("payloads", {}).items():
                place = reader.name, pid
                if place in files and content["origin"] in (REAL, GENERATED) and features.kinds.get(place) == kind:
                    names = name_features(pid, "file name") | name_features(trial["trial"], "trial id")
                    rows.append((content["origin"] == GENERATED, content["case"], names | file_features(*files[place])))
    return _Table.of(kind, rows)


def _test_columns(report: LintReport, tables: Sequence[_Table]) -> None:
    """Test every feature: by its area under the curve, and by outliers of one arm."""
    columns = [(table, *name, scores) for table in tables for name, scores in table.columns.items()]
    # Bonferroni over both tests of every feature that varies; one that is constant raises no alarm.
    varying = sum(len(np.unique(scores)) > 1 for *_, scores in columns)
    alpha = SHARE / max(1, 2 * varying)
    for table, probe, name, scores in columns:
        feature = f"{table.what}, {name}"
        auc = auc_of(scores, table.generated, 1 - alpha)
        outliers, p = outlier_test(scores, table.generated)
        evidence = auc.words() if auc.separates else outliers if p < alpha else ""
        report.tested.append(Separation(f"{probe}: {feature}", auc, bool(evidence)))
        if evidence:
            fix = FIXES.get(probe, "export again")
            report.leaks.append(Leak(probe, f"{feature} tells the arms apart, {evidence}", fix))
        elif p < ALPHA:
            report.notes.append(f"look at {feature} ({probe}): {outliers}; may be chance among {varying} tests")


def _test_classifiers(
    report: LintReport, tables: Sequence[_Table], contents: Mapping[str, _Places], features: PayloadFeatures
) -> None:
    """A small classifier over everything but the appearance, which must fail; and one over the appearance, which is reported."""
    jobs = [(table, True, "everything but the picture") for table in tables]
    for modality, places in contents.items():
        table = _averaged(modality, places, features.appearance.get)
        jobs += [(table, False, f"{modality}, what is seen")] if table else []
    for table, fails, what in jobs:
        columns = np.stack(list(table.columns.values()), axis=1)  # [N, D]
        scores = classifier_scores(columns, table.generated, table.cases)
        alpha = SHARE / len(tables)
        auc = auc_of(scores, table.generated, 1 - alpha if fails else 0.95)
        leaks = fails and auc.value > 0.5 and chance_of_classifier(columns, table.generated, table.cases, alpha) < alpha
        (report.tested if fails else report.reported).append(Separation(f"classifier: {what}", auc, leaks))
        if leaks:
            detail = f"a small classifier over {what} tells the arms apart, {auc.words()}"
            report.leaks.append(Leak("classifier", detail))


# ---- order -----------------------------------------------------------------------------------------------------------
def _order_leaks(bundle: ReaderBundle, key: AnswerKey) -> list[Leak]:
    """Arms that follow from the position or from a pattern, a preferred side of the real item, a patient twice in a row."""
    leaks = []
    orders: dict[str, list[list[bool]]] = defaultdict(list)  # task -> each reader's order of arms, True: generated
    sides: list[bool] = []  # of every pair: whether the real item is on the left
    for reader in bundle.readers:
        entries = [key.trials.get(reader.name, {}).get(trial["trial"]) for trial in reader.study["trials"]]
        known = [entry for entry in entries if entry is not None]
        if len(known) < len(entries):
            leaks.append(Leak("order", f"{reader.name}: {len(entries) - len(known)} trials are not in the key"))
        patients = [set(key.items[entry["item"]]["patients"]) for entry in known]
        neighbours = sum(bool(first & second) for first, second in pairwise(patients))
        if neighbours:
            leaks.append(Leak("order", f"{reader.name}: one patient is shown twice in a row, {neighbours} times"))
        sides += [entry["truth"]["real"] == "A" for entry in known if "real" in entry["truth"]]
        counted = [entry for entry in known if not entry["practice"] and entry["arm"] in (REAL, GENERATED)]
        for task in dict.fromkeys(entry["task"] for entry in known):
            orders[task].append([entry["arm"] == GENERATED for entry in counted if entry["task"] == task])
    # Tests: early or late, and a pattern, of each task; and the sides of pairs.
    alpha = SHARE / max(1, 2 * len(orders) + bool(sides))
    for task, arms in orders.items():
        # Early or late: area under the curve of the position.
        positions = np.array([place / max(1, len(row) - 1) for row in arms for place in range(len(row))])
        auc = auc_of(positions, np.array([generated for row in arms for generated in row]), 1 - alpha)
        if auc.separates:
            when = "late" if auc.value > 0.5 else "early"
            leaks.append(Leak("order", f"task {task!r}: generated items come {when}, {auc.words()}"))
        # A pattern: too many or too few changes of arm.
        chance = chance_of_turns(arms)
        if chance < alpha:
            leaks.append(Leak("order", f"task {task!r}: the arms follow a pattern (runs test, p = {chance:.1g})"))
    if sides and binomtest(sum(sides), len(sides)).pvalue < alpha:
        leaks.append(Leak("order", f"the real item of a pair is on the left {sum(sides)} times of {len(sides)}"))
    return leaks
