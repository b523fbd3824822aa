"""The table of report labelers: report -> findings. Ours, and CheXbert through radeval (extra ``radeval``).

CheXbert comes by radeval's own front door, ``radeval.metrics.f1chexbert.F1CheXbert.get_labels``; its weights come from the Hugging Face
hub, or its cache where there is no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

import medcodi
from medcodi.errors import CheckpointError, ConfigError, DataError, MissingExtraError, one_of
from medcodi.evaluation.annotators.feature_cache import LabelCache
from medcodi.metrics.findings import UncertainPolicy, resolve_uncertain
from medcodi.metrics.labeler import label_report, labels_from_findings
from medcodi.study import CHEXPERT_LABELS, Finding

States = dict[str, float]  # CheXpert name -> 1, 0, -1 (uncertain); a label that is not told has no key


class Labeler(Protocol):
    """Reports -> what they say of CheXpert's fourteen labels."""

    def __call__(self, reports: Sequence[str]) -> list[States]:
        """States of each report."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelerRow:
    """One labeler.

    Attributes:
        name: In configurations and results.
        title: For pages.
        negatives: Whether it tells "absent" from "not mentioned". Both count as absent in figures.
        sides: Whether it tells sides.
        package: That it comes from; None: this one.
        hub: Repositories of its weights.
        load: Makes it, for a device.
    """

    name: str
    title: str
    negatives: bool
    sides: bool = False
    package: str | None = None
    hub: tuple[str, ...] = ()
    load: Callable[[LabelerRow, str], Labeler]


def import_radeval(what: str) -> Any:
    """The package, or a refusal that names the extra."""
    try:
        import radeval  # type: ignore[import-not-found]
    except ImportError:
        raise MissingExtraError("radeval", extra="radeval", needed_for=what) from None
    return radeval


def no_hub_weights(title: str, hub: Sequence[str], error: Exception) -> CheckpointError:
    """The refusal of a hub model that is not on this machine."""
    fetch = " and ".join(f"`hf download {name}`" for name in hub)
    return CheckpointError(
        f"{title} has no weights on this machine ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]})",
        expected=f"{', '.join(hub)} in the Hugging Face cache",
        fix=f"fetch them where there is a network ({fetch}) and let HF_HOME name that cache",
    )


@lru_cache(maxsize=1 << 16)
def _told(report: str) -> tuple[Finding, ...]:
    """Findings of a report by the rules: read once, however many figures ask."""
    return label_report(report)


def _rules(row: LabelerRow, device: str) -> Labeler:
    return lambda reports: [labels_from_findings(_told(report)) for report in reports]


def chexbert_states(evaluator: Any) -> Labeler:
    """A labeler of radeval's CheXbert evaluator.

    Its heads tell positive, negative, uncertain and not mentioned; ``get_labels(mode="classification")`` gives 1, -1
    (uncertain) and 0 for both of the others, so an absent label is 0 here.

    Args:
        evaluator: ``radeval.metrics.f1chexbert.F1CheXbert``, or another of its base class.
    """
    names = list(evaluator.TARGET_NAMES)
    missing = set(CHEXPERT_LABELS) - set(names)
    if missing:
        raise DataError(f"this CheXbert does not tell {sorted(missing)}", expected="CheXpert's fourteen labels")

    def labeler(reports: Sequence[str]) -> list[States]:
        rows = evaluator.get_labels(list(reports), mode="classification") if reports else []
        return [{name: float(value) for name, value in zip(names, row, strict=True)} for row in rows]

    return labeler


def _chexbert(row: LabelerRow, device: str) -> Labeler:
    import_radeval(row.title)
    from radeval.metrics.f1chexbert import F1CheXbert  # type: ignore[import-not-found]

    try:
        return chexbert_states(F1CheXbert(device=device))
    except (OSError, ValueError) as error:  # what transformers and the hub raise without a network
        raise no_hub_weights(row.title, row.hub, error) from None


_LABELERS = (
    LabelerRow(name="rules", title="Rule labeler (ours)", negatives=True, sides=True, load=_rules),
    LabelerRow(
        name="chexbert",
        title="CheXbert",
        negatives=False,
        package="radeval",
        hub=("StanfordAIMI/RRG_scorers", "bert-base-uncased"),
        load=_chexbert,
    ),
)
LABELERS: dict[str, LabelerRow] = {row.name: row for row in _LABELERS}


class LoadedLabeler:
    """A labeler with its cache.

    Attributes:
        row: Its row of the table.
    """

    def __init__(self, row: LabelerRow, labeler: Labeler, cache: LabelCache | None = None) -> None:
        self.row, self._labeler, self._cache = row, labeler, cache

    @property
    def name(self) -> str:
        """Name of its row."""
        return self.row.name

    def states(self, reports: Sequence[str]) -> list[States]:
        """What each report says; an empty one says nothing, whoever reads it."""
        known = {text: self._cache.get(text) if self._cache else None for text in dict.fromkeys(reports)}
        new = [text for text, states in known.items() if states is None and text.strip()]
        for text, states in zip(new, self._labeler(new), strict=True):
            known[text] = states
            if self._cache:
                self._cache.put(text, states)
        if self._cache:
            self._cache.flush()
        return [dict(known[text] or {}) for text in reports]

    def matrix(
        self,
        reports: Sequence[str],
        labels: Sequence[str] = CHEXPERT_LABELS,
        *,
        uncertain: UncertainPolicy = "positive",
    ) -> np.ndarray:
        """Labels of reports: float64 ``[N, K]`` of 0 and 1 (NaN under ``uncertain="ignore"``); what is not told counts as absent."""
        told = [[states.get(label, 0.0) for label in labels] for states in self.states(reports)]
        return resolve_uncertain(np.array(told, dtype=np.float64).reshape(len(reports), len(labels)), uncertain)

    def findings(self, reports: Sequence[str]) -> list[tuple[Finding, ...]]:
        """Findings with sides where the labeler tells them; else the positive and uncertain labels."""
        if self.row.sides:
            return [_told(report) for report in reports]
        named: dict[float, Literal["positive", "uncertain"]] = {1.0: "positive", -1.0: "uncertain"}
        return [
            tuple(Finding(label=label, state=named[value]) for label, value in states.items() if value in named)
            for states in self.states(reports)
        ]

    def describe(self, uncertain: UncertainPolicy = "positive") -> dict[str, Any]:
        """What a results bundle says of it: name, version, and the policy of its figures."""
        return {
            "name": self.name,
            "title": self.row.title,
            "version": labeler_version(self.row),
            "policy": policy_text(self.row, uncertain),
        }


def policy_text(row: LabelerRow, uncertain: UncertainPolicy) -> str:
    """How a figure by this labeler counts what is uncertain, negated or not mentioned, in a sentence."""
    counted = {"positive": "present", "negative": "absent", "ignore": "unknown, and is left out"}[uncertain]
    absent = "negated and not mentioned both count as absent"
    how = absent if row.negatives else f"{absent} (it does not tell them apart)"
    return f"an uncertain mention counts as {counted}; {how}"


def labeler_version(row: LabelerRow) -> str:
    """What the labels depend on: for ours the package and its vocabulary's hash, else the other package's version."""
    if row.package is not None:
        return f"{row.package} {version(row.package)}"
    import hashlib
    from importlib import resources

    rules = resources.files("medcodi.metrics")
    parts = sorted(one.name for one in rules.iterdir() if one.name.startswith("labeler"))
    digest = hashlib.sha256(b"".join((rules / name).read_bytes() for name in parts)).hexdigest()
    return f"medcodi {medcodi.__version__}, rules {digest[:16]}"


def load_labeler(name: str, *, device: str = "cpu", cache_root: str | Path | None = None) -> LoadedLabeler:
    """Load a labeler of the table.

    Args:
        name: Of a row.
        device: Where a network runs.
        cache_root: Folder of all caches; None: nothing is kept.

    Raises:
        ConfigError: If there is no such row.
        MissingExtraError: If its package is not installed.
        CheckpointError: If its weights are missing; says how to get them.
    """
    row = LABELERS[one_of("labeler", name, LABELERS, ConfigError)]
    labeler = row.load(row, device)
    identity = f"labels-{name}-{labeler_version(row)}"
    cache = None
    if cache_root is not None:
        cache = LabelCache(cache_root, _folder_name(identity), identity)
    return LoadedLabeler(row, labeler, cache)


def _folder_name(identity: str) -> str:
    import hashlib

    return hashlib.sha256(identity.encode()).hexdigest()
