"""A model with a record as fourth modality: all stages, the cache, generation in its directions, saving and resuming."""

import csv
from pathlib import Path

import numpy as np
import pytest

import medcodi
from medcodi.config import from_dict
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sources.phantom import PhantomDataset
from medcodi.errors import PromptError, TrainingError
from medcodi.generation.bulk.job import SynthesisConfig, synthesize
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.config import ModelConfig
from medcodi.record import CLINICAL_RECORD
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train

RECORD = {"age": 71, "sex": "F", "bmi": 31.5}


def config(stage: str, out: Path, **changes) -> TrainConfig:
    values = {
        "stage": {"name": stage},
        "data": {"source": "phantom", "num_studies": 12, "image_size": 32, "version": 2, "studies_per_patient": 2},
        "validation": {"split": "val", "num_studies": 4},
        "tokenizer_studies": 16,
        "out": str(out),
        "steps": 3,
        "batch": {"global_size": 4},
        "optimizer": {"lr": 1e-3, "warmup_steps": 1},
        "checkpoint": {"every": 3, "keep": 1},
        "tracking": {"log_every": 1, "validate_every": 3, "validate_batches": 1, "samples_every": 3, "num_samples": 1},
    }
    return from_dict(TrainConfig, {**values, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A model folder that went through all four stages, ``diffuse`` from a cache."""
    root = tmp_path_factory.mktemp("record")
    start: dict = {"model": "configs/models/tiny-record.yaml"}
    for stage in ("autoencode", "align", "diffuse", "join"):
        cache = {"cache": str(root / "cache")} if stage == "diffuse" else {}
        train(config(stage, root / stage, **start, **cache))
        start = {"init": str(root / stage / "model")}
    return root / "join" / "model"


def test_every_stage_trains_it(trained):
    model = MedCoDi.from_pretrained(trained)
    assert model.config.modalities == ("frontal", "lateral", "report", "record")
    assert model.trained_stages == ("autoencode", "align", "diffuse", "join")
    # The numbers of records are normalised as in the training split, in the tower as in the autoencoder.
    ages = [study.record["age"] for study in PhantomDataset(12, image_size=32, version=2, studies_per_patient=2)]
    for tokens in (model.prompt_encoders.record_tower.tokens, model.autoencoders["table"].tokens):
        assert float(tokens.mean[0]) == pytest.approx(np.mean(ages), rel=1e-5)
    assert float(model.autoencoders["table"].scale) != 1.0


def test_it_prompts_and_is_generated(trained):
    out = medcodi.generate(prompts={"record": RECORD}, targets=["frontal", "report"], model=trained, seed=1)
    assert out.frontal.size == (32, 32) and isinstance(out.report, str)
    other = medcodi.generate(prompts={"record": {**RECORD, "age": 20}}, targets=["frontal"], model=trained, seed=1)
    assert not np.array_equal(out.images["frontal"], other.images["frontal"])
    assert out.provenance["prompts"]["record"]["sha256"] != other.provenance["prompts"]["record"]["sha256"]
    out = medcodi.generate(
        prompts={"report": "Large left pleural effusion."}, targets="record", model=trained, num_samples=2
    )
    assert set(out.record) == set(CLINICAL_RECORD.fields) and CLINICAL_RECORD.parse(out.record) == out.record


def test_a_record_as_text_and_its_files(trained, tmp_path):
    as_text = medcodi.generate(prompts={"record": "age=71, sex=f, bmi=31.5"}, targets=["lateral"], model=trained)
    as_dict = medcodi.generate(prompts={"record": RECORD}, targets=["lateral"], model=trained)
    as_json = medcodi.generate(
        prompts={"record": '{"age": "071Y", "sex": "F", "bmi": 31.5}'}, targets=["lateral"], model=trained
    )
    assert np.array_equal(as_text.images["lateral"], as_dict.images["lateral"])
    assert np.array_equal(as_json.images["lateral"], as_dict.images["lateral"])
    (tmp_path / "patient.json").write_text('{"age": 71, "sex": "F", "bmi": 31.5}')
    as_file = medcodi.generate(prompts={"record": tmp_path / "patient.json"}, targets=["lateral"], model=trained)
    assert np.array_equal(as_file.images["lateral"], as_dict.images["lateral"])
    folder = medcodi.generate(prompts={}, targets=["record"], model=trained).save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"record.json", "provenance.json"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"agee": 3}, "did you mean 'age'"),
        ({"age": 300}, "outside its plausible range"),
        ({"sex": "x"}, "F, M"),
        ({}, "the record is empty"),
        ("age", "age=71,sex=F"),
        ({"age": float("nan")}, "age is nan"),
        ('{"age": 3, "age": 4}', "occurs twice"),
    ],
)
def test_invalid_records_are_refused(trained, record, message):
    with pytest.raises(PromptError, match=message):
        medcodi.generate(prompts={"record": record}, targets=["frontal"], model=trained)


def test_a_manifest_with_records_is_carried_out(trained, tmp_path):
    (tmp_path / "patient.json").write_text('{"age": 71, "sex": "F"}')
    rows = ["id,record.age,record.sex,record,report,targets", "a,71,F,,,frontal", "b,,,patient.json,,frontal"]
    rows += ['c,,,"age=71, sex=F",,frontal', "d,,,,Clear lungs.,record", "e,300,,,,frontal", "f,,X,,,frontal"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    config = SynthesisConfig(batch_size=2, keep=("record.age",))
    outcome = synthesize(tmp_path / "m.csv", tmp_path / "out", model=trained, config=config)
    assert [bad.id for bad in outcome.failed] == ["e", "f"]
    assert "age is 300, outside its plausible range" in outcome.failed[0].message
    assert "sex is 'X'. Expected F, M" in outcome.failed[1].message
    with (tmp_path / "out/results.csv").open() as file:
        results = {row["id"]: row for row in csv.DictReader(file)}
    # However it is written, the record is the same prompt.
    assert len({results[name]["record_prompt_sha256"] for name in "abc"}) == 1
    assert results["a"]["record_prompt"] == "age=71, sex=F" and results["a"]["record.age"] == "71"
    assert results["d"]["record"].endswith("record.json") and results["d"]["record_text"].startswith("age=")


def test_a_dataset_of_another_schema_is_refused_before_training(trained, tmp_path):
    rows = ["study_id,patient_id,split,report,troponin"] + [f"s{n},p{n},train,Clear lungs.,{n + 1}" for n in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    options = {"record": True, "fields": {"troponin": {"low": 0.1, "high": 50_000, "unit": "ng/L"}}}
    prepare(
        PrepareConfig(
            source="csv", path=str(tmp_path / "t.csv"), out=str(tmp_path / "data"), options=options, image_size=32
        )
    )
    data = {"path": str(tmp_path / "data"), "split": "train"}
    changes = {"data": data, "validation": None, "init": str(trained), "tracking": {"validate_every": 0}}
    with pytest.raises(TrainingError, match=r"study 's0'.*unknown field 'troponin'.*record.fields"):
        train(config("autoencode", tmp_path / "run", **changes))
    assert not (tmp_path / "run/config.yaml").exists()


def test_a_model_without_records_refuses_one():
    model = tiny_model()
    with pytest.raises(PromptError, match="has no record"):
        medcodi.generate(prompts={"record": RECORD}, targets=["frontal"], model=model)
    with pytest.raises(ValueError, match="the modality record needs the key record"):
        from_dict(ModelConfig, {**medcodi_config(model), "modalities": ["frontal", "record"]})


def medcodi_config(model: MedCoDi) -> dict:
    from medcodi.config import to_dict

    values = to_dict(model.config)
    assert "record" not in values  # models without records keep their stored config, and so their identity
    return values
