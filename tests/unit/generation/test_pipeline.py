"""Any-to-any generation with the real classes at tiny size: every direction, the laws, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import medcodi
from medcodi.errors import DataError, PromptError
from medcodi.generation.pipeline import generate, generate_batch, load
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction, all_directions

REPORT = "FINDINGS: Large left pleural effusion. IMPRESSION: Large left effusion."


def picture(seed=0, size=40):
    return np.random.default_rng(seed).random((size, size), dtype=np.float32)


PROMPTS = {"frontal": picture(0), "lateral": picture(1), "report": REPORT}


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    return tiny_model(seed=0).eval()


@pytest.mark.parametrize("direction", [*all_directions(), Direction((), ("frontal", "lateral", "report"))], ids=str)
def test_every_direction(model, direction):
    out = generate({name: PROMPTS[name] for name in direction.prompts}, direction.targets, model=model)
    assert out.direction == direction and set(out.samples[0].contents) == set(direction.targets)
    for name in direction.targets:
        value = out.samples[0].contents[name]
        if MODALITIES[name].kind == "image":
            assert value.shape == (32, 32) and value.dtype == np.float32 and 0 <= value.min() <= value.max() <= 1
            assert isinstance(getattr(out, name), Image.Image) and out.images[name] is value
        else:
            assert isinstance(out.report, str)


def test_a_str_prompt_is_a_report_and_the_targets_are_the_rest(model):
    assert generate(REPORT, model=model).direction == Direction(("report",), ("frontal", "lateral"))
    assert medcodi.generate is generate


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++"])
def test_a_sample_depends_on_its_own_seed_only(model, sampler):
    many = generate({"report": REPORT}, model=model, num_samples=3, seed=5, sampler=sampler)
    one = generate({"report": REPORT}, model=model, seed=6, sampler=sampler)
    for name in ("frontal", "lateral"):
        np.testing.assert_allclose(many.samples[1].contents[name], one.samples[0].contents[name], atol=2e-5)
        assert np.abs(many.samples[0].contents[name] - one.samples[0].contents[name]).max() > 1e-3


def test_a_batch_of_different_prompts_gives_what_each_gives_alone(model):
    requests = [{"report": REPORT}, {"frontal": picture(0, 32)}, {}, {"report": "Clear.", "frontal": picture(3, 32)}]
    together = generate_batch(model, requests, ("lateral",), [1, 2, 3, 4])
    for index, request in enumerate(requests):
        if request:
            alone = generate_batch(model, [request], ("lateral",), [index + 1])
            np.testing.assert_allclose(together[index]["lateral"], alone[0]["lateral"], atol=5e-5)


def test_prompt_order_and_zero_weight(model):
    a = generate({"report": REPORT, "frontal": PROMPTS["frontal"]}, ["lateral"], model=model)
    b = generate({"frontal": PROMPTS["frontal"], "report": REPORT}, ["lateral"], model=model)
    np.testing.assert_array_equal(a.images["lateral"], b.images["lateral"])
    off = generate({"report": REPORT, "frontal": PROMPTS["frontal"]}, ["lateral"], model=model, weights={"frontal": 0})
    alone = generate({"report": REPORT}, ["lateral"], model=model)
    np.testing.assert_array_equal(off.images["lateral"], alone.images["lateral"])


def test_guidance_zero_ignores_the_prompts(model):
    a = generate({"report": REPORT}, ["lateral"], model=model, guidance_scale=0.0)
    b = generate({"report": "Clear lungs, normal heart."}, ["lateral"], model=model, guidance_scale=0.0)
    np.testing.assert_allclose(a.images["lateral"], b.images["lateral"], atol=1e-5)


def test_targets_of_a_joint_run_can_be_kept_from_hearing_each_other():
    model = tiny_model(seed=0).eval()
    for parameter in model.denoisers.parameters():
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    args = (model, [{"report": REPORT}], ("frontal", "lateral"), [0])
    heard = generate_batch(*args, GenerationConfig())[0]["frontal"]
    apart = generate_batch(*args, GenerationConfig(joint=False))[0]["frontal"]
    single = generate_batch(model, [{"report": REPORT}], ("frontal",), [0])[0]["frontal"]
    assert np.abs(heard - apart).max() > 1e-4
    np.testing.assert_allclose(apart, single, atol=2e-5)


def test_requests_without_a_prompt_are_guided_by_each_other_and_others_are_not():
    model = tiny_model(seed=0).eval()
    for parameter in model.denoisers.parameters():
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    args = (model, [{}, {"report": REPORT}], ("frontal", "lateral"), [0, 1])
    plain, guided = (generate_batch(*args, GenerationConfig(environment_guidance_scale=scale)) for scale in (1.0, 4.0))
    alone = generate_batch(model, [{}], ("frontal", "lateral"), [0], GenerationConfig(environment_guidance_scale=4.0))
    assert np.abs(plain[0]["frontal"] - guided[0]["frontal"]).max() > 1e-3
    np.testing.assert_array_equal(plain[1]["frontal"], guided[1]["frontal"])
    np.testing.assert_allclose(alone[0]["lateral"], guided[0]["lateral"], atol=1e-4)
    off, off_plain = (
        generate_batch(*args, GenerationConfig(joint=False, environment_guidance_scale=scale)) for scale in (4.0, 1.0)
    )
    np.testing.assert_array_equal(
        off[0]["frontal"], off_plain[0]["frontal"]
    )  # nothing is heard, so nothing is followed
    with pytest.raises(PromptError, match="environment_guidance_scale is -1"):
        GenerationConfig(environment_guidance_scale=-1.0)


def test_a_folder_is_read_in_the_precision_of_the_request(model, tmp_path):
    """Cast weights beside the original ones would be 10.8 GiB of the full-size model in place of 4.5."""
    folder, half = model.save_pretrained(tmp_path / "tiny"), ExecutionConfig(precision="bfloat16")
    request = {"prompts": {"report": REPORT}, "targets": ["frontal"], "num_inference_steps": 2, "execution": half}
    cast, read = generate(**request, model=model), generate(**request, model=folder)
    assert np.array_equal(cast.images["frontal"], read.images["frontal"])
    dtypes = {
        dtype: next(load(folder, "cpu", dtype).denoisers["frontal"].parameters()).dtype
        for dtype in (half.weights_dtype, torch.float32)
    }
    assert dtypes == {torch.bfloat16: torch.bfloat16, torch.float32: torch.float32}
    assert ExecutionConfig(precision="bfloat16", cast="autocast").weights_dtype == torch.float32


def test_saved_files_and_provenance(model, tmp_path):
    out = generate({"report": REPORT}, model=model, num_samples=2, seed=3)
    folder = out.save(tmp_path / "out")
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == [
        "0/frontal.png", "0/lateral.png", "1/frontal.png", "1/lateral.png", "provenance.json",
    ]  # fmt: skip
    told = json.loads((folder / "provenance.json").read_text())
    assert told["model"]["sha256"] == model.identity() and told["seeds"] == [3, 4]
    assert told["settings"]["sampler"] == "ddim" and REPORT not in json.dumps(told)
    with pytest.raises(DataError, match="not empty"):
        out.save(folder)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompts": {"reprot": REPORT}}, "did you mean 'report'"),
        ({"prompts": {"report": REPORT}, "targets": ["latral"]}, "did you mean 'lateral'"),
        ({"prompts": {"report": REPORT}, "targets": ["report"]}, "both prompt and target"),
        ({"prompts": dict(PROMPTS)}, "no targets"),
        ({"prompts": {"report": REPORT}, "targets": []}, "no targets"),
        ({"prompts": {"report": REPORT}, "weights": {"report": -1.0}}, "-1.0"),
        ({"prompts": {"report": REPORT}, "weights": {"frontal": 1.0}}, "not a prompt"),
        ({"prompts": {"report": REPORT}, "weights": {"report": 0.0}}, "weight 0"),
        ({"prompts": {"report": REPORT}, "num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"prompts": {"report": REPORT}, "sampler": "dimm"}, "did you mean 'ddim'"),
        ({"prompts": {"report": REPORT}, "guidance_scale": -2.0}, "guidance_scale is -2.0"),
        ({"prompts": {"report": REPORT}, "num_samples": 0}, "num_samples is 0"),
        ({"prompts": {"report": REPORT}, "seed": -1}, "seed is -1"),
        ({"prompts": {"report": 5}}, "report prompt is a int"),
    ],
)
def test_impossible_requests_are_refused_before_a_model_is_needed(call, message):
    with pytest.raises(PromptError, match=message):
        generate(**call, model="nowhere")


@pytest.mark.parametrize(
    "value", ["", "   ", "word " * 5000, picture(0, 9), np.zeros((40, 40), np.float32), "missing.png"]
)
def test_prompts_that_cannot_be_read(value, tmp_path):
    name = "frontal" if isinstance(value, np.ndarray) or value.endswith(".png") else "report"
    with pytest.raises(DataError):
        generate({name: value}, model="nowhere")
