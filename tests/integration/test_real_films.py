"""The 689 real films from their table to a judged model, by the commands of the README: prepare, four stages, generate, evaluate.

The films lie beside the project, in ../shared/data, and never enter it; without them the test is skipped. The model is the tiny one,
trained for minutes. docs/DATA.md gives the figures of one run.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from medcodi.app.cli import main
from medcodi.config import from_dict
from medcodi.data.image_files import read_image
from medcodi.evaluation import ClassifierTrainConfig, train_classifier, verify_bundle

FILMS = Path(__file__).resolve().parents[3] / "shared/data/cxr-open"
SIZE = 32
STEPS = {"autoencode": 160, "align": 60, "diffuse": 160, "join": 40}
SPLITS = {"train": "train", "validation": "val", "test": "test"}
# CheXpert's name -> the films' words for it; COVID-19 is none of CheXpert's findings, so those films have no labels.
FINDINGS = {
    "No Finding": "No Finding",
    "Pneumonia": "Pneumonia",
    "Atelectasis": "Atelectasis",
    "Edema": "Edema",
    "Pleural Effusion": "Effusion",
}
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not FILMS.is_dir(), reason=f"no real films at {FILMS}"),
]


def run(*words: object) -> None:
    """One command, as a user types it."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code, words


def labelled_table(out: Path) -> Path:
    """The films' table with whole paths and a column for each finding; blank where the films' own words say nothing of it."""
    with (FILMS / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        words = row["finding"].split("|")
        known = {word for word in words if word in FINDINGS.values()}
        row["file"] = str(FILMS / row["file"])
        row.update({name: str(float(word in words)) if known else "" for name, word in FINDINGS.items()})
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out


def validation(run_folder: Path) -> list[float]:
    """Validation losses of a run, first to last."""
    lines = map(json.loads, (run_folder / "log.jsonl").read_text().splitlines())
    return [line["validation/loss"] for line in lines if "validation/loss" in line]


def test_the_real_films_from_their_table_to_a_judged_model(tmp_path: Path) -> None:
    # Prepare: every film is in the dataset, or in the ledger with its reason. This seed has laterals and reports in every split.
    data, runs, model = tmp_path / "films", tmp_path / "runs", tmp_path / "runs/join/model"
    columns = ["image=file", "view=view_group", "report=text", "split=null"]
    words = [f"path={labelled_table(tmp_path / 'films.csv')}", f"image_size={SIZE}", "val=0.15", "test=0.2", "seed=5"]
    run("data", "prepare", "--source", "csv", "--out", data, *words, *(f"options.columns.{name}" for name in columns))
    ledger = json.loads((data / "ledger.json").read_text())
    assert ledger["studies"] == {"in the source": 651, "kept": 651, "left out": 0}
    assert ledger["modality"]["frontal"] == 651 and ledger["modality"]["lateral"] == 13
    assert 651 + 13 + ledger["reason"]["second image of a view"] == 689

    # Four stages, each from the one before.
    figures: dict[str, Any] = {"split": ledger["split"], "modality": ledger["modality"]}
    init = "model=tiny"
    for stage, steps in STEPS.items():
        words = [f"data={data}", f"out={runs / stage}", init, f"steps={steps}", "batch.global_size=16"]
        words += [f"tracking.validate_every={steps // 4}", "tracking.validate_batches=4", "validation.num_studies=null"]
        words += ["tracking.samples_every=0", "tracking.tensorboard=false", "checkpoint.every=0", "ema.decay=0.95"]
        run("train", "--config", f"train/tiny/{stage}", *words)
        init = f"init={runs / stage / 'model'}"
        figures[stage] = validation(runs / stage)
    for stage in ("autoencode", "diffuse"):
        assert figures[stage][-1] < figures[stage][0], stage

    # A classifier of findings from the same training films: what it reads on held-out ones is the ceiling.
    splits = {name: {"path": str(data), "split": split} for name, split in SPLITS.items()}
    network = {"image_size": SIZE, "targets": list(FINDINGS), "modalities": ["frontal"]}
    values = {**splits, "network": network, "num_steps": 100, "batch_size": 64, "out": str(model)}
    train_classifier(from_dict(ClassifierTrainConfig, values), quiet=True)
    figures["classifier"] = json.loads((model / "finding_classifier.json").read_text())["ceiling"]["frontal"]
    assert figures["classifier"]["No Finding"]["auroc"] > 0.6

    # Generate from one film.
    film, made = FILMS / "images/cohen/ARDSSevere.jpg", tmp_path / "made"
    run(
        "generate",
        "--model",
        model,
        "--prompt",
        f"frontal={film}",
        "--target",
        "lateral",
        "--target",
        "report",
        "--out",
        made,
    )
    assert read_image(made / "lateral.png").shape == (SIZE, SIZE) and (made / "provenance.json").is_file()
    figures["report"] = (made / "report.txt").read_text(encoding="utf-8")

    # Evaluate: a model of minutes is far from real films, and the figures say so.
    words = ["directions=[->frontal,report->frontal,frontal->report]", "num_inference_steps=10", "num_studies=96"]
    words += ["bootstrap_samples=100", "permutations=100", "min_positives=3", "meteor=false", "device=cpu"]
    run("evaluate", "--model", model, "--data", data, "--out", tmp_path / "judged", *words)
    results = json.loads((tmp_path / "judged/results.json").read_text())
    (system,) = results["systems"].values()
    figures["evaluation"] = system["directions"]
    (tmp_path / "figures.json").write_text(json.dumps(figures, indent=1))
    distance = system["directions"]["->frontal"]["targets"]["frontal"]["metrics"]["kernel/demo"]
    assert distance["value"] > distance["ceiling"] + 0.05  # ceiling: real films against real films
    page = (tmp_path / "judged/page.html").read_text(encoding="utf-8")
    assert "contents of report are no language" in page or "repeat another study" in page
    assert verify_bundle(tmp_path / "judged", device="cpu", quiet=True).holds
