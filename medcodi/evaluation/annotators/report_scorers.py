"""The table of report scorers: a generated and a reference report -> a number. RadGraph F1 and RaTEScore, by ``radeval.RadEval``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from medcodi.errors import ConfigError, DataError, MissingExtraError, one_of
from medcodi.evaluation.annotators.report_labelers import import_radeval, no_hub_weights


class Scorer(Protocol):
    """Generated and reference reports -> a number each, under one or several names."""

    def __call__(self, generated: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        """Name -> float64 ``[N]``; 1 is best."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScorerRow:
    """One scorer of pairs of reports.

    Attributes:
        name: In configurations and results.
        title: For pages.
        metric: Radeval's name of it.
        keys: Radeval's name of a figure -> ours.
        hub: Repositories of its weights.
    """

    name: str
    title: str
    metric: str
    keys: dict[str, str]
    hub: tuple[str, ...]


_SCORERS = (
    ScorerRow(
        name="radgraph",
        title="RadGraph F1",
        metric="radgraph",
        keys={
            "radgraph_simple": "radgraph_simple",
            "radgraph_partial": "radgraph_partial",
            "radgraph_complete": "radgraph_complete",
        },
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


def radeval_scorer(row: ScorerRow, evaluator: Any) -> Scorer:
    """A scorer of a ``radeval.RadEval(..., per_sample=True)``.

    An empty generated report scores 0 and is not shown to the metric, some of which cannot read it.
    """

    def scorer(generated: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
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
        rows = [index for index, text in enumerate(generated) if text.strip()]
        scores = {name: np.zeros(len(references)) for name in row.keys.values()}
        if rows:
            told = evaluator(refs=[references[index] for index in rows], hyps=[generated[index] for index in rows])
            for key, name in row.keys.items():
                scores[name][rows] = np.asarray(told[key], dtype=np.float64)
        return scores

    return scorer


def load_report_scorer(name: str) -> Scorer:
    """Load a scorer of the table.

    Raises:
        ConfigError: If there is no such row.
        MissingExtraError: If radeval is not installed.
        CheckpointError: If its weights are missing; says how to get them.
    """
    row = REPORT_SCORERS[one_of("report scorer", name, REPORT_SCORERS, ConfigError)]
    package = import_radeval(row.title)
    try:
        return radeval_scorer(row, package.RadEval(metrics=[row.metric], per_sample=True, show_progress=False))
    except ImportError as error:
        raise MissingExtraError(error.name or "radeval", extra="radeval", needed_for=row.title) from None
    except (OSError, ValueError) as error:
        raise no_hub_weights(row.title, row.hub, error) from None
