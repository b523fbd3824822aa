"""Statements about findings: what holds is read from reports, and encodings are drawn to it."""

from __future__ import annotations

import math

import pytest
import torch

from medcodi.errors import ConfigError
from medcodi.model import build_model, tiny_config
from medcodi.stages import build_stage
from medcodi.stages.statements import STATEMENT_TEXTS, STATEMENTS, agreement, statement_truth
from tests.unit.stages.batches import drawn, stage_of, uneven_batch


def told(report: str) -> dict[str, float]:
    row = statement_truth([report])[0].tolist()
    return {f"{s.label}/{s.side}" if s.side else s.label: value for s, value in zip(STATEMENTS, row, strict=True)}


def test_truth_is_what_the_report_tells() -> None:
    found = told(
        "FINDINGS: Large left pleural effusion. No pneumothorax. Bibasilar atelectasis. IMPRESSION: Left effusion."
    )
    assert found["Pleural Effusion"] == found["Pleural Effusion/left"] == 1 and found["Pleural Effusion/right"] == 0
    assert found["Pneumothorax"] == found["Pneumothorax/left"] == found["Edema"] == found["No Finding"] == 0
    assert found["Atelectasis/left"] == found["Atelectasis/right"] == 1
    assert told("Both lungs are clear.")["No Finding"] == 1


def test_what_is_unsure_or_untold_takes_no_part() -> None:
    assert math.isnan(told("Possible edema.")["Edema"])
    one = told("There is a pneumothorax.")
    assert one["Pneumothorax"] == 1 and math.isnan(one["Pneumothorax/left"])
    assert statement_truth(["  "]).isnan().all()


def test_every_statement_has_words_of_its_own() -> None:
    assert len(set(STATEMENT_TEXTS)) == len(STATEMENT_TEXTS) == 2 * len(STATEMENTS)
    assert "No left pneumothorax." in STATEMENT_TEXTS and "Right lung lesion." in STATEMENT_TEXTS


def test_agreement_by_hand() -> None:
    claims, denials = torch.eye(3)[:2], torch.eye(3)[[2, 2]]
    pooled = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    truth = torch.tensor([[1.0, 1.0], [float("nan"), 0.0]])
    held = agreement(pooled, torch.cat([claims, denials]), truth, torch.tensor(2.0))
    expected = [math.log1p(math.exp(-2.0)) + math.log(2.0), math.log1p(math.exp(-2.0))]
    assert held.loss.tolist() == pytest.approx(expected)
    assert held.hits.tolist() == [0.5, 0.0] and held.claims.tolist() == [2.0, 0.0]


def test_the_stage_adds_them_for_rows_with_a_report() -> None:
    plain, stating = stage_of("align"), stage_of("align", statement_weight=0.5)
    batch = uneven_batch(plain.model, absent={"report": [2, 5], "lateral": [1]})
    without, output = plain(batch, drawn(batch)), stating(batch, drawn(batch))
    each = [output.logs[f"{name}/statements"] for name in plain.model.config.modalities]
    assert torch.allclose(output.loss, without.loss + 0.5 * torch.stack(each).mean())
    assert all(f"{name}/claims_right" in output.logs for name in plain.model.config.modalities)
    batch.contents["frontal"][2] = 0.9  # its report is absent: nobody says what it shows
    again = stating(batch, drawn(batch)).logs
    assert torch.equal(again["frontal/statements"], output.logs["frontal/statements"])


def test_encodings_learn_what_reports_tell() -> None:
    texts = ["Large right pleural effusion.", "The lungs are clear."]
    model = build_model(tiny_config(), texts, seed=0)
    stage = build_stage("align", model, {"statement_weight": 1.0})
    batch = uneven_batch(model)
    batch.contents["report"] = [texts[row % 2] for row in range(8)]
    for row in range(8):
        batch.contents["frontal"][row] = batch.contents["frontal"][row] * 0.2 + 0.6 * (row % 2)
    optimizer = torch.optim.Adam([value for value in stage.parameters() if value.requires_grad], lr=3e-3)
    logs = []
    for step in range(30):
        output = stage(batch, drawn(batch, step))
        optimizer.zero_grad(), output.loss.backward(), optimizer.step()
        logs.append(output.logs)
    right, rows = logs[-1]["frontal/claims_right"].tolist()
    assert right == rows == 8
    assert logs[-1]["frontal/statements"] < 0.3 * logs[0]["frontal/statements"]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="statement_weight = -1"):
        stage_of("align", statement_weight=-1.0)
    mute = build_model(tiny_config(modalities=("frontal", "lateral")), ["A report."], seed=0)
    with pytest.raises(ConfigError, match="text modality"):
        build_stage("align", mute, {"statement_weight": 0.5})
