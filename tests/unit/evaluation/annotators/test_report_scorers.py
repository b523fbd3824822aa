"""Report scorers: pairs in order, empty reports score 0, refusals before anything is scored."""

from __future__ import annotations

import sys

import pytest

from medcodi.errors import DataError
from medcodi.evaluation.annotators.report_scorers import REPORT_SCORERS, ReportScorer, ScorerRow


def test_scores_of_pairs_come_in_order_and_empty_reports_score_0() -> None:
    """By radeval's own front door, with a metric of its that needs no weights."""
    radeval = pytest.importorskip("radeval")
    evaluator = radeval.RadEval(metrics=["bleu"], per_sample=True, show_progress=False)
    row = ScorerRow(name="bleu", title="BLEU", metric="bleu", keys={"bleu": "score"}, hub=())
    texts = ["the heart is enlarged today", "", "no pleural effusion is seen now"]
    references = ["the heart is enlarged today", "a report here", "small pleural effusion is seen now"]
    scores = ReportScorer(row, evaluator).annotate(texts, references)["score"]
    assert scores[0] == pytest.approx(1) and scores[1] == 0 and 0 < scores[2] < 1
    assert set(REPORT_SCORERS) <= set(sys.modules["radeval.metrics._registry"].METRIC_REGISTRY)


def test_pairs_are_checked_before_anything_is_scored() -> None:
    scorer = ReportScorer(REPORT_SCORERS["ratescore"], None)
    with pytest.raises(DataError, match="1 generated and 2 reference"):
        scorer.annotate(["a"], ["b", "c"])
    with pytest.raises(DataError, match="the first is number 1"):
        scorer.annotate(["a", "b"], ["c", " "])
    assert scorer.annotate(["", ""], ["c", "d"])["ratescore"].tolist() == [0, 0]


def test_figures_arrive_under_our_names_in_order() -> None:
    def evaluator(refs: list[str], hyps: list[str]) -> dict[str, list[float]]:
        return {"theirs": [float(ref == hyp) for ref, hyp in zip(refs, hyps, strict=True)]}

    row = ScorerRow(name="equal", title="Equal", metric="equal", keys={"theirs": "ours"}, hub=())
    scores = ReportScorer(row, evaluator).annotate(["x", "", "y"], ["x", "z", "z"])
    assert {name: values.tolist() for name, values in scores.items()} == {"ours": [1.0, 0.0, 0.0]}
