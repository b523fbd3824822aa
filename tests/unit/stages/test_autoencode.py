"""Stage autoencode: losses by hand, crops, beta, scale, and that it learns."""

import math

import pytest
import torch

from medcodi.config import from_dict
from medcodi.data.loading import Batch
from medcodi.errors import ConfigError, TrainingError
from medcodi.model import MedCoDi, build_model, tiny_config
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.stages.autoencode import AutoencodeConfig, cyclic_beta, random_crops
from medcodi.stages.statements import STATEMENTS

TEXTS = [f"Study number {row}. The heart is {size}." for row in range(8) for size in ("large", "small")]


def make_batch(model: MedCoDi, num: int = 4, absent: dict[str, list[int]] | None = None, first: int = 0) -> Batch:
    size = model.config.image_size
    ramp = torch.linspace(0, 1, size)
    contents = {
        "frontal": torch.stack(
            [(ramp[:, None] * (0.5 + 0.1 * row) + ramp * 0.3)[None] for row in range(first, first + num)]
        ),
        "lateral": torch.stack([(ramp * (0.9 - 0.1 * row)).expand(1, size, size) for row in range(first, first + num)]),
        "report": [
            f"Study number {row}. The heart is {'large' if row % 2 else 'small'}." for row in range(first, first + num)
        ],
    }
    present = {name: torch.ones(num, dtype=torch.bool) for name in contents}
    for name, rows in (absent or {}).items():
        present[name][rows] = False
    names = [str(row) for row in range(first, first + num)]
    return Batch(contents, present, torch.zeros(num, 14), names, names, tuple(range(first, first + num)))


def randomness(batch: Batch, step: int = 7) -> StepRandomness:
    return StepRandomness(seed=0, step=step, samples=batch.samples)


@pytest.fixture
def model() -> MedCoDi:
    return build_model(tiny_config(), TEXTS, seed=0)


@pytest.mark.parametrize("kinds", [("image",), ("text",), ("image", "text")])
def test_trains_what_it_is_asked_to(model: MedCoDi, kinds: tuple[str, ...]) -> None:
    stage, batch = build_stage("autoencode", model, {"kinds": kinds}), make_batch(model)
    stage(batch, randomness(batch)).loss.backward()
    for name, value in model.named_parameters():
        wanted = any(name.startswith(f"autoencoders.{kind}.") for kind in kinds)
        assert value.requires_grad == wanted and (value.grad is not None) == wanted, name


def test_a_row_weighs_the_same_in_any_batch(model: MedCoDi) -> None:
    stage = build_stage("autoencode", model, {"word_dropout": 0.3, "crop_size": 16})
    whole, one, two = make_batch(model, 4), make_batch(model, 2), make_batch(model, 2, first=2)
    losses = [stage(batch, randomness(batch)).loss for batch in (whole, one, two)]
    assert losses[0].item() == pytest.approx((losses[1].item() + losses[2].item()) / 2, abs=1e-5)


def test_absent_contents_have_no_influence(model: MedCoDi) -> None:
    stage = build_stage("autoencode", model)
    batch = make_batch(model, absent={"lateral": [0, 2], "report": [1]})
    before = stage(batch, randomness(batch)).loss
    batch.contents["lateral"][[0, 2]] = 0.3
    batch.contents["report"][1] = "something else"
    assert torch.equal(stage(batch, randomness(batch)).loss, before)


def test_a_batch_without_images_keeps_every_gradient(model: MedCoDi) -> None:
    stage, rows = build_stage("autoencode", model), [0, 1, 2, 3]
    batch = make_batch(model, absent={"frontal": rows, "lateral": rows})
    output = stage(batch, randomness(batch))
    output.loss.backward()
    assert output.logs["image/l1"].isnan()  # absent from the log
    assert all((value.grad == 0).all() for value in model.autoencoders["image"].parameters())


def test_noise_is_keyed_by_step(model: MedCoDi) -> None:
    stage, batch = build_stage("autoencode", model), make_batch(model)
    assert torch.equal(stage(batch, randomness(batch)).loss, stage(batch, randomness(batch)).loss)
    assert not torch.equal(stage(batch, randomness(batch, 1)).loss, stage(batch, randomness(batch, 2)).loss)


def test_beta_rises_and_starts_again() -> None:
    options = from_dict(AutoencodeConfig, {"beta": 0.4, "cycle_steps": 100, "cycle_ramp": 0.5})
    assert [cyclic_beta(step, options) for step in (0, 25, 50, 99, 100, 125)] == pytest.approx(
        [0, 0.2, 0.4, 0.4, 0, 0.2]
    )


def test_crops() -> None:
    image = torch.arange(36.0).view(1, 1, 6, 6).repeat(3, 1, 1, 1)
    crops = random_crops(image, 4, torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.34, 0.67]]))
    assert crops[:, 0, 0, 0].tolist() == [0.0, 14.0, 8.0] and crops.shape == (3, 1, 4, 4)
    assert torch.equal(random_crops(image, 6, torch.full((3, 2), 0.999)), image)


def test_finish_gives_latents_of_unit_variance(model: MedCoDi) -> None:
    stage = build_stage("autoencode", model)
    batches = [make_batch(model, 4, {"lateral": [1], "report": [2]}), make_batch(model, 3, first=4)]
    stage.finish(batches)
    for name in ("frontal", "report"):
        autoencoder = model.autoencoder(name)
        assert float(autoencoder.scale) != 1.0
    latents = [
        model.latent(
            name, [value for value, there in zip(batch.contents[name], batch.present[name], strict=True) if there]
        )
        for batch in batches
        for name in ("report",)
    ]
    latents = torch.cat(latents)
    assert torch.allclose(latents.mean(0), torch.zeros(latents.shape[1]), atol=1e-4)
    assert latents.square().mean().sqrt().item() == pytest.approx(1.0, abs=1e-3)
    assert stage.training


def test_refusals(model: MedCoDi) -> None:
    with pytest.raises(TrainingError, match="no image in the batches"):
        build_stage("autoencode", model).finish([])
    with pytest.raises(TrainingError, match="crop_size = 1000"):
        build_stage("autoencode", model, {"crop_size": 1000})
    with pytest.raises(ConfigError, match="did you mean 'kl_weight'"):
        build_stage("autoencode", model, {"kl_wieght": 1})
    with pytest.raises(ConfigError, match="did you mean 'autoencode'"):
        build_stage("autoencoder", model)
    model.trained_stages = ()
    with pytest.raises(TrainingError, match="'diffuse' cannot start: .*'autoencode'"):
        build_stage("diffuse", model)


def test_learns(model: MedCoDi) -> None:
    stage, batch = build_stage("autoencode", model, {"beta": 0.0}), make_batch(model)
    optimizer = torch.optim.Adam([value for value in stage.parameters() if value.requires_grad], lr=3e-3)
    logs = []
    for step in range(25):
        output = stage(batch, randomness(batch, step))
        optimizer.zero_grad(), output.loss.backward(), optimizer.step()
        logs.append(output.logs)
    assert logs[-1]["image/l1"] < 0.5 * logs[0]["image/l1"] and logs[-1]["image/psnr"] > logs[0]["image/psnr"] + 3
    assert logs[-1]["text/ce"] < 0.5 * logs[0]["text/ce"] and math.isfinite(output.loss.item())


def test_decoders_alone_can_go_on_while_latents_stay(model: MedCoDi) -> None:
    batch = make_batch(model)
    build_stage("autoencode", model).finish([batch])  # the scale that denoisers know
    stage = build_stage("autoencode", model, {"decoder_only": True})
    trained = {name for name, value in model.autoencoders.named_parameters() if value.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"image", "text"}
    assert not any("encoder.conv_in" in name or "to_posterior" in name for name in trained if "decoder" not in name)
    latents = {name: model.latent(name, batch.contents[name]) for name in ("frontal", "report")}
    decoded = model.decode("frontal", latents["frontal"]).detach()
    optimizer = torch.optim.Adam([value for value in stage.parameters() if value.requires_grad], lr=3e-3)
    first, last = 0.0, 0.0
    for step in range(8):
        last = stage(batch, randomness(batch, 7)).loss
        first = last.item() if step == 0 else first
        optimizer.zero_grad(), last.backward(), optimizer.step()
    stage.finish([])  # measures nothing
    assert last.item() < first
    for name, latent in latents.items():
        assert torch.equal(model.latent(name, batch.contents[name]), latent)
    assert not torch.equal(model.decode("frontal", latents["frontal"]), decoded)


def test_the_words_that_tell_a_side_can_count_more() -> None:
    texts = ["There is a left pneumothorax.", "Left effusion. The heart is large."] * 40
    model = build_model(tiny_config(), texts, seed=0)
    batch = make_batch(model, 2)
    batch.contents["report"] = texts[:2]
    plain, weighted = (
        build_stage("autoencode", model, {"kinds": ["text"], "side_weight": weight})(batch, randomness(batch))
        for weight in (1.0, 5.0)
    )
    assert weighted.logs["text/ce"] == plain.logs["text/ce"] and weighted.loss > plain.loss
    batch.contents["report"] = ["The heart is large."] * 2
    no_side = [
        build_stage("autoencode", model, {"kinds": ["text"], "side_weight": weight})(batch, randomness(batch)).loss
        for weight in (1.0, 5.0)
    ]
    assert no_side[0] == no_side[1]


def test_latents_of_reports_can_be_held_to_their_statements() -> None:
    texts = ["There is a left pneumothorax.", "There is a right pneumothorax."]
    model = build_model(tiny_config(), texts, seed=0)
    batch = make_batch(model, 4)
    batch.contents["report"] = texts * 2
    plain = build_stage("autoencode", model, {"kinds": ["text"]})(batch, randomness(batch))
    stage = build_stage("autoencode", model, {"kinds": ["text"], "statement_weight": 3.0})
    output = stage(batch, randomness(batch))
    assert output.logs["text/statements"].item() == pytest.approx(len(STATEMENTS) * math.log(2))  # nothing is read yet
    assert output.loss > plain.loss
    optimizer = torch.optim.Adam([value for value in stage.parameters() if value.requires_grad], lr=3e-3)
    for step in range(40):
        output = stage(batch, randomness(batch, step))
        optimizer.zero_grad(), output.loss.backward(), optimizer.step()
    assert output.logs["text/statements"] < 2.0
    with pytest.raises(ConfigError, match="must not be negative"):
        build_stage("autoencode", model, {"statement_weight": -1.0})
