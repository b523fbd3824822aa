"""Compiled blocks compute what they computed before, in graphs that are whole and made once."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from medcodi.errors import ConfigError
from medcodi.stages import Stage
from medcodi.training.compiling import compile_blocks
from tests.unit.stages.batches import drawn, stage_of, uneven_batch

CPU = torch.device("cpu")


def steps(stage: Stage, first: int, last: int) -> list[torch.Tensor]:
    """Losses and, after the last step, gradients."""
    batch, found = uneven_batch(stage.model, num=2), []
    for step in range(first, last):
        loss = stage(batch, drawn(batch, step)).loss
        loss.backward()
        found.append(loss.detach())
    return [*found, *(value.grad for value in stage.parameters() if value.grad is not None)]


@pytest.mark.parametrize(
    "name", ["autoencode", "align", *(pytest.param(name, marks=pytest.mark.faults) for name in ("diffuse", "join"))]
)
def test_the_same_numbers_and_no_graph_is_broken(name: str) -> None:
    torch._dynamo.reset()
    stage = stage_of(name)
    names = [path for path, _ in stage.named_parameters()]
    counter = CompileCounter()
    assert compile_blocks(stage, CPU, backend=counter) > 4
    assert [path for path, _ in stage.named_parameters()] == names
    enough = 2 if stage.num_turns == 1 else 8  # until each kind of step has been taken
    found, expected = steps(stage, 0, enough), steps(stage_of(name), 0, enough)
    assert len(found) == len(expected)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6)
    broken = sum(torch._dynamo.utils.counters["graph_break"].values())
    made = counter.frame_count
    assert made > 1 and broken == 0
    steps(stage, enough, enough + 2)
    assert counter.frame_count == made  # later steps make no new graph


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="compiler"):
        compile_blocks(stage_of("align"), CPU)
