"""``--dicom-store`` of ``generate`` and ``synthesize``, ``dicom send`` and ``dicom fetch``: out to a server, in as prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("dicomweb_client")

from pydicom import dcmread

from medcodi.app.cli import REFUSED
from medcodi.data.dicom.reports import BASIC_TEXT_SR
from medcodi.errors import sentence
from medcodi.pacs.outbox import Outbox
from tests.unit.pacs.servers import objects, web_server

Run = Callable[..., int]
LATER = 3


@pytest.fixture
def generate(run: Run, model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Generate a film and a report with the smallest model."""
    monkeypatch.chdir(tmp_path)
    small = ["--model", model_folder, "--steps", "1", "--device", "cpu", "--target", "frontal", "--target", "report"]
    return lambda *more: run("generate", *small, *more)


def test_a_generated_study_goes_out_and_comes_back(
    generate: Run, run: Run, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with web_server() as server:
        # The server is busy: everything stays in the outbox.
        server.always = {}
        server.answers = [507] * 2
        assert generate("--num-samples", "2", "--outbox", "out box", "--dicom-pdf", "--out", "made") == 0
        assert len(Outbox(tmp_path / "out box").studies()) == 2 and server.stored == {}
        assert run("dicom", "send", "out box", "--to", server.url, "--retry-seconds", "0") == LATER
        said = " ".join(capsys.readouterr().err.split())
        assert "HTTP 507" in said and f"medcodi dicom send 'out box' --to {server.url}" in said
        assert run("dicom", "send", "out box", "--to", server.url) == 0
        assert "out box: 0 studies arrived, 2 wait, 0 refused" in said
        assert f"6 instances of 2 studies arrived at {server.url}" in capsys.readouterr().out
        assert run("dicom", "send", "out box", "--to", server.url) == 0
        assert "0 instances of 2 studies arrived" in capsys.readouterr().out
        # In: files that are prompts.
        report = next(one for one in server.stored.values() if one.Modality == "SR")
        assert run("dicom", "fetch", server.url, "--study", report.StudyInstanceUID, "--out", "in") == 0
        captured = capsys.readouterr()
        assert "in/frontal.dcm" in captured.out and "--prompt report=@in/report.txt" in captured.err
        # The command that it prints is one that the model can do.
        (example,) = re.findall(r"For example: medcodi (generate .*)", captured.err)
        small = ["--model", model_folder, "--steps", "1", "--device", "cpu"]
        assert run(*example.split(), *small, "--out", "made-again") == 0
        assert run("dicom", "fetch", server.url, "--study", "1.2.3", "--out", "in2") == REFUSED
        # Out at once, and a kind of object that the server does not take.
        server.refused = {report.SOPClassUID: 0x0122}
        assert generate("--seed", "9", "--dicom-store", server.url, "--out", "made-2") == REFUSED
        said = " ".join(capsys.readouterr().err.split())
        assert "1 of 1 studies have not arrived whole" in said and "does not accept this kind of object" in said
        assert (tmp_path / "outbox/outbox.json").is_file()


def test_a_synthesis_goes_out_as_its_folder_has_it_and_once(
    run: Run, model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.csv").write_text("id,report,targets\na,Nodule.,frontal+lateral\nb,,frontal+report\nc,,report\n")
    small = ["--model", model_folder, "--steps", "1", "--device", "cpu", "--format", "dicom", "--batch-size", "1"]

    def synthesize(*more: str) -> tuple[int, dict[str, object]]:
        code = run("synthesize", "--manifest", "m.csv", "--out", "made", *small, *more)
        return code, json.loads((tmp_path / "made/delivery.json").read_text())

    def counts(arrived: int, waiting: int, refused: int) -> dict[str, object]:
        return {"to": server.url, "outbox": "outbox", "arrived": arrived, "waiting": waiting, "refused": refused}

    with web_server() as server:
        # Another's study in the same outbox is sent too, and not counted.
        Outbox(tmp_path / "outbox").add(objects(0))
        server.refused = {BASIC_TEXT_SR: 0x0122}
        to = ("--dicom-store", server.url)
        assert synthesize(*to) == (REFUSED, counts(1, 0, 2))
        assert "outbox: 1 studies arrived, 0 wait, 3 refused" in " ".join(capsys.readouterr().err.split())
        server.refused = {}
        assert synthesize(*to, "--collect") == (0, counts(3, 0, 0)) and len(server.arrived) == 5 + 3
        assert synthesize(*to) == (0, counts(3, 0, 0)) and len(server.arrived) == 5 + 3
        for path in (tmp_path / "made/studies").rglob("*.dcm"):
            film = dcmread(path)
            assert server.stored[film.SOPInstanceUID].PixelData == film.PixelData
        # A file of the folder that has changed is not sent as what it was.
        (tmp_path / "made/studies/00000/b/report.txt").write_text("Another report.\n")
        assert synthesize(*to)[0] == REFUSED and "report.txt is damaged" in " ".join(capsys.readouterr().err.split())
    # Files of 8 bits are not what would be sent.
    assert run("synthesize", "--manifest", "m.csv", "--out", "png", "--outbox", "new") == REFUSED
    assert "add --format dicom" in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv", "made", "outbox"]


def test_a_record_alone_is_no_dicom_object(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("generate", "--target", "record", "--outbox", "outbox") == REFUSED
    assert "record alone is no DICOM object" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dicom-store", "pacs.example.org"], "is not the address of a DICOM server"),
        (["--dicom-store", "https://me:secret@host/x"], "holds a user or a password"),
        (["--outbox", "full"], "does not hold an outbox"),
        (["--dicom-pdf"], "--dicom-pdf without an outbox"),
        (["--dicom-ca", "ca.pem"], "certificates without --dicom-store"),
        (["--dicom-store", "dicoms://host:1/X", "--dicom-ca", "ca.pem"], "--dicom-ca ca.pem cannot be used"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is_generated(
    generate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")
    assert generate(*options, "--out", "made") == REFUSED
    assert sentence(words).rstrip(".") in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
