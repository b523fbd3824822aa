"""Real chest X-rays, texts and DICOMs, from files to a generated study: prepared, trained on through all four stages, prompted with.

The material lies beside the project, in ../shared/data, and never enters it; without it these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import medcodi
from medcodi.config import from_dict
from medcodi.data.dataset import open_dataset
from medcodi.data.preparation.ledger import Ledger
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.training.loop import train
from tests.integration.conftest import STAGES, tiny_config

REAL = Path(__file__).resolve().parents[3] / "shared/data"
DICOMS = ("gdcm-CR-MONO1-10-chest.dcm", "NEMA-WG04_RG1_J2KI.dcm")
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real input at {REAL}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Ledger]:
    """The open chest X-rays as a dataset: one row an image, views and texts in columns of their own names."""
    out = tmp_path_factory.mktemp("real") / "cxr-open"
    values = {
        "source": "csv",
        "path": str(REAL / "cxr-open/metadata.csv"),
        "options": {"columns": {"image": "file", "view": "view_group", "report": "text", "split": None}},
        "out": str(out),
        "image_size": 32,
        "val": 0.1,
        "test": 0.1,
    }
    return out, prepare(from_dict(PrepareConfig, values))


def test_every_image_is_in_the_ledger(prepared):
    out, ledger = prepared
    counts = ledger.counts()
    images = sum(counts["modality"][name] for name in ("frontal", "lateral"))
    assert images + counts["reason"].get("second image of a view", 0) == 689
    assert (
        counts["studies"]["left out"] == 0 and counts["modality"]["lateral"] == 13 and counts["modality"]["report"] > 50
    )
    patients = {split: {study.patient_id for study in open_dataset(out, split)} for split in ("train", "val", "test")}
    assert not patients["train"] & patients["val"] and not patients["train"] & patients["test"]


def test_real_reports_alone_make_a_dataset(tmp_path):
    values = {
        "source": "csv",
        "path": str(REAL / "reports/openi_reports.csv"),
        "out": str(tmp_path / "openi"),
        "image_size": 32,
    }
    ledger = prepare(
        from_dict(PrepareConfig, {**values, "options": {"columns": {"split": None}, "study_is_patient": True}})
    )
    assert ledger.num_kept >= 0.99 * 3174
    texts = [study.report or "" for study in open_dataset(tmp_path / "openi", "val")]
    assert texts and not any("XXXX" in text or "___" in text for text in texts)


def test_dicoms_become_studies(tmp_path):
    values = {"source": "dicom", "path": str(REAL / "dicom"), "out": str(tmp_path / "dicom"), "image_size": 64}
    ledger = prepare(from_dict(PrepareConfig, values))
    assert ledger.counts()["modality"] == {"frontal": 2}


@pytest.fixture(scope="module")
def model(prepared, tmp_path_factory) -> Path:
    """A tiny model that went through all four stages on the real studies."""
    data, root = prepared[0], tmp_path_factory.mktemp("real-runs")
    init = None
    for stage in STAGES:
        overrides = ["batch.global_size=16", "steps=4", "tracking.validate_every=0", "tracking.samples_every=0"]
        overrides += [f"data={{path: {data}, split: train, image_size: 32}}", "validation=null"]
        init = train(tiny_config(stage, root / stage, init, *overrides)) / "model"
    return init


@pytest.mark.parametrize("dicom", DICOMS)
def test_a_dicom_prompts_the_model_trained_on_real_studies(model, dicom):
    out = medcodi.generate(prompts={"frontal": REAL / "dicom" / dicom}, targets=["lateral", "report"], model=model)
    assert out.lateral.size == (32, 32) and isinstance(out.report, str)


@pytest.mark.parametrize("dicom", DICOMS)
def test_a_dicom_prompts_the_demo_model(dicom):
    out = medcodi.generate(
        prompts={"frontal": REAL / "dicom" / dicom}, targets=["lateral", "report"], num_inference_steps=8
    )
    assert out.lateral.size == (128, 128) and "FINDINGS" in out.report
