"""The generation config: presets, layers of values, refusals; the same class in a model, an evaluation and a reader study."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcodi.app.cli import REFUSED, main
from medcodi.config import config, from_dict, to_dict
from medcodi.diffusion.sampling import build_scheduler
from medcodi.errors import ConfigError, PromptError
from medcodi.generation.pipeline import generate
from medcodi.model import MedCoDi, ModelConfig, tiny_config
from medcodi.model.generation_config import PRESETS, GenerationConfig

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
@pytest.mark.parametrize("name", [name for name, values in PRESETS.items() if "sampler" in values])
def test_a_preset_is_a_sampler_that_can_be_built(name: str, prediction_type: str) -> None:
    sampler, num_steps = PRESETS[name]["sampler"], PRESETS[name]["num_inference_steps"]
    assert (
        len(build_scheduler(sampler, {**SCHEDULE, "prediction_type": prediction_type}, num_steps).timesteps)
        == num_steps
    )


def test_the_reference_is_the_papers() -> None:
    assert PRESETS["reference"] == {"sampler": "ddim", "num_inference_steps": 50}
    assert all(preset["num_inference_steps"] <= 20 for name, preset in PRESETS.items() if name in ("fast", "faster"))


def test_what_is_said_wins_over_the_preset_and_the_preset_over_the_model(tiny_model: MedCoDi) -> None:
    own = tiny_config().generation
    chosen = GenerationConfig(preset="fast").resolved(tiny_model)
    assert chosen == GenerationConfig(
        sampler="dpm++",
        num_inference_steps=20,
        guidance_scale=own.guidance_scale,
        environment_guidance_scale=own.environment_guidance_scale,
        order="joint",
    )
    chosen = GenerationConfig(preset="fast", num_inference_steps=3, guidance_scale=0.0).resolved(tiny_model)
    assert (chosen.sampler, chosen.num_inference_steps, chosen.guidance_scale) == ("dpm++", 3, 0.0)
    assert GenerationConfig(environment_guidance_scale=2.0).resolved(tiny_model).environment_guidance_scale == 2.0
    assert GenerationConfig(sampler="ddim", preset="faster").resolved(tiny_model).num_inference_steps == 10


def test_a_preset_generates_what_its_values_do(tiny_model: MedCoDi) -> None:
    by_name = generate(REPORT, ["frontal"], model=tiny_model, preset="faster", seed=3)
    spelled = generate(REPORT, ["frontal"], model=tiny_model, sampler="unipc", num_inference_steps=10, seed=3)
    other = generate(REPORT, ["frontal"], model=tiny_model, seed=3)
    np.testing.assert_array_equal(by_name.images["frontal"], spelled.images["frontal"])
    assert not np.array_equal(by_name.images["frontal"], other.images["frontal"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "fastr"}, "'faster'"),
        ({"sampler": "dimm"}, "did you mean 'ddim'"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"environment_guidance_scale": -1.0}, "environment_guidance_scale is -1"),
    ],
)
def test_invalid_values_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        GenerationConfig(**values)


def test_a_models_own_values_are_complete_and_stored() -> None:
    stored = {
        "sampler": "unipc",
        "num_inference_steps": 10,
        "guidance_scale": 3.0,
        "environment_guidance_scale": 1.0,
        "order": "joint",
    }
    model_config = tiny_config(generation=GenerationConfig(preset="faster", guidance_scale=3.0))
    assert to_dict(model_config)["generation"] == stored
    assert from_dict(ModelConfig, to_dict(model_config)) == model_config
    with pytest.raises(ConfigError, match="a choice of a request"):
        tiny_config(generation=GenerationConfig(joint=False))


@config
class Embedding(GenerationConfig):
    """A config that holds the fields of a generation config flat, as a study file or an evaluation file does."""

    batch_size: int = 8


def test_other_configs_hold_the_same_fields() -> None:
    flat = from_dict(Embedding, {"preset": "fast", "guidance_scale": 2.0, "batch_size": 4})
    assert GenerationConfig.from_fields(flat) == GenerationConfig(preset="fast", guidance_scale=2.0)
    partial = argparse.Namespace(sampler="ddim", joint=False, seed=3)
    assert GenerationConfig.from_fields(partial) == GenerationConfig(sampler="ddim", joint=False)
    with pytest.raises(PromptError, match="'faster'"):
        Embedding(preset="fastr")


def test_more_steps_than_the_noise_schedule_has_are_refused(tiny_model: MedCoDi) -> None:
    with pytest.raises(PromptError, match=r"num_inference_steps is 1001. Expected at most 1000"):
        GenerationConfig(num_inference_steps=1001).resolved(tiny_model)


def test_command_line(tiny_model: MedCoDi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tiny_model.save_pretrained(tmp_path / "model"))
    asked = ("generate", "--target", "report", "--model", model)
    assert run(*asked, "--preset", "faster", "--out", str(tmp_path / "out")) == 0
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["settings"]
    assert (told["sampler"], told["num_inference_steps"]) == ("unipc", 10)
    assert run(*asked, "--preset", "quick", "--out", str(tmp_path / "none")) == REFUSED
    assert "preset" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_the_old_name_of_a_key_is_read_with_a_notice_and_in_a_models_file_without() -> None:
    old = {"sampler": "ddim", "joint_guidance_scale": 3.0}
    with pytest.warns(FutureWarning, match="joint_guidance_scale is called environment_guidance_scale"):
        assert from_dict(GenerationConfig, old) == GenerationConfig(sampler="ddim", environment_guidance_scale=3.0)
    with pytest.warns(FutureWarning):
        assert GenerationConfig(**old).environment_guidance_scale == 3.0
    values = to_dict(tiny_config())
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert from_dict(ModelConfig, values | {"generation": old}).generation.environment_guidance_scale == 3.0
