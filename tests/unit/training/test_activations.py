"""Activation checkpointing changes what is kept, not what is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcodi.stages import Stage
from medcodi.training.activations import checkpoint_activations
from tests.unit.stages.batches import STAGES, drawn, stage_of, uneven_batch


def measured(stage: Stage) -> tuple[dict[str, Tensor], int]:
    """Loss and gradients of a batch, and the number of bytes kept for the backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in stage.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = uneven_batch(stage.model, num=2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = stage(batch, drawn(batch)).loss
    loss.backward()
    gradients = {name: value.grad for name, value in stage.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), **gradients}, sum(kept.values())


@pytest.mark.parametrize("name", STAGES)
def test_the_same_numbers_from_less_memory(name: str) -> None:
    plain, bytes_plain = measured(stage_of(name))
    stage = stage_of(name)
    names = [path for path, _ in stage.named_parameters()]
    assert checkpoint_activations(stage) > 4
    assert [path for path, _ in stage.named_parameters()] == names
    again, bytes_again = measured(stage)
    assert again.keys() == plain.keys()
    assert all(again[path].equal(value) for path, value in plain.items())
    assert bytes_again < 0.75 * bytes_plain
