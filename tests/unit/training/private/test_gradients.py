"""Gradients of single patients: those of single studies, their means, and the bound on what one patient can change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medcodi.model.low_rank import LowRankConfig
from medcodi.stages import Stage
from medcodi.training.private.engine import clipped_sum, patient_means, study_gradients
from tests.unit.stages.batches import drawn, phantom_batch, stage_of


@pytest.fixture(scope="module")
def stage() -> Stage:
    """Adapters of two denoisers, away from their start, where half of their gradients are zero."""
    built = stage_of("diffuse", targets=["frontal", "report"])
    built.train_low_rank(LowRankConfig(rank=2, layers=("attention", "residual")), seed=0)
    with torch.no_grad():
        for name, parameter in built.adapters.named_parameters():
            if ".up." in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    return built


def trained(stage: Stage) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in stage.named_parameters() if parameter.requires_grad}


def test_gradients_of_studies_are_those_of_each_study_alone(stage: Stage) -> None:
    """Also of a study that lacks a target, and whatever the chunks."""
    parameters, batch = trained(stage), phantom_batch(0, 1, 2)
    batch = replace(batch, present={**batch.present, "frontal": torch.tensor([True, False, True])})
    gradients, losses = study_gradients(stage, parameters, stage.study_inputs(batch, drawn(batch)))
    in_chunks, _ = study_gradients(stage, parameters, stage.study_inputs(batch, drawn(batch)), chunk=2)
    assert set(gradients) == set(parameters) and all("adapters." in name for name in gradients)
    for row in range(3):
        alone = batch.rows(row, row + 1)
        loss = stage(alone, drawn(alone)).loss
        expected = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        assert abs(float(loss.detach()) - float(losses[row])) < 1e-5
        for name, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(gradients[name][row], value, rtol=0, atol=1e-5)
            torch.testing.assert_close(in_chunks[name][row], value, rtol=0, atol=1e-5)
    largest = max(float(value.abs().max()) for value in gradients.values())
    assert largest > 0.01 and not any(value[1].any() for name, value in gradients.items() if "frontal" in name)


def test_a_patient_is_the_mean_of_their_studies_in_any_order() -> None:
    gradients = {"a": torch.tensor([[1.0, 2.0], [10.0, 20.0], [3.0, 4.0]]), "b": torch.tensor([1.0, 5.0, 2.0])}
    means = patient_means(gradients, ["p", "q", "p"])
    assert means["a"].tolist() == [[2.0, 3.0], [10.0, 20.0]] and means["b"].tolist() == [1.5, 5.0]


def test_no_patient_changes_the_sum_by_more_than_the_clip() -> None:
    """Norms are of all parameters together; one that is not finite counts as zero."""
    gradients = {"a": torch.tensor([[3.0], [0.3], [math.nan], [0.0]]), "b": torch.tensor([[4.0], [0.4], [1.0], [0.0]])}
    total, shortened = clipped_sum(gradients, clip=1.0)
    assert shortened.tolist() == [True, False, True, False]
    torch.testing.assert_close(total["a"], torch.tensor([0.6 + 0.3]))
    torch.testing.assert_close(total["b"], torch.tensor([0.8 + 0.4]))
    unlimited, shortened = clipped_sum(gradients, clip=math.inf)
    torch.testing.assert_close(unlimited["b"], torch.tensor([4.4]))
    assert shortened.tolist() == [False, False, True, False]
