"""Dry runs: every stage names its forward passes, which run on a model without data or memory."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from medcodi.config import load
from medcodi.model import MedCoDi, ModelConfig
from medcodi.networks.tokenizer import AbsentTokenizer
from medcodi.stages import build_stage
from tests.unit.stages.batches import STAGES, stage_of


@pytest.mark.parametrize("name", STAGES)
def test_passes_run_on_any_number_of_studies(name: str) -> None:
    run = stage_of(name).dry_run()
    for forward in run.trained:
        one, three = forward(1), forward(3)
        assert any(tensor.requires_grad for tensor in one)
        assert [3 * tensor.numel() for tensor in one] == [tensor.numel() for tensor in three]
    with torch.no_grad():
        assert all(forward(2) for forward in run.frozen)
    assert bool(run.frozen) == (name in ("diffuse", "join"))


@pytest.mark.parametrize(("name", "num_passes"), [("diffuse", 3), ("join", 6)])
def test_a_cache_replaces_the_frozen_passes(name: str, num_passes: int) -> None:
    run = stage_of(name).dry_run(cached=True)
    assert not run.frozen and len(run.trained) == num_passes


def test_a_step_of_join_runs_nine_denoisers_in_four_steps() -> None:
    """Three sets of two targets and one of three: 9 of 4 x 3."""
    assert stage_of("join").dry_run().drawn == 9 / 12


def test_options_decide_the_passes() -> None:
    texts = stage_of("autoencode", kinds=["text"]).dry_run()
    assert len(texts.trained) == 1
    crops = stage_of("autoencode", kinds=["image"], crop_size=16).dry_run()
    assert crops.trained[0](2)[0].shape == (4, 1, 16, 16)  # two views of two studies
    assert len(stage_of("diffuse", targets=["report"]).dry_run().trained) == 1


def test_passes_run_on_fake_tensors() -> None:
    """As the plan counts them: shapes and precisions, no numbers."""
    config = load(ModelConfig, "configs/models/tiny.yaml")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = MedCoDi(config, AbsentTokenizer(config.vocab_size, "prompts"))
        model.trained_stages = STAGES
        results = [forward(2) for forward in build_stage("join", model).dry_run().trained]
    assert all(isinstance(tensor, FakeTensor) for result in results for tensor in result)
