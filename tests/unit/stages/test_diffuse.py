"""Stage diffuse: it trains denoisers without connectors, from prompts that are never the target."""

from dataclasses import replace

import pytest
import torch

from medcodi.data.loading import Batch, collate
from medcodi.data.sources.phantom import PhantomDataset
from medcodi.diffusion.objective import min_snr_weight
from medcodi.distributed import Ranks
from medcodi.errors import ConfigError
from medcodi.model import MedCoDi, tiny_model
from medcodi.stages import build_stage
from medcodi.training.monitoring.metrics import NamedMeans
from tests.unit.stages.batches import assert_rows_are_independent, drawn, moved_by_training, phantom_batch


@pytest.fixture()
def model() -> MedCoDi:
    built = tiny_model(seed=0)
    built.trained_stages = ("autoencode", "align", "diffuse")
    return built


@pytest.fixture(scope="module")
def batch() -> Batch:
    return phantom_batch(0, 1, 2, 3)


def test_diffuse_trains_denoisers_without_connectors(model, batch):
    moved = moved_by_training(build_stage("diffuse", model), batch)
    assert moved and all(name.startswith("denoisers.") and "connector" not in name for name in moved)
    assert {name.split(".")[1] for name in moved} == {"frontal", "lateral", "report"}


def test_diffuse_can_train_one_target(model, batch):
    stage = build_stage("diffuse", model, {"targets": ["report"]})
    output = stage(batch, drawn(batch))
    scalars = {name for name, value in output.logs.items() if not value.ndim}
    assert scalars == {"loss/report"} and torch.equal(output.logs["loss/report"], output.loss.detach())
    assert all(name.startswith("loss/report/from ") for name in set(output.logs) - scalars)
    assert {name.split(".")[1] for name in moved_by_training(stage, batch)} == {"report"}


def test_losses_fall_on_one_batch(model, batch):
    stage = build_stage("diffuse", model)
    optimizer = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(25):
        loss = stage(batch, drawn(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_of_a_row_depends_on_its_own_key_only(model):
    assert_rows_are_independent(build_stage("diffuse", model).eval())


def test_rows_without_a_modality_do_not_count(model):
    dataset = PhantomDataset(4, seed=0, image_size=32)
    studies = [dataset[sample] for sample in range(4)]
    lacking = replace(studies[0], contents={"frontal": studies[0].contents["frontal"]})
    stage = build_stage("diffuse", model, {"targets": ["report"]}).eval()
    three, four = collate(studies[1:], range(1, 4), 32), collate([lacking, *studies[1:]], range(4), 32)
    with torch.no_grad():
        losses = [float(stage(batch, drawn(batch)).loss) for batch in (three, four)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("stage", ["diffuse", "join"])
def test_the_loss_of_a_modality_that_no_study_holds_is_absent_from_the_log(model, batch, stage):
    without = replace(batch, present={**batch.present, "lateral": torch.zeros(4, dtype=torch.bool)})
    step = 0 if stage == "diffuse" else next(i for i in range(24) if "loss/lateral" in _logs(model, stage, batch, i))
    means = NamedMeans(Ranks())
    means.update(_logs(model, stage, without, step))
    logged = means.take()
    assert "loss/lateral" not in logged and "environment_info_nce" not in logged
    assert stage == "join" or {"loss/frontal", "loss/report"} <= set(logged)


def _logs(model, stage, batch, step):
    return build_stage(stage, model)(batch, drawn(batch, step)).logs


def test_single_prompt_training_prompts_with_one_modality(model, batch):
    output = build_stage("diffuse", model, {"most_prompts": 1, "drop_probability": 0.0})(batch, drawn(batch))
    used = {name for name, value in output.logs.items() if value.ndim and value[1] > 0}
    assert used and not any("+" in name or "nothing" in name for name in used)


def test_refusals(model):
    with pytest.raises(ConfigError, match="drop_probability"):
        build_stage("diffuse", model, {"drop_probability": 1.5})
    with pytest.raises(ConfigError, match="most_prompts"):
        build_stage("diffuse", model, {"most_prompts": 0})


def test_min_snr_weighs_the_loss_and_leaves_the_log(model, batch):
    plain = build_stage("diffuse", model, {"targets": ["report"]}).eval()
    weighted = build_stage("diffuse", model, {"targets": ["report"], "min_snr_gamma": 5.0}).eval()
    with torch.no_grad():
        one, other = (stage(batch, drawn(batch)) for stage in (plain, weighted))
        inputs = weighted.study_inputs(batch, drawn(batch))
        own, rows = plain.study_losses(inputs), weighted.study_losses(inputs)
    assert torch.equal(one.logs["loss/report"], other.logs["loss/report"]) and torch.equal(
        one.loss, one.logs["loss/report"]
    )
    factors = min_snr_weight(model.schedule, inputs["report"]["t"], 5.0)
    torch.testing.assert_close(rows, own * factors)
    torch.testing.assert_close(other.loss, rows.mean())
    with pytest.raises(ConfigError, match="min_snr_gamma is -1"):
        build_stage("diffuse", model, {"min_snr_gamma": -1.0})
