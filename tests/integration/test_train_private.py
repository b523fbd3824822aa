"""Runs that train low-rank changes, private and not: killed and resumed, on two ranks, from a cache, and what they end in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medcodi.errors import CheckpointError, TrainingError
from medcodi.model import MedCoDi
from medcodi.model.adapter import ADAPTER, read_adapter
from medcodi.model.merging import merge
from medcodi.training.checkpoint import load
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train
from medcodi.training.run_folder import SECRET
from tests.integration.conftest import QUIET, tiny_config
from tests.integration.forked import KILLED, finished, log, run

pytest.importorskip("dp_accounting")
PRIVATE = ("privacy={noise: 1.0, delta: 1.0e-3, clip: 0.5}", "batch.global_size=4", "batch.micro_size=2")
LOW_RANK = ("low_rank={rank: 2, layers: [attention]}", "stage.options.targets=[report]", "ema.decay=0.5")


class Runs:
    """Configs of runs in one folder, all on the same prepared phantoms and from the same model."""

    def __init__(self, root: Path, data: Path, model: Path) -> None:
        self.root, self.data, self.model = root, data, model

    def config(self, name: str, *words: str) -> TrainConfig:
        data = ("data.source=null", f"data.path={self.data}", "data.num_studies=null", "validation=null", "model=null")
        settings = (*QUIET, "steps=4", "checkpoint.every=2", "faults.rank_s=20", *LOW_RANK)
        return tiny_config("diffuse", self.root / name, self.model, *data, *settings, *words)

    def beside(self, whole: Path, name: str) -> None:
        """A folder for a run with the secret of another: else its noise would be its own."""
        (self.root / name).mkdir()
        shutil.copy(whole / SECRET, self.root / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, prepared: Path, untrained: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("private"), prepared, untrained)


@pytest.fixture(scope="module")
def whole(runs: Runs) -> Path:
    """A private run that nothing happened to; its secret is known, and draws patients in every step."""
    (runs.root / "whole").mkdir()
    (runs.root / "whole" / SECRET).write_text("5" * 64 + "\n")
    return train(runs.config("whole", *PRIVATE))


def changes(folder: Path) -> dict[str, Tensor]:
    return dict(read_adapter(folder / ADAPTER).tensors)


def test_a_private_run_ends_in_an_adapter_that_states_its_promise(runs: Runs, whole: Path) -> None:
    assert not (whole / "model").exists()
    adapter = read_adapter(whole / ADAPTER)
    promise, state = adapter.training["privacy"], load(whole / "checkpoints/step-00000004").state
    assert promise == state["privacy"] and promise["steps"] == 4 and promise["patients"] == 16
    assert promise["sampling_rate"] == pytest.approx(4 / 16) and 0 < promise["epsilon"] < 20
    assert load(whole / "checkpoints/step-00000002").state["privacy"]["epsilon"] < promise["epsilon"]
    assert adapter.base == MedCoDi.from_pretrained(runs.model, lazy=True).identity()
    merged = merge([whole / ADAPTER], base=runs.model)
    assert merged.provenance["adapters"][0]["training"]["privacy"] == promise
    # The key of the noise is in no file that is passed on.
    secret = (whole / SECRET).read_text().strip()
    assert secret.encode() not in (whole / ADAPTER).read_bytes()
    assert all(secret not in file.read_text() for file in whole.rglob("*.json"))
    line = log(whole)[-1]
    assert 0 <= line["privacy/clipped"] <= 1 and line["loss"] > 0


def test_a_private_run_that_is_killed_and_resumed_is_bitwise_the_same(runs: Runs, whole: Path) -> None:
    runs.beside(whole, "parts")
    config = runs.config("parts", *PRIVATE)
    assert run(config, kill_after=2) == [KILLED]
    parts = train(config, resume="latest")
    manifests = [json.loads((each / "checkpoints/step-00000004/manifest.json").read_text()) for each in (parts, whole)]
    for name in ("weights.safetensors", "ema.safetensors", "optimizer.safetensors"):
        assert manifests[0]["files"][name] == manifests[1]["files"][name]
    assert (parts / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
    assert log(parts) == log(whole)


def test_two_ranks_and_other_micro_batches_take_the_steps_of_one(runs: Runs, whole: Path) -> None:
    """Up to the order in which clipped gradients are added: 1e-5 of weights that moved by more than 1e-3."""
    runs.beside(whole, "two")
    two = finished(runs.config("two", *PRIVATE, "batch.micro_size=1", "engine.name=plain"), ranks=2)
    ours, theirs = changes(two), changes(whole)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)
    assert max(float(value.abs().max()) for name, value in theirs.items() if ".up." in name) > 1e-3
    for one, other in zip(log(two), log(whole), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_another_secret_gives_another_result_and_refuses_to_resume(runs: Runs, whole: Path) -> None:
    other = train(runs.config("other", *PRIVATE, "steps=2"))
    (other / SECRET).unlink()
    with pytest.raises(CheckpointError, match="privacy.secret_hash was"):
        train(runs.config("other", *PRIVATE), resume="latest")
    with pytest.raises(TrainingError, match="holds a run already"):
        train(runs.config("whole", *PRIVATE))


def test_a_model_of_the_same_studies_is_no_start_for_a_private_run(runs: Runs, whole: Path, tmp_path: Path) -> None:
    merged = merge([whole / ADAPTER], base=runs.model).save_pretrained(tmp_path / "merged")
    with pytest.raises(TrainingError, match="was trained on the same studies in stage 'diffuse'.*no noise takes back"):
        train(runs.config("again", *PRIVATE, f"init={merged}"))
    assert not (runs.root / "again/privacy.secret").exists()


def test_plain_low_rank_training_learns_also_from_a_cache_and_leaves_the_base_as_it_is(
    runs: Runs, tmp_path: Path
) -> None:
    before = {file.name: file.read_bytes() for file in runs.model.iterdir()}
    plain = train(runs.config("plain", "tracking.samples_every=4"))
    cached = train(runs.config("cached", f"cache={tmp_path / 'cache'}"))
    assert before == {file.name: file.read_bytes() for file in runs.model.iterdir()}
    ours, theirs = changes(cached), changes(plain)
    assert set(ours) == set(theirs)
    values: list[Any] = [(ours[name] - theirs[name]).abs().max() for name in theirs if ".up." in name]
    sizes: list[Any] = [theirs[name].abs().max() for name in theirs if ".up." in name]
    assert (
        max(values) < 0.3 * max(sizes) and max(sizes) > 1e-3
    )  # Adam's first steps follow signs, which rounding may flip
    assert "privacy" not in read_adapter(plain / ADAPTER).training
    weights = load(plain / "checkpoints/step-00000004").tensors["weights"]
    assert weights and all(name.startswith("adapters.denoiser_report.") for name in weights)
