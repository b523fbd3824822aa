"""Labelers and report scorers: ours and its cache; radeval's by their own classes, where it is installed; refusals where not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import ConfigError, DataError, MissingExtraError
from medcodi.evaluation.annotators.report_annotators import (
    REPORT_SCORERS,
    ChexbertLabeler,
    ReportScorer,
    RuleLabeler,
    ScorerRow,
    load_labeler,
    load_report_scorer,
)
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.metrics.labeler import label_matrix
from medcodi.study import CHEXPERT_LABELS

REPORTS = ["Large left pleural effusion.", "Possible pneumonia. No effusion.", "", "Large left pleural effusion."]


def test_ours_is_the_rule_labeler() -> None:
    ours = load_labeler("rules")
    for uncertain in ("positive", "negative", "ignore"):
        np.testing.assert_array_equal(
            ours.matrix(REPORTS, uncertain=uncertain), label_matrix(REPORTS, uncertain=uncertain)
        )
    assert ours.findings(REPORTS)[0][0].side == "left"
    assert ours.describe()["policy"].startswith("an uncertain mention counts as present")
    assert "left out" in ours.policy("ignore") and "tell them apart" in ChexbertLabeler.policy(
        ChexbertLabeler, "positive"
    )


def test_states_say_what_is_mentioned_and_findings_keep_sides() -> None:
    ours = load_labeler("rules")
    states = ours.annotate(REPORTS, "report")
    effusion, pneumonia = CHEXPERT_LABELS.index("Pleural Effusion"), CHEXPERT_LABELS.index("Pneumonia")
    assert states.dtype == np.float32 and states.shape == (4, 14)
    assert states[0, effusion] == 1 and states[1, effusion] == 0 and states[1, pneumonia] == -1
    assert np.isnan(states[0, pneumonia]) and np.isnan(states[2]).all()
    sides = ours.findings(REPORTS)
    assert sides[0][0].side == "left" and sides[2] == ()


class Counting(RuleLabeler):
    """Counts the reports that it labels."""

    seen: tuple[str, ...] = ()

    def label(self, reports):
        self.seen += tuple(reports)
        return super().label(reports)


def test_labels_are_stored_and_each_text_is_labeled_once(tmp_path: Path) -> None:
    first, again = (Counting(LoadRequest(cache=tmp_path)) for _ in range(2))
    expected = first.matrix(REPORTS)
    assert first.seen == tuple(REPORTS[:2])  # not the empty one, nor the repeated one again
    np.testing.assert_array_equal(again.matrix(REPORTS), expected)
    assert not again.seen


def test_unknown_names_and_missing_radeval_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'chexbert'"):
        load_labeler("chexpert")
    with pytest.raises(ConfigError, match="did you mean 'radgraph'"):
        load_report_scorer("radgraf")
    monkeypatch.setitem(sys.modules, "radeval", None)
    with pytest.raises(MissingExtraError, match=r"CheXbert.*medcodi\[radeval\]"):
        load_labeler("chexbert")
    for name in REPORT_SCORERS:
        with pytest.raises(MissingExtraError, match=r"medcodi\[radeval\]"):
            load_report_scorer(name)


class Evaluator:
    """The interface of radeval's CheXbert evaluator: its own order of names, one row for each report."""

    TARGET_NAMES = tuple(reversed(CHEXPERT_LABELS))

    def get_labels(self, reports: list[str], mode: str) -> list[list[int]]:
        assert mode == "classification" and all(report.strip() for report in reports)
        states = {"Edema": 1, "Fracture": -1}
        return [[states.get(name, 0) for name in self.TARGET_NAMES] for _ in reports]


def test_chexberts_states_arrive_under_their_names() -> None:
    labeler = ChexbertLabeler(Evaluator(), "radeval test")
    states = labeler.annotate(["a", "", "b"], "report")
    expected = [{"Edema": 1, "Fracture": -1}.get(name, 0) for name in CHEXPERT_LABELS]
    assert states[0].tolist() == states[2].tolist() == expected and np.isnan(states[1]).all()
    labels = labeler.matrix(["a", ""], uncertain="negative")
    assert labels[0].tolist() == [float(name == "Edema") for name in CHEXPERT_LABELS] and not labels[1].any()
    found = labeler.findings(["a", ""])
    assert [(finding.label, finding.state, finding.side) for finding in found[0]] == [
        ("Edema", "positive", None),
        ("Fracture", "uncertain", None),
    ] and found[1] == ()
    assert labeler.identity() != ChexbertLabeler(Evaluator(), "radeval 2").identity()


def test_a_chexbert_without_a_label_is_refused() -> None:
    evaluator = Evaluator()
    evaluator.TARGET_NAMES = CHEXPERT_LABELS[1:]
    with pytest.raises(DataError, match="has no label"):
        ChexbertLabeler(evaluator, "radeval test")


# ---- with radeval's own classes ------------------------------------------------------------------------------------------
def test_chexbert_by_radevals_own_evaluator_at_tiny_size() -> None:
    """Its class, heads and label order, with random weights: every state it tells arrives under the right name."""
    base = pytest.importorskip("radeval.metrics._chexbert_base")
    import torch
    from transformers import BertConfig, BertModel

    names = [label for label in CHEXPERT_LABELS if label != "No Finding"]
    torch.manual_seed(0)
    backbone = BertModel(
        BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    heads = {f"linear_heads.{k}.{part}": torch.randn(*shape) for k in range(14) for part, shape in
             (("weight", (4 if k < 13 else 2, 16)), ("bias", (4 if k < 13 else 2,)))}  # fmt: skip
    state = {f"bert.{key}": value for key, value in backbone.state_dict().items()} | heads
    model = base.BaseBertLabeler(device="cpu", backbone=backbone, num_4way_heads=13, state_dict=state).eval()

    class Evaluator(base.BaseCheXbertEvaluator):
        CONDITION_NAMES, NO_FINDING, TOP5 = names, "No Finding", names[:5]

        def __init__(self) -> None:
            super().__init__()
            self._init_evaluator(model=model, tokenizer=_tokens, device="cpu", batch_size=2)

    evaluator = Evaluator()
    reports = [f"report {index}" for index in range(5)]
    expected = evaluator.get_labels(reports, mode="classification")
    labeler = ChexbertLabeler(evaluator, "radeval test")
    states = labeler.label(reports)
    assert [[one[name] for name in evaluator.TARGET_NAMES] for one in states] == expected
    assert {value for row in expected for value in row} == {-1, 0, 1}
    matrix = labeler.matrix(reports, uncertain="positive")
    rrg = np.array(evaluator.get_labels(reports, mode="rrg"), float)
    np.testing.assert_array_equal(matrix, rrg[:, [evaluator.TARGET_NAMES.index(name) for name in CHEXPERT_LABELS]])
    assert all(finding.side is None for finding in labeler.findings(reports)[0])


class _Encoded:
    def __init__(self, ids) -> None:
        self.input_ids, self.attention_mask = ids, (ids != 0).long()


def _tokens(texts, **options):
    import torch

    return _Encoded(torch.tensor([[2, *(ord(letter) % 27 + 3 for letter in text[-4:])] for text in texts]))


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
