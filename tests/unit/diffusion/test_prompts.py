"""Prompts: drawn subsets, and mixing into one context."""

import torch

from medcodi.diffusion.prompts import draw_prompts, mix_pooled, mix_tokens


def test_drawn_subsets_are_uniform_and_available():
    num = 6000
    u = (torch.arange(num) + 0.5) / num
    both = draw_prompts(torch.ones(num, 2, dtype=torch.bool), u)
    codes = (both * torch.tensor([1, 2])).sum(1)
    assert torch.bincount(codes, minlength=4).tolist() == [0, 2000, 2000, 2000]
    one = draw_prompts(torch.tensor([[False, True]]).expand(num, 2), u)
    assert one.tolist() == [[False, True]] * num
    assert not draw_prompts(torch.zeros(5, 2, dtype=torch.bool), u[:5]).any()
    single = draw_prompts(torch.ones(num, 2, dtype=torch.bool), u, most=1)
    assert single.sum(1).eq(1).all() and abs(single[:, 0].float().mean() - 0.5) < 0.05


def test_pooled_mix_is_the_weighted_mean_and_ignores_the_absent():
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    weights = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    b[1] = torch.nan
    mixed = mix_pooled([a, b], weights)
    torch.testing.assert_close(mixed[0, 0], 0.25 * a[0] + 0.75 * b[0])
    torch.testing.assert_close(mixed[1, 0], a[1])


def test_token_mix_offsets_are_logarithms_of_weights():
    tokens = [torch.ones(1, 2, 3), torch.full((1, 1, 3), 2.0)]
    masks = [torch.tensor([[True, False]]), torch.tensor([[True]])]
    out, offset = mix_tokens(tokens, masks, torch.tensor([[1.0, 3.0]]))
    assert out.shape == (1, 3, 3)
    torch.testing.assert_close(offset, torch.tensor([[0.25, 0.0, 0.75]]).log())
    out, offset = mix_tokens(tokens, masks, torch.tensor([[1.0, 0.0]]))
    assert offset[0].tolist() == [0.0, -torch.inf, -torch.inf] and out[0, 2].abs().sum() == 0
