"""Two small servers that run inside a test: DICOMweb over HTTP, and C-STORE by pynetdicom. Both can be made to fail."""

from __future__ import annotations

import io
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pydicom

from medcodi.data.dicom.writing import study_objects

REPORT = "FINDINGS: The heart is large.\nIMPRESSION: Cardiomegaly."


def contents(seed: int) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).random((2, 40, 40), dtype=np.float32)
    return {"frontal": pixels[0], "lateral": pixels[1], "report": REPORT, "record": {"age": 71.0, "sex": "F"}}


def objects(seed: int, *, pdf: bool = False) -> dict[str, Any]:
    """A small study: two films and a report."""
    provenance = {"direction": "->", "model": {"name": "tiny", "sha256": "0" * 64}, "prompts": {}, "settings": {}}
    return study_objects(contents(seed), {**provenance, "seeds": [seed]}, pdf=pdf)


class Web(ThreadingHTTPServer):
    """A DICOMweb server in memory. ``answers`` are what it does with the next stores: a status, or ``"drop"`` after storing."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "http" if context is None else "https"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.stored: dict[str, pydicom.Dataset] = {}  # by SOP instance UID
        self.arrived: list[str] = []  # every arrival, also of what is there
        self.answers: list[int | str] = []
        self.refused: dict[str, int] = {}  # SOP instance or class UID -> failure reason; retrieved, it is broken
        self.always: dict[str, int] = {}  # study -> status of every store
        self.search_status = 200
        self.page = ""  # HTML that it answers to everything

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/dicom-web"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def web_server(context: ssl.SSLContext | None = None) -> Iterator[Web]:
    """A DICOMweb server, encrypted where it is given a context."""
    server = Web(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Host"] == f"127.0.0.1:{self.server.server_address[1]}"
        boundary = self.headers["Content-Type"].split('boundary="')[1].split('"')[0].encode()
        parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(b"\r\n--" + boundary)[1:-1]]
        datasets = [pydicom.dcmread(io.BytesIO(part)) for part in parts]
        answer = self.server.answers.pop(0) if self.server.answers else 200
        answer = self.server.always.get(str(datasets[0].StudyInstanceUID), answer)
        if self.server.page:
            return self._send(200, self.server.page.encode(), "text/html")
        if isinstance(answer, int) and answer != 200:
            return self._send(answer, b"<h1>No luck</h1>", "text/html")
        # Store what is not refused.
        result, reference = pydicom.Dataset(), []
        result.ReferencedSOPSequence, result.FailedSOPSequence = [], []
        for dataset in datasets:
            reference = pydicom.Dataset()
            reference.ReferencedSOPClassUID = dataset.SOPClassUID
            reference.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
            reason = self.server.refused.get(dataset.SOPInstanceUID) or self.server.refused.get(dataset.SOPClassUID)
            if reason:
                reference.FailureReason = reason
                result.FailedSOPSequence.append(reference)
            else:
                self.server.stored[dataset.SOPInstanceUID] = dataset
                self.server.arrived.append(dataset.SOPInstanceUID)
                result.ReferencedSOPSequence.append(reference)
        if answer == "drop":  # stored, and the answer is lost
            self.connection.close()
            return None
        status = 200 if not result.FailedSOPSequence else 202 if result.ReferencedSOPSequence else 409
        return self._send(status, result.to_json().encode(), "application/dicom+json; charset=utf-8")

    def do_GET(self) -> None:
        if self.server.page:
            return self._send(200, self.server.page.encode(), "text/html")
        if self.server.search_status != 200:
            return self._send(self.server.search_status, b"No", "text/plain")
        parts = self.path.split("/")  # /dicom-web/studies/S/instances or /dicom-web/studies/S/series/R/instances/I
        if "series" not in parts:
            rows = [one for one in self.server.stored.values() if one.StudyInstanceUID == parts[3]]
            wanted = (
                "SOPClassUID",
                "SOPInstanceUID",
                "SeriesInstanceUID",
                "Modality",
                "SeriesNumber",
                "InstanceNumber",
            )
            listed = [{key: value for key, value in one.to_json_dict().items() if pydicom.datadict.keyword_for_tag(key) in wanted} for one in rows]  # fmt: skip
            return self._send(200, json.dumps(listed).encode(), "application/dicom+json")
        dataset = self.server.stored.get(parts[7])
        if dataset is None:
            return self._send(410, b"Gone", "text/plain")
        file = io.BytesIO(b"broken" if parts[7] in self.server.refused else b"")
        if not file.getvalue():
            pydicom.dcmwrite(file, dataset, enforce_file_format=True)
        head = b"--x\r\nContent-Type: application/dicom\r\n\r\n"
        kind = 'multipart/related; type="application/dicom"; boundary=x'
        return self._send(200, b"\r\n" + head + file.getvalue() + b"\r\n--x--", kind)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Archive:
    """What a C-STORE server has, and what it does with the next instances: a status, or ``"abort"``."""

    def __init__(self) -> None:
        self.stored: dict[str, pydicom.Dataset] = {}
        self.answers: list[int | str] = []
        self.url = ""


@contextmanager
def archive_server(
    *sop_classes: str, title: str = "ARCHIVE", context: ssl.SSLContext | None = None
) -> Iterator[Archive]:
    """A C-STORE server of these SOP classes that knows one title, encrypted where it is given a context."""
    from pynetdicom import AE, evt

    archive = Archive()

    def store(event: Any) -> int:
        answer = archive.answers.pop(0) if archive.answers else 0x0000
        if answer == "abort":
            event.assoc.abort()
            time.sleep(0.05)
            return 0x0110
        if answer == 0x0000:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            archive.stored[dataset.SOPInstanceUID] = dataset
        assert isinstance(answer, int)
        return answer

    entity = AE(ae_title=title)
    entity.require_called_aet = True
    for sop_class in sop_classes:
        entity.add_supported_context(sop_class)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)], ssl_context=context
    )
    archive.url = f"{'dicom' if context is None else 'dicoms'}://127.0.0.1:{server.socket.getsockname()[1]}/{title}"
    try:
        yield archive
    finally:
        server.shutdown()
