"""Report annotators: labelers (a report -> findings) and scorers (a generated and a reference report -> a number).

The rule labeler is ours. CheXbert, RadGraph F1 and RaTEScore come from radeval (extra ``radeval``) by its public ``F1CheXbert`` and
``RadEval``; their weights come from the Hugging Face hub, or its cache where there is no network.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

import medcodi
from medcodi.errors import CheckpointError, ConfigError, DataError, MissingExtraError, one_of
from medcodi.evaluation.annotators.annotator import BatchAnnotator
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.metrics.findings import UncertainPolicy, resolve_uncertain
from medcodi.metrics.labeler import label_report, labels_from_findings
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS, Finding


def import_radeval(needed_for: str) -> Any:
    """The package, or a refusal that names the extra."""
    try:
        import radeval  # type: ignore[import-not-found]
    except ImportError:
        raise MissingExtraError("radeval", extra="radeval", needed_for=needed_for) from None
    return radeval


def no_hub_weights(title: str, hub: Sequence[str], error: Exception) -> CheckpointError:
    """The refusal of a hub model that is not on this machine."""
    commands = " and ".join(f"`hf download {name}`" for name in hub)
    return CheckpointError(
        f"{title} has no weights on this machine ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]})",
        expected=f"{', '.join(hub)} in the Hugging Face cache",
        fix=f"download them where there is a network ({commands}) and let HF_HOME name that cache",
    )


# ---- labelers --------------------------------------------------------------------------------------------------------
class ReportLabeler(BatchAnnotator):
    """Reports -> states of CheXpert's fourteen labels, float32 ``[N, 14]``: 1, 0, -1 (uncertain), NaN (not mentioned).

    A report without a word mentions nothing; no labeler reads it.
    """

    title: str  # for pages
    negatives: bool  # whether "absent" and "not mentioned" are distinguished; both count as absent in figures

    def __init__(self, name: str, version: str, request: LoadRequest | None = None) -> None:
        super().__init__(name, len(CHEXPERT_LABELS), request, batch_size=1024)
        self.version = version  # what the labels depend on

    def reads(self, modality: str) -> bool:
        """Whether a modality is text."""
        return MODALITIES[modality].kind == "text"

    def identity(self, modality: str = "report") -> str:
        """SHA-256 over name and version."""
        return hashlib.sha256(repr(["labels", self.name, self.version, CHEXPERT_LABELS]).encode()).hexdigest()

    @abstractmethod
    def label(self, reports: Sequence[str]) -> list[dict[str, float]]:
        """CheXpert name -> 1, 0 or -1 for each report; a label that is not mentioned may have no key."""

    def annotate_batch(self, prepared: Sequence[str], modality: str = "report") -> np.ndarray:
        """States of reports."""
        # Only reports with a word reach the labeler.
        states = np.full((len(prepared), self.dim), np.nan, np.float32)
        rows = [row for row, report in enumerate(prepared) if report.strip()]
        labels = self.label([prepared[row] for row in rows]) if rows else []
        for row, known in zip(rows, labels, strict=True):
            states[row] = [known.get(label, np.nan) for label in CHEXPERT_LABELS]
        return states

    def matrix(self, reports: Sequence[str], *, uncertain: UncertainPolicy = "positive") -> np.ndarray:
        """Labels of reports: float64 ``[N, 14]`` of 0 and 1 (NaN under ``uncertain="ignore"``); not mentioned counts as absent."""
        return resolve_uncertain(np.nan_to_num(self.annotate(reports, "report")).astype(np.float64), uncertain)

    def findings(self, reports: Sequence[str]) -> list[tuple[Finding, ...]]:
        """The positive and uncertain labels of each report as findings, with sides where the labeler tells them."""
        state_names: dict[float, Literal["positive", "uncertain"]] = {1.0: "positive", -1.0: "uncertain"}
        return [
            tuple(
                Finding(label=label, state=state_names[state])
                for label, state in zip(CHEXPERT_LABELS, states.tolist(), strict=True)
                if state in state_names
            )
            for states in self.annotate(reports, "report")
        ]

    def policy(self, uncertain: UncertainPolicy = "positive") -> str:
        """How figures count what is uncertain, negated or not mentioned, in a sentence."""
        counted = {"positive": "present", "negative": "absent", "ignore": "unknown, and is left out"}[uncertain]
        absent = "negated and not mentioned both count as absent"
        apart = "" if self.negatives else " (it does not tell them apart)"
        return f"an uncertain mention counts as {counted}; {absent}{apart}"

    def describe(self) -> dict[str, Any]:
        """Name, version, and the policy of its figures."""
        return {"name": self.name, "title": self.title, "version": self.version, "policy": self.policy()}


@lru_cache(maxsize=1 << 16)
def _rule_findings(report: str) -> tuple[Finding, ...]:
    """Findings of a report by the rules; computed once for all figures."""
    return label_report(report)


class RuleLabeler(ReportLabeler):
    """The rules of ``medcodi.metrics.labeler``, with sides."""

    title, negatives = "Rule labeler (ours)", True

    def __init__(self, request: LoadRequest | None = None) -> None:
        # The labels depend on the package and on the bytes of rules and vocabulary.
        folder = resources.files("medcodi.metrics")
        files = sorted(file.name for file in folder.iterdir() if file.name.startswith("labeler"))
        digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in files)).hexdigest()
        rules = f"medcodi {medcodi.__version__}, rules {digest[:16]}"
        super().__init__("rules", rules, request)

    def label(self, reports: Sequence[str]) -> list[dict[str, float]]:
        """By the rules."""
        return [labels_from_findings(_rule_findings(report)) for report in reports]

    def findings(self, reports: Sequence[str]) -> list[tuple[Finding, ...]]:
        """Every finding, with its side."""
        return [_rule_findings(report) for report in reports]


class ChexbertLabeler(ReportLabeler):
    """CheXbert by radeval, which labels positive, negative, uncertain and not mentioned.

    ``get_labels(mode="classification")`` gives 1, -1 (uncertain) and 0 for both of the others, so an absent label is 0 here.
    """

    title, negatives = "CheXbert", False
    hub = ("StanfordAIMI/RRG_scorers", "bert-base-uncased")

    def __init__(self, evaluator: Any, version: str, request: LoadRequest | None = None) -> None:
        """Use ``radeval.metrics.f1chexbert.F1CheXbert``, or another evaluator of its base class."""
        super().__init__("chexbert", version, request)
        self._evaluator, self._names = evaluator, list(evaluator.TARGET_NAMES)
        missing = set(CHEXPERT_LABELS) - set(self._names)
        if missing:
            raise DataError(f"this CheXbert has no label {sorted(missing)}", expected="CheXpert's fourteen labels")

    @classmethod
    def load(cls, request: LoadRequest) -> ChexbertLabeler:
        """With radeval's weights."""
        import_radeval(cls.title)
        from radeval.metrics.f1chexbert import F1CheXbert  # type: ignore[import-not-found]

        try:
            return cls(F1CheXbert(device=request.device), f"radeval {version('radeval')}", request)
        except (OSError, ValueError) as error:  # what transformers and the hub raise without a network
            raise no_hub_weights(cls.title, cls.hub, error) from None

    def label(self, reports: Sequence[str]) -> list[dict[str, float]]:
        """By radeval's evaluator."""
        rows = self._evaluator.get_labels(list(reports), mode="classification")
        return [{name: float(value) for name, value in zip(self._names, row, strict=True)} for row in rows]


LABELERS = {"rules": RuleLabeler, "chexbert": ChexbertLabeler.load}


def load_labeler(name: str, request: LoadRequest | None = None, **fields: Any) -> ReportLabeler:
    """Load a labeler of the table, by a request or its fields; errors as of :func:`features.load_extractor`."""
    return LABELERS[one_of("labeler", name, LABELERS, ConfigError)](request or LoadRequest(**fields))


# ---- scorers of pairs ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class ScorerRow:
    """One scorer of pairs of reports."""

    name: str  # as in configurations and results
    title: str  # for pages
    metric: str  # radeval's name of it
    keys: dict[str, str]  # radeval's name of a figure -> ours
    hub: tuple[str, ...]  # repositories of its weights


_SCORERS = (
    ScorerRow(
        name="radgraph",
        title="RadGraph F1",
        metric="radgraph",
        keys={name: name for name in ("radgraph_simple", "radgraph_partial", "radgraph_complete")},
        hub=("StanfordAIMI/RRG_scorers",),
    ),
    ScorerRow(
        name="ratescore",
        title="RaTEScore",
        metric="ratescore",
        keys={"ratescore": "ratescore"},
        hub=("Angelakeke/RaTE-NER-Deberta", "FremyCompany/BioLORD-2023-C"),
    ),
)
REPORT_SCORERS: dict[str, ScorerRow] = {row.name: row for row in _SCORERS}


class ReportScorer:
    """An annotator of pairs of reports, by a ``radeval.RadEval(..., per_sample=True)``."""

    def __init__(self, row: ScorerRow, evaluator: Any) -> None:
        self.row, self.name, self._evaluator = row, row.name, evaluator

    def identity(self) -> str:
        """SHA-256 over row and radeval's version."""
        return hashlib.sha256(repr([self.row, version("radeval")]).encode()).hexdigest()

    def annotate(self, generated: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        """Our name of each figure -> float64 ``[N]``; 1 is best. No pair, other numbers or an empty reference is a DataError."""
        if len(generated) != len(references) or not references:
            raise DataError(
                f"{len(generated)} generated and {len(references)} reference reports",
                expected="one reference for each, and at least one",
            )
        empty = [index for index, text in enumerate(references) if not text.strip()]
        if empty:
            raise DataError(
                f"{len(empty)} reference reports are empty, the first is number {empty[0]}",
                fix="leave studies without a report out",
            )
        # An empty generated report scores 0 and is not given to the metric, because some metrics fail on it.
        scores = {name: np.zeros(len(references)) for name in self.row.keys.values()}
        rows = [index for index, text in enumerate(generated) if text.strip()]
        if rows:
            results = self._evaluator(
                refs=[references[index] for index in rows], hyps=[generated[index] for index in rows]
            )
            for key, name in self.row.keys.items():
                scores[name][rows] = np.asarray(results[key], dtype=np.float64)
        return scores


def load_report_scorer(name: str) -> ReportScorer:
    """Load a scorer of the table; errors as of :func:`features.load_extractor`."""
    row = REPORT_SCORERS[one_of("report scorer", name, REPORT_SCORERS, ConfigError)]
    package = import_radeval(row.title)
    try:
        return ReportScorer(row, package.RadEval(metrics=[row.metric], per_sample=True, show_progress=False))
    except ImportError as error:
        raise MissingExtraError(error.name or "radeval", extra="radeval", needed_for=row.title) from None
    except (OSError, ValueError) as error:  # what transformers and the hub raise without a network
        raise no_hub_weights(row.title, row.hub, error) from None
