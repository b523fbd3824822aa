"""The generation config: presets, layers of values, refusals; the same class in a model, an evaluation and a reader study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medcodi.turing.study import SamplingConfig

from medcodi.app.cli import REFUSED, main
from medcodi.config import from_dict, to_dict
from medcodi.data.loading import DataConfig
from medcodi.diffusion.sampling import build_scheduler
from medcodi.errors import ConfigError, PromptError
from medcodi.evaluation.options import EvaluateConfig
from medcodi.generation.pipeline import generate
from medcodi.model import MedCoDi, tiny_config
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
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_sampler_that_can_be_built(name: str, prediction_type: str) -> None:
    sampler, num_steps = PRESETS[name]["sampler"], PRESETS[name]["num_inference_steps"]
    assert (
        len(build_scheduler(sampler, {**SCHEDULE, "prediction_type": prediction_type}, num_steps).timesteps)
        == num_steps
    )


def test_the_reference_is_the_papers() -> None:
    assert PRESETS["reference"] == {"sampler": "ddim", "num_inference_steps": 50}
    assert all(preset["num_inference_steps"] <= 20 for name, preset in PRESETS.items() if name != "reference")


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "fastr"}, "'faster'"),
        ({"sampler": "dimm"}, "did you mean 'ddim'"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"joint_guidance_scale": -1.0}, "joint_guidance_scale is -1"),
    ],
)
def test_invalid_values_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        GenerationConfig(**values)


def test_a_models_own_values_are_complete_and_stored_as_before() -> None:
    stored = {"sampler": "unipc", "num_inference_steps": 10, "guidance_scale": 3.0, "joint_guidance_scale": 1.0}
    config = tiny_config(generation=GenerationConfig(preset="faster", guidance_scale=3.0))
    assert to_dict(config)["generation"] == stored  # the keys of every model_index.json so far
    assert from_dict(type(config), to_dict(config)) == config
    with pytest.raises(ConfigError, match="a choice of a request"):
        tiny_config(generation=GenerationConfig(joint=False))


def test_other_configs_hold_the_same_fields() -> None:
    sampling = SamplingConfig(preset="fast", guidance_scale=2.0, batch_size=4)  # of a reader study
    assert GenerationConfig.from_fields(sampling) == GenerationConfig(preset="fast", guidance_scale=2.0)
    evaluation = EvaluateConfig(data=DataConfig(source="phantom", num_studies=8), sampler="ddim", joint=False)
    assert evaluation.generation == GenerationConfig(sampler="ddim", joint=False)


def test_command_line(tiny_model: MedCoDi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tiny_model.save_pretrained(tmp_path / "model"))
    asked = ("generate", "--target", "report", "--model", model)
    assert run(*asked, "--preset", "faster", "--out", str(tmp_path / "out")) == 0
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["settings"]
    assert (told["sampler"], told["num_inference_steps"]) == ("unipc", 10)
    assert run(*asked, "--preset", "quick", "--out", str(tmp_path / "none")) == REFUSED
    assert "preset" in capsys.readouterr().err and not (tmp_path / "none").exists()
