"""Encoded batches, noisy latents and drawn prompts: the ground of diffuse and join."""

from __future__ import annotations

import pytest
import torch

from medcodi.data.loading import Batch
from medcodi.model import MedCoDi, tiny_model
from medcodi.stages.encoded import DrawnPrompts, draw_training_prompts, encode_batch, noisy_latent
from tests.unit.stages.batches import drawn, phantom_batch, uneven_batch


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    return tiny_model(seed=0)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return phantom_batch(0, 1, 2, 3)


def test_an_encoded_batch_passes_through(model: MedCoDi, batch: Batch) -> None:
    encoded = encode_batch(model, batch)
    assert encode_batch(model, encoded) is encoded and len(encoded) == 4
    assert set(encoded.nulls) == {"frontal", "lateral", "report"} and all(
        len(null) == 1 for null in encoded.nulls.values()
    )
    assert not any(value.requires_grad for value in (*encoded.means.values(), *encoded.stds.values()))
    moved = encoded.to("cpu")
    assert torch.equal(moved.means["frontal"], encoded.means["frontal"]) and moved.samples == encoded.samples


def test_a_noisy_latent_by_hand_and_by_its_own_key(model: MedCoDi, batch: Batch) -> None:
    encoded, draws = encode_batch(model, batch), drawn(batch, step=3)
    t = torch.tensor([0, 10, 500, 999])
    z, target = noisy_latent(model, encoded, "report", t, draws)
    mean, std = encoded.means["report"], encoded.stds["report"]
    x0 = mean + std * draws.normal("posterior/report", mean.shape[1:])
    alpha_bar = model.schedule.alphas_cumprod[t][:, None]
    torch.testing.assert_close(z, alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * target)
    assert torch.equal(target, draws.normal("noise/report", mean.shape[1:]))  # eps


def test_the_target_never_prompts_itself(model: MedCoDi, batch: Batch) -> None:
    encoded = encode_batch(model, batch)
    prompts = draw_training_prompts(encoded, ("report",), drawn(batch), drop_probability=0.0)
    context = prompts.context(model, encoded)
    images = sum(encoded.prompts[name].tokens.shape[1] for name in ("frontal", "lateral"))
    assert context.tokens.shape[1] == images


def test_prompts_are_drawn_among_those_that_a_row_has(model: MedCoDi) -> None:
    encoded = encode_batch(model, uneven_batch(model, absent={"lateral": [0, 1], "frontal": [1]}))
    prompts = draw_training_prompts(encoded, ("report",), drawn(encoded), drop_probability=0.0)
    assert prompts.names == ("frontal", "lateral")
    assert prompts.chosen[0].tolist() == [True, False]
    assert (
        prompts.dropped.tolist() == [False, True] + [False] * 6 and prompts.chosen[1].all()
    )  # no prompt: the nulls of all
    assert draw_training_prompts(encoded, ("report",), drawn(encoded), drop_probability=1.0).dropped.all()


def test_cells_are_indices_of_subsets() -> None:
    chosen = torch.tensor([[True, False], [False, True], [True, True], [True, True]])
    prompts = DrawnPrompts(("frontal", "report"), chosen, torch.tensor([False, False, False, True]))
    assert prompts.subsets == ["nothing", "frontal", "report", "frontal+report"]
    assert [prompts.subsets[cell] for cell in prompts.cells] == ["frontal", "report", "frontal+report", "nothing"]


def test_where_every_modality_is_a_target_nothing_prompts(model: MedCoDi, batch: Batch) -> None:
    encoded = encode_batch(model, batch)
    prompts = draw_training_prompts(encoded, ("frontal", "lateral", "report"), drawn(batch), drop_probability=0.0)
    assert prompts.subsets == ["nothing"] and prompts.cells.tolist() == [0] * 4
    with torch.no_grad():
        torch.testing.assert_close(
            prompts.context(model, encoded).tokens, model.null_context(["frontal", "lateral", "report"], 4).tokens
        )
