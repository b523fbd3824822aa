"""``data prepare``: tables and folders in, a dataset and a ledger out, or nothing at all."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcodi.config import from_dict
from medcodi.data.dataset import open_dataset
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.preparation.shards import PatientSplits, split_of_patient
from medcodi.errors import ConfigError, DataError


def picture(path: Path, seed: int = 0, side: int = 48) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.name


def table(folder: Path, rows: list[dict[str, str]], name: str = "studies.csv") -> Path:
    path = folder / name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def images_table(folder: Path, num: int = 12, **changes: str) -> list[dict[str, str]]:
    return [
        {
            "study_id": f"s{index}",
            "patient_id": f"p{index // 2}",
            "view": "PA",
            "image": picture(folder / f"{index}.png", index),
            "report": f"FINDINGS: Study number {index}.",
            **changes,
        }
        for index in range(num)
    ]


def run(folder: Path, path: Path, **settings):
    values = {"source": "csv", "path": str(path), "out": str(folder / "out"), "image_size": 32, **settings}
    return prepare(from_dict(PrepareConfig, values))


def everything(out: Path) -> list:
    counts = json.loads((out / "ledger.json").read_text())["split"]
    return [study for split in counts for study in open_dataset(out, split)]


def test_one_row_an_image_becomes_studies_of_two_views(tmp_path):
    rows = images_table(tmp_path)
    rows += [
        {**row, "view": "LATERAL", "image": picture(tmp_path / f"l{row['image']}", 99), "report": ""}
        for row in rows[:3]
    ]
    ledger = run(tmp_path, table(tmp_path, rows))
    counts = ledger.counts()
    assert counts["studies"] == {"in the source": 12, "kept": 12, "left out": 0}
    assert counts["modality"] == {"frontal": 12, "report": 12, "lateral": 3}
    studies = {study.study_id: study for study in everything(tmp_path / "out")}
    assert (
        set(studies["s0"].contents) == {"frontal", "lateral", "report"}
        and studies["s0"].report == "FINDINGS: Study number 0."
    )
    assert studies["s5"].images["frontal"].shape == (32, 32) and "lateral" not in studies["s5"].contents


def test_one_row_a_study(tmp_path):
    rows = [
        {
            "id": f"s{i}",
            "PatientID": f"p{i}",
            "frontal": picture(tmp_path / f"f{i}.png", i),
            "findings": "Clear.",
            "impression": "Normal.",
            "Edema": "0",
        }
        for i in range(4)
    ]
    run(tmp_path, table(tmp_path, rows), val=0.0, test=0.0)
    study = open_dataset(tmp_path / "out", "train")[0]
    assert study.report == "FINDINGS: Clear.\nIMPRESSION: Normal." and study.labels == {"Edema": 0.0}


def test_patients_keep_together_and_splits_do_not_depend_on_the_rest(tmp_path):
    run(tmp_path, table(tmp_path, images_table(tmp_path, 40)), val=0.3, test=0.3)
    split_of = {}
    for split in ("train", "val", "test"):
        for study in open_dataset(tmp_path / "out", split):
            assert split_of.setdefault(study.patient_id, split) == split
            assert split == split_of_patient(study.patient_id, seed=0, val=0.3, test=0.3)
    assert set(split_of.values()) == {"train", "val", "test"}


def test_official_splits_count_and_a_patient_in_two_is_refused(tmp_path):
    rows = images_table(tmp_path, 4)
    for row, split in zip(rows, ("train", "train", "test", "validate"), strict=True):
        row["split"] = split
    with pytest.raises(DataError, match=r"'p1' is in two splits, 'test' and 'val'"):
        run(tmp_path, table(tmp_path, rows))
    rows[3]["split"] = "test"
    assert run(tmp_path, table(tmp_path, rows)).counts()["split"] == {"train": 2, "test": 2}


def test_bad_studies_are_left_out_with_their_reasons(tmp_path):
    rows = images_table(tmp_path, 40)
    (tmp_path / "0.png").write_bytes(b"no image")
    (tmp_path / "1.png").unlink()
    picture(tmp_path / "2.png", side=9)
    rows[3]["view"] = "oblique"
    rows[4]["report"] = "word " * 5000
    Image.new("L", (64, 64)).save(tmp_path / "5.png")
    ledger = run(tmp_path, table(tmp_path, rows), max_bad_fraction=0.2)
    assert ledger.left_out == 6
    reasons = {
        entry.study_id: entry.reason for entry in ledger.entries if entry.reason and entry.reason != "study left out"
    }
    assert set(reasons) == {f"s{index}" for index in range(6)} and len(set(reasons.values())) >= 5
    assert not {f"s{index}" for index in range(6)} & {study.study_id for study in everything(tmp_path / "out")}
    with (tmp_path / "out" / "ledger.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(ledger.entries) == 80


def test_too_many_bad_studies_refuse_and_leave_nothing(tmp_path):
    rows = images_table(tmp_path, 20)
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"")
    path = table(tmp_path, rows)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"3 of 20 studies \(15%\).*max_bad_fraction"):
        run(tmp_path, path)
    assert sorted(tmp_path.iterdir()) == before


def test_duplicates_are_in_the_ledger(tmp_path):
    rows = images_table(tmp_path, 12)
    again = {**rows[0], "image": picture(tmp_path / "again.png", 77)}
    ledger = run(tmp_path, table(tmp_path, [*rows, again]))
    assert ledger.counts()["reason"] == {"second image of a view": 1} and ledger.num_kept == 12
    studies = [
        {"id": name, "patient": name, "report": report}
        for name, report in (("a", "Clear lungs."), ("a", "Other."), ("b", "Clear."))
    ]
    ledger = run(tmp_path, table(tmp_path, studies), overwrite=True)
    assert ledger.counts()["reason"] == {"duplicate study": 1} and ledger.num_kept == 2


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"id": "1", "fil": "x"}], {}, "no column of images or reports: its columns are id, fil"),
        ([{"id": "1", "xray": "a.png"}], {}, "options.columns.image=xray[.]$"),
        ([{"id": "1", "file": "x"}], {}, "no column of views: its columns are id, file.*all are frontal.*frontal=file"),
        ([{"id": "1", "file": "x.png", "kind": "PA"}], {}, "options.columns.view=kind[.]$"),
        ([{"id": "1", "case_no": "7", "text": "x"}], {}, "options.columns.patient_id=case_no; or options.study"),
        ([{"id": "1", "frontal": "patient7/1.png"}], {}, r"Fix: options.patient_pattern='\(patient\\d\+\)'; or"),
        ([{"id": "1", "text": "x"}], {"options": {"columns": {"report": "txt"}}}, "did you mean 'text'"),
        ([{"id": "1", "text": "x"}], {"options": {"columns": {"reprot": "text"}}}, "did you mean 'report'"),
        ([{"id": "1", "patient": "p", "text": "x", "split": "holdout"}], {}, "holdout"),
        ([{"id": "1", "patient": "p", "text": ""}], {}, "no study"),
        ([{"id": "1", "text": "x"}], {}, "study_is_patient"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, rows, settings, message):
    with pytest.raises(DataError, match=message):
        run(tmp_path, table(tmp_path, rows), **settings)
    assert not (tmp_path / "out").exists()


def test_refusals_before_anything_is_read(tmp_path):
    with pytest.raises(DataError, match="no table"):
        run(tmp_path, tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="did you mean 'csv'"):
        run(tmp_path, tmp_path, source="cvs")
    with pytest.raises(ConfigError, match="did you mean 'root'"):
        run(tmp_path, tmp_path, options={"rot": "x"})
    with pytest.raises(DataError, match="holds no DICOM"):
        run(tmp_path, tmp_path, source="dicom")
    with pytest.raises(ConfigError, match="max_bad_fraction"):
        run(tmp_path, tmp_path, max_bad_fraction=3)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists already"):
        run(tmp_path, table(tmp_path, [{"id": "1", "text": "x"}]))


def test_phantoms_are_the_same_prepared_or_computed(tmp_path):
    from medcodi.data.loading import DataConfig

    values = {
        "source": "phantom",
        "out": str(tmp_path / "out"),
        "image_size": 32,
        "options": {"num_studies": 3, "val": 2},
    }
    prepare(from_dict(PrepareConfig, values))
    for split, count in (("train", 3), ("val", 2)):
        prepared = open_dataset(tmp_path / "out", split)
        computed = DataConfig(source="phantom", split=split, num_studies=count, image_size=32).build()
        assert len(prepared) == count
        for a, b in zip(prepared, (computed[i] for i in range(count)), strict=True):
            assert a.study_id == b.study_id and a.report == b.report and a.findings == b.findings
            np.testing.assert_allclose(a.images["frontal"], b.images["frontal"], atol=1e-5)


def test_a_patient_with_two_splits_is_remembered():
    splits = PatientSplits(seed=0, val=0.1, test=0.1)
    assert splits.place("a", "val") == splits.place("a", None) == "val"
    with pytest.raises(DataError, match="two splits"):
        splits.place("a", "train")


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_overwrite_replaces_a_dataset_alone(tmp_path):
    path, out = table(tmp_path, images_table(tmp_path)), tmp_path / "out"
    run(tmp_path, path)
    run(tmp_path, path, overwrite=True)  # a dataset
    # With a file of the user's in it, or if it is no dataset at all, nothing of it is lost.
    (out / "train/notes.txt").write_text("mine")
    before = files_in(out)
    with pytest.raises(DataError, match="is not a data set alone.*choose another --out"):
        run(tmp_path, path, overwrite=True)
    assert files_in(out) == before and not list(tmp_path.glob(".*"))
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="is not a data set alone"):
        run(tmp_path, path, out=str(precious), overwrite=True)
    assert files_in(precious) == {"thesis.tex": b"mine"}
    (precious / "thesis.tex").unlink()
    run(tmp_path, path, out=str(precious), overwrite=True)  # empty


@pytest.mark.parametrize("changes", [{"name": "../x"}, {"name": "CON"}, {"out": "a:b"}])
def test_a_dataset_that_could_not_be_copied_under_its_name_is_not_prepared(tmp_path, changes):
    path = table(tmp_path, images_table(tmp_path, 2))
    changes = {key: str(tmp_path / value) if key == "out" else value for key, value in changes.items()}
    with pytest.raises(DataError, match="name=") as refusal:
        run(tmp_path, path, **changes)
    assert "plain file name" in str(refusal.value) and not (tmp_path / "out").exists()
