"""Stages ``diffuse`` and ``join``: what they train, what they hear."""

import pytest
import torch

from medcodi.data.loading import collate
from medcodi.data.sources.phantom import PhantomDataset
from medcodi.errors import ConfigError, TrainingError
from medcodi.model import MedCoDi, tiny_model
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.stages.encoded import draw_training_prompts, encode_batch

SAMPLES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def dataset():
    return PhantomDataset(8, seed=0, image_size=32)


@pytest.fixture()
def model() -> MedCoDi:
    built = tiny_model(seed=0)
    built.trained_stages = ("autoencode", "align", "diffuse")
    return built


@pytest.fixture(scope="module")
def batch(dataset):
    return collate([dataset[sample] for sample in SAMPLES], SAMPLES, 32)


def randomness(step=0, samples=SAMPLES):
    return StepRandomness(seed=0, step=step, samples=samples)


def moved_by_training(stage, batch, steps=3) -> set[str]:
    before = {name: value.clone() for name, value in stage.model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        stage(batch, randomness(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return {name for name, value in stage.model.named_parameters() if not torch.equal(value, before[name])}


def test_diffuse_trains_denoisers_without_connectors(model, batch):
    moved = moved_by_training(build_stage("diffuse", model), batch)
    assert moved and all(name.startswith("denoisers.") and "connector" not in name for name in moved)
    assert {name.split(".")[1] for name in moved} == {"frontal", "lateral", "report"}


def test_diffuse_can_train_one_target(model, batch):
    stage = build_stage("diffuse", model, {"targets": ["report"]})
    output = stage(batch, randomness())
    scalars = {name for name, value in output.logs.items() if not value.ndim}
    assert scalars == {"loss/report"} and torch.equal(output.logs["loss/report"], output.loss.detach())
    assert all(name.startswith("loss/report/from ") for name in set(output.logs) - scalars)
    assert {name.split(".")[1] for name in moved_by_training(stage, batch)} == {"report"}


def test_join_trains_environments_and_connectors_only(model, batch):
    moved = moved_by_training(build_stage("join", model), batch, steps=6)
    assert any(name.startswith("environment.") for name in moved) and any("connector" in name for name in moved)
    assert all(name.startswith("environment.") or "connector" in name for name in moved)


def test_join_draws_every_set_of_targets(model, batch):
    stage = build_stage("join", model)
    seen = {
        tuple(
            sorted(
                key for key in stage(batch, randomness(step)).logs if key.count("/") == 1 and key.startswith("loss/")
            )
        )
        for step in range(24)
    }
    assert len(seen) == 4


def test_losses_fall_on_one_batch(model, batch):
    stage = build_stage("diffuse", model)
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(25):
        loss = stage(batch, randomness(0)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["diffuse", "join"])
def test_the_loss_of_a_row_depends_on_its_own_key_only(model, dataset, name):
    """Law 1 and 3: the mean over rows in another order, or in two halves, is the same mean."""
    options = {} if name == "diffuse" else {"contrastive_weight": 0.0}
    stage = build_stage(name, model, options).eval()

    def loss(samples):
        made = collate([dataset[sample] for sample in samples], samples, 32)
        with torch.no_grad():
            return float(stage(made, randomness(0, tuple(samples))).loss)

    whole = loss((0, 1, 2, 3))
    assert loss((3, 1, 0, 2)) == pytest.approx(whole, rel=1e-5)
    assert (loss((0, 1)) + loss((2, 3))) / 2 == pytest.approx(whole, rel=1e-5)


def test_rows_without_a_modality_do_not_count(model, dataset):
    from dataclasses import replace

    studies = [dataset[sample] for sample in SAMPLES]
    lacking = replace(studies[0], contents={"frontal": studies[0].contents["frontal"]})
    stage = build_stage("diffuse", model, {"targets": ["report"]}).eval()
    with torch.no_grad():
        three = stage(collate(studies[1:], SAMPLES[1:], 32), randomness(0, SAMPLES[1:])).loss
        four = stage(collate([lacking, *studies[1:]], SAMPLES, 32), randomness()).loss
    assert float(three) == pytest.approx(float(four), rel=1e-5)


def test_the_target_never_prompts_itself(model, batch):
    encoded = encode_batch(model, batch)
    drawn = draw_training_prompts(encoded, ("report",), randomness(), drop_probability=0.0)
    context = drawn.context(model, encoded)
    images = sum(encoded.prompts[name].tokens.shape[1] for name in ("frontal", "lateral"))
    assert context.tokens.shape[1] == images


def test_refusals(model):
    with pytest.raises(ConfigError, match="did you mean 'diffuse'"):
        build_stage("difuse", model)
    with pytest.raises(ConfigError, match="drop_probability"):
        build_stage("diffuse", model, {"drop_probability": 1.5})
    model.trained_stages = ("autoencode",)
    with pytest.raises(TrainingError, match="align"):
        build_stage("diffuse", model)
