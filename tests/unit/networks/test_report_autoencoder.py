"""The report autoencoder: Optimus's order of operations, padding, cache, seeds, the parts of the loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from medcodi.config import from_dict
from medcodi.errors import ConfigError
from medcodi.networks.report_autoencoder import ReportAutoencoder, ReportAutoencoderConfig
from medcodi.networks.tokenizer import ReportTokenizer

TOKENIZER = ReportTokenizer.train(["The heart is enlarged.", "No pleural effusion."] * 3, vocab_size=300)
TEXTS = ["The heart is enlarged. No pleural effusion. Small.", "Heart."]


def small(**changes) -> ReportAutoencoder:
    torch.manual_seed(0)
    values = {
        "latent_dim": 8,
        "width": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "heads": 4,
        "max_length": 32,
        **changes,
    }
    autoencoder = from_dict(ReportAutoencoderConfig, values).build(TOKENIZER).eval()
    with torch.no_grad():  # weights large enough that every part is heard
        for value in autoencoder.parameters():
            value.add_(0.15 * torch.randn(value.shape))
    return autoencoder


def optimus_logits(model: ReportAutoencoder, z: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The decoder written out from the published layout: prefix as one more key and value, bias on the embeddings."""
    gpt, heads, slots = model.decoder, model.config.heads, model.config.memory_slots
    batch, length = ids.shape
    memory = (z @ model.to_memory.weight.T).chunk(len(gpt.h), dim=-1)
    x = gpt.wte.weight[ids] + (z @ model.to_embedding.weight.T)[:, None] + gpt.wpe.weight[slots : length + slots]
    allowed = torch.cat([torch.ones(length, slots), torch.ones(length, length).tril()], dim=1)
    split = lambda part: part.view(batch, -1, heads, part.shape[-1] // heads).transpose(1, 2)  # noqa: E731
    for block, slot in zip(gpt.h, memory, strict=True):
        h = F.layer_norm(x, x.shape[-1:], block.ln_1.weight, block.ln_1.bias, 1e-5)
        query, key, value = (h @ block.attn.c_attn.weight + block.attn.c_attn.bias).chunk(3, dim=-1)
        slot = slot.view(batch, heads, slots, -1)
        key, value = (torch.cat([slot, split(part)], dim=2) for part in (key, value))
        scores = split(query) @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
        scores = scores * allowed - 1e4 * (1 - allowed)
        heard = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, -1)
        x = x + heard @ block.attn.c_proj.weight + block.attn.c_proj.bias
        h = F.layer_norm(x, x.shape[-1:], block.ln_2.weight, block.ln_2.bias, 1e-5)
        h = F.gelu(h @ block.mlp.c_fc.weight + block.mlp.c_fc.bias, approximate="tanh")
        x = x + h @ block.mlp.c_proj.weight + block.mlp.c_proj.bias
    return F.layer_norm(x, x.shape[-1:], gpt.ln_f.weight, gpt.ln_f.bias, 1e-5) @ gpt.wte.weight.T


@pytest.mark.parametrize("slots", [1, 3])
@torch.no_grad()
def test_decoder_is_optimus(slots: int) -> None:
    model, z = small(memory_slots=slots), torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    ids, _ = TOKENIZER.encode(TEXTS, 32)
    assert torch.allclose(model.logits(z, ids), optimus_logits(model, z, ids), atol=1e-4)


@pytest.mark.parametrize("slots", [1, 3])
@torch.no_grad()
def test_cached_greedy_decoding_is_the_uncached_loop(slots: int) -> None:
    model, z = small(memory_slots=slots), torch.randn(3, 8, generator=torch.Generator().manual_seed(2)) * 3
    ids = torch.full((3, 1), TOKENIZER.bos_id)
    while ids.shape[1] < 32:
        ids = torch.cat([ids, optimus_logits(model, z, ids)[:, -1:].argmax(-1)], dim=1)
    ids[:, -1] = TOKENIZER.eos_id  # a report that fills the length ends there
    cached = model.generate_ids(z)
    for expected, found in zip(ids.tolist(), cached.tolist(), strict=True):
        end = expected.index(TOKENIZER.eos_id) + 1 if TOKENIZER.eos_id in expected else len(expected)
        assert found[:end] == expected[:end]
        assert set(found[end:]) <= {TOKENIZER.pad_id}


@pytest.mark.parametrize("pooling", ["first", "mean"])
@torch.no_grad()
def test_padding_does_not_matter(pooling: str) -> None:
    model = small(pooling=pooling)
    together, alone = model.encode(TEXTS), model.encode(TEXTS[1:])
    for both, one in zip(together, alone, strict=True):
        assert torch.allclose(both[1:], one, atol=1e-5)
    losses, lonely = model.reconstruction_loss(TEXTS), model.reconstruction_loss(TEXTS[1:])
    assert torch.allclose(losses.loss[1:], lonely.loss, atol=1e-4)


@torch.no_grad()
def test_generation_stops_when_all_rows_have_ended() -> None:
    model = small()
    with torch.no_grad():  # the end token wins whatever was said
        model.decoder.ln_f.weight.zero_()
        model.decoder.ln_f.bias.copy_(model.decoder.wte.weight[TOKENIZER.eos_id] * 100)
    assert model.generate_ids(torch.zeros(2, 8)).tolist() == [[TOKENIZER.bos_id, TOKENIZER.eos_id]] * 2
    assert model.decode(torch.zeros(2, 8)) == ["", ""]
    assert len(model.decode(torch.zeros(0, 8))) == 0


@torch.no_grad()
def test_loss_adds_up() -> None:
    model = small()
    plain = model.reconstruction_loss(TEXTS)
    num_tokens = TOKENIZER.encode(TEXTS, 32)[1][:, 1:].sum(1)
    assert torch.allclose(plain.loss, plain.ce)
    assert torch.allclose(
        model.reconstruction_loss(TEXTS, beta=0.5).loss, plain.ce + 0.5 * plain.kl / num_tokens, atol=1e-5
    )
    free = model.reconstruction_loss(TEXTS, beta=0.5, free_bits=1e6)
    assert torch.allclose(free.loss, plain.ce + 0.5 * 8e6 / num_tokens, rtol=1e-5)
    ids, mask = TOKENIZER.encode(TEXTS[:1], 32)
    logits = model.logits(model.encode(TEXTS[:1])[0], ids[:, :-1])
    assert torch.allclose(plain.ce[0], F.cross_entropy(logits[0], ids[0, 1:]), atol=1e-4)
    weights = torch.ones(TOKENIZER.vocab_size)
    weights[ids[0, 3]] = 4.0
    each = F.cross_entropy(logits[0], ids[0, 1:], reduction="none")
    weighted = model.reconstruction_loss(TEXTS[:1], token_weights=weights)
    assert torch.allclose(weighted.loss[0], (each * weights[ids[0, 1:]]).mean(), atol=1e-4)
    assert torch.allclose(weighted.ce, plain.ce[:1], atol=1e-5)  # what is told stays comparable
    assert plain.accuracy[0] == pytest.approx((logits[0].argmax(-1) == ids[0, 1:]).float().mean().item(), abs=1e-6)


@torch.no_grad()
def test_reports_padded_to_those_of_like_length_keep_their_rows() -> None:
    model = small()
    texts = [("a b c d e f g h"[: 1 + 7 * row % 15]).strip() for row in range(37)]  # three groups, lengths mixed
    noise, dropped = torch.randn(37, 8), torch.rand(37, 32) < 0.3
    together = model.reconstruction_loss(texts, noise, beta=0.5, dropped=dropped, num_groups=3)
    few = model.reconstruction_loss(texts[:2], noise[:2], beta=0.5, dropped=dropped[:2], num_groups=3)
    torch.testing.assert_close(few.loss, together.loss[:2], atol=1e-4, rtol=1e-4)  # as many passes, fewer reports
    for row in (0, 5, 36):
        one = slice(row, row + 1)
        alone = model.reconstruction_loss(texts[one], noise[one], beta=0.5, dropped=dropped[one])
        for name, value in vars(alone).items():
            torch.testing.assert_close(getattr(together, name)[one], value, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_dropped_words_are_not_seen_but_still_asked_for() -> None:
    model = small()
    everything = torch.ones(2, 32, dtype=torch.bool)
    blind = model.reconstruction_loss(["abc", "xyz"], dropped=everything)
    assert not torch.allclose(blind.ce, model.reconstruction_loss(["abc", "xyz"]).ce)
    assert torch.equal(
        model.reconstruction_loss(["abc"], dropped=~everything[:1]).ce, model.reconstruction_loss(["abc"]).ce
    )


def test_every_weight_learns() -> None:
    model = small().train()
    model.reconstruction_loss(TEXTS, torch.randn(2, 8), beta=0.1).loss.sum().backward()
    assert all(value.grad is not None for value in model.parameters())


def test_a_few_steps_learn_two_reports_by_heart() -> None:
    torch.manual_seed(0)
    values = {"latent_dim": 8, "width": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "max_length": 32}
    model = from_dict(ReportAutoencoderConfig, values).build(TOKENIZER)
    texts = ["The heart is enlarged.", "No pleural effusion."]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model.reconstruction_loss(texts).loss.mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    assert model.decode(model.latent(texts)) == texts


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="max_length = 600"):
        small(max_length=600, encoder_positions=512)
    with pytest.raises(ConfigError, match="heads = 5"):
        small(heads=5)
