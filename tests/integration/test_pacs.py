"""A real DICOM server, Orthanc on loopback: what is sent arrives once, also when the server is killed, and comes back as it was."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")
pytest.importorskip("cryptography")

from pydicom import dcmread

from medcodi.app.cli import main
from medcodi.data.dicom.reports import report_text
from medcodi.data.dicom.writing import study_objects
from medcodi.modality import names
from medcodi.model import MedCoDi
from medcodi.pacs.dicomweb import DicomWebServer
from medcodi.pacs.fetching import fetch
from medcodi.pacs.outbox import Outbox
from medcodi.pacs.sending import send
from medcodi.pacs.servers import ServerError, read_address
from medcodi.pacs.tls import Tls
from tests.unit.pacs.certificates import Authority

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        ORTHANC is None or not PLUGIN.exists(), reason="needs Orthanc (Debian: orthanc orthanc-dicomweb)"
    ),
]
REPORT = "FINDINGS: The heart is large, größer als üblich.\nIMPRESSION: Cardiomegaly."
KILLS = 3
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


class Orthanc:
    """One server with its folder, its C-STORE encrypted where it has an authority; it may be killed and started again."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        with socket.socket() as web, socket.socket() as archive:
            for one in (web, archive):
                one.bind(("127.0.0.1", 0))
            self.web, self.archive = web.getsockname()[1], archive.getsockname()[1]
        self.config = folder / "orthanc.json"
        values = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.web,
            "DicomPort": self.archive,
            "DicomAet": "ORTHANC",
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [str(PLUGIN)],
        }
        if authority is not None:
            own = str(authority.sign("orthanc"))
            values["DicomTlsEnabled"] = True  # not its HTTPS: Orthanc 1.10.1 ends at the first request
            values |= {"DicomTlsCertificate": own, "DicomTlsPrivateKey": own, "DicomTlsRemoteCertificateRequired": True}
            values |= {"DicomTlsTrustedCertificates": str(authority.ca)}
        self.config.write_text(json.dumps(values))
        self.root = f"http://127.0.0.1:{self.web}"
        self.url = f"{self.root}/dicom-web"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.config.parent / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen([str(ORTHANC), str(self.config)], stdout=log, stderr=log)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                self.get("system")
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError((self.config.parent / "orthanc.log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.root}/{path}", timeout=30) as answer:
            return json.loads(answer.read())


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    (tmp_path / "orthanc").mkdir()
    server = Orthanc(tmp_path / "orthanc")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def objects(seed: int, *, pdf: bool = False, size: int = 40, views: tuple[str, ...] = names("image")) -> dict[str, Any]:
    noise = np.random.default_rng(seed)
    films = {view: noise.random((size, size), dtype=np.float32) for view in views}
    contents = {**films, "report": REPORT, "record": {"age": 71.0, "sex": "F", "bmi": 24.3}}
    provenance = {"direction": "->", "model": {"name": "tiny", "sha256": "0" * 64}, "prompts": {}, "settings": {}}
    return study_objects(contents, {**provenance, "seeds": [seed]}, pdf=pdf)


def check_arrived(orthanc: Orthanc, outbox: Outbox, sent: dict[str, dict[str, Any]]) -> None:
    """Every instance is there once, in one study, and holds the pixels, the text and the document that were sent."""
    client = DicomWebServer(read_address(orthanc.url))
    assert len(orthanc.get("studies")) == len(sent)
    assert len(orthanc.get("instances")) == sum(map(len, sent.values()))
    for study, parts in sent.items():
        listed = {str(row.SOPInstanceUID) for row in client.instances(study)}
        assert listed == {str(part.SOPInstanceUID) for part in parts.values()}
        for name, part in parts.items():
            stored = client.retrieve(study, str(part.SeriesInstanceUID), str(part.SOPInstanceUID))
            if "PixelData" in part:
                assert stored.PixelData == part.PixelData, (study, name)
            elif "EncapsulatedDocument" in part:
                assert stored.EncapsulatedDocument == part.EncapsulatedDocument
            else:
                assert report_text(stored) == REPORT
            assert stored.SyntheticData == "YES" and stored.PatientAge == "071Y"


@pytest.mark.parametrize("protocol", ["STOW-RS", "C-STORE"])
def test_every_kind_of_object_makes_the_round_trip(orthanc: Orthanc, tmp_path: Path, protocol: str) -> None:
    to = orthanc.url if protocol == "STOW-RS" else f"dicom://127.0.0.1:{orthanc.archive}/ORTHANC"
    outbox = Outbox(tmp_path / "outbox")
    # The last is larger than one packet and one chunk of HTTP.
    parts = [objects(0, pdf=True), objects(1), objects(2, pdf=True, size=1024)]
    for part in parts:
        outbox.add(part)
    delivery = send(outbox, to)
    assert (delivery.sent, delivery.problems) == (11, {})
    check_arrived(orthanc, outbox, {str(part["report"].StudyInstanceUID): part for part in parts})
    assert send(outbox, to).before == 11
    # In: as prompts, as they were.
    study = str(parts[0]["report"].StudyInstanceUID)
    fetched = fetch(orthanc.url, study, tmp_path / "in")
    assert sorted(fetched.files) == ["frontal", "lateral", "record", "report"]
    assert [note.split()[-1] for note in fetched.notes] == ["DOC"]  # the PDF
    assert fetched.files["report"].read_text() == REPORT + "\n"
    assert json.loads(fetched.files["record"].read_text())["bmi"] == 24.3


@pytest.mark.parametrize("protocol", ["STOW-RS", "C-STORE"])
def test_200_studies_arrive_once_though_the_server_is_killed_three_times(
    orthanc: Orthanc, tmp_path: Path, protocol: str
) -> None:
    to = orthanc.url if protocol == "STOW-RS" else f"dicom://127.0.0.1:{orthanc.archive}/ORTHANC"
    outbox, sent = Outbox(tmp_path / "outbox"), {}
    for seed in range(200):
        parts = objects(seed, views=("frontal",))
        outbox.add(parts)
        sent[str(parts["report"].StudyInstanceUID)] = parts
    # The server is killed somewhere within studies 30, 90 and 150, and comes back a moment later.
    moments, started, kills = [30, 90, 150], threading.Event(), []
    chance = random.Random(7)

    def kill() -> None:
        for _ in range(KILLS):
            started.wait()
            started.clear()
            time.sleep(chance.random() * 0.05)
            orthanc.kill()
            kills.append(time.monotonic())
            time.sleep(0.3)
            orthanc.start()

    def on_progress(done: int, total: int) -> None:
        if moments and done >= moments[0]:
            moments.pop(0)
            started.set()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    delivery = send(outbox, to, on_progress=on_progress)
    thread.join(60)
    assert len(kills) == KILLS and delivery.problems == {} and delivery.sent == 400
    assert send(outbox, to).before == 400
    check_arrived(orthanc, outbox, sent)


def test_a_generated_study_goes_to_the_server_and_comes_back_as_a_prompt(
    orthanc: Orthanc, tmp_path: Path, tiny_model: MedCoDi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(tiny_model.save_pretrained(tmp_path / "model"))
    small = ["generate", "--model", model, "--steps", "1", "--device", "cpu"]

    def run(*arguments: str) -> None:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code

    run(*small, "--target", "frontal", "--out", "made", "--dicom-store", orthanc.url, "--dicom-pdf")
    (study,) = orthanc.get("studies")
    uid = orthanc.get(f"studies/{study}")["MainDicomTags"]["StudyInstanceUID"]
    run("dicom", "fetch", orthanc.url, "--study", uid, "--out", "in")
    run(*small, "--prompt", "frontal=in/frontal.dcm", "--target", "lateral", "--out", "made-2")
    assert (tmp_path / "made-2/lateral.png").is_file()


def test_a_synthesis_that_is_killed_sends_every_study_once(
    orthanc: Orthanc, tmp_path: Path, tiny_model: MedCoDi
) -> None:
    model = str(tiny_model.save_pretrained(tmp_path / "model"))
    rows = [f"s{number},Nodule of {number} mm.,frontal" for number in range(20)]
    (tmp_path / "m.csv").write_text("\n".join(["id,report,targets", *rows]))
    small = ["--model", model, "--steps", "1", "--device", "cpu", "--batch-size", "2", "--format", "dicom"]
    words = ["synthesize", "--manifest", "m.csv", "--out", "made", *small, "--dicom-store", orthanc.url]
    command = [sys.executable, "-m", "medcodi", *words]

    def killed_when(enough: Callable[[], bool]) -> None:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while process.poll() is None and not enough():
            assert time.monotonic() < until
            time.sleep(0.002)
        process.kill()
        process.wait()

    # Killed while it generates, and while it sends.
    killed_when(lambda: len(list(tmp_path.glob("made/studies/*/*/result.json"))) >= 5)
    assert not orthanc.get("studies") and len(list(tmp_path.glob("made/studies/*/*/result.json"))) < 20
    killed_when(lambda: len(list(tmp_path.glob("outbox/receipts/*/*.json"))) >= 4)
    assert 4 <= len(orthanc.get("studies")) < 20
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    delivery = json.loads((tmp_path / "made/delivery.json").read_text())
    assert (delivery["arrived"], delivery["waiting"], delivery["refused"]) == (20, 0, 0)
    assert len(orthanc.get("studies")) == len(orthanc.get("instances")) == 20
    # Each is what the folder has.
    client = DicomWebServer(read_address(orthanc.url))
    for path in tmp_path.glob("made/studies/*/*/frontal.dcm"):
        film = dcmread(path)
        stored = client.retrieve(*(str(film[name].value) for name in UIDS))
        assert stored.PixelData == film.PixelData


def test_an_encrypted_server_takes_studies_of_those_whom_it_knows(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "hospital")
    mutual = Tls(ca=authority.ca, certificate=authority.sign("client"))
    (tmp_path / "orthanc").mkdir()
    server, outbox = Orthanc(tmp_path / "orthanc", authority), Outbox(tmp_path / "outbox")
    outbox.add(parts := objects(0))
    archive = f"dicoms://127.0.0.1:{server.archive}/ORTHANC"
    try:
        server.start()
        # Without the authority, and without a certificate of ours.
        for tls, words in (
            (Tls(), "not trusted here"),
            (Tls(ca=authority.ca), "does not take our certificate"),
        ):
            with pytest.raises(ServerError, match=words):
                send(outbox, archive, tls=tls, retry_s=0)
        assert send(outbox, archive, tls=mutual).sent == 3 and len(server.get("instances")) == 3
        check_arrived(server, outbox, {str(parts["report"].StudyInstanceUID): parts})
    finally:
        server.kill()
