"""Presets: a sampler and its steps under one name, in settings, in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medcodi.app.cli import REFUSED, main
from medcodi.diffusion.sampling import build_scheduler
from medcodi.errors import PromptError
from medcodi.generation.config import GenerationConfig
from medcodi.generation.pipeline import generate
from medcodi.generation.presets import PRESETS
from medcodi.model import MedCoDi, tiny_config

REPORT = "FINDINGS: Small left pleural effusion. IMPRESSION: Effusion."
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code or 0  # type: ignore[return-value]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_sampler_that_can_be_built(name: str, prediction_type: str) -> None:
    preset = PRESETS[name]
    schedule = {**SCHEDULE, "prediction_type": prediction_type}
    assert (
        len(build_scheduler(preset.sampler, schedule, preset.num_inference_steps).timesteps)
        == preset.num_inference_steps
    )


def test_the_reference_is_the_papers() -> None:
    assert (PRESETS["reference"].sampler, PRESETS["reference"].num_inference_steps) == ("ddim", 50)
    assert all(preset.num_inference_steps <= 20 for name, preset in PRESETS.items() if name != "reference")


def test_what_is_said_wins_over_the_preset_and_the_preset_over_the_model(tiny_model: MedCoDi) -> None:
    own = tiny_config().generation
    chosen = GenerationConfig(preset="fast").resolved(tiny_model)
    assert chosen == GenerationConfig(
        sampler="dpm++",
        num_inference_steps=20,
        guidance_scale=own.guidance_scale,
        joint_guidance_scale=own.joint_guidance_scale,
    )
    chosen = GenerationConfig(preset="fast", num_inference_steps=3, guidance_scale=0.0).resolved(tiny_model)
    assert (chosen.sampler, chosen.num_inference_steps, chosen.guidance_scale) == ("dpm++", 3, 0.0)
    assert GenerationConfig(joint_guidance_scale=2.0).resolved(tiny_model).joint_guidance_scale == 2.0
    assert GenerationConfig(sampler="ddim", preset="faster").resolved(tiny_model).num_inference_steps == 10


def test_a_preset_generates_what_its_values_do(tiny_model: MedCoDi) -> None:
    by_name = generate(REPORT, ["frontal"], model=tiny_model, preset="faster", seed=3)
    spelled = generate(REPORT, ["frontal"], model=tiny_model, sampler="unipc", num_inference_steps=10, seed=3)
    other = generate(REPORT, ["frontal"], model=tiny_model, seed=3)
    np.testing.assert_array_equal(by_name.images["frontal"], spelled.images["frontal"])
    assert not np.array_equal(by_name.images["frontal"], other.images["frontal"])


def test_an_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(PromptError, match="'faster'"):
        GenerationConfig(preset="fastr")


def test_command_line(tiny_model: MedCoDi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tiny_model.save_pretrained(tmp_path / "model"))
    asked = ("generate", "--target", "report", "--model", model)
    assert run(*asked, "--preset", "faster", "--out", str(tmp_path / "out")) == 0
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["settings"]
    assert (told["sampler"], told["num_inference_steps"]) == ("unipc", 10)
    assert run(*asked, "--preset", "quick", "--out", str(tmp_path / "none")) == REFUSED
    assert "preset" in capsys.readouterr().err and not (tmp_path / "none").exists()
