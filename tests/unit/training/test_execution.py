"""Precision, attention kernels, activation checkpointing and compilation: how results are computed, never what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from medcodi.errors import ConfigError
from medcodi.model import tiny_model
from medcodi.networks.attention import Attention
from medcodi.networks.attention_backends import ATTENTION_BACKENDS
from medcodi.stages import Stage
from medcodi.training.execution import attention_kernels, checkpoint_activations, choose_attention, compile_blocks
from tests.unit.stages.batches import STAGES, drawn, stage_of, uneven_batch

CPU = torch.device("cpu")


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


# ---- attention
def results(backend: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Output and gradients of one call."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 8, generator=generator) for n in (6, 5, 5))
    leaves = [t.to(torch.bfloat16).to(dtype).requires_grad_() for t in (q, k, v)]
    mask = torch.tensor([0.0, -torch.inf, 0.5, 0.0, -1.0]).to(dtype)[None, None, None].expand(2, 1, 1, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = ATTENTION_BACKENDS[backend].attend(*leaves, mask)
    assert out.dtype == dtype
    out.float().square().sum().backward()
    return [out.detach().float(), *(leaf.grad.float() for leaf in leaves if leaf.grad is not None)]


def test_it_is_nearer_to_the_exact_one_than_the_kernel_in_bfloat16() -> None:
    exact = results("sdpa", torch.float32)
    wide, narrow = (results(backend, torch.bfloat16) for backend in ("sdpa-float32", "sdpa"))
    assert len(exact) == 4
    for true, ours, theirs in zip(exact, wide, narrow, strict=True):
        torch.testing.assert_close(ours, true, rtol=2**-7, atol=2e-2)  # bfloat16 has 8 bits
        assert (ours - true).norm() <= (theirs - true).norm() * 1.01


def test_without_gradients_it_is_the_kernel_itself() -> None:
    q = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert (
        ATTENTION_BACKENDS["sdpa-float32"].attend(q, q, q, None).equal(ATTENTION_BACKENDS["sdpa"].attend(q, q, q, None))
    )


def test_it_is_chosen_in_bf16_on_a_cpu_alone() -> None:
    def chosen(precision: str, device: str) -> str:
        module = torch.nn.Sequential(Attention(8, num_heads=2))
        choose_attention(module, precision, torch.device(device))
        return module[0].backend  # type: ignore[return-value]

    assert chosen("bf16", "cpu") == "sdpa-float32"
    assert chosen("fp32", "cpu") == chosen("bf16", "cuda") == "sdpa"
    module = torch.nn.Sequential(Attention(8, num_heads=2))
    choose_attention(module, "bf16", torch.device("cpu"), skip_absent=True)
    assert module[0].skips_absent is True


def test_the_report_autoencoder_computes_the_same_with_plain_products() -> None:
    model, texts = tiny_model(seed=0).autoencoder("report"), ["The heart is large.", "No effusion."]
    before = model.reconstruction_loss(texts).ce
    choose_attention(model, "bf16", torch.device("cpu"))
    assert model.encoder.config._attn_implementation == model.decoder.config._attn_implementation == "eager"
    torch.testing.assert_close(model.reconstruction_loss(texts).ce, before, rtol=1e-5, atol=1e-5)


def test_kernels_are_restricted_where_they_are_slow_and_only_inside() -> None:
    def fused() -> bool:
        return torch.backends.cuda.flash_sdp_enabled()  # CPUs heed it too

    before = fused()
    with attention_kernels("bf16", torch.device("cpu")):
        assert not fused()
    with attention_kernels("fp32", torch.device("cpu")):
        assert fused() == before
    assert fused() == before


# ---- compilation
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
