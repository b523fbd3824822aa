"""Labelers and report scorers: ours and its cache; radeval's by their own classes, where it is installed; refusals where not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import ConfigError, DataError, MissingExtraError
from medcodi.evaluation.annotators.report_labelers import (
    LABELERS,
    LoadedLabeler,
    chexbert_states,
    load_labeler,
    policy_text,
)
from medcodi.evaluation.annotators.report_scorers import REPORT_SCORERS, ScorerRow, load_report_scorer, radeval_scorer
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
    assert "left out" in policy_text(ours.row, "ignore") and "tell them apart" in policy_text(
        LABELERS["chexbert"], "positive"
    )


def test_labels_are_kept_and_each_text_is_read_once(tmp_path: Path) -> None:
    read: list[str] = []

    def counting(reports):
        read.extend(reports)
        return LABELERS["rules"].load(LABELERS["rules"], "cpu")(reports)

    first = load_labeler("rules", cache_root=tmp_path)
    ours = LoadedLabeler(first.row, counting, first._cache)
    expected = ours.matrix(REPORTS)
    assert read == REPORTS[:2]  # not the empty one, nor the repeated one again
    again = LoadedLabeler(first.row, counting, load_labeler("rules", cache_root=tmp_path)._cache)
    np.testing.assert_array_equal(again.matrix(REPORTS), expected)
    assert len(read) == 2


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
    states = chexbert_states(evaluator)(reports)
    assert [[one[name] for name in evaluator.TARGET_NAMES] for one in states] == expected
    assert {value for row in expected for value in row} == {-1, 0, 1}
    labeler = LoadedLabeler(LABELERS["chexbert"], chexbert_states(evaluator))
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
    scores = radeval_scorer(row, evaluator)(texts, references)["score"]
    assert scores[0] == pytest.approx(1) and scores[1] == 0 and 0 < scores[2] < 1
    assert set(REPORT_SCORERS) <= set(sys.modules["radeval.metrics._registry"].METRIC_REGISTRY)


def test_pairs_are_checked_before_anything_is_scored() -> None:
    scorer = radeval_scorer(REPORT_SCORERS["ratescore"], None)
    with pytest.raises(DataError, match="1 generated and 2 reference"):
        scorer(["a"], ["b", "c"])
    with pytest.raises(DataError, match="the first is number 1"):
        scorer(["a", "b"], ["c", " "])
    assert scorer(["", ""], ["c", "d"])["ratescore"].tolist() == [0, 0]
