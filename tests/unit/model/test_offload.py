"""Components that rest elsewhere: the same results, little memory, nothing left behind."""

import shutil

import numpy as np
import pytest
import torch

from medcodi.errors import ConfigError
from medcodi.generation.pipeline import generate_batch
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.model.offload import num_bytes
from medcodi.networks.environment import EnvironmentConfig

SETTINGS = GenerationConfig(num_inference_steps=2, guidance_scale=2.0)
NAMES = ("frontal", "report")


def results(model):
    (result,) = generate_batch(model, [{"lateral": np.full((32, 32), 0.5, np.float32)}], NAMES, [3], SETTINGS)
    return result


def resident(model) -> list[str]:
    """Components whose weights take memory."""
    return [
        name
        for name, part in model.components().items()
        if sum(value.untyped_storage().nbytes() for value in part.parameters()) >= num_bytes(part)
    ]


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=0).eval()


@pytest.fixture(scope="module")
def hearing():
    """A model whose denoisers hear each other's features, through connectors that are not zero."""
    built = tiny_model(seed=0, environment=EnvironmentConfig(kind="features"))
    generator = torch.Generator().manual_seed(1)
    for parameter in built.environment.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return built.eval()


@pytest.mark.parametrize(
    ("environment", "offload", "precision"),
    [
        ("model", "cpu", None),
        ("model", "cpu", "bfloat16"),
        ("model", "disk", None),
        ("model", "disk", "bfloat16"),
        ("hearing", "cpu", None),
        ("hearing", "disk", "bfloat16"),
    ],
)
def test_offloading_changes_no_bit(environment, tmp_path, offload, precision, request):
    model = request.getfixturevalue(environment)
    with ExecutionConfig(precision=precision, channels_last=True).running(model):
        plain = results(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    execution = ExecutionConfig(
        precision=precision,
        channels_last=True,
        offload=offload,
        offload_folder=str(tmp_path / "rest") if offload == "disk" else None,
    )
    with execution.running(model):
        run = results(model)
    assert np.array_equal(run["frontal"], plain["frontal"])
    assert run["report"] == plain["report"]
    after = model.state_dict()
    assert all(torch.equal(after[key], value) and after[key].dtype == value.dtype for key, value in before.items())
    assert not list(tmp_path.glob("rest/*")), "files left behind"
    assert not any("forward" in vars(part) or "encode" in vars(part) for part in model.components().values())


def test_on_disk_one_component_is_in_memory_at_a_time_unless_there_is_room(model, tmp_path):
    seen = {}
    for room in (None, 1.0):
        with ExecutionConfig(offload="disk", offload_folder=str(tmp_path), max_memory_gib=room).running(model):
            assert resident(model) == []
            model.null_prompts("report", 1)
            assert resident(model) == ["prompt_encoders"]
            context = model.null_context(["report"], 1)
            latents = {name: torch.randn(1, *model.latent_shape(name)) for name in NAMES}
            model.denoise(latents, torch.tensor([5]), context)
            seen[room] = resident(model)
    assert seen[None] == ["denoiser_report"]
    assert set(seen[1.0]) == {
        "prompt_encoders",
        *(f"{part}_{name}" for part in ("denoiser", "environment") for name in NAMES),
    }
    assert resident(model) == list(model.components())


def test_a_lazily_loaded_model_is_on_disk_only_again_afterwards(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "model")
    lazy = MedCoDi.from_pretrained(folder, lazy=True)
    names = lazy.components_for(["lateral"], NAMES)
    with ExecutionConfig(offload="disk", offload_folder=str(tmp_path / "rest")).running(lazy, names):
        run = results(lazy)
        assert set(model.components()) - set(names) == lazy.pending
    assert lazy.pending == set(model.components())
    assert np.array_equal(run["frontal"], results(model)["frontal"])
    assert np.array_equal(run["frontal"], results(lazy)["frontal"]), "loaded again when needed"


def test_weights_first_needed_within_inference_can_be_laid_out_afterwards(model, tmp_path):
    lazy = MedCoDi.from_pretrained(model.save_pretrained(tmp_path / "model"), lazy=True)
    plain = results(lazy)  # reads the components it needs, in inference mode
    with ExecutionConfig(channels_last=True).running(lazy):
        run = results(lazy)
    assert np.abs(run["frontal"] - plain["frontal"]).max() <= 1e-5
    assert not any(value.is_inference() for value in lazy.parameters())


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(model, tmp_path):
    lazy = MedCoDi.from_pretrained(model.save_pretrained(tmp_path / "model"), lazy=True)
    (tmp_path / "file").write_text("in the way")
    execution = ExecutionConfig(offload="disk", offload_folder=str(tmp_path / "file" / "rest"))
    with pytest.raises(ConfigError, match="cannot be written.*offload_folder"):
        execution.check()
    with pytest.raises(ConfigError, match="cannot be written"), execution.running(lazy):
        pass
    assert lazy.pending == set(lazy.components())


def test_a_full_disk_is_named_and_nothing_is_left(model, tmp_path, monkeypatch):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    usage = shutil.disk_usage(tmp_path)
    first = num_bytes(model.prompt_encoders)
    free = iter([first + 1, 10])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
    rest = tmp_path / "rest"
    with (
        pytest.raises(ConfigError, match="cannot be offloaded.*larger disk"),
        ExecutionConfig(offload="disk", offload_folder=str(rest)).running(model),
    ):
        pass
    assert not list(rest.iterdir())
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
