"""docs/MODALITIES.md: a fifth modality is a row, and what fills it. It goes through all stages, is generated, and is judged."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import medcodi
from medcodi import modality
from medcodi.config import from_dict, read_yaml
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sources import SOURCES, Source, phantoms
from medcodi.data.sources.announced import Loaded
from medcodi.evaluation import EvaluateConfig, evaluate
from medcodi.model import MedCoDi
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train

pytest.importorskip("sklearn")
pytestmark = pytest.mark.long  # four stages and an evaluation
FIELDS = {
    "age": {"low": 0, "high": 120},
    "sex": {"values": ["F", "M"]},
    "pulse": {"low": 20, "high": 250},
    "fever": {"values": ["no", "yes"]},
}


# ---- a row, and a source that fills it -------------------------------------------------------------------------------
ROW = modality.Modality(name="vitals", kind="table", title="Vital signs", short="V", standard=False)


class AnnouncedVitals(phantoms.AnnouncedPhantom):
    """A phantom with its age and sex as the record, pulse and fever as vital signs."""

    def load(self, image_size: int) -> Loaded:
        study = super().load(image_size).study
        assert study is not None and study.record is not None
        record = {name: study.record[name] for name in ("age", "sex")}
        hot = float(study.record.get("temperature", 36.7)) > 37.5
        vitals = {"pulse": 110.0 if hot else 70.0, "fever": "yes" if hot else "no"}
        return Loaded(study=replace(study, contents={**study.contents, "record": record, "vitals": vitals}))


def studies(options: phantoms.PhantomConfig) -> Iterator[AnnouncedVitals]:
    for announced in phantoms.studies(options):
        yield AnnouncedVitals(**vars(announced))


@pytest.fixture(scope="module")
def fifth() -> Iterator[None]:
    """The rows, for this file's tests only."""
    patch, module = pytest.MonkeyPatch(), ModuleType("medcodi.data.sources.vitals")
    module.__dict__.update(studies=studies, PhantomConfig=phantoms.PhantomConfig)
    patch.setitem(sys.modules, module.__name__, module)
    patch.setitem(SOURCES, "vitals", Source("phantoms with vital signs", "vitals", "PhantomConfig"))
    patch.setattr(modality, "_ROWS", (*modality._ROWS, ROW))
    patch.setitem(modality.MODALITIES, ROW.name, ROW)
    yield
    patch.undo()


# ---- all stages ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained(fifth: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, and a tiny model with five modalities that went through all stages."""
    root = tmp_path_factory.mktemp("fifth")
    options = {"num_studies": 24, "val": 8, "test": 16, "version": 2}
    prepare(PrepareConfig(source="vitals", out=str(root / "data"), image_size=32, options=options))
    recipe = read_yaml("configs/models/tiny-record.yaml")
    recipe |= {"name": "tiny-vitals", "modalities": [*recipe["modalities"], "vitals"]}
    recipe["record"]["fields"] = FIELDS
    (root / "model.yaml").write_text(yaml.safe_dump(recipe))
    start: dict[str, str] = {"model": str(root / "model.yaml")}
    for stage in ("autoencode", "align", "diffuse", "join"):
        values = {
            "stage": {"name": stage},
            "data": {"path": str(root / "data"), "image_size": 32},
            "validation": {"split": "val", "num_studies": 4},
            "tokenizer_studies": 24,
            "out": str(root / stage),
            "steps": 2,
            "batch": {"global_size": 4},
            "optimizer": {"lr": 1e-3, "warmup_steps": 1},
            "checkpoint": {"every": 2, "keep": 1},
            "tracking": {"log_every": 1, "validate_every": 2, "validate_batches": 1, "samples_every": 0},
        }
        cache = {"cache": str(root / "cache")} if stage == "diffuse" else {}
        train(from_dict(TrainConfig, {**values, **start, **cache}))
        start = {"init": str(root / stage / "model")}
    return root


def test_it_goes_through_all_stages_and_is_generated(trained: Path) -> None:
    model = MedCoDi.from_pretrained(trained / "join/model")
    assert model.config.modalities == ("frontal", "lateral", "report", "record", "vitals")
    assert model.trained_stages == ("autoencode", "align", "diffuse", "join")
    tokens = model.autoencoders["table"].tokens  # normalised by the records and by the vital signs
    assert float(tokens.mean[0]) > 20 and float(tokens.mean[2]) > 60
    out = medcodi.generate(
        prompts={"vitals": {"pulse": 120, "fever": "yes"}}, targets=["frontal", "record"], model=model
    )
    assert out.frontal.size == (32, 32) and set(out.samples[0].contents["record"]) == set(FIELDS)
    out = medcodi.generate(prompts={"report": "No acute findings."}, targets=["vitals"], model=model)
    assert out.samples[0].contents["vitals"]["fever"] in ("no", "yes")


def test_it_is_judged_against_its_own_truth(trained: Path, tmp_path: Path) -> None:
    values = {
        "model": str(trained / "join/model"),
        "data": {"path": str(trained / "data"), "split": "test"},
        "directions": ["report->vitals", "vitals->record"],
        "metrics": ["records"],
        "num_inference_steps": 2,
        "record_draws": 2,
        "min_positives": 1,
        "bootstrap_samples": 100,
        "permutations": 100,
        "pictures": 1,
        "out": str(tmp_path / "out"),
        "device": "cpu",
    }
    results = evaluate(from_dict(EvaluateConfig, values), quiet=True)
    directions = results["systems"]["tiny-vitals"]["directions"]
    vitals = directions["report->vitals"]["targets"]["vitals"]["metrics"]
    record = directions["vitals->record"]["targets"]["record"]["metrics"]
    assert "record_mae/pulse" in vitals and "record_mae/age" not in vitals
    assert "record_mae/age" in record and "record_mae/pulse" not in record
    assert "Vital signs" in (tmp_path / "out/page.html").read_text()
