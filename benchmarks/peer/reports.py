"""Reports from the full-size decoder beside ``generate`` of transformers' GPT-2 of that size, greedy, one batch."""

from __future__ import annotations

from pathlib import Path

import decoding
import torch
from measuring import fill
from transformers import GPT2Config, GPT2LMHeadModel

from peer import Comparison, Sizes


def comparison(sizes: Sizes, folder: Path) -> Comparison:
    """Both with a cache of keys and values, float32; no token ends a report early."""
    width, layers, tokens, batch = sizes.of((768, 12, decoding.TOKENS, decoding.REPORTS), (64, 1, 8, 2))
    ours = decoding.autoencoder("cpu", torch.float32, width=width, layers=layers, tokens=tokens)
    z = torch.randn(batch, width, generator=torch.Generator().manual_seed(0))
    shape = {"n_embd": width, "n_layer": layers, "n_head": width // 64}
    peer = fill(
        GPT2LMHeadModel(GPT2Config(vocab_size=50_260, n_positions=1024, bos_token_id=0, eos_token_id=1, **shape))
    )
    assert isinstance(peer, GPT2LMHeadModel)
    peer.tie_weights()
    begin, options = torch.zeros(batch, 1, dtype=torch.long), {"do_sample": False, "pad_token_id": 2}

    def generated() -> None:
        with torch.inference_mode():
            ids = peer.generate(begin, min_new_tokens=tokens, max_new_tokens=tokens, **options)
        assert ids.shape == (batch, tokens + 1), ids.shape

    def decoded() -> None:
        with torch.inference_mode():
            ids = ours.generate_ids(z)
        assert ids.shape == (batch, tokens + 1), "a report ended early: choose other weights"

    what = f"{batch} reports of {tokens} tokens, greedy, GPT-2 of {layers} layers of {width}, float32"
    return Comparison(what=what, calls={"ours": decoded, "transformers generate": generated}, facts={"reports": batch})
