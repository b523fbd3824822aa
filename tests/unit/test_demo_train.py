"""The chain that trains the demo: every recipe begins where the one before ended, on as many processes as its batch allows."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from medcodi.config import load
from medcodi.training.config import TrainConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo_train() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_train", ROOT / "launch" / "demo_train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ranks_divide_the_global_batch(demo_train: ModuleType) -> None:
    assert [demo_train.ranks_for(16, ranks) for ranks in (1, 2, 3, 6, 32)] == [1, 2, 2, 4, 16]
    assert demo_train.ranks_for(15, 2) == 1


def test_each_run_is_started_by_a_launcher(demo_train: ModuleType) -> None:
    words = demo_train.launched(2)
    assert words[0] == sys.executable and words[-1].endswith("2")
    assert "deepspeed.launcher.runner" in words or "torch.distributed.run" in words


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--scale", "0"], "--scale is 0"), (["--ranks", "0"], "--ranks is 0")]
)
def test_refusals(demo_train: ModuleType, arguments: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit):
        demo_train.parse(arguments)
    assert message in capsys.readouterr().err


def test_recipes_are_a_chain_and_train_from_one_cache(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    recipes = [load(TrainConfig, path) for path in sorted(Path("configs/train/demo").glob("*.yaml"))]
    assert recipes[0].init is None and recipes[0].model == "configs/models/demo.yaml"
    for before, after in pairwise(recipes):
        assert after.init == f"{before.out}/model"
    cached = [recipe.cache for recipe in recipes if recipe.stage.name in ("diffuse", "join")]
    assert len(cached) == 3 and set(cached) == {"runs/demo/cache"}


def test_it_compiles_where_there_is_a_compiler(demo_train: ModuleType, monkeypatch) -> None:
    assert demo_train.can_compile() == any(shutil.which(name) for name in ("g++", "clang++", "cl"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not demo_train.can_compile()
