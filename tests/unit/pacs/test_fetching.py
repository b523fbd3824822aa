"""A study comes from a DICOMweb server as files that are prompts."""

from __future__ import annotations

import json
import stat
from itertools import count
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("dicomweb_client")

from medcodi.data.image_files import read_image
from medcodi.data.sources import SOURCES
from medcodi.errors import DataError
from medcodi.pacs.fetching import fetch
from medcodi.pacs.outbox import Outbox
from medcodi.pacs.sending import send
from medcodi.pacs.servers import ServerError, UnreachableError
from tests.unit.pacs.servers import REPORT, Web, contents, objects, web_server

STUDY = str(objects(0)["report"].StudyInstanceUID)


@pytest.fixture
def server(tmp_path: Path):
    """A server with one study, which came through an outbox."""
    with web_server() as server:
        Outbox(tmp_path / "outbox").add(objects(0))
        send(Outbox(tmp_path / "outbox"), server.url)
        yield server


def test_what_was_sent_comes_back_as_prompts(server: Web, tmp_path: Path) -> None:
    fetched = fetch(server.url, STUDY, tmp_path / "in")
    assert sorted(fetched.files) == ["frontal", "lateral", "record", "report"] and fetched.notes == []
    for view in ("frontal", "lateral"):
        np.testing.assert_allclose(read_image(fetched.files[view], modality=view), contents(0)[view], atol=1 / 131000)
    assert fetched.files["report"].read_text() == REPORT + "\n"
    assert json.loads(fetched.files["record"].read_text()) == {"age": 71.0, "sex": "F", "view": "PA"}
    assert stat.S_IMODE((tmp_path / "in").stat().st_mode) == 0o700
    # The folder is a source of studies too, with its report.
    (study,) = SOURCES["dicom"].announce("dicom", {"path": str(tmp_path / "in")})
    assert sorted(study.images) == ["frontal", "lateral"] and study.texts == {"report": REPORT + "\n"}
    with pytest.raises(DataError, match="is not empty"):
        fetch(server.url, STUDY, tmp_path / "in")


def test_what_is_left_out_is_named(server: Web, tmp_path: Path) -> None:
    numbers = count(1)

    def copy(name: str, **tags: object) -> pydicom.Dataset:
        one = pydicom.Dataset(objects(0)[name])
        one.file_meta = objects(0)[name].file_meta
        for keyword, value in {"SOPInstanceUID": f"1.2.{next(numbers)}", "InstanceNumber": 9, **tags}.items():
            setattr(one, keyword, value)
        server.stored[one.SOPInstanceUID] = one
        return one

    copy("frontal")
    copy("frontal", Modality="CT")
    copy("frontal", BodyPartExamined="HAND")
    verified = copy("report", VerificationFlag="VERIFIED", PatientAge="999Y")
    verified.ContentSequence[3].ContentSequence[0].TextValue = "Verified."
    copy("report", ContentSequence=[])
    lateral = objects(0)["lateral"].SOPInstanceUID
    del server.stored[lateral]
    server.refused[copy("lateral").SOPInstanceUID] = 1
    fetched = fetch(server.url, STUDY, tmp_path / "in")
    notes = "\n".join(fetched.notes)
    for words in (
        "a second frontal",
        "cannot be read: File is missing DICOM",
        "is of DICOM modality CT",
        "shows 'HAND', not a chest",
        "is a further report",
        "is a structured report without a text",
        f"refers to 1 images that the server does not have in this study, such as {lateral}",
    ):
        assert words in notes
    assert "lateral" not in fetched.files and fetched.files["report"].read_text().startswith("FINDINGS: Verified.")


def test_refusals_leave_nothing(server: Web, tmp_path: Path) -> None:
    for study, words in (
        ("1.2.3", "has no study"),
        ("1.2/../3", "is no Study Instance UID"),
        ("1" * 65, "is no Study"),
    ):
        with pytest.raises(DataError, match=words):
            fetch(server.url, study, tmp_path / "in")
    with pytest.raises(ServerError, match="only takes studies"):
        fetch("dicom://host:104/THEM", STUDY, tmp_path / "in")
    server.stored = {uid: one for uid, one in server.stored.items() if one.Modality == "OT"}
    for one in server.stored.values():
        one.BodyPartExamined = "HAND"
    with pytest.raises(DataError, match="holds nothing that can be a prompt"):
        fetch(server.url, STUDY, tmp_path / "in")
    server.search_status = 503
    with pytest.raises(UnreachableError, match="HTTP 503"):
        fetch(server.url, STUDY, tmp_path / "in")
    server.search_status = 400
    with pytest.raises(ServerError, match="does not list the study"):
        fetch(server.url, STUDY, tmp_path / "in")
    server.page = "<html>Log in</html>"
    with pytest.raises(ServerError, match="cannot be read"):
        fetch(server.url, STUDY, tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outbox"]
