"""What the door lets through, and the batch arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.config import from_dict, load, to_dict
from medcodi.data.loading import DataConfig
from medcodi.errors import ConfigError
from medcodi.networks.environment import EnvironmentConfig
from medcodi.training.config import BatchConfig, StageConfig, TrainConfig

from .toy import toy_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"lr": -1}}, "lr is -1"),
        ({"optimizer": {"learning_rate": 1}}, "optimizer.learning_rate"),
        ({"steps": 0}, "steps is 0"),
        ({"precision": "int8"}, "precision"),
        ({"init": "a"}, "give one"),
        ({"model": None}, "give one"),
        ({"extend": "demo-record"}, "extends init"),
        ({"ema": {"decay": 1.0}}, "decay is 1.0"),
        ({"tracking": {"validate_every": 5}}, "no validation data"),
        ({"engine": {"zero_stage": 4}}, "zero_stage"),
        ({"engine": {"persist_below": -1}}, "persist_below is -1"),
        ({"engine": {"offload_optimizer": "tape"}}, "offload_optimizer"),
        ({"engine": {"name": "plain", "offload_optimizer": "cpu"}}, "only deepspeed offloads"),
        ({"checkpoint": {"keep": 0}}, "keep is 0"),
        ({"checkpoint": {"every": 4, "keep_every": 6}}, "multiple of every, 4"),
        ({"checkpoint": {"every": 0, "keep_every": 6}}, "multiple of every"),
        ({"faults": {"rank_s": 0}}, "rank_s is 0"),
        ({"trainsteps": 3}, "unknown key 'trainsteps'"),
    ],
)
def test_impossible_values_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_config(**changes)


@pytest.mark.parametrize("changes", [{"stage": StageConfig(name="diffuse")}, {"environment": EnvironmentConfig()}])
def test_a_fresh_environment_is_of_features_in_stage_join(changes: dict) -> None:
    values = {"environment": EnvironmentConfig(kind="features"), "stage": StageConfig(name="join"), "init": "model"}
    rest = {"data": DataConfig(source="phantom", num_studies=4), "out": "run", "steps": 1}
    assert TrainConfig(**values, **rest).environment is not None
    with pytest.raises(ValueError, match=r"expected \{kind: features\} in stage 'join' with init"):
        TrainConfig(**{**values, **changes}, **rest)


def test_a_config_survives_yaml() -> None:
    config = toy_config()
    assert from_dict(TrainConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("size", "micro", "ranks", "accumulation"), [(16, None, 1, 1), (16, 4, 1, 4), (16, 4, 2, 2), (16, None, 4, 1)]
)
def test_batch_arithmetic(size: int, micro: int | None, ranks: int, accumulation: int) -> None:
    batch = BatchConfig(global_size=size, micro_size=micro)
    assert batch.accumulation(ranks) == accumulation
    assert f"× {accumulation} (accumulation) × {ranks} (ranks)" in batch.describe(ranks)


@pytest.mark.parametrize(("size", "micro", "ranks"), [(15, None, 2), (16, 3, 1), (16, 16, 2), (1, None, 2)])
def test_a_batch_that_does_not_divide_is_refused_with_the_mend(size: int, micro: int | None, ranks: int) -> None:
    with pytest.raises(ConfigError, match=r"Fix: batch.global_size=\d+"):
        BatchConfig(global_size=size, micro_size=micro).accumulation(ranks)


def test_identity_ignores_what_does_not_change_the_result() -> None:
    config = toy_config()
    same = toy_config(
        out="elsewhere",
        num_workers=3,
        max_minutes=5,
        checkpoint={"every": 1},
        engine={"name": "plain"},
        tracking={"log_every": 1},
    )
    assert same.identity() == config.identity()
    assert toy_config(steps=9).identity() != config.identity()  # another horizon, so another learning rate
    longer = toy_config(steps=9, optimizer={"lr": 0.01, "warmup_steps": 2, "grad_clip": 0.5, "schedule_horizon": 8})
    assert longer.identity() == config.identity()


# ---- data named once -------------------------------------------------------------------------------------------------
RECIPES = sorted((Path(__file__).parents[3] / "configs/train").glob("[a-z]*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_data_are_named_once(recipe: Path) -> None:
    config = load(TrainConfig, recipe, ["data=data/mine"])
    assert config.data == DataConfig(path="data/mine")
    if config.validation is not None:
        assert config.validation == DataConfig(path="data/mine", split="val") and config.validates_own_split


def test_validation_of_a_recipe_is_of_the_same_phantoms() -> None:
    config = load(TrainConfig, RECIPES[0].parent / "align.yaml", ["data.seed=3"])
    assert config.validation == DataConfig(source="phantom", split="val", num_studies=512, image_size=128, seed=3)


def test_the_older_overrides_never_validate_on_phantoms() -> None:
    overrides = ["data.source=null", "data.path=data/mine", "data.num_studies=null"]
    config = load(TrainConfig, RECIPES[0].parent / "align.yaml", overrides)
    assert config.validation is not None and config.validation.path == "data/mine"
    with pytest.raises(ConfigError, match="data=data/mine replaces all of it"):
        load(TrainConfig, RECIPES[0].parent / "align.yaml", ["data.path=data/mine"])


def test_validation_may_be_other_data() -> None:
    align = RECIPES[0].parent / "align.yaml"
    config = load(TrainConfig, align, ["data=data/mine", "validation=data/other"])
    assert config.validation == DataConfig(path="data/other", split="val") and not config.validates_own_split
    part = load(TrainConfig, align, ["data=data/mine", "validation.num_studies=50"])
    assert part.validation == DataConfig(path="data/mine", split="val", num_studies=50)
    none = load(TrainConfig, align, ["data=data/mine", "validation=null", "tracking.validate_every=0"])
    assert none.validation is None
