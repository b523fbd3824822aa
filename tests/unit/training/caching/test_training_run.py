"""A run holds the components that its steps run."""

from __future__ import annotations

import pytest
import torch

from medcodi.errors import CheckpointError
from medcodi.model import MedCoDi
from medcodi.stages import build_stage
from medcodi.training.caching.training_run import hold_only
from medcodi.training.run_folder import load_tensors


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


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("align", {"prompt_encoders"}),
        ("autoencode", {"autoencoder_image", "autoencoder_text"}),
        ("diffuse", None),  # encodes its studies here
    ],
)
def test_a_stage_loads_what_its_steps_run(model: MedCoDi, name: str, runs: set[str] | None) -> None:
    assert model.files is not None
    lazy = MedCoDi.from_pretrained(model.files.folder, lazy=True)
    stage = build_stage(name, lazy)
    hold_only(stage, cached=False)
    every = set(lazy.components())
    assert lazy.pending == every - (every if runs is None else runs)
    assert all(not value.is_meta for value in stage.state_dict().values())


def test_buffers_of_components_on_disk_in_older_checkpoints_are_passed_over(model: MedCoDi) -> None:
    """Runs of `align` saved the buffers of all components, as long as they held all."""
    assert model.files is not None
    stage = build_stage("align", MedCoDi.from_pretrained(model.files.folder, lazy=True))
    hold_only(stage, cached=False)
    held = {name for name, _ in stage.named_buffers()}
    saved = {f"model.{name}": value.clone() for name, value in model.named_buffers()}
    assert set(saved) - held  # of autoencoders and denoisers
    load_tensors(stage, saved)
    with pytest.raises(CheckpointError, match=r"model\.denoiserz\.frontal\.scale is"):
        load_tensors(stage, {"model.denoiserz.frontal.scale": torch.ones(1)})
