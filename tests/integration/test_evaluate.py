"""A whole evaluation: the tiny model on phantom studies, a classifier trained for a moment, resumed, refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medcodi.config import from_dict
from medcodi.errors import CheckpointError, ConfigError, MedCoDiError
from medcodi.evaluation import ClassifierTrainConfig, EvaluateConfig, FindingClassifier, evaluate, train_classifier
from medcodi.model import tiny_model

pytest.importorskip("pycocoevalcap")
pytest.importorskip("jinja2")
SIZE = 32


def phantom(split: str, num: int) -> dict:
    return {"source": "phantom", "split": split, "num_studies": num, "image_size": SIZE}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory):
    """A tiny generator and, beside it, a classifier that has seen twelve studies."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    network = {"image_size": SIZE, "channels": [4, 8], "blocks": [0, 1]}
    values = {
        "train": phantom("train", 12),
        "validation": phantom("val", 12),
        "test": phantom("test", 12),
        "network": network,
        "num_steps": 2,
        "batch_size": 8,
        "out": str(folder),
    }
    train_classifier(from_dict(ClassifierTrainConfig, values), quiet=True)
    return folder


def options(folder, out, **changes) -> EvaluateConfig:
    directions = ["report->frontal", "frontal->lateral+report", "->report"]
    values = {
        "model": str(folder),
        "data": phantom("test", 12),
        "directions": directions,
        "out": str(out),
        "num_inference_steps": 2,
        "batch_size": 5,
        "bootstrap_samples": 100,
        "min_positives": 2,
        "meteor": False,
        "device": "cpu",
    }
    return from_dict(EvaluateConfig, {**values, **changes})


def without_times(results: dict) -> dict:
    plain = json.loads(json.dumps(results))
    plain.pop("config")
    for scores in plain["directions"].values():
        scores.pop("seconds")
    return plain


def test_the_whole_matrix_resumes_to_the_same_figures(model_folder, tmp_path) -> None:
    first = evaluate(options(model_folder, tmp_path / "a"))
    assert set(first["directions"]) == {"report->frontal", "frontal->lateral+report", "->report"}
    assert first["complete"] and first["directions"]["->report"]["primary"]["beats_shuffled"] is None
    assert set(first["directions"]["frontal->lateral+report"]["targets"]) == {"lateral", "report"}
    metrics = first["directions"]["frontal->lateral+report"]["targets"]["report"]["metrics"]
    assert {"bleu_1", "rouge_l", "cider", "finding_macro_f1"} <= set(metrics)
    assert metrics["finding_macro_f1"]["ceiling"] == 1.0  # the labeler reads every phantom report right
    assert json.loads((tmp_path / "a" / "results.json").read_text()) == first

    page = (tmp_path / "a" / "page.html").read_text()
    assert page.count("data:image/png") >= 4 and "https://" not in page and "report → frontal" in page

    kept = tmp_path / "a" / "generated" / "report_to_frontal.npz"
    before = kept.stat().st_mtime_ns
    (tmp_path / "a" / "generated" / "nothing_to_report.npz").write_bytes(b"cut short")
    again = evaluate(options(model_folder, tmp_path / "a"))
    assert without_times(again) == without_times(first)
    assert kept.stat().st_mtime_ns == before  # not generated again

    other = evaluate(options(model_folder, tmp_path / "a", seed=1))
    assert kept.stat().st_mtime_ns != before and without_times(other) != without_times(first)
    assert not list((tmp_path / "a").rglob("*.partial"))


def test_a_generation_does_not_know_its_batch(model_folder, tmp_path) -> None:
    for size in (3, 12):
        evaluate(options(model_folder, tmp_path / str(size), batch_size=size, directions=["report->frontal"]))
    one, other = (
        np.load(tmp_path / str(size) / "generated" / "report_to_frontal.npz")["frontal"].astype(int) for size in (3, 12)
    )
    assert one.shape == (12, SIZE, SIZE) and np.abs(one - other).max() <= 1  # 8-bit rounding of float rounding


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"directions": ["report->report"]}, MedCoDiError, "both prompt and target"),
        ({"directions": ["report->mri"]}, MedCoDiError, "mri"),
        (
            {"data": {"source": "phantom", "split": "test", "num_studies": 12, "image_size": 64}},
            ConfigError,
            "data.image_size=32",
        ),
        ({"data": phantom("test", 3)}, MedCoDiError, "3 held-out studies"),
        ({"bootstrap_samples": 1}, ConfigError, "at least 100"),
        ({"sampler": "ddimm"}, MedCoDiError, "did you mean 'ddim'"),
        ({"classifier": "nowhere"}, CheckpointError, "no finding classifier in nowhere"),
        ({"batchsize": 3}, ConfigError, "did you mean 'batch_size'"),
    ],
)
def test_refusals_come_before_any_output(
    model_folder, tmp_path, changes: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(options(model_folder, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_train_and_test_of_the_classifier_must_differ(tmp_path) -> None:
    same = {name: phantom("train", 4) for name in ("train", "validation", "test")}
    with pytest.raises(MedCoDiError, match="share their studies"):
        train_classifier(from_dict(ClassifierTrainConfig, {**same, "out": str(tmp_path)}), quiet=True)
    with pytest.raises(CheckpointError):
        FindingClassifier.load(tmp_path)
