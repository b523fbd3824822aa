"""Synthesis in one process: resumed, shared by ranks with the same bytes, failures row by row. Kills: tests/integration."""

import csv
from dataclasses import replace

import pytest

from medcodi.data.dataset import open_dataset
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.errors import DataError, PromptError
from medcodi.generation.bulk.job import SynthesisConfig, synthesize
from medcodi.generation.bulk.manifest import RowDefaults
from medcodi.model import tiny_model
from medcodi.model.generation_config import GenerationConfig

CONFIG = SynthesisConfig(
    batch_size=2, generation=GenerationConfig(num_inference_steps=2), defaults=RowDefaults(targets=("frontal",))
)


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=0).eval()


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("id,report,report_file\na,Clear.,\nb,,missing.txt\nc,Large effusion.,\nd,Big heart.,\n")
    return path


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_ranks_make_the_same_bytes_as_one_process_and_a_second_run_makes_nothing(model, manifest, tmp_path):
    failures = []
    alone = synthesize(manifest, tmp_path / "one", model=model, config=CONFIG, on_failure=failures.append)
    assert (alone.made, alone.num_there, alone.num_failed, alone.num_pending) == (3, 3, 1, 0)
    assert [(bad.number, bad.id) for bad in failures] == [(2, "b")] and "missing.txt" in failures[0].message
    again = synthesize(manifest, tmp_path / "one", model=model, config=CONFIG)
    assert (again.made, again.found) == (0, 3)
    for rank in (1, 0):
        last = synthesize(manifest, tmp_path / "two", model=model, config=CONFIG, rank=rank, world=2)
    assert last.num_pending == 0 and files_in(tmp_path / "one") == files_in(tmp_path / "two") != {}
    assert (tmp_path / "one/results.csv").read_bytes() == (tmp_path / "two/results.csv").read_bytes()


def test_results_train_a_classifier_as_they_are(model, tmp_path):
    manifest, out = tmp_path / "manifest.csv", tmp_path / "out"
    manifest.write_text(
        "id,report,targets,num_samples,Fracture\n"
        "a,Large left pleural effusion. No pneumothorax.,frontal+lateral,2,1\n"
        "b,Possible pneumothorax.,frontal,,\n"
        "c,,frontal+report,,0\n"
    )
    config = replace(CONFIG, keep=("Fracture",))  # a label of the manifest's own
    synthesize(manifest, out, model=model, config=config)
    with (out / "results.csv").open(newline="") as file:
        rows = {row["study_id"]: row for row in csv.DictReader(file)}
    assert rows["a-1"]["report_prompt"] == "Large left pleural effusion. No pneumothorax."
    assert rows["a-0"]["model_sha256"] == model.identity() and rows["c"]["report_prompt"] == ""
    # The dataset: images, the labels that the prompts name, generated reports as texts; samples of a row are one patient.
    source = PrepareConfig(source="csv", path=str(out / "results.csv"), out=str(tmp_path / "data"), image_size=32)
    prepare(replace(source, val=0.0, test=0.0))
    dataset = open_dataset(tmp_path / "data", "train")
    studies = {study.study_id: study for study in (dataset[index] for index in range(len(dataset)))}
    assert {name: set(study.contents) for name, study in studies.items()} == {
        "a-0": {"frontal", "lateral"},
        "a-1": {"frontal", "lateral"},
        "b": {"frontal"},
        "c": {"frontal", "report"} if rows["c"]["report_text"] else {"frontal"},
    }
    assert studies["a-0"].patient_id == studies["a-1"].patient_id != studies["b"].patient_id
    expected = {"No Finding": 0.0, "Pleural Effusion": 1.0, "Pneumothorax": 0.0, "Fracture": 1.0}
    assert studies["a-1"].labels == expected and studies["b"].labels["Pneumothorax"] == -1.0
    assert studies["c"].labels == {"Fracture": 0.0}


def test_another_config_is_refused_with_the_difference(model, manifest, tmp_path):
    synthesize(manifest, tmp_path / "out", model=model, config=CONFIG, collect_only=True)
    other = SynthesisConfig(batch_size=3, generation=CONFIG.generation, defaults=CONFIG.defaults)
    with pytest.raises(DataError, match="batch_size was 2, is 3"):
        synthesize(manifest, tmp_path / "out", model=model, config=other)


def test_invalid_settings_are_refused_before_anything_is_written(model, manifest, tmp_path):
    with pytest.raises(PromptError, match="batch_size is 0"):
        SynthesisConfig(batch_size=0)
    with pytest.raises(PromptError, match="rank 2 of 2"):
        synthesize(manifest, tmp_path / "out", model=model, rank=2, world=2)
    steps = SynthesisConfig(generation=GenerationConfig(num_inference_steps=5000))
    with pytest.raises(PromptError, match="at most 1000"):
        synthesize(manifest, tmp_path / "out", model=model, config=steps)
    assert not (tmp_path / "out").exists()
