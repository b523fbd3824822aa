"""Training in bf16 on a CPU: attention in float32 is the same attention, nearer to the exact one."""

from __future__ import annotations

import torch

from medcodi.model import tiny_model
from medcodi.networks.attention import Attention
from medcodi.networks.attention_backends import ATTENTION_BACKENDS
from medcodi.training.attention import attention_kernels, choose_attention


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
