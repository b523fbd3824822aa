"""The assembled model: prompts, and what joint denoisers hear."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from medcodi.model import MedCoDi, tiny_config, tiny_model
from medcodi.study import all_directions

TEXTS = ["FINDINGS: Large left pleural effusion. IMPRESSION: Large left effusion."]


def hearing(kind: Literal["vector", "features"]) -> MedCoDi:
    """A tiny model whose zero-initialised layers are not zero, or nothing would be heard through them."""
    built = tiny_model(seed=0, environment=replace(tiny_config().environment, kind=kind))
    generator = torch.Generator().manual_seed(1)
    for parameter in (*built.denoisers.parameters(), *built.environment.parameters()):
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return built.eval()


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    return hearing("vector")


@pytest.fixture(scope="module", params=["vector", "features"])
def either(request, model) -> MedCoDi:
    return model if request.param == "vector" else hearing("features")


def noisy(model, batch=2):
    return {name: torch.randn(batch, *model.latent_shape(name)) for name in model.config.modalities}


def context(model, batch=2):
    return model.context({"report": model.encode_prompts("report", TEXTS * batch)}, {"report": torch.ones(batch)})


# ---- law 5 -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("targets", [("frontal", "lateral"), ("frontal", "report"), ("frontal", "lateral", "report")])
def test_joint_denoisers_hear_each_other_and_only_with_v(either, targets):
    model = either
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


def test_features_of_fresh_connectors_say_nothing_and_rows_are_heard_apart(model):
    """Training starts from denoisers that hear nothing; a row's features reach the fellows of its own study only."""
    features = tiny_config().environment
    fresh, trained = tiny_model(environment=replace(features, kind="features")).eval(), hearing("features")
    latents, t, prompts = noisy(model), torch.tensor([400, 400]), context(model)
    with torch.no_grad():
        for name, prediction in fresh.denoise(latents, t, prompts).items():
            assert torch.equal(prediction, fresh.denoise(latents, t, prompts, heard={})[name])
        before = trained.denoise(latents, t, prompts)
        changed = {**latents, "report": latents["report"] + torch.tensor([[0.0], [1.0]])}
        after = trained.denoise(changed, t, prompts)
        pair = trained.denoise({name: latents[name] for name in ("frontal", "lateral")}, t, prompts)
    assert torch.equal(after["frontal"][0], before["frontal"][0]) and not torch.equal(
        after["frontal"][1], before["frontal"][1]
    )
    assert not torch.equal(pair["frontal"], before["frontal"])  # without the report


def test_a_denoiser_does_not_hear_itself_through_v(model):
    """With its own V replaced by something else, nothing changes for it."""
    latents, t, prompts = noisy(model), torch.tensor([400, 400]), context(model)
    with torch.no_grad():
        environments = model.environments(latents, t)
        plain = model.denoise(latents, t, prompts, heard=environments)
        other = model.denoise(latents, t, prompts, heard={**environments, "frontal": -environments["frontal"]})
    assert torch.equal(plain["frontal"], other["frontal"]) and not torch.equal(plain["lateral"], other["lateral"])


def test_targets_may_have_timesteps_of_their_own(either):
    """Equal ones equal a shared t; another one of a fellow changes what is heard of it, and nothing with V off."""
    model = either
    latents, t, prompts = noisy(model), torch.tensor([400, 400]), context(model)
    shared, staggered = dict.fromkeys(latents, t), {**dict.fromkeys(latents, t), "lateral": torch.tensor([90, 400])}
    with torch.no_grad():
        together, same, moved = (model.denoise(latents, times, prompts) for times in (t, shared, staggered))
        apart, apart_moved = (model.denoise(latents, times, prompts, heard={}) for times in (t, staggered))
    for name in latents:
        assert torch.equal(same[name], together[name])
        assert not torch.equal(moved[name][0], together[name][0])
        assert torch.equal(apart_moved[name], apart[name]) == (name != "lateral")


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
