from __future__ import annotations

from dataclasses import FrozenInstanceError, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest

from medcodi.config import Count, apply_overrides, at_least, config, from_dict, load, read_yaml, to_dict, to_yaml
from medcodi.errors import ConfigError, PromptError


@config
class Optimizer:
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)


@config
class Run:
    steps: int
    stage: Literal["align", "join"] = "align"
    optimizer: Optimizer = field(default_factory=Optimizer)
    extra: Optimizer | None = None
    parts: dict[str, tuple[Optimizer, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


@config
class Bounded:
    rows: Count = 4
    spare: Annotated[int, at_least(3)] | None = None


@config
class Walk:
    far: int = 0

    def __post_init__(self) -> None:
        if self.far > 2:
            raise PromptError(f"far is {self.far}", expected="less", fix="go back")


def test_defaults_and_nested_values() -> None:
    run = from_dict(Run, {"steps": 3, "optimizer": {"lr": 0.5}})
    assert run == Run(steps=3, optimizer=Optimizer(lr=0.5))


def test_a_number_below_its_bound_is_refused_by_name() -> None:
    assert from_dict(Bounded, {"rows": 1}).spare is None
    with pytest.raises(ConfigError, match="rows is 0, must be at least 1; spare is 2, must be at least 3"):
        from_dict(Bounded, {"rows": 0, "spare": 2})


def test_frozen_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        Run(steps=1).steps = 2  # type: ignore[misc]
    with pytest.raises((TypeError, ValueError)):
        Optimizer(0.5)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"steps": 1, "stge": "align"}, ["unknown key 'stge'", "did you mean 'stage'"]),
        ({"steps": 1, "optimizer": {"lrr": 1}}, ["unknown key 'optimizer.lrr'", "did you mean 'lr'"]),
        ({"steps": 1, "extra": {"lrr": 1}}, ["unknown key 'extra.lrr'", "did you mean 'lr'"]),
        (
            {"steps": 1, "parts": {"unet": [{}, {"btas": 1}]}},
            ["unknown key 'parts.unet.1.btas'", "did you mean 'betas'"],
        ),
        ({}, ["missing key 'steps'", "add steps"]),
        ({"steps": "many"}, ["steps = 'many'", "correct steps"]),
        ({"steps": 1, "stage": "joint"}, ["stage = 'joint'", "'align' or 'join'"]),
        ({"steps": 0}, ["steps must be at least 1"]),
        ({"stepz": 1, "optimizer": {"lr": "x"}}, ["unknown key 'stepz'", "missing key 'steps'", "optimizer.lr = 'x'"]),
    ],
)
def test_bad_values_are_refused_by_name(values: dict, messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Run, values, source="run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    for message in messages:
        assert message in str(caught.value)


def test_building_one_in_code_is_refused_in_the_same_words() -> None:
    with pytest.raises(ConfigError, match=r"^Run: steps must be at least 1"):
        Run(steps=0)
    with pytest.raises(ConfigError, match="unknown key 'lrr'.*did you mean 'lr'"):
        Optimizer(lrr=1)  # type: ignore[call-arg]


def test_a_refusal_of_the_class_itself_comes_through_as_it_is() -> None:
    with pytest.raises(PromptError, match="far is 3. Expected less. Fix: go back"):
        Walk(far=3)
    with pytest.raises(PromptError, match="far is 3"):
        from_dict(Walk, {"far": 3})


def test_dict_and_yaml_round_trip() -> None:
    run = Run(steps=3, stage="join", extra=Optimizer(lr=0.25))
    assert from_dict(Run, to_dict(run)) == run
    assert to_yaml(run).splitlines()[:2] == ["steps: 3", "stage: join"]


def test_overrides_go_deep_are_read_as_yaml_and_leave_the_original_alone() -> None:
    values = {"steps": 1, "optimizer": {"lr": 0.1}}
    assert apply_overrides(values, ["optimizer.lr=0.5", "--steps=7", "new.deep.key=[1, a]"]) == {
        "steps": 7,
        "optimizer": {"lr": 0.5},
        "new": {"deep": {"key": [1, "a"]}},
    }
    assert values == {"steps": 1, "optimizer": {"lr": 0.1}}


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("steps: 1\n")
    assert load(Run, tmp_path / "run.yaml", ["optimizer.lr=1e-5"]).optimizer.lr == 1e-5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "expected key=value|Expected key=value"),
        ("=3", "cannot be read"),
        ("steps.more=1", "goes below 'steps'"),
        ("steps=[1", "is not YAML"),
    ],
)
def test_bad_overrides_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"steps": 1}, [override])


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML"), ("- 1\n- 2", "holds a list"), ("\xff", "is not YAML|holds a")]
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_yaml_that_no_person_writes_is_refused(tmp_path: Path) -> None:
    names = "abcdefgh"
    bomb = "a: &a [x]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise(names))
    texts = {
        "a: 1\na: 2\n": "'a' occurs twice",
        "a: &a [*a]\n": "more than",
        bomb: "more than",
        "[" * 5000: "",
        "a: 2024-13-45": "",
    }
    for text, message in texts.items():
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ConfigError, match=f"a.yaml is not YAML.*{message}"):
            read_yaml(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="is not YAML"):
        apply_overrides({}, ["seed=2024-13-45"])


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file at .*none.yaml"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").touch()
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_load_resolves_before_it_validates(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("stage: join\n")
    assert load(Run, tmp_path / "run.yaml", resolve=lambda values: values | {"steps": 5}) == Run(steps=5, stage="join")
