"""Attention kernels: one result, refusals by name."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from medcodi.errors import ConfigError, MissingExtraError
from medcodi.networks.attention_backends import ATTENTION_BACKENDS, _aligned, attention_backend


@pytest.mark.parametrize("masked", [False, True])
def test_kernels_on_a_cpu_give_the_softmax_of_the_products(masked: bool) -> None:
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 8)
    mask = torch.tensor([0.0, -1.0, 0.5, -torch.inf]).expand(2, 1, 1, 4) if masked else None
    logits = q @ k.transpose(2, 3) / 8**0.5 + (0.0 if mask is None else mask)
    for name in ("sdpa", "sdpa-float32"):
        torch.testing.assert_close(ATTENTION_BACKENDS[name].attend(q, k, v, mask), logits.softmax(-1) @ v)


def test_offsets_are_stored_in_rows_of_a_multiple_of_eight() -> None:
    bias = torch.randn(2, 3, 5, 13)
    stored = _aligned(bias)
    assert torch.equal(stored, bias) and stored.stride() == (3 * 5 * 16, 5 * 16, 16, 1)


def test_unknown_and_missing_kernels_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sdpa'"):
        attention_backend("sdpaa")
    attention_backend("sdpa").require(torch.device("cpu"), torch.float32)
    if importlib.util.find_spec("xformers") is None:
        with pytest.raises(MissingExtraError, match="xformers"):
            attention_backend("xformers").require(torch.device("cpu"), torch.float32)
