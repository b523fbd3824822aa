"""What our own commands wrote, with random damage, at every door that opens it: read, or refused by name; never a traceback.

``MEDCODI_FUZZ=2000`` runs that many examples of each door; by default a few.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medcodi.config import from_dict
from medcodi.data.dataset import open_dataset
from medcodi.data.files import is_dataset
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sample import write_sample
from medcodi.errors import MedCoDiError
from medcodi.evaluation.annotators.classifier import CARD_FILE, ClassifierConfig, FindingClassifier
from medcodi.evaluation.bundle import INDEX, Bundle
from medcodi.generation.bulk.manifest import RowDefaults, read_manifest
from medcodi.storage.ownership import refuse_foreign
from medcodi.training import checkpoint
from medcodi.training.monitoring.summary import write_summary
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.bundle.files import open_bundle
from medcodi.turing.bundle.key import read_key
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real
from tests.property.test_model_folder_laws import STRANGE, places

FEW = settings(max_examples=int(os.environ.get("MEDCODI_FUZZ", "8")))


class Door(NamedTuple):
    """A file whose JSON is damaged, and what opens it."""

    file: Path
    opens: Callable[[], Any]
    around: tuple[str, str] = ("", "")  # script before and after the JSON


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Door]:
    """Every door on small folders, each written by the command that is meant to."""
    root = tmp_path_factory.mktemp("doors")
    return {**_of_data(root), **_of_models(root), **_of_a_reader_study(root)}


def _of_data(root: Path) -> dict[str, Door]:
    values = {"source": "phantom", "out": str(root / "data"), "image_size": 32, "options": {"num_studies": 4}}
    prepare(from_dict(PrepareConfig, values))
    manifest = root / "m.jsonl"
    manifest.write_text(json.dumps({"id": "a", "report": "Clear.", "targets": ["frontal"], "weights": {"report": 1}}))

    def replaced() -> None:
        refuse_foreign(root / "data", is_dataset, what="a data set", fix="choose another")

    return {
        "data set": Door(root / "data/dataset_info.json", lambda: open_dataset(root / "data", "train")[0]),
        "data set to replace": Door(root / "data/dataset_info.json", replaced),
        "ledger": Door(root / "data/ledger.json", lambda: open_dataset(root / "data", "train")),
        "manifest": Door(manifest, lambda: read_manifest(manifest, RowDefaults())),
    }


def _of_models(root: Path) -> dict[str, Door]:
    classifier = ClassifierConfig(image_size=32, channels=(4, 8), blocks=(0, 1)).build()
    classifier.save(root / "classifier")
    saved = checkpoint.save(
        root / "checkpoints", checkpoint.Checkpoint({"weights": {"w": torch.ones(2)}}, {"step": 1}), keep=1
    )
    line = {"step": 1, "loss": 0.5, "timing": {"seconds_per_step": 0.1}, "alerts": ["loss is high"]}
    (root / "run").mkdir()
    (root / "run/log.jsonl").write_text(json.dumps(line))
    (root / "evaluation").mkdir()
    (root / "evaluation" / INDEX).write_text(json.dumps({"schema_version": 5, "files": {"results.json": "0" * 64}}))
    return {
        "classifier": Door(root / "classifier" / CARD_FILE, lambda: FindingClassifier.load(root / "classifier")),
        "checkpoint": Door(saved / "manifest.json", lambda: checkpoint.load(saved)),
        "run": Door(root / "run/log.jsonl", lambda: write_summary([root / "run"], root / "page.html")),
        "bundle": Door(root / "evaluation" / INDEX, lambda: Bundle(root / "evaluation").read(INDEX)),
    }


def _of_a_reader_study(root: Path) -> dict[str, Door]:
    for name in ("real", "made"):
        write_sample(root / name, 24, image_size=64)
    shutil.move(root / "made/studies.csv", root / "made/results.csv")
    task = {"id": "t", "kind": "rating", "modalities": ["frontal"], "num_items": 3}
    values = {"name": "s", "title": "t", "tasks": [task], "readers": 1, "image_size": 64, "blinding": {"crop": "none"}}
    study = from_dict(ReaderStudyConfig, values)
    made = open_generated(str(root / "made"), study.sampling, 0)
    export_bundle(study, open_real(str(root / "real/studies.csv")), made, root / "bundle", salt="s")
    bundle, key = root / "bundle", root / "bundle/custodian/key.json"
    script = bundle / "readers/reader-01/study.js"
    text = script.read_text()
    around = text[: text.index("{")], text[text.rindex("}") + 1 :]
    return {
        "facts of a reader study": Door(bundle / "bundle.json", lambda: open_bundle(bundle)),
        "key": Door(key, lambda: read_key(key)),
        "script": Door(script, lambda: open_bundle(bundle), around),
    }


DOORS = (
    "data set", "data set to replace", "ledger", "manifest", "classifier", "checkpoint", "run", "bundle",
    "facts of a reader study", "key", "script",
)  # fmt: skip
WHOLE = [
    "[]",
    "null",
    "3",
    '"x"',
    "",
    "{",
    "[" * 5000,
    "\ufeff{}",
    '{"a": 1, "a": 2}',
    '{"format": 1' + "0" * 5000 + "}",
]


def opened_or_refused(door: Door, content: str) -> None:
    whole = door.file.read_bytes()
    door.file.write_text(door.around[0] + content + door.around[1])
    try:
        door.opens()
    except MedCoDiError as refusal:
        str(refusal).encode()  # a message that a terminal can print
    finally:
        door.file.write_bytes(whole)


@pytest.mark.parametrize("name", DOORS)
@FEW
@given(data=st.data())
def test_a_strange_value(doors: dict[str, Door], name: str, data: st.DataObject) -> None:
    door = doors[name]
    text = door.file.read_text()
    value = json.loads(text[len(door.around[0]) : len(text) - len(door.around[1])])
    parent, key = data.draw(st.sampled_from(places(value)))
    if isinstance(parent, dict) and data.draw(st.integers(0, 5)) == 0:
        del parent[key]
    else:
        parent[key] = data.draw(STRANGE)
    opened_or_refused(door, json.dumps(value))


@pytest.mark.parametrize("name", DOORS)
def test_another_content(doors: dict[str, Door], name: str) -> None:
    doors[name].opens()  # as it was written
    for content in WHOLE:
        opened_or_refused(doors[name], content)


def test_names_in_an_index_stay_inside_its_folder(doors: dict[str, Door], tmp_path: Path) -> None:
    saved = doors["checkpoint"].file.parent
    shutil.copytree(saved, tmp_path / "step-00000001")
    manifest = json.loads((saved / "manifest.json").read_text())
    shutil.copy(saved / "weights.safetensors", tmp_path / "outside.safetensors")
    manifest["files"]["../outside.safetensors"] = manifest["files"].pop("weights.safetensors")
    (tmp_path / "step-00000001/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MedCoDiError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "step-00000001")
