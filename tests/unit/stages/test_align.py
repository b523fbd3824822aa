"""Stage align: what it trains, what it logs, and that it learns."""

import pytest
import torch

from medcodi.data.loading import Batch
from medcodi.errors import ConfigError
from medcodi.model import MedCoDi, build_model, tiny_config
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.stages.align import jitter

TEXTS = [f"Study number {row}. The heart is {size}." for row in range(8) for size in ("large", "small")]
PAIRS = ("frontal-lateral", "frontal-report", "lateral-report")


def make_batch(model: MedCoDi, num: int = 4, absent: dict[str, list[int]] | None = None) -> Batch:
    size, generator = model.config.image_size, torch.Generator().manual_seed(0)
    contents = {name: torch.rand(num, 1, size, size, generator=generator) for name in ("frontal", "lateral")}
    contents["report"] = [f"Study number {row}. The heart is {'large' if row % 2 else 'small'}." for row in range(num)]
    present = {name: torch.ones(num, dtype=torch.bool) for name in contents}
    for name, rows in (absent or {}).items():
        present[name][rows] = False
    names = [str(row) for row in range(num)]
    return Batch(contents, present, torch.zeros(num, 14), names, ["one patient"] * num, tuple(range(num)))


def randomness(batch: Batch, step: int = 0) -> StepRandomness:
    return StepRandomness(seed=0, step=step, samples=batch.samples)


@pytest.fixture
def model() -> MedCoDi:
    return build_model(tiny_config(), TEXTS, seed=0)


def test_trains_the_prompt_encoders_only(model: MedCoDi) -> None:
    stage = build_stage("align", model)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {f"prompt_encoders.{name}" for name, _ in model.prompt_encoders.named_parameters()}
    assert model.prompt_encoders.training and not model.autoencoders["image"].training
    batch = make_batch(model)
    stage(batch, randomness(batch)).loss.backward()
    unused = [name for name, value in model.prompt_encoders.named_parameters() if value.grad is None]
    assert not unused
    assert not stage.eval().model.prompt_encoders.training


def test_logs_every_pair(model: MedCoDi) -> None:
    batch = make_batch(model)
    output = build_stage("align", model)(batch, randomness(batch))
    assert set(output.logs) == {f"{pair}/{what}" for pair in PAIRS for what in ("loss", "top1", "spread")} | {
        "logit_scale"
    }
    assert torch.allclose(output.loss, sum(output.logs[f"{pair}/loss"] for pair in PAIRS))
    assert not any(value.requires_grad for value in output.logs.values())


def test_absent_contents_have_no_influence(model: MedCoDi) -> None:
    stage, batch = build_stage("align", model), make_batch(model, absent={"lateral": [1, 3]})
    before = stage(batch, randomness(batch)).loss
    batch.contents["lateral"][[1, 3]] = 0.7
    assert torch.equal(stage(batch, randomness(batch)).loss, before)


def test_studies_of_one_patient_can_be_spared(model: MedCoDi) -> None:
    batch = make_batch(model)
    output = build_stage("align", model, {"same_patient_negatives": False})(batch, randomness(batch))
    assert output.loss == 0  # all four are one patient's


def test_temperature_stays_where_it_is_clamped(model: MedCoDi) -> None:
    stage, batch = build_stage("align", model), make_batch(model)
    scale = model.prompt_encoders.logit_scale
    with torch.no_grad():
        scale.fill_(7.0)
    output = stage(batch, randomness(batch))
    output.loss.backward()
    assert output.logs["logit_scale"] == pytest.approx(4.60517, abs=1e-4)
    assert scale.item() == 7.0 and scale.grad is not None and scale.grad >= 0  # a descent brings it back, or leaves it


def test_augmentation_is_keyed_and_off_by_default(model: MedCoDi) -> None:
    batch = make_batch(model)
    plain = build_stage("align", model)
    assert torch.equal(plain(batch, randomness(batch, 0)).loss, plain(batch, randomness(batch, 1)).loss)
    moving = build_stage("align", model, {"shift": 0.1, "intensity": 0.2})
    assert torch.equal(moving(batch, randomness(batch, 0)).loss, moving(batch, randomness(batch, 0)).loss)
    assert not torch.equal(moving(batch, randomness(batch, 0)).loss, moving(batch, randomness(batch, 1)).loss)
    with pytest.raises(ConfigError, match="shift = 0.9"):
        build_stage("align", model, {"shift": 0.9})


def test_jitter() -> None:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(2, 2)
    assert torch.allclose(jitter(images, none, none), images, atol=1e-6)
    moved = jitter(images, torch.tensor([[0.125, 0.0], [0.0, 0.25]]), none)
    assert torch.allclose(moved[0, :, :, 1:], images[0, :, :, :-1], atol=1e-5)
    assert torch.allclose(moved[1, :, 2:], images[1, :, :-2], atol=1e-5)
    brighter = jitter(images, none, torch.tensor([[0.0, 0.2], [0.5, 0.0]]))
    assert torch.allclose(brighter[0], (images[0] + 0.1).clamp(0, 1), atol=1e-6)
    assert torch.allclose(brighter[1], ((images[1] - 0.5) * 1.5 + 0.5).clamp(0, 1), atol=1e-6)


def test_learns(model: MedCoDi) -> None:
    stage, batch = build_stage("align", model), make_batch(model)
    optimizer = torch.optim.Adam([value for value in stage.parameters() if value.requires_grad], lr=3e-3)
    losses = []
    for step in range(25):
        output = stage(batch, randomness(batch, step))
        optimizer.zero_grad(), output.loss.backward(), optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.3 * losses[0]
