"""The assembled model: saving and loading, refusals, prompts, and what joint denoisers hear."""

import json
import pickle
from dataclasses import replace

import pytest
import torch

from medcodi.config import load
from medcodi.errors import CheckpointError
from medcodi.model import MedCoDi, ModelConfig, tiny_config, tiny_model
from medcodi.study import all_directions

TEXTS = ["FINDINGS: Large left pleural effusion. IMPRESSION: Large left effusion."]


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    """A tiny model whose zero-initialised layers are not zero, or nothing would be heard through them."""
    built = tiny_model(seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in built.denoisers.parameters():
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return built.eval()


@pytest.fixture()
def folder(model, tmp_path):
    return model.save_pretrained(tmp_path / "model")


def noisy(model, batch=2):
    return {name: torch.randn(batch, *model.latent_shape(name)) for name in model.config.modalities}


def context(model, batch=2):
    return model.context({"report": model.encode_prompts("report", TEXTS * batch)}, {"report": torch.ones(batch)})


def test_the_tiny_recipe_is_the_tiny_config():
    assert load(ModelConfig, "configs/models/tiny.yaml") == tiny_config()


def test_the_demo_recipe_stays_under_thirty_million_parameters():
    from medcodi.model import build_model

    built = build_model(load(ModelConfig, "configs/models/demo.yaml"), TEXTS)
    assert sum(parameter.numel() for parameter in built.parameters()) <= 30e6


def test_save_load_save_gives_the_same_bytes(model, folder, tmp_path):
    loaded = MedCoDi.from_pretrained(folder)
    assert loaded.fingerprint() == model.fingerprint() and loaded.config == model.config
    again = loaded.save_pretrained(tmp_path / "again")
    files = sorted(file.name for file in folder.iterdir())
    assert files == sorted(file.name for file in again.iterdir())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_half_precision_file_loads_as_float32_and_is_stable(model, tmp_path):
    half = MedCoDi.from_pretrained(model.save_pretrained(tmp_path / "half", dtype=torch.float16))
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())
    twice = MedCoDi.from_pretrained(half.save_pretrained(tmp_path / "twice", dtype=torch.float16))
    assert half.fingerprint() == twice.fingerprint()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "shape", "nan", "no index", "bad index"])
def test_damaged_checkpoints_are_refused(folder, damage):
    from safetensors.torch import load_file, save_file

    from medcodi.storage.atomic import sha256_file

    file, index_file = folder / "denoiser_frontal.safetensors", folder / "model_index.json"
    index = json.loads(index_file.read_text())
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 255
        file.write_bytes(bytes(data))
    elif damage == "remove":
        file.unlink()
    elif damage == "no index":
        index_file.unlink()
    elif damage == "bad index":
        index_file.write_text("{")
    else:
        state = load_file(file)
        name = next(name for name, value in state.items() if value.dim() == 2)
        state[name] = state[name][:, :-1].clone() if damage == "shape" else torch.full_like(state[name], torch.nan)
        save_file(state, file)
        index["components"]["denoiser_frontal"]["sha256"] = sha256_file(file)
        index_file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"Expected|Fix"):
        MedCoDi.from_pretrained(folder)


def test_a_checkpoint_of_another_size_is_refused(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index["config"]["image_denoiser"]["base_channels"] = 32
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="denoiser_frontal"):
        MedCoDi.from_pretrained(folder)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    file = tmp_path / "model.pt"
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="pickle"):
        MedCoDi.from_pretrained(file)
    assert not (tmp_path / "exploded").exists()


def test_missing_model_names_the_demo(tmp_path):
    with pytest.raises(CheckpointError, match="checkpoints/demo"):
        MedCoDi.from_pretrained(tmp_path / "nowhere")


def test_saving_over_something_else_is_refused(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CheckpointError, match="holds no model"):
        model.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_saving_anew_keeps_what_is_not_the_models(model, folder):
    (folder / "README.md").write_text("card")
    (folder / "finding_classifier.safetensors").write_bytes(b"weights of another")
    model.save_pretrained(folder)
    assert (folder / "README.md").exists() and (folder / "finding_classifier.safetensors").exists()
    assert MedCoDi.from_pretrained(folder).fingerprint() == model.fingerprint()


# ---- law 5 -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("targets", [("frontal", "lateral"), ("frontal", "report"), ("frontal", "lateral", "report")])
def test_joint_denoisers_hear_each_other_and_only_with_v(model, targets):
    latents = {name: z for name, z in noisy(model).items() if name in targets}
    t, prompts = torch.tensor([400, 400]), context(model)
    with torch.no_grad():
        together, apart = model.denoise(latents, t, prompts), model.denoise(latents, t, prompts, heard={})
        for moved in targets:
            changed = {**latents, moved: latents[moved] + torch.randn_like(latents[moved])}
            heard, unheard = model.denoise(changed, t, prompts), model.denoise(changed, t, prompts, heard={})
            for name in targets:
                if name != moved:
                    assert (heard[name] - together[name]).abs().max() > 1e-5, f"{name} does not hear {moved}"
                    assert torch.equal(unheard[name], apart[name]), f"{name} hears {moved} with V off"


def test_a_denoiser_does_not_hear_itself_through_v(model):
    """With its own V replaced by something else, nothing changes for it."""
    latents, t, prompts = noisy(model), torch.tensor([400, 400]), context(model)
    with torch.no_grad():
        environments = model.environments(latents, t)
        plain = model.denoise(latents, t, prompts, heard=environments)
        other = model.denoise(latents, t, prompts, heard={**environments, "frontal": -environments["frontal"]})
    assert torch.equal(plain["frontal"], other["frontal"]) and not torch.equal(plain["lateral"], other["lateral"])


def test_environments_are_scaled_before_they_are_heard(model):
    latents, t, prompts = noisy(model), torch.tensor([400, 400]), context(model)
    louder = MedCoDi(replace(model.config, environment_scale=3.0), model.tokenizers)
    louder.load_state_dict(model.state_dict())
    with torch.no_grad():
        environments = model.environments(latents, t)
        wanted = model.denoise(latents, t, prompts, heard={name: 3.0 * v for name, v in environments.items()})
        found, plain = louder.denoise(latents, t, prompts), model.denoise(latents, t, prompts)
    for name in latents:
        assert torch.allclose(found[name], wanted[name], atol=1e-5)
        assert (found[name] - plain[name]).abs().max() > 1e-4


# ---- law 4 -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["pooled", "tokens"])
def test_weights_of_prompts(mode):
    model = tiny_model(seed=0, context=mode).eval()
    with torch.no_grad():
        report = model.encode_prompts("report", TEXTS)
        image = model.encode_prompts("frontal", torch.rand(1, 1, 32, 32))
        other = model.encode_prompts("frontal", torch.rand(1, 1, 32, 32))
        z, t = torch.randn(1, *model.latent_shape("lateral")), torch.tensor([300])

        def out(encodings, weights):
            mixed = model.context(encodings, {name: torch.tensor([w]) for name, w in weights.items()})
            return model.denoise({"lateral": z}, t, mixed)["lateral"]

        both = out({"report": report, "frontal": image}, {"report": 1.0, "frontal": 2.0})
        torch.testing.assert_close(
            both, out({"frontal": image, "report": report}, {"frontal": 2.0, "report": 1.0}), atol=0, rtol=0
        )
        torch.testing.assert_close(both, out({"report": report, "frontal": image}, {"report": 2.0, "frontal": 4.0}))
        absent = [out({"report": report, "frontal": x}, {"report": 1.0, "frontal": 0.0}) for x in (image, other)]
        torch.testing.assert_close(absent[0], absent[1], atol=0, rtol=0)
        torch.testing.assert_close(absent[0], out({"report": report}, {"report": 1.0}), atol=1e-5, rtol=1e-4)


def test_directions_are_twelve():
    assert len(all_directions()) == 12 and len(set(map(str, all_directions()))) == 12
