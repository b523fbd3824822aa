"""With the key: does anything but the picture, or the picture itself, tell the arms apart?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from medcodi.turing.bundle.folder import Bundle
from medcodi.turing.bundle.key import Key
from medcodi.turing.bundle.payload import Payload
from medcodi.turing.design.blinding import BlindingConfig
from medcodi.turing.design.items import GENERATED, REAL
from medcodi.turing.lint.features import image_appearance, image_encoding, text_appearance, text_encoding
from medcodi.turing.lint.files import Leak, Seen
from medcodi.turing.lint.order import order_leaks
from medcodi.turing.lint.separation import ALPHA, Auc, auc_of, classifier_scores

FIXES = {
    "grey offset": "both arms through the exporter's grey range; blinding.depth no finer than the coarser arm",
    "border": "blinding.crop: square, or a larger blinding.margin",
    "resolution": "blinding.native_size: that of the coarser arm",
    "burnt-in mark": "a larger blinding.corner_mask, or real studies without markers",
    "text format": "blinding.text_case: upper, or blinding.max_words",
}
Rows = list[tuple[str, bool, str]]  # what is scored: its name, whether generated, its patient


@dataclass(frozen=True)
class Separation:
    """How well one thing separates the arms."""

    what: str
    auc: Auc
    fails: bool


@dataclass
class LintReport:
    """What a lint found."""

    leaks: list[Leak] = field(default_factory=list)  # each fails the bundle
    tested: list[Separation] = field(default_factory=list)  # everything that was put to the test with the key
    reported: list[Separation] = field(default_factory=list)  # areas under the curve of what is seen, pixels and words
    notes: list[str] = field(default_factory=list)  # what could not be tested, and why

    @property
    def clean(self) -> bool:
        """Whether nothing leaks."""
        return not self.leaks

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"clean": self.clean, **asdict(self)}


class Measured:
    """Features of every payload: of its encoding by probe, and of its appearance."""

    def __init__(self, blinding: BlindingConfig) -> None:
        self.blinding = blinding
        self.kinds: dict[tuple[str, str], str] = {}
        self.encoding: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        self.appearance: dict[tuple[str, str], dict[str, float]] = {}

    def take(self, reader: str, payload: Payload) -> None:
        """Measure one payload."""
        place = reader, payload.pid
        self.kinds[place] = str(payload.fields.get("kind"))
        if self.kinds[place] == "image":
            image = payload.image
            self.encoding[place] = image_encoding(image, self.blinding.corner_mask, self.blinding.depth)
            self.appearance[place] = image_appearance(image)
        else:
            self.encoding[place] = text_encoding(payload.text)
            self.appearance[place] = text_appearance(payload.text)

    def odd_ones(self) -> list[Leak]:
        """What a reader can see without the key: images whose encoding is not that of the others."""
        told = {"grey step", "in the corners", "finest band"}
        leaks = []
        for name in sorted(told):
            values = [
                value
                for probes in self.encoding.values()
                for row in probes.values()
                for key, value in row.items()
                if key == name
            ]
            num = sum(abs(value - np.median(values)) > 0.3 for value in values)
            if num:
                probe = next(p for probes in self.encoding.values() for p, row in probes.items() if name in row)
                leaks.append(Leak(probe, f"{num} of {len(values)} images stand out by {name}", FIXES[probe]))
        return leaks


def attack(report: LintReport, bundle: Bundle, key: Key, seen: Seen, measured: Measured) -> None:
    """Put everything to the test; what separates the arms goes into ``report``."""
    tests: list[tuple[str, str, np.ndarray, Rows]] = []  # probe, feature, scores, what is scored
    groups = _contents(key)
    for (modality, direction), contents in groups.items():
        tests += _encoding_tests(modality, direction, contents, measured)
    tests += _file_tests(bundle, key, seen, measured)
    varying = sum(
        len(np.unique(scores)) > 1 for _, _, scores, _ in tests
    )  # what is equal everywhere cannot raise an alarm
    alpha = ALPHA / max(1, 2 * varying)
    for probe, feature, scores, rows in tests:
        generated = np.array([one for _, one, _ in rows])
        found = auc_of(scores, generated, 1 - alpha)
        by_few, p = _told_by_few(scores, generated)
        told = found.words() if found.separates else by_few if p < alpha else ""
        report.tested.append(Separation(f"{probe}: {feature}", found, bool(told)))
        if told:
            report.leaks.append(
                Leak(probe, f"{feature} tells the arms apart, {told}", FIXES.get(probe, "export again"))
            )
        elif p < ALPHA:
            report.notes.append(
                f"look at {feature} ({probe}): {by_few}; chance among {varying} tests cannot be ruled out"
            )
    report.leaks += order_leaks(bundle, key)
    _classifiers(report, tests, groups, measured)
    few = min((min(sum(g for _, g, _ in rows), sum(not g for _, g, _ in rows)) for _, _, _, rows in tests), default=0)
    if few < 8:
        report.notes.append(f"only {few} items of an arm in the smallest comparison: a weak leak would not be seen")


def _told_by_few(scores: np.ndarray, generated: np.ndarray) -> tuple[str, float]:
    """Values that few have, but those of one arm: Fisher's exact test on "is not as most are", in words and p."""
    values, counts = np.unique(scores, return_counts=True)
    odd = scores != values[np.argmax(counts)]
    in_generated, in_real = int(odd[generated].sum()), int(odd[~generated].sum())
    m, n = int(generated.sum()), int((~generated).sum())
    table = [[in_generated, m - in_generated], [in_real, n - in_real]]
    _, p = fisher_exact(table)
    p = float(p)  # type: ignore[arg-type]
    return f"{in_generated} of {m} generated and {in_real} of {n} real stand out, p = {p:.1g}", p


def _contents(key: Key) -> dict[tuple[str, str], dict[tuple[str, str, str], list[tuple[str, str]]]]:
    """(modality, kind of comparison) -> content (origin, case, direction) -> its payloads (reader, id); real and generated only."""
    found: dict[tuple[str, str], dict[tuple[str, str, str], list[tuple[str, str]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for reader, trials in key.trials.items():
        for trial in trials.values():
            for payload, told in trial["payloads"].items():
                if told["origin"] in (REAL, GENERATED):
                    content = told["origin"], told["case"], told["direction"]
                    found[told["modality"], ""][content].append((reader, payload))
    return found


def _encoding_tests(
    modality: str, _: str, contents: Mapping[tuple[str, str, str], list[tuple[str, str]]], measured: Measured
) -> list[tuple[str, str, np.ndarray, Rows]]:
    """Each feature of the encoding, one row a content: what readers share is averaged."""
    rows, values = _averaged(contents, lambda place: _flat(measured.encoding.get(place)))
    if not values or len({generated for _, generated, _ in rows}) < 2:
        return []
    tests = []
    for name in values[0]:
        probe, feature = name
        tests.append((probe, f"{modality}, {feature}", np.array([row[name] for row in values]), rows))
    return tests


def _flat(probes: Mapping[str, Mapping[str, float]] | None) -> dict[Any, float] | None:
    if probes is None:
        return None
    return {(probe, name): value for probe, row in probes.items() for name, value in row.items()}


def _averaged(
    contents: Mapping[tuple[str, str, str], list[tuple[str, str]]],
    features: Callable[[tuple[str, str]], Mapping[Any, float] | None],
) -> tuple[Rows, list[dict[Any, float]]]:
    rows: Rows = []
    values = []
    for (origin, case, direction), places in contents.items():
        found = [row for place in places if (row := features(place)) is not None]
        if found:
            rows.append((f"{origin} {case} {direction}", origin == GENERATED, case))
            values.append({name: float(np.mean([row[name] for row in found])) for name in found[0]})
    return rows, values


def _file_tests(bundle: Bundle, key: Key, seen: Seen, measured: Measured) -> list[tuple[str, str, np.ndarray, Rows]]:
    """Names, times, sizes and places of the payload files, all readers together; images and texts apart."""
    tests = []
    for kind in ("image", "text"):
        rows: Rows = []
        values: list[dict[tuple[str, str], float]] = []
        for reader in bundle.readers:
            for trial in reader.study["trials"]:
                told = key.trials.get(reader.name, {}).get(trial["trial"])
                for payload, content in (told or {}).get("payloads", {}).items():
                    file = seen.payloads.get((reader.name, payload))
                    if (
                        file is None
                        or content["origin"] not in (REAL, GENERATED)
                        or measured.kinds.get((reader.name, payload)) != kind
                    ):
                        continue
                    rows.append((payload, content["origin"] == GENERATED, content["case"]))
                    values.append(
                        {
                            **_name_features(payload),
                            **_name_features(trial["trial"], "trial id"),
                            **_file_features(*file),
                        }
                    )
        if values and len({generated for _, generated, _ in rows}) == 2:
            tests += [
                (probe, f"{kind}, {name}", np.array([row[probe, name] for row in values]), rows)
                for probe, name in values[0]
            ]
    return tests


def _name_features(name: str, what: str = "file name") -> dict[tuple[str, str], float]:
    digits = [int(letter, 36) if letter.isalnum() and letter.isascii() else 36 for letter in name]
    return {
        ("name", f"{what} as a number"): float(sum(digit * 36.0**-place for place, digit in enumerate(digits[:8]))),
        ("name", f"last letter of {what}"): float(digits[-1]) if digits else 0.0,
        ("name", f"odd or even {what}"): float(digits[-1] % 2) if digits else 0.0,
        ("name", f"digits in {what}"): float(sum(letter.isdigit() for letter in name)),
    }


def _file_features(path: Path, size: int, time: float) -> dict[tuple[str, str], float]:
    return {("payload size", "bytes"): float(size), ("mtime", "file time"): float(time)}


def _classifiers(
    report: LintReport,
    tests: Sequence[tuple[str, str, np.ndarray, Rows]],
    groups: Mapping[tuple[str, str], Mapping[tuple[str, str, str], list[tuple[str, str]]]],
    measured: Measured,
) -> None:
    """A small classifier over everything but the picture, which must not succeed; and one over the picture, which is reported."""
    together: dict[int, list[tuple[np.ndarray, Rows]]] = defaultdict(list)
    for _, _, scores, rows in tests:
        together[id(rows)].append((scores, rows))
    jobs = [
        (np.stack([scores for scores, _ in found], axis=1), found[0][1], True, "everything but the picture")
        for found in together.values()
    ]
    for (modality, _), contents in groups.items():
        rows, values = _averaged(contents, measured.appearance.get)
        if values and len({generated for _, generated, _ in rows}) == 2:
            jobs.append((np.array([list(row.values()) for row in values]), rows, False, f"{modality}, what is seen"))
    for features, rows, fails, what in jobs:
        generated = np.array([one for _, one, _ in rows])
        scores = classifier_scores(features, generated, [case for _, _, case in rows])
        found = auc_of(scores, generated, 1 - ALPHA / len(jobs) if fails else 0.95)
        leaks = fails and found.low > 0.5
        (report.tested if fails else report.reported).append(Separation(f"classifier: {what}", found, leaks))
        if leaks:
            report.leaks.append(
                Leak("classifier", f"a small classifier over {what} tells the arms apart, {found.words()}")
            )
