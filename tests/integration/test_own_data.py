"""A user's own studies: data named once through all four stages, and ``medcodi fit`` killed and resumed."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from medcodi.config import load
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sample import write_sample
from medcodi.errors import TrainingError
from medcodi.model import MedCoDi
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train
from tests.integration import forked, jobs

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("autoencode", "align", "diffuse", "join")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample") / "sample", 32, image_size=48).parent


def dataset(sample: Path, out: Path, *unused: str, val: float = 0.1) -> Path:
    """The sample as a dataset of 48 pixels, some columns of its table unused."""
    settings = {"columns": dict.fromkeys(unused)}
    prepare(PrepareConfig(source="csv", path=str(sample), out=str(out), image_size=48, options=settings, val=val))
    return out


def run_stage(stage: str, data: Path, root: Path, *words: str) -> Path:
    """Two steps of a tiny recipe on data that are named once."""
    start = [f"init={root / STAGES[STAGES.index(stage) - 1] / 'model'}"] if stage != STAGES[0] else []
    quiet = ["steps=2", "tracking.samples_every=0", "tracking.validate_every=2", "tracking.tensorboard=false"]
    words = (f"data={data}", f"out={root / stage}", *start, *quiet, *words)
    return train(load(TrainConfig, ROOT / f"configs/train/tiny/{stage}.yaml", list(words)))


def test_data_named_once_fit_the_model_to_the_studies(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    data = dataset(sample, tmp_path / "two", "lateral")
    for stage in STAGES:
        run_stage(stage, data, tmp_path / "runs")
    printed = capsys.readouterr().out
    assert "data: 20 studies of two/train; validation: 4 studies of two/val" in printed and "phantom" not in printed
    assert "model without lateral: no study of two/train has it" in printed
    assert "model of 48 pixels a side, as the data are; its recipe has 32" in printed
    model = MedCoDi.from_pretrained(tmp_path / "runs/join/model")
    assert model.config.modalities == ("frontal", "report") and model.config.image_size == 48
    assert model.trained_stages == STAGES
    assert "validation/loss" in (tmp_path / "runs/align/log.jsonl").read_text()


def test_images_alone_train_too(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    data = dataset(sample, tmp_path / "images", "report")
    for stage in STAGES:
        run_stage(stage, data, tmp_path / "runs")
    assert MedCoDi.from_pretrained(tmp_path / "runs/join/model").config.modalities == ("frontal", "lateral")


def test_without_held_out_studies_a_run_says_so(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    data = dataset(sample, tmp_path / "all", "split", val=0.0)
    run_stage("autoencode", data, tmp_path / "runs")
    assert "no validation: " in capsys.readouterr().out


def test_a_split_that_lacks_a_modality_validates_the_others(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with (sample / "studies.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["lateral"] = "" if row["split"] == "val" else row["lateral"]
    with (tmp_path / "laterals_in_train.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    data, root = tmp_path / "some", {"root": str(sample)}
    prepare(PrepareConfig(source="csv", path=file.name, out=str(data), image_size=48, options=root))
    for stage in STAGES:
        run_stage(stage, data, tmp_path / "runs")
    printed = capsys.readouterr().out
    assert printed.count("validation of frontal and report only: none of the 4 studies of some/val has lateral") == 4
    logged = {
        stage: {
            name: value
            for line in (tmp_path / "runs" / stage / "log.jsonl").read_text().splitlines()
            for name, value in json.loads(line).items()
            if name.startswith("validation/")
        }
        for stage in STAGES
    }
    assert {"validation/image/l1", "validation/text/ce"} <= logged["autoencode"].keys()
    assert logged["align"]["validation/frontal-report/loss"] > 0
    assert {"validation/loss/frontal", "validation/loss/report"} <= logged["diffuse"].keys()
    assert {"validation/loss/frontal", "validation/loss/report"} <= logged["join"].keys()
    for values in logged.values():  # what no study has is absent: 0 would be a perfect loss
        assert not [name for name in values if "lateral" in name.partition(" from ")[0]], values.keys()


def test_one_modality_is_refused_and_leaves_nothing(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    data = dataset(sample, tmp_path / "laterals", "report", "frontal")
    with pytest.raises(TrainingError, match="hold lateral only.*at least two of"):
        run_stage("autoencode", data, tmp_path / "runs")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


# ---- medcodi fit -----------------------------------------------------------------------------------------------------
def fit(log: Path, *words: str) -> Any:
    """The command, in a process of its own that has imported most of it; it prints into a file."""
    process = forked.FORKS.Process(target=_fit, args=(log, words))
    process.start()
    return process


def _fit(log: Path, words: tuple[str, ...]) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    jobs.redirect(log)
    jobs.call(["fit", *words], Path())


@pytest.mark.long
def test_a_fit_is_killed_and_resumes_to_a_model_and_a_page(sample: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log.txt"
    words = (str(sample), "--out", str(out), "--minutes", "0.25")

    # Killed once the second stage has begun.
    first = fit(log, *words)
    deadline = time.monotonic() + 300
    while not (out / "done" / "autoencode.json").exists():
        assert first.is_alive() and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    first.kill()
    first.join()
    before = (out / "stages/autoencode/model/model_index.json").stat().st_mtime_ns

    # The same command resumes: nothing is done twice.
    log.unlink()
    second = fit(log, *words)
    second.join(600)
    printed = log.read_text()
    assert second.exitcode == 0, printed
    assert "model: tiny (as this fit began)" in printed and "2/8 autoencode: done before" in printed
    assert (out / "stages/autoencode/model/model_index.json").stat().st_mtime_ns == before
    assert (out / "evaluation/page.html").is_file() and (out / "model/finding_classifier.safetensors").is_file()
    results = json.loads((out / "evaluation/results.json").read_text())
    assert len(results["systems"]["tiny"]["directions"]) == 13

    # Other data are refused in the same folder, and the model generates.
    log.unlink()
    other = fit(log, str(sample / "studies.csv"), "--out", str(out))
    other.join(120)
    assert other.exitcode == 2 and "holds a fit with other settings: data was" in " ".join(log.read_text().split())
    model = MedCoDi.from_pretrained(out / "model")
    assert model.trained_stages == STAGES and model.config.image_size == 64
