"""What a run shows: losses by prompts and by timestep, whether parts move, samples that touch nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from medcodi.config import from_dict
from medcodi.data.loading import GlobalBatches, collate
from medcodi.data.sources.phantom import PhantomDataset
from medcodi.distributed import Ranks
from medcodi.model import STAGES, tiny_model
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.study import Study
from medcodi.training.config import TrainConfig
from medcodi.training.cost import Operations
from medcodi.training.ema import Ema
from medcodi.training.engine import PlainEngine
from medcodi.training.monitoring.metrics import Means
from medcodi.training.monitoring.progress import Progress
from medcodi.training.monitoring.samples import draw_samples, every_direction, write_samples
from medcodi.training.monitoring.throughput import matmul_peak
from medcodi.training.monitoring.trackers import RunLog
from medcodi.training.monitoring.validation import Figures, validation_losses


class Kept(PhantomDataset):
    """Phantoms drawn once."""

    kept: ClassVar[dict[int, Study]] = {}

    def __getitem__(self, index: int) -> Study:
        if index not in self.kept:
            self.kept[index] = super().__getitem__(index)
        return self.kept[index]


DATASET = Kept(8, seed=0, image_size=32)
SAMPLES = tuple(range(8))


@pytest.fixture(scope="module")
def model() -> Any:
    made = tiny_model(seed=0)
    made.trained_stages = STAGES
    return made


def settings(name: str, **changes: Any) -> TrainConfig:
    values = {
        "stage": {"name": name},
        "data": {"source": "phantom", "num_studies": 8, "image_size": 32},
        "model": "tiny.yaml",
        "out": "runs/unit",
        "steps": 4,
        "batch": {"global_size": 8},
    }
    return from_dict(TrainConfig, {**values, **changes})


def means_of(stage: Any, parts: list[tuple[int, ...]], lacking: int | None = None) -> dict[str, float]:
    means = Means()
    for part in parts:
        batch = collate([DATASET[sample] for sample in part], part, 32)
        if lacking in part:
            batch.present["lateral"][part.index(lacking)] = False
        with torch.no_grad():
            means.add(stage(batch, StepRandomness(seed=0, step=3, samples=part)).logs)
    return means.take(Ranks())[0]


@pytest.mark.parametrize("name", ["diffuse", "join"])
def test_loss_by_prompts_is_the_mean_over_rows_however_they_are_split(model: Any, name: str) -> None:
    stage = build_stage(name, model).eval()
    whole = means_of(stage, [SAMPLES], lacking=2)
    split = means_of(stage, [SAMPLES[:1], SAMPLES[1:4], SAMPLES[4:]], lacking=2)
    told = [key for key in whole if " from " in key or "/from " in key]
    assert told == [key for key in split if key in told] and len(told) >= 3
    for key in told:
        assert split[key] == pytest.approx(whole[key], rel=1e-4), key


def test_subsets_add_up_to_the_modality(model: Any) -> None:
    stage = build_stage("diffuse", model, {"drop_probability": 0.3}).eval()
    batch = collate([DATASET[sample] for sample in SAMPLES], SAMPLES, 32)
    with torch.no_grad():
        logs = stage(batch, StepRandomness(seed=1, step=0, samples=SAMPLES)).logs
    cells = {key: value for key, value in logs.items() if key.startswith("loss/frontal/from ")}
    assert [key.rpartition("from ")[2] for key in cells] == ["nothing", "lateral", "report", "lateral+report"]
    total = torch.stack(list(cells.values())).sum(dim=0)
    assert float(total[1]) == 8 and float(total[0] / 8) == pytest.approx(float(logs["loss/frontal"]), rel=1e-5)


class Rank:
    """A stage on one rank, for what only looks."""

    def __init__(self, stage: Any, rank: int = 0, world_size: int = 1) -> None:
        self.stage, self.ranks = stage, Ranks(rank, world_size)

    def losses(self, accumulation: int = 1) -> dict[str, list[float]]:
        batches = GlobalBatches(
            DATASET,
            batch_size=4,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            accumulation=accumulation,
        )
        kept: list[Any] = []
        engine: Any = SimpleNamespace(
            stage=self.stage,
            ranks=SimpleNamespace(**{**vars(self.ranks), "gather": lambda v: kept.append(v) or [v]}),
        )
        with torch.no_grad():
            validation_losses(engine, batches, settings("diffuse", tracking={"validate_batches": 1}))
        return {name.removeprefix("rows:"): entry for name, entry in kept[0][0].items()}


@pytest.mark.parametrize(("name", "options", "num_targets"), [("diffuse", {"targets": ["report"]}, 1), ("join", {}, 3)])
def test_every_timestep_bucket_has_as_many_rows(model: Any, name: str, options: Any, num_targets: int) -> None:
    told = Rank(build_stage(name, model, options).eval()).losses()
    buckets = {key: entry[1] for key, entry in told.items() if key.startswith("t/")}
    assert len(buckets) == 10 * num_targets and len(set(buckets.values())) == 1
    assert {key.split("/")[1] for key in buckets} >= {"000-099", "900-999"}


def test_validation_is_the_same_every_time(model: Any) -> None:
    rank = Rank(build_stage("diffuse", model, {"targets": ["report"]}).eval())
    assert rank.losses() == rank.losses()


def test_ranks_and_micro_batches_fill_the_same_buckets(model: Any) -> None:
    stage = build_stage("diffuse", model, {"targets": ["report"]}).eval()
    whole = Rank(stage).losses(accumulation=2)
    ranks = [Rank(stage, rank, 2).losses() for rank in range(2)]
    for key, (value, count) in whole.items():
        if key.startswith("t/"):
            parts = [part[key] for part in ranks if key in part]
            assert sum(entry[1] for entry in parts) == count, key
            assert sum(entry[0] for entry in parts) == pytest.approx(value, rel=1e-4), key


def trained(tmp_path: Path, stage: Any, config: TrainConfig, steps: int = 4) -> list[dict[str, Any]]:
    """Steps of a real engine with everything told; the log's lines."""
    ranks = Ranks()
    engine = PlainEngine(stage, config, ranks)
    log = RunLog(tmp_path, ranks, config, start_step=0)
    figures = Figures(config, log, Progress("unit", ranks, start_step=0, steps=steps), engine)
    for step in range(steps):
        batch = collate([DATASET[sample] for sample in SAMPLES], SAMPLES, 32)
        result = engine.run_step([batch], [StepRandomness(seed=0, step=step, samples=SAMPLES)])
        figures.note(step + 1, result, 0.01, 0.1)
    log.close()
    return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


def test_a_healthy_run_is_not_called_out_and_a_dead_part_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"targets": ["report"]}
    told = {"log_every": 1, "tensorboard": False, "mfu_after": 0, "peak_tflops": 0.5, "alerts": {"patience": 3}}
    about: dict[str, Any] = {"stage": {"name": "diffuse", "options": options}, "optimizer": {"lr": 1e-3}}
    fresh = tiny_model(seed=0)
    fresh.trained_stages = STAGES
    lines = trained(tmp_path, build_stage("diffuse", fresh, options), settings("diffuse", tracking=told, **about))
    assert not any("alerts" in line for line in lines) and len(lines) == 4
    line, timing = lines[-1], lines[-1]["timing"]
    assert 0 < line["moved/report"] < 1 and 0 <= line["clipped"] <= 1 and timing["cpu_peak_gib"] > 0
    expected = timing["studies_per_second"] * timing["gflops_per_study"] / 1e3 / timing["peak_tflops"]
    assert timing["mfu"] == pytest.approx(expected, rel=1e-3) and "MFU" in capsys.readouterr().err

    stage = build_stage("diffuse", fresh, options)
    for parameter in stage.parameters():
        if parameter.requires_grad:
            parameter.register_hook(torch.zeros_like)  # what a part gets that nothing reaches
    dead = trained(tmp_path, stage, settings("diffuse", tracking={**told, "mfu": False}, **about))
    (signs,) = [line["alerts"] for line in dead if "alerts" in line]
    assert signs[0].startswith("dead modality: the weights of report do not change") and len(signs) == 1
    assert "LOOK: dead modality" in capsys.readouterr().err


def test_operations_and_peak() -> None:
    a, b = torch.ones(8, 16, requires_grad=True), torch.ones(16, 4)
    with Operations() as counted:
        (a @ b).sum().backward()
    assert counted.total == 2 * (2 * 8 * 16 * 4)  # b is frozen: one product back, not two
    assert matmul_peak(torch.device("cpu"), "fp32") > 1e8
    assert matmul_peak(torch.device("cpu"), "fp32") == matmul_peak(torch.device("cpu"), "fp32")  # measured once


def test_every_direction_is_there_once() -> None:
    names = ("frontal", "lateral", "report")
    found = every_direction(names)
    assert len(found) == 13 == len(set(found)) and found[-1] == ((), names)
    assert all(prompts and not set(prompts) & set(targets) for prompts, targets in found[:-1])
    assert sum(len(targets) for _, targets in found) == 18  # rows of a sample grid


@pytest.mark.parametrize(("name", "which", "num_rows"), [("diffuse", "stage", 12), ("join", "all", 18)])
def test_samples_explain_themselves_and_touch_no_randomness(
    model: Any, tmp_path: Path, name: str, which: str, num_rows: int
) -> None:
    stage = build_stage(name, model).eval()
    batch = collate([DATASET[0], DATASET[1]], (0, 1), 32)
    batch.present["lateral"][1] = False
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad():
        drawn = draw_samples(stage, batch, 0, which)
        again = draw_samples(stage, collate([DATASET[0]], (0,), 32), 0, which)
    assert torch.get_rng_state().equal(before)
    titles = [row.title for row in drawn.rows]
    assert len(titles) == num_rows == len(set(titles))
    lone = next(row for row in drawn.rows if row.title.startswith("frontal") and row.title.endswith(" from lateral"))
    assert lone.values[0] is not None and lone.values[1] is None  # it lacks what it would be made from
    for row, other in zip(drawn.rows, again.rows, strict=True):
        if not isinstance(row.values[0], str):  # law 1: the same whoever stands beside it
            torch.testing.assert_close(torch.tensor(row.values[0]), torch.tensor(other.values[0]), rtol=1e-3, atol=1e-3)
    log = RunLog(tmp_path, Ranks(), settings(name, tracking={"tensorboard": False}), start_step=0)
    write_samples(drawn, 4, str(tmp_path), log)
    log.close()
    assert (tmp_path / "samples" / "step-00000004.png").stat().st_size > 1000
    text = (tmp_path / "samples" / "step-00000004.txt").read_text()
    assert all(title in text for title in titles) and "truth:  FINDINGS" in text


def test_an_average_is_shown_without_changing_the_weights(model: Any) -> None:
    from medcodi.training.monitoring.validation import evaluating

    engine = PlainEngine(build_stage("diffuse", model, {"targets": ["report"]}), settings("diffuse"), Ranks())
    ema = Ema(engine.shards(), settings("diffuse").ema)
    before = {name: value.clone() for name, value in engine.shards().items()}
    ema.load({name: value + 1.0 for name, value in before.items()})
    with evaluating(engine, ema):
        assert not engine.stage.training and not torch.is_grad_enabled()
        assert all(value.equal(before[name] + 1.0) for name, value in engine.shards().items())
    assert engine.stage.training and all(value.equal(before[name]) for name, value in engine.shards().items())
