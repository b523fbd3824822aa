"""Report scorers: a generated and a reference report -> a number. RadGraph F1 and RaTEScore by ``radeval.RadEval``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from medcodi.errors import ConfigError, DataError, MissingExtraError, one_of
from medcodi.evaluation.annotators.report_labelers import import_radeval, no_hub_weights


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
