"""A run on a cache holds the components that its steps use."""

from __future__ import annotations

import torch

from medcodi.model import MedCoDi


def test_hidden_components_are_out_of_the_tree_and_still_there(model: MedCoDi) -> None:
    assert model.files is not None
    lazy = MedCoDi.from_pretrained(model.files.folder, lazy=True)
    lazy.load_components([name for name in lazy.components() if name.startswith("denoiser")])
    lazy.hide_components(lazy.pending)
    assert {name.split(".")[0] for name in lazy.state_dict()} == {"denoisers"}
    lazy.to(torch.float64).to(torch.float32)  # meta tensors in the tree could not be moved
    assert lazy.latent_shape("frontal") == model.latent_shape("frontal")
    with torch.no_grad():
        torch.testing.assert_close(lazy.null_prompts("report", 2).pooled, model.null_prompts("report", 2).pooled)
    lazy.unload_components(["prompt_encoders"])
    assert "prompt_encoders" in lazy.pending and lazy.fingerprint() == model.fingerprint()
