"""Guidance against its equation."""

import torch

from medcodi.diffusion.guidance import guided, guided_by_each_other


def test_guidance_is_linear_and_both_halves_share_the_latent():
    def doubled(latents, t):
        assert torch.equal(*latents["a"].chunk(2)) and torch.equal(*t.chunk(2))
        return {"a": torch.cat([torch.full((2, 1), 1.0), torch.full((2, 1), 3.0)])}

    for scale, expected in ((0.0, 1.0), (1.0, 3.0), (2.5, 6.0)):
        out = guided(doubled, scale)({"a": torch.randn(2, 1)}, torch.tensor([5, 5]))
        torch.testing.assert_close(out["a"], torch.full((2, 1), expected))


def test_without_a_prompt_targets_are_guided_by_each_other():
    def together(latents, t):
        return {name: z + 1.0 for name, z in latents.items()}

    def apart(latents, t):
        return dict(latents)

    latents, t = {"a": torch.randn(2, 3, 4, 4), "b": torch.randn(2, 5)}, torch.tensor([5, 5])
    out = guided_by_each_other(together, apart, 4.0, torch.tensor([True, False]))(latents, t)
    for name, z in latents.items():
        torch.testing.assert_close(out[name], torch.stack([z[0] + 4.0, z[1] + 1.0]))
