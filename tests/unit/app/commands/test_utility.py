"""``medcodi utility``: a study, its estimate and its verification from the command line; the shipped recipes are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.config import load
from medcodi.recipes import recipe_names
from medcodi.trust.utility.config import UtilityConfig

Run = Callable[..., int]
PHANTOMS = "{source: phantom, split: %s, num_studies: %d, image_size: 32}"
CONFIG = f"""
train: {PHANTOMS % ("train", 8)}
validation: {PHANTOMS % ("val", 4)}
test: {PHANTOMS % ("test", 8)}
arms: {{half: {{real: 0.5}}, doubled: {{real: 0.5, add: oracle, against: half}}}}
task: reports
network: {{buckets: 256, width: 8}}
training: {{num_steps: 2, batch_size: 4, num_checks: 1}}
seeds: 1
sampling_seeds: 1
min_positives: 1
bootstrap_samples: 100
"""


def test_a_study_runs_verifies_and_is_estimated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(CONFIG)
    assert run("utility", "--config", "study.yaml", "--estimate") == 0
    assert "2 trainings of 2 steps" in capsys.readouterr().out and not Path("runs").exists()
    assert run("utility", "--config", "study.yaml", "--out", "out") == 0
    captured = capsys.readouterr()
    assert "doubled against half: AUROC" in captured.out and "read these as a trial run" in captured.err
    assert run("utility", "--verify", "out") == 0
    assert "every hash and every figure" in capsys.readouterr().out
    weights = Path("out/classifiers/half/0-0/classifier.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert run("utility", "--verify", "out") == 1
    assert "classifiers/half/0-0: missing or changed" in capsys.readouterr().out
    # Another folder of somebody's is refused, and one without a study too.
    Path("theirs").mkdir()
    Path("theirs/notes.txt").write_text("mine")
    assert run("utility", "--config", "study.yaml", "--out", "theirs") == 2
    assert "does not hold a utility study" in capsys.readouterr().err and list(Path("theirs").iterdir())
    assert run("utility", "--verify", "theirs") == 2
    assert run("utility") == 2
    assert "--config" in capsys.readouterr().err


@pytest.mark.parametrize("name", recipe_names("utility"))
def test_the_recipes_are_right(name: str) -> None:
    config = load(UtilityConfig, name)
    assert config.seeds >= 5 and config.sampling_seeds >= 2
    kinds = {arm.add for arm in config.arms.values()}
    assert "synthetic" in kinds
    # Every synthetic or duplicated arm with real studies has an oracle of its base, so that it has an exchange rate.
    oracles = {arm.base for arm in config.arms.values() if arm.add == "oracle"}
    plain = {arm.base for arm in config.arms.values() if arm.add == "nothing" and arm.augmentation == "standard"}
    if name in ("utility/scarcity", "utility/imbalance", "utility/small"):
        assert oracles <= plain and {"duplicates", "oracle"} <= kinds
    assert len(config.arms) == 12 or name != "utility/small"
