"""What a step runs follows from the step alone: on two ranks with different studies, the same modules in the same order."""

from __future__ import annotations

import pytest
import torch

from tests.unit.stages.batches import STAGES, drawn, stage_of, uneven_batch

EVERYONE = list(range(4))
LACKING: list[dict[str, list[int]]] = [
    {"lateral": EVERYONE},
    {"report": EVERYONE},
    {"frontal": EVERYONE, "lateral": EVERYONE},
    {"frontal": [0, 1], "report": [2], "lateral": [3]},
]


@pytest.mark.parametrize("name", STAGES)
def test_modules_run_in_one_order_and_gradients_reach_the_same_parameters(name: str) -> None:
    stage = stage_of(name)
    order: list[str] = []
    for path, module in stage.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, path=path: order.append(path))

    def run(absent: dict[str, list[int]], step: int) -> tuple[list[str], set[str]]:
        order.clear()
        stage.zero_grad()
        batch = uneven_batch(stage.model, num=4, absent=absent)
        output = stage(batch, drawn(batch, step))
        assert torch.isfinite(output.loss)
        output.loss.backward()
        return list(order), {path for path, value in stage.named_parameters() if value.grad is not None}

    for step in range(3 if name == "join" else 1):  # which draws other targets in each
        expected = run({}, step)
        for absent in LACKING:
            assert run(absent, step) == expected, absent
