"""On a card: steps and films are the CPU's up to rounding, loss scaling recovers, and a step waits for the card once."""

from __future__ import annotations

import warnings

import pytest
import torch

from medcodi.config import load
from medcodi.data.loading import Batch, DataConfig, collate
from medcodi.distributed import Ranks
from medcodi.generation.pipeline import generate_batch
from medcodi.model import STAGES, tiny_model
from medcodi.model.generation_config import GenerationConfig
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.stages.encoded import encode_batch
from medcodi.training.config import TrainConfig
from medcodi.training.ema import Ema
from medcodi.training.engine import PlainEngine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
CARD = torch.device("cuda")
STUDIES = 4


def batches(accumulation: int) -> list[Batch]:
    dataset = DataConfig(source="phantom", num_studies=STUDIES * accumulation, image_size=32).build()
    rows = [range(start, start + STUDIES) for start in range(0, STUDIES * accumulation, STUDIES)]
    return [collate([dataset[index] for index in part], part, 32) for part in rows]


def engine(stage: str, device: torch.device, precision: str, accumulation: int = 1) -> PlainEngine:
    """The plain engine of a recipe at tiny size."""
    model = tiny_model()
    model.trained_stages = STAGES
    settings = ["init=null", "model=tiny", "cache=null", f"precision={precision}", "data.image_size=32"]
    settings += [f"batch.global_size={STUDIES * accumulation}", f"batch.micro_size={STUDIES}"]
    run = load(TrainConfig, f"tiny/{stage}", settings)
    return PlainEngine(build_stage(stage, model, run.stage.options), run, Ranks(device=device))


def losses(stage: str, device: torch.device, precision: str = "fp32", accumulation: int = 1) -> list[float]:
    """Losses of three steps."""
    runner, micro = engine(stage, device, precision, accumulation), batches(accumulation)
    ema, found = Ema(runner.shards(), runner.config.ema), []
    for step in range(3):
        draws = [StepRandomness(seed=0, step=step, samples=batch.samples) for batch in micro]
        result = runner.run_step(micro, draws)
        ema.update(step)
        assert not result.skipped
        found += [float(loss) for loss in result.losses]
    return found


@pytest.mark.parametrize("stage", STAGES[:4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_losses_are_those_of_the_cpu(stage: str, accumulation: int) -> None:
    """Draws are the same everywhere; convolutions by TF32 round to three digits, which a temperature multiplies."""
    expected = losses(stage, torch.device("cpu"), accumulation=accumulation)
    assert losses(stage, CARD, accumulation=accumulation) == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_at_half_precision_are_near(precision: str) -> None:
    assert losses("diffuse", CARD, precision) == pytest.approx(losses("diffuse", torch.device("cpu")), rel=5e-2)


def test_a_loss_scale_that_is_too_large_is_halved_until_steps_are_taken() -> None:
    runner, micro = engine("diffuse", CARD, "fp16"), batches(1)
    runner.load_scalars({"scale": 2.0**40, "_growth_tracker": 0})
    before = {name: shard.clone() for name, shard in runner.shards().items()}
    num_skipped = 0
    draws = [StepRandomness(seed=0, step=0, samples=micro[0].samples)]
    while runner.run_step(micro, draws).skipped:
        num_skipped += 1
        assert all(torch.equal(shard, before[name]) for name, shard in runner.shards().items())
        assert num_skipped < 40
    assert num_skipped > 0 and runner.scalars()["scale"] == 2.0 ** (40 - num_skipped)


def test_a_step_waits_for_the_card_once() -> None:
    """For the gradient norm; everything else is queued, so that the card has work while the host prepares the next launch."""
    runner, batch = engine("diffuse", CARD, "bf16"), batches(1)[0]
    encoded = [encode_batch(runner.stage.model, batch.to(CARD)).to("cpu")]  # as from the cache
    draws = [StepRandomness(seed=0, step=0, samples=batch.samples)]
    for _ in range(3):
        runner.run_step(encoded, draws)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runner.run_step(encoded, draws)
    torch.cuda.set_sync_debug_mode("default")
    places = [f"{warning.filename}:{warning.lineno}" for warning in caught]
    assert len(places) == 1, places


def test_films_are_those_of_the_cpu() -> None:
    prompts = [{"report": "No acute findings."}, {"report": "Large left pleural effusion."}]
    config = GenerationConfig(sampler="dpm++", num_inference_steps=4, guidance_scale=2.0)
    films = [
        generate_batch(tiny_model().eval().to(device), prompts, ["frontal", "lateral"], [0, 1], config)
        for device in (torch.device("cpu"), CARD)
    ]
    for ours, theirs in zip(*films, strict=True):
        for view in ("frontal", "lateral"):
            assert abs(ours[view] - theirs[view]).max() < 0.05
