"""Requests: what counts, what is refused, and prompts as the model takes them."""

from pathlib import Path

import numpy as np
import pytest

import medcodi
from medcodi.data.images import save_png16
from medcodi.errors import DataError, PromptError
from medcodi.generation.request import (
    check_batch,
    check_modalities,
    check_prompt_files,
    check_request,
    read_prompt,
    read_prompt_files,
    value_hash,
)
from medcodi.model import tiny_model
from medcodi.model.config import tiny_config
from medcodi.study import Direction

REPORT = "FINDINGS: Large left pleural effusion."
TINY = tiny_config()
PICTURE = np.random.default_rng(0).random((40, 50), dtype=np.float32)


def test_a_prompt_of_weight_zero_is_neither_prompt_nor_target():
    direction, used, weights = check_request({"report": REPORT, "frontal": 1}, None, {"frontal": 0.0}, 1, 0)
    assert direction == Direction(("report",), ("lateral",)) and set(used) == {"report"} and weights == {"report": 1.0}


def test_weights_not_given_are_one_and_targets_may_be_a_str():
    direction, _, weights = check_request({"report": REPORT, "frontal": 1}, "lateral", {"report": 3}, 1, 0)
    assert direction.targets == ("lateral",) and weights == {"report": 3.0, "frontal": 1.0}
    assert check_request(REPORT, None, None, 1, 0)[0] == Direction(("report",), ("frontal", "lateral"))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -0.1])
def test_weights_must_be_finite_and_not_negative(weight):
    with pytest.raises(PromptError, match="the weight of 'report' is"):
        check_request({"report": REPORT}, None, {"report": weight}, 1, 0)


@pytest.mark.parametrize("num_samples", [0, -1, 10**12, 2.0, True, "3", float("nan")])
def test_a_number_of_samples_is_refused_before_anything_is_allocated(num_samples):
    with pytest.raises(PromptError, match=f"num_samples is {num_samples}"):
        check_request({"report": REPORT}, None, None, num_samples, 0)
    with pytest.raises(PromptError, match="num_samples is 1000000000000"):
        medcodi.generate(REPORT, num_samples=10**12)
    with pytest.raises(PromptError, match="batch_size is 1000000000000"):
        medcodi.generate_many([REPORT], batch_size=10**12)


def test_numbers_in_range_are_accepted():
    check_request({"report": REPORT}, None, None, np.int64(3), 2**62)
    check_batch("num_samples", 10_000)
    with pytest.raises(PromptError, match="num_samples is 10001"):
        check_batch("num_samples", 10_001)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**400, 0.5, False])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(PromptError, match="seed is"):
        check_request({"report": REPORT}, None, None, 1, seed)


def test_a_modality_that_the_model_lacks_is_refused():
    model = tiny_model(seed=0, modalities=("frontal", "report"))
    check_modalities(model, Direction(("report",), ("frontal",)))
    with pytest.raises(
        PromptError, match="'tiny' has no lateral. Expected frontal, report.*leave out lateral, or name a model"
    ):
        check_modalities(model, Direction(("report",), ("lateral",)))


def test_prompts_are_fitted_and_normalised():
    assert read_prompt("frontal", PICTURE, TINY).shape == (32, 32)
    assert read_prompt("frontal", PICTURE, None).shape == (40, 50)
    assert read_prompt("report", "Clear   lungs.", TINY) == "Clear lungs."
    with pytest.raises(PromptError, match="report prompt is a int"):
        read_prompt("report", 5, TINY)


def test_hashes_tell_prompts_apart():
    assert value_hash("a") != value_hash("b") and value_hash(PICTURE) == value_hash(PICTURE.copy())
    assert value_hash(PICTURE) != value_hash(PICTURE[::-1])


def test_prompts_of_files(tmp_path):
    save_png16(PICTURE, tmp_path / "f.png")
    (tmp_path / "r.txt").write_text("Clear   lungs.")
    prompts = {"frontal": tmp_path / "f.png", "report": tmp_path / "r.txt"}
    check_prompt_files(prompts, TINY)
    values = read_prompt_files(prompts, TINY)
    assert values["frontal"].shape == (32, 32) and values["report"] == "Clear lungs."


@pytest.mark.parametrize("file", ["none.png", "empty.png", "text.png"])
def test_files_that_are_not_images_are_refused(tmp_path, file):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(DataError, match=file):
        check_prompt_files({"frontal": tmp_path / file}, TINY)


def test_a_text_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match="none.txt"):
        check_prompt_files({"report": tmp_path / "none.txt"}, TINY)


@pytest.mark.parametrize("value", ["report.txt", "chest.PNG", "notes"])
def test_a_report_that_is_the_name_of_a_file_is_refused(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("Clear lungs.")
    with pytest.raises(PromptError, match=rf"report=@{value} on the command line"):
        check_request({"report": value}, ["frontal"], None, 1, 0)
    check_request({"report": "Notes of a file: clear lungs."}, ["frontal"], None, 1, 0)
