"""Stage join: it trains environment encoders and connectors, on every set of targets."""

import pytest
import torch

from medcodi.data.loading import Batch
from medcodi.errors import ConfigError
from medcodi.model import MedCoDi, tiny_model
from medcodi.networks.environment import EnvironmentConfig
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from tests.unit.stages.batches import assert_rows_are_independent, drawn, moved_by_training, phantom_batch


@pytest.fixture()
def model() -> MedCoDi:
    built = tiny_model(seed=0)
    built.trained_stages = ("autoencode", "align", "diffuse")
    return built


@pytest.fixture()
def hearing_model() -> MedCoDi:
    """One whose denoisers hear each other's features."""
    built = tiny_model(seed=0, environment=EnvironmentConfig(kind="features"))
    built.trained_stages = ("autoencode", "align", "diffuse")
    return built


@pytest.fixture(scope="module")
def batch() -> Batch:
    return phantom_batch(0, 1, 2, 3)


def test_join_trains_environments_and_connectors_only(model, batch):
    moved = moved_by_training(build_stage("join", model), batch, steps=6)
    assert any(name.startswith("environment.") for name in moved) and any("connector" in name for name in moved)
    assert all(name.startswith("environment.") or "connector" in name for name in moved)


def test_join_of_features_trains_connectors_only(hearing_model, batch):
    stage = build_stage("join", hearing_model)
    moved = moved_by_training(stage, batch, steps=3)
    assert moved and all(name.startswith("environment.") for name in moved)
    assert "environment_info_nce" not in stage(batch, drawn(batch)).logs and stage.features(batch, drawn(batch)) == {}


def test_join_of_features_draws_shared_timesteps_own_ones_and_finished_targets(hearing_model):
    """At t = 0 a target is heard, and is not in the loss."""
    stage, targets = build_stage("join", hearing_model, {"finish_one": 0.5}), ("frontal", "lateral")
    draws = StepRandomness(seed=0, step=0, samples=tuple(range(64)))
    times = stage._times(targets, draws)
    finished = torch.stack([stage._finished(targets, draws, name) for name in targets])
    assert finished.any(dim=1).all() and not finished.all(dim=0).any()
    assert all((times[name][finished[row]] == 0).all() for row, name in enumerate(targets))
    both = ~finished.any(dim=0)
    same = (times["frontal"] == times["lateral"])[both]
    assert same.any() and not same.all()


def test_join_draws_every_set_of_targets(model, batch):
    stage = build_stage("join", model)
    seen = {
        tuple(
            sorted(
                key for key in stage(batch, drawn(batch, step)).logs if key.count("/") == 1 and key.startswith("loss/")
            )
        )
        for step in range(24)
    }
    assert len(seen) == 4


def test_the_contrastive_term_is_added_with_its_weight(model, batch):
    without, output = (
        build_stage("join", model, {"contrastive_weight": weight})(batch, drawn(batch)) for weight in (0.0, 0.5)
    )
    info_nce = output.logs["environment_info_nce"]
    assert info_nce == without.logs["environment_info_nce"]
    assert output.loss.item() == pytest.approx(without.loss.item() + 0.5 * info_nce.item(), rel=1e-6)
    losses = [value for name, value in output.logs.items() if name.startswith("loss/") and name.count("/") == 1]
    assert without.loss.item() == pytest.approx(float(sum(losses)), rel=1e-6)


@pytest.mark.parametrize("name", ["model", "hearing_model"])
def test_the_loss_of_a_row_depends_on_its_own_key_only(name, request):
    model = request.getfixturevalue(name)
    assert_rows_are_independent(build_stage("join", model, {"contrastive_weight": 0.0}).eval())


def test_refusals(model):
    with pytest.raises(ConfigError, match="temperature"):
        build_stage("join", model, {"temperature": 0.0})
    with pytest.raises(ConfigError, match="finish_one is 1.5"):
        build_stage("join", model, {"finish_one": 1.5})
