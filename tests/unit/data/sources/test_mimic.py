"""Sources ``mimic-cxr`` and ``mimic-cxr-jpg`` on trees of their form, and the reading of their reports."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from medcodi.config import from_dict
from medcodi.data.dataset import open_dataset
from medcodi.data.preparation.ledger import Ledger
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sources import SOURCES
from medcodi.data.sources.mimic_reports import read_mimic_report
from medcodi.errors import DataError
from tests.unit.data.mimic_tree import Tree, small_tree, write_table


def run(folder: Path, path: Path, source: str = "mimic-cxr-jpg", **options) -> Ledger:
    values = {"source": source, "path": str(path), "out": str(folder / "out"), "image_size": 32, "overwrite": True}
    return prepare(from_dict(PrepareConfig, {**values, "options": options}))


def reasons(ledger: Ledger) -> dict[str, str]:
    return {Path(entry.file).stem: entry.reason for entry in ledger.entries if entry.reason}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return small_tree(tmp_path / "mimic")


@pytest.mark.parametrize("packed", [True, False])
def test_the_official_split_the_views_and_the_labels(tmp_path: Path, tree: Tree, packed: bool) -> None:
    ledger = run(tmp_path, tree.write(packed=packed))
    counts = ledger.counts()
    assert counts["source"] == "mimic-cxr-jpg" and counts["split"] == {"train": 4, "val": 1, "test": 1}
    assert counts["files"] == {"in the source": 14, "kept": 14, "left out": 0}
    assert counts["view"]["frontal AP"] == {"train": 1, "val": 1, "test": 1}
    assert counts["view"]["lateral LL"] == {"val": 1} and counts["view"]["frontal postero-anterior"] == {"train": 1}
    study = open_dataset(tmp_path / "out", "train")[0]
    assert (study.study_id, study.patient_id) == ("s50000001", "p10000001")
    assert set(study.contents) == {"frontal", "lateral", "report"} and study.labels == {"Edema": -1.0}
    assert study.report == "FINDINGS: The lungs of case 50000001 are clear. No effusion.\nIMPRESSION: Nothing acute."
    assert study.metadata["views"] == {"frontal": "PA", "lateral": "LATERAL"}
    assert json.loads((tmp_path / "out" / "dataset_info.json").read_text())["credentialed"] is True


def test_several_images_of_one_view(tmp_path: Path, tree: Tree) -> None:
    tree.image(10000001, 50000001, "a0", "AP")  # a PA is there: it counts, whatever the names
    tree.image(10000001, 50000001, "a3", "LL")
    tree.image(10000001, 50000002, "b0", "AP")  # before b1 by name
    ledger = run(tmp_path, tree.write())
    assert reasons(ledger) == dict.fromkeys(("a0", "a3", "b1"), "second image of a view")
    kept = {Path(entry.file).stem for entry in ledger.entries if not entry.reason and entry.modality != "report"}
    assert {"a1", "a2", "b0"} <= kept and ledger.left_out == 0


def test_views_that_are_none_of_those_known(tmp_path: Path, tree: Tree) -> None:
    tree.image(10000001, 50000001, "x1", "AP AXIAL")
    tree.image(11000004, 50000007, "x2", "SWIMMERS")
    tree.image(11000004, 50000008, "x3", "", words="left lateral")
    tree.image(11000004, 50000009, "x4", "")
    ledger = run(tmp_path, tree.write())
    found = reasons(ledger)
    assert (found["x1"], found["x2"], found["x4"]) == ("unknown view",) * 3 and "x3" not in found
    assert found["s50000007"] == "study left out"  # its report: nothing is left that it would describe
    assert ledger.left_out == 2 and ledger.counts()["view"]["SWIMMERS"] == {"left out": 1}


def test_the_dicom_tree_with_the_tables_of_the_other(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    tree = small_tree(tmp_path / "mimic", ".dcm")
    tree.image(11000004, 50000007, "x1", "AP LLD")
    tables = tmp_path / "tables"
    tables.mkdir()
    for file in tree.write().glob("*.csv.gz"):
        shutil.move(file, tables)
    listed = [
        {
            **{key: row[key] for key in ("subject_id", "study_id", "dicom_id")},
            "path": f"files/p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}/{row['dicom_id']}.dcm",
        }
        for row in tree.rows
    ]
    write_table(tree.root / "cxr-record-list.csv.gz", listed)
    with_table = run(tmp_path, tree.root, "mimic-cxr", tables=str(tables))
    assert with_table.counts()["split"] == {"train": 4, "val": 1, "test": 1} and with_table.left_out == 1
    (tables / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()  # then the tags tell
    from_tags = run(tmp_path, tree.root, "mimic-cxr", tables=str(tables))
    assert from_tags.counts()["modality"] == with_table.counts()["modality"]
    assert reasons(from_tags) == reasons(with_table) and reasons(from_tags)["x1"] == "unknown view"


def test_reports_are_optional_only_when_told(tmp_path: Path, tree: Tree) -> None:
    root = tree.write()
    apart = tmp_path / "mimic-cxr-reports"
    for report in sorted(root.glob("files/p*/p*/s*.txt")):
        target = apart / report.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(report, target)
    with pytest.raises(DataError, match=r"no report in .*options.reports"):
        run(tmp_path, root)
    (root / "mimic-cxr-reports.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"Fix: unzip .*mimic-cxr-reports.zip"):
        run(tmp_path, root)
    assert run(tmp_path, root, need_reports=False).counts()["modality"] == {"frontal": 6, "lateral": 2}
    (apart / "files/p10/p10000001/s50000001.txt").write_text("WET READ: ___ 5:30 PM\n Nothing to be seen here.\n")
    (apart / "files/p10/p10000001/s50000002.txt").unlink()
    ledger = run(tmp_path, root, reports=str(apart))
    assert reasons(ledger) == {"s50000001": "report: wet read only", "s50000002": "no report"}
    assert ledger.counts()["modality"] == {"frontal": 6, "lateral": 2, "report": 4} and ledger.left_out == 0


def test_missing_images_and_duplicate_ids(tmp_path: Path, tree: Tree) -> None:
    missing = tree.image(11000004, 50000007, "x1")
    missing.unlink()
    tree.image(11000004, 50000006, "f1", "LATERAL")  # the same dicom_id again
    tree.image(10000002, 50000008, "y1", split="validate")
    tree.image(10000001, 50000008, "y2")  # the same study_id, another patient
    for row in tree.splits[-2:]:
        row["split"] = "validate"
    ledger = run(tmp_path, tree.write())
    found = reasons(ledger)
    assert found["x1"] == "missing file" and found["s50000008"] == "study left out" and found["f1"] == "duplicate id"
    assert {entry.reason for entry in ledger.entries if entry.study_id == "s50000008"} == {
        "two patients",
        "study left out",
    }
    assert ledger.left_out == 2


def test_a_patient_in_two_splits_is_refused(tmp_path: Path, tree: Tree) -> None:
    tree.splits[2]["split"] = "test"  # the second study of the first patient
    with pytest.raises(DataError, match=r"'p10000001' is in two splits, 'train' and 'test'.*official_split=false"):
        run(tmp_path, tree.write())
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, tree.root, official_split=False).num_kept == 6
    tree.splits[2]["split"], tree.splits[0]["split"] = "train", "test"  # two images of one study
    with pytest.raises(DataError, match=r"'s50000001' are in splits test, train"):
        run(tmp_path, tree.write())


def test_a_study_that_the_split_does_not_name(tmp_path: Path, tree: Tree) -> None:
    tree.splits = tree.splits[:2] + tree.splits[3:]
    ledger = run(tmp_path, tree.write())
    assert ledger.left_out == 1 and "not in the split" in ledger.counts()["reason"]


def spoil_split(tree: Tree) -> None:
    tree.splits[1]["split"] = "holdout"


def spoil_label(tree: Tree) -> None:
    tree.labels[1]["Edema"] = "7"


def spoil_ids(tree: Tree) -> None:
    tree.rows[3]["study_id"] = ""


def cut_short(root: Path) -> None:
    path = root / "mimic-cxr-2.0.0-split.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])


def not_packed(root: Path) -> None:
    (root / "mimic-cxr-2.0.0-metadata.csv.gz").write_text("dicom_id,subject_id\n")


def no_rows(root: Path) -> None:
    with gzip.open(root / "mimic-cxr-2.0.0-metadata.csv.gz", "wt") as file:
        file.write("dicom_id,subject_id,study_id\n")


def no_column(root: Path) -> None:
    with gzip.open(root / "mimic-cxr-2.0.0-split.csv.gz", "wt") as file:
        file.write("dicom,split\na1,train\n")


def two_versions(root: Path) -> None:
    shutil.copy(root / "mimic-cxr-2.0.0-split.csv.gz", root / "mimic-cxr-2.1.0-split.csv.gz")


@pytest.mark.parametrize(
    ("spoil_rows", "spoil_files", "message"),
    [
        (spoil_split, None, r"line 3: dicom_id 'a2' is in split 'holdout'"),
        (spoil_label, None, r"chexpert.csv.gz, line 3: Edema is '7'"),
        (spoil_ids, None, r"metadata.csv.gz, line 5: no study_id"),
        (None, cut_short, r"split.csv.gz cannot be unpacked"),
        (None, not_packed, r"metadata.csv.gz cannot be unpacked"),
        (None, no_rows, r"metadata.csv.gz holds no rows"),
        (None, no_column, r"split.csv.gz has no column 'dicom_id'"),
        (None, two_versions, r"several versions of a table"),
        (None, lambda root: (root / "mimic-cxr-2.0.0-split.csv.gz").unlink(), r"official split.*official_split=false"),
        (None, lambda root: (root / "mimic-cxr-2.0.0-metadata.csv.gz").unlink(), r"which holds the views"),
        (None, lambda root: (root / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink(), r"labels=null"),
        (None, lambda root: shutil.rmtree(root / "files/p11"), r"has no p11, .*options.groups=\[p10\]"),
        (None, lambda root: shutil.rmtree(root / "files"), r"no folder .*files"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, tree: Tree, spoil_rows, spoil_files, message) -> None:
    if spoil_rows:
        spoil_rows(tree)
    root = tree.write()
    if spoil_files:
        spoil_files(root)
    with pytest.raises(DataError, match=message):
        run(tmp_path, root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mimic"]


def test_half_a_tree_by_its_groups(tmp_path: Path, tree: Tree) -> None:
    root = tree.write()
    shutil.rmtree(root / "files/p11")
    assert run(tmp_path, root, groups=["p10"]).counts()["split"] == {"train": 2, "val": 1}
    with pytest.raises(DataError, match="groups"):
        run(tmp_path, root, groups=["p77"])


def test_other_labels(tmp_path: Path, tree: Tree) -> None:
    root = tree.write()
    (root / "mimic-cxr-2.0.0-chexpert.csv.gz").rename(root / "mimic-cxr-2.0.0-negbio.csv.gz")
    run(tmp_path, root, labels="negbio")
    assert open_dataset(tmp_path / "out", "test")[0].labels == {"Edema": -1.0}
    run(tmp_path, root, labels=None)
    assert open_dataset(tmp_path / "out", "test")[0].labels == {}
    with pytest.raises(DataError, match="did you mean 'negbio'"):
        run(tmp_path, root, labels="negbi")


def test_which_sources_are_credentialed() -> None:
    assert {name for name, row in SOURCES.items() if row.credentialed} == {"mimic-cxr", "mimic-cxr-jpg"}


RULE = "\n ______________________________________________________________________________\n"


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("FINAL REPORT\n FINDINGS: Clear lungs.\n IMPRESSION: Normal.", "Clear lungs.", "Normal."),
        ("FINAL REPORT\n Findings: Clear.  IMPRESSION: Normal.", "Clear.", "Normal."),
        ("FINAL REPORT\n IMPRESSION\n 1. Clear.\n 2. Small heart.", "", "1. Clear. 2. Small heart."),
        ("FINAL REPORT\n FINDINGS/IMPRESSION:  All is clear.", "All is clear.", ""),
        ("FINAL REPORT\n FINDINGS: As below.\n CONCLUSION: Fine.\n NOTIFICATION: Dr. ___ knows.", "As below.", "Fine."),
        (
            f"WET READ: ___ ___ 10:34 AM\n  Pneumonia in the wet read.{RULE}  FINAL REPORT\n IMPRESSION: No pneumonia.",
            "",
            "No pneumonia.",
        ),
        (
            f"FINAL REPORT\n ADDENDUM:  Told to Dr. ___ by phone.{RULE}  FINAL REPORT\n FINDINGS: Clear.",
            "Clear.",
            "",
        ),
        ("FINAL REPORT\n ADDENDUM: Told by phone.\n\n FINDINGS: Clear.\n IMPRESSION: Fine.", "Clear.", "Fine."),
        (f"FINAL REPORT\n FINDINGS: Clear.\n IMPRESSION: Bad.{RULE} ADDENDUM:\n IMPRESSION: Good.", "Clear.", "Good."),
        (
            "FINAL REPORT\n PORTABLE AP CHEST, 5:30 A.M., ___:\n\n Big heart.\n LINES: One.",
            "Big heart. LINES: One.",
            "",
        ),
        (
            "FINAL REPORT\n HISTORY: Cough, for long.\n\n COMPARISON: ___.\n\n The lungs are clear and wide.\n",
            "The lungs are clear and wide.",
            "",
        ),
        ("FINAL REPORT\n CHEST RADIOGRAPH\n\n The lungs are clear here.\n", "The lungs are clear here.", ""),
        (f"FINAL REPORT\n IMPRESSION: Clear.{RULE} Dr. ___ was told about it at noon.", "", "Clear."),
        ("FINAL REPORT\r\n FINDINGS: Clear.\r\n", "Clear.", ""),
    ],
)
def test_sections_of_a_report(text: str, findings: str, impression: str) -> None:
    found = read_mimic_report(text)
    assert (found.findings, found.impression) == (findings, impression)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "report: empty"),
        ("WET READ: ___ 5 PM\n Nothing to be seen.", "report: wet read only"),
        ("FINAL ADDENDUM\n Told to the ward by phone.", "report: addendum only"),
        ("FINAL REPORT\n FINDINGS: ___\n IMPRESSION: ___.", "report: no findings or impression"),
        ("FINAL REPORT\n INDICATION: Cough.\n\n It has lasted many weeks now.", "report: no findings or impression"),
    ],
)
def test_reports_without_anything_say_why(text: str, why: str) -> None:
    found = read_mimic_report(text)
    assert not found.findings and not found.impression and found.why_empty == why


@pytest.mark.parametrize("heading", ["HISTORY", "REASON FOR EXAMINATION"])
def test_prose_after_a_history_is_the_report_if_nothing_else_is(heading: str) -> None:
    prose = "The heart is normal in size. There is no pleural effusion."
    text = f"FINAL REPORT\n {heading}: Fever and cough for three days.\n\n {prose}\n"
    assert read_mimic_report(text).findings == prose
    # A heading of findings or impression wins, and an indication alone is no report.
    named = read_mimic_report(text + "\n IMPRESSION: Normal chest.\n")
    assert named.impression == "Normal chest."
    assert read_mimic_report(f"FINAL REPORT\n {heading}: Fever and cough for three days.\n").findings == ""


@pytest.mark.parametrize("column", ["subject_id", "study_id", "dicom_id"])
def test_a_number_out_of_a_table_is_no_path(tmp_path: Path, tree: Tree, column: str) -> None:
    for rows in (tree.rows, tree.splits, tree.labels):
        for row in rows[:1]:
            row |= {column: "../../../../outside"} if column in row else {}
    with pytest.raises(DataError, match="outside"):
        run(tmp_path, tree.write())
    assert not (tmp_path / "out").exists()
