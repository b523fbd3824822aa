"""The outbox: a study appears in it whole or not at all, once, and nobody else's folder is touched."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

pytest.importorskip("pydicom")

from medcodi.errors import DataError
from medcodi.pacs.outbox import Outbox
from medcodi.pacs.servers import Address
from tests.unit.pacs.servers import objects

SERVER = Address(text="http://host/dicom-web", scheme="http", host="host")


def test_a_study_is_added_once_and_listed_in_the_order_of_sending(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    assert outbox.add(objects(0)) and not outbox.add(objects(0)) and not Outbox(tmp_path / "outbox").add(objects(0))
    (study,) = outbox.studies()
    assert [instance.path.name for instance in study.instances] == ["frontal.dcm", "lateral.dcm", "report.dcm"]
    assert study.study == objects(0)["report"].StudyInstanceUID and outbox.damage(study) == ""
    # The same sample with a PDF is more than what is there.
    assert outbox.add(objects(0, pdf=True)) and len(outbox.studies()) == 2


def test_a_report_whose_images_are_not_there_is_refused(tmp_path: Path) -> None:
    report = {"report": objects(0)["report"]}
    with pytest.raises(DataError, match=r"report refers to 2 images that are not there.*add the images"):
        Outbox(tmp_path / "outbox").add(report)
    with pytest.raises(DataError, match="objects of 2 studies"):
        Outbox(tmp_path / "outbox").add({"frontal": objects(0)["frontal"], "lateral": objects(1)["lateral"]})
    assert not (tmp_path / "outbox").exists()


def test_folders_of_others_are_refused_and_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    for act in (lambda: Outbox(tmp_path).add(objects(0)), lambda: Outbox(tmp_path).studies(), Outbox(tmp_path).open):
        with pytest.raises(DataError, match="does not hold an outbox"):
            act()
    with pytest.raises(DataError, match="is no outbox"):
        Outbox(tmp_path / "absent").studies()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    outbox.add(objects(0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # a file of 40 x 40 pixels does not fit
    try:
        with pytest.raises(
            DataError, match=r"cannot be written.*make room, then run it again: what is in the outbox stays"
        ):
            outbox.add(objects(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(outbox.studies()) == 1 and not list((tmp_path / "outbox").glob(".*"))
    assert outbox.add(objects(1)) and len(outbox.studies()) == 2


def test_a_receipt_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    outbox.add(objects(0))
    (study,) = outbox.studies()
    receipt = outbox.receipt(SERVER, study)
    receipt.note(study.instances[0].sop_instance, "")
    receipt.note(study.instances[1].sop_instance, "no")
    outbox.write_receipt(SERVER, study, receipt)
    assert len(outbox.receipt(SERVER, study).unsent(study)) == 2 and list(
        outbox.receipt(SERVER, study).refused.values()
    ) == ["no"]
    (file,) = tmp_path.glob("outbox/receipts/*/*.json")
    file.write_text("[1")
    assert len(outbox.receipt(SERVER, study).unsent(study)) == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"study": "1.2", "files": {"a": {"file": "../x"}}}', '{"files": 3}'])
def test_a_study_file_of_another_shape_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    outbox = Outbox(tmp_path / "outbox")
    outbox.add(objects(0))
    (path,) = tmp_path.glob("outbox/studies/*/study.json")
    path.write_text(text)
    with pytest.raises(DataError, match=r"study\.json"):
        outbox.studies()
