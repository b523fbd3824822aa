"""Attention: exact short cuts, weights of tokens, contexts that are kept, and one notation for heads and positions."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from medcodi.networks.attention import Attention, AttentionBlock, Context, GatedFeedForward


def test_attention_by_hand() -> None:
    attention = Attention(8, num_heads=2, context_dim=6)
    x, context = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    heads = []
    for head in range(2):  # channels 0..3 are the first head's, 4..7 the second's
        channels = slice(4 * head, 4 * head + 4)
        q, k, v = (attention.to_q(x), attention.to_k(context), attention.to_v(context))
        logits = q[..., channels] @ k[..., channels].transpose(1, 2) / 4**0.5
        heads.append(logits.softmax(-1) @ v[..., channels])
    torch.testing.assert_close(attention(x, Context(context)), attention.to_out(torch.cat(heads, dim=-1)))


def test_one_key_shortcut_is_exact():
    attention = Attention(16, num_heads=2, context_dim=6)
    x, key = torch.randn(2, 7, 16), torch.randn(2, 1, 6)
    twice = key.expand(-1, 2, -1)  # two equal keys: the softmax is 1/2 and 1/2 of the same value
    torch.testing.assert_close(attention(x, Context(key)), attention(x, Context(twice)), atol=1e-6, rtol=1e-5)


def test_a_masked_token_has_no_influence_and_a_doubled_one_weighs_like_two():
    attention = Attention(16, num_heads=2, context_dim=6)
    x, tokens = torch.randn(2, 7, 16), torch.randn(2, 3, 6)
    masked = torch.tensor([[0.0, 0.0, -torch.inf]]).expand(2, 3)
    torch.testing.assert_close(
        attention(x, Context(tokens, masked)), attention(x, Context(tokens[:, :2], torch.zeros(2, 2)))
    )
    doubled = torch.cat([tokens, tokens[:, :1]], dim=1)
    weight = torch.tensor([[2.0, 1.0, 1.0]]).log().expand(2, 3)
    torch.testing.assert_close(attention(x, Context(tokens, weight)), attention(x, Context(doubled, torch.zeros(2, 4))))


def test_absent_tokens_need_no_keys_and_values() -> None:
    """The output and all gradients are those with every token projected."""
    attention, x = Attention(16, num_heads=2, context_dim=6), torch.randn(2, 7, 16)
    weight = torch.tensor([[0.0, -torch.inf, 0.7], [-torch.inf, -torch.inf, 0.0]])
    tokens = torch.randn(2, 3, 6) * weight.isfinite()[..., None]  # absent ones are zeros, as mix_tokens makes them
    context = Context(tokens, weight)
    results = []
    for each in (context, context.without_absent()):
        attention.zero_grad()
        output = attention(x, each)
        output.square().sum().backward()
        results.append([output.detach(), *(p.grad for p in attention.parameters())])
    assert context.without_absent().present[0].shape == (3, 6)
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_the_feed_forward_is_the_same_with_and_without_gradient() -> None:
    layer, x = GatedFeedForward(8), torch.randn(2, 3, 8)
    value, gate = layer.proj(x).chunk(2, dim=-1)
    expected = layer.out(value * F.gelu(gate))
    assert torch.equal(layer(x), expected)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)


def test_a_block_moves_with_the_positions_of_its_map() -> None:
    """Attention knows no positions: permuting those of the map permutes the output."""
    block, x = AttentionBlock(8, context_dim=6, num_heads=2, num_groups=4).eval(), torch.randn(2, 8, 3, 4)
    context = Context(torch.randn(2, 5, 6), torch.zeros(2, 5))
    expected = block(x, context)
    assert expected.shape == x.shape
    torch.testing.assert_close(block(x.flip(2, 3), context), expected.flip(2, 3))
    torch.testing.assert_close(block(x.transpose(2, 3), context), expected.transpose(2, 3))


def test_a_zero_initialised_block_is_the_identity() -> None:
    block, x = AttentionBlock(8, context_dim=6, num_heads=2, num_groups=4, zero_init=True), torch.randn(2, 8, 3, 4)
    assert torch.equal(block(x, Context(torch.randn(2, 5, 6), torch.zeros(2, 5))), x)


def test_contexts_are_joined_and_moved() -> None:
    one, two = Context(torch.zeros(2, 3, 4), torch.zeros(2, 3)), Context(torch.ones(1, 3, 4), torch.ones(1, 3))
    joined = Context.cat([one, two])
    assert len(joined) == 3 and joined.tokens[2].eq(1).all() and joined.log_weight is not None
    assert joined.log_weight[:, 0].tolist() == [0.0, 0.0, 1.0]
    half = joined.to(torch.bfloat16)
    assert half.tokens.dtype == torch.bfloat16 and half.log_weight.dtype == torch.float32
    assert Context.cat([Context(torch.zeros(1, 1, 4)), Context(torch.zeros(1, 1, 4))]).log_weight is None


def test_a_remembering_context_projects_once_for_each_layer() -> None:
    layers = [Attention(8, num_heads=2, context_dim=6) for _ in range(2)]
    context, x = Context(torch.randn(2, 5, 6), torch.zeros(2, 5)).remembering(), torch.randn(2, 3, 8)
    first = context.for_layers("denoiser", layers, torch.float32)
    assert context.for_layers("denoiser", layers, torch.float32) is first
    assert context.for_layers("another", layers, torch.float32) is not first
    for layer, kept in zip(layers, first, strict=True):
        assert torch.equal(layer(x, kept), layer(x, context))


def test_layers_say_whether_absent_tokens_are_projected() -> None:
    layers = [Attention(8, num_heads=2, context_dim=6) for _ in range(2)]
    context = Context(torch.randn(2, 5, 6), torch.zeros(2, 5))
    assert context.for_layers("denoiser", layers, torch.float32)[0].present is None
    layers[0].skips_absent = True
    assert context.for_layers("denoiser", layers, torch.float32)[1].present is not None
    assert Context(torch.randn(2, 1, 6)).without_absent().present is None
