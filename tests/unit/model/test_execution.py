"""Execution settings change how a model runs, not what it computes, and leave nothing behind."""

import functools

import numpy as np
import pytest
import torch

from medcodi.errors import ConfigError, MedCoDiError
from medcodi.generation.pipeline import generate_batch
from medcodi.model import execution, tiny_model
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.networks.attention import Attention, Context

PROMPTS = [{"report": "Large left pleural effusion."}, {"report": "No acute findings."}]


@pytest.fixture(scope="module")
def model():
    """Random weights everywhere: what starts at zero would hide a difference."""
    model = tiny_model(seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.denoisers.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def images(model, execution: ExecutionConfig) -> np.ndarray:
    with execution.running(model):
        return frontal_and_lateral(model)


def frontal_and_lateral(model) -> np.ndarray:
    results = generate_batch(
        model, PROMPTS, ["frontal", "lateral"], [0, 1], GenerationConfig(num_inference_steps=2, guidance_scale=2.0)
    )
    return np.stack([[result[target] for target in ("frontal", "lateral")] for result in results])


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"channels_last": True}, 1e-5),
        ({"precision": "bfloat16"}, 3e-2),
        ({"precision": "bfloat16", "channels_last": True}, 3e-2),
        ({"precision": "bfloat16", "cast": "autocast"}, 3e-2),
        ({"precision": "float16"}, 5e-3),
        ({"device_map": {"denoiser_frontal": "cpu"}}, 0.0),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_results_agree_and_the_model_is_left_as_it_was(model, settings, tolerance):
    plain = frontal_and_lateral(model)
    before = {key: (value.clone(), value.dtype, value.stride()) for key, value in model.state_dict().items()}
    run = images(model, ExecutionConfig(**settings))
    assert run.dtype == np.float32
    assert np.abs(run - plain).max() <= tolerance
    if settings.get("precision"):
        assert np.abs(run - plain).max() > 0  # it was rounded: the setting reached the networks
    for key, value in model.state_dict().items():
        was, dtype, stride = before[key]
        assert value.dtype == dtype
        assert value.stride() == stride, key
        assert torch.equal(value, was), key
    assert np.array_equal(frontal_and_lateral(model), plain)


def test_a_model_can_be_trained_after_it_ran_within_inference():
    model = tiny_model(seed=0)
    with torch.inference_mode(), ExecutionConfig(precision="bfloat16", channels_last=True).running(model):
        frontal_and_lateral(model)
    out = model.denoise(
        {"frontal": torch.randn(1, *model.latent_shape("frontal"))},
        torch.tensor([10]),
        model.null_context(["report"], 1),
    )
    out["frontal"].square().mean().backward()
    assert model.denoisers["frontal"].stem.weight.grad is not None


def test_equal_settings_nest_and_others_are_refused(model):
    outer = ExecutionConfig(precision="bfloat16")
    weight = model.denoisers["frontal"].stem.weight
    with outer.running(model):
        with ExecutionConfig(precision="bfloat16").running(model):
            assert weight.dtype == torch.bfloat16
        assert weight.dtype == torch.bfloat16, "the inner context must not undo the outer one"
        with pytest.raises(ConfigError, match="already"), ExecutionConfig(precision="float16").running(model):
            pass
    assert weight.dtype == torch.float32


def test_a_failure_within_leaves_the_model_as_it_was(model):
    weight = model.denoisers["frontal"].stem.weight
    with pytest.raises(RuntimeError, match="stop"), ExecutionConfig(precision="bfloat16").running(model):
        raise RuntimeError("stop")
    assert weight.dtype == torch.float32
    with ExecutionConfig(precision="float16").running(model, ["denoiser_frontal"]):
        assert weight.dtype == torch.float16
        assert model.denoisers["lateral"].stem.weight.dtype == torch.float32, "only the components named"


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers may well work here")
def test_xformers_without_its_kernels_names_the_reason_and_the_extra(model):
    before = frontal_and_lateral(model)
    with pytest.raises(MedCoDiError, match=r"xformers.*medcodi\[xformers\]"):
        images(model, ExecutionConfig(attention="xformers"))
    assert all(part.backend == "sdpa" for part in model.modules() if isinstance(part, Attention))
    assert np.array_equal(frontal_and_lateral(model), before)


def test_a_gpu_without_a_c_compiler_is_named_before_anything_is_compiled(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ConfigError, match="GPU without a C compiler.*gcc or clang"):
        execution._require_compiler(torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_xformers_agrees_with_sdpa():
    pytest.importorskip("xformers")
    attention = Attention(64, num_heads=2, context_dim=24).cuda().half().eval()
    x, tokens = torch.randn(2, 9, 64).cuda().half(), torch.randn(2, 5, 24).cuda().half()
    weight = torch.tensor([[0.0, 0.7, -torch.inf, 0.0, 0.0]]).expand(2, 5).cuda()
    context = Context(tokens, weight)
    plain = attention(x, context), attention(x)
    attention.backend = "xformers"
    for ours, theirs in zip((attention(x, context), attention(x)), plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "flash"}, "unknown attention 'flash'.*sdpa"),
        ({"precision": "bf16"}, "precision"),
        ({"offload": "disk"}, "without offload_folder"),
        ({"offload_folder": "there"}, "offload: none"),
        ({"offload": "cpu", "max_memory_gib": 0}, "max_memory_gib is 0"),
        ({"max_memory_gib": 8}, "without offload"),
        ({"compile": True, "offload": "cpu"}, "compile together with offload"),
        ({"device": "gpu"}, "device 'gpu'.*cuda"),
        ({"chanels_last": True}, "did you mean 'channels_last'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ExecutionConfig(**settings)


def test_a_device_or_component_that_is_not_there_is_refused(model):
    with pytest.raises(ConfigError, match=r"unknown component 'denoiser_front'.*denoiser_frontal"):
        images(model, ExecutionConfig(device_map={"denoiser_front": "cpu"}))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            ExecutionConfig(device="cuda").check()


def test_a_remembering_context_projects_its_tokens_once_and_changes_nothing(model):
    denoiser = model.denoisers["frontal"]
    z, t = torch.randn(2, *model.latent_shape("frontal")), torch.tensor([7, 7])
    for length in (1, 5):
        tokens = torch.randn(2, length, model.config.prompt_encoders.embed_dim)
        context = Context(tokens, torch.zeros(2, length) if length > 1 else None)
        with torch.no_grad():
            plain, num_plain = counted(denoiser, lambda context=context: denoiser(z, t, context))
            remembered = context.remembering()
            first, num_first = counted(denoiser, lambda context=remembered: denoiser(z, t, context))
            again, num_again = counted(denoiser, lambda context=remembered.to(torch.float32): denoiser(z, t, context))
        assert num_plain == num_first == len(denoiser.context_blocks()) > 0
        assert num_again == 0
        assert torch.equal(first, plain)
        assert torch.equal(again, plain)


def counted(denoiser, call):
    """What a call gives, and how often a cross-attention layer projected tokens to values meanwhile."""
    calls = []
    layers = [part.cross_attention.to_v for part in denoiser.context_blocks()]
    handles = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in layers]
    result = call()
    for handle in handles:
        handle.remove()
    return result, len(calls)


def test_a_compiled_denoiser_agrees(model, monkeypatch):
    # Traced as ever, but run by PyTorch: the C++ compiler would take minutes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager", fullgraph=True))
    z, t = torch.randn(2, *model.latent_shape("report")), torch.tensor([7, 7])
    with torch.no_grad(), ExecutionConfig(compile=True).running(model, ["denoiser_report"]):
        assert "predict" in vars(model.denoisers["report"])
        context = model.null_context(["report"], 2).remembering()
        run = model.denoise({"report": z}, t, context)["report"]
    assert "predict" not in vars(model.denoisers["report"])
    with torch.no_grad():
        torch.testing.assert_close(run, model.denoise({"report": z}, t, context)["report"], atol=1e-5, rtol=1e-4)
