"""The server of a study: the readers' pages by their links, their answers in, the coordinator's page.

Only names that were listed when the server began are served, each from its own place: a path in a request never becomes a path
of the machine. The link's token is the only thing that a browser shows; messages name no path.
"""

from __future__ import annotations

import json
import secrets
import socket
import socketserver
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

from medcodi.errors import DataError
from medcodi.pages.page import Head, Section, Table, render_page
from medcodi.turing.bundle.files import PAYLOADS, READER_STUDY, ReaderBundle, ReaderFolder, open_bundle, viewer_files
from medcodi.turing.serving.answers_folder import (
    PROGRESS,
    AnswersFolder,
    ChangedElsewhereError,
    NotStoredError,
    opened_answers,
)

INDEX, ANSWERS, SCRIPT, STORED = "index.html", "answers", "served.js", "stored.js"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# At most this much of an upload: sessions and display, and for every trial the longest comment in the widest letters.
BYTES_OF_SESSIONS, BYTES_OF_TRIAL = 256 << 10, 16 << 10
SILENCE_S = 60.0  # a connection on which nothing comes for this long is closed
REFRESH_S = 20  # seconds between two views of the coordinator's page
HEADERS = {
    "Cache-Control": "no-store",  # no examination stays in a browser's cache
    "Referrer-Policy": "no-referrer",  # no link leaves by one
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
}
NO_LINK = "This link is not valid. Ask the people who run the study for yours."
PROGRESS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def served_index() -> bytes:
    """The viewer's page with the two scripts that load and store answers, and leave to talk to its own server."""
    page = viewer_files()[INDEX].decode()
    for before, after in (
        ("img-src data: blob:;", "img-src data: blob:; connect-src 'self';"),
        ('<script src="viewer.js">', f'<script src="{STORED}"></script>\n<script src="{SCRIPT}"></script>\n<script src="viewer.js">'),
    ):  # fmt: skip
        assert page.count(before) == 1
        page = page.replace(before, after)
    return page.encode()


def reader_files(reader: ReaderFolder) -> dict[str, bytes | Path]:
    """Everything that a reader's link leads to: name -> bytes, or the file of a payload."""
    contents: dict[str, bytes | Path] = {**viewer_files(), INDEX: served_index()}
    contents[SCRIPT] = (files("medcodi.turing") / "serving" / SCRIPT).read_bytes()
    contents[READER_STUDY] = (reader.path / READER_STUDY).read_bytes()
    return contents | {f"{PAYLOADS}/{path.name}": path for path in reader.payload_files()}


class StudyServer(ThreadingHTTPServer):
    """One study on one port; a thread for each connection."""

    daemon_threads = True

    def __init__(self, host: str, port: int, bundle: ReaderBundle, answers: AnswersFolder) -> None:
        """Bind the port; requests are answered from ``serve_forever`` on.

        Raises:
            DataError: If the port is in use, or the address is none of this machine.
        """
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answers = answers
        self.title = str(bundle.readers[0].study.get("title", ""))
        self.files = {reader.name: reader_files(reader) for reader in bundle.readers}
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"cannot listen on {host}, port {port}: {reason}",
                expected="a free port of this machine",
                fix="choose another --port, or --port 0 for any free one",
            ) from None

    def server_bind(self) -> None:
        """Bind, without the look-up of the machine's name that the base class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @cached_property
    def url(self) -> str:
        """``http://127.0.0.1:8400``; of every address of this machine, its name."""
        name = socket.gethostname() if self.server_name in ("0.0.0.0", "::") else self.server_name
        host = f"[{name}]" if ":" in name else name
        return f"http://{host}:{self.server_port}"

    def holder(self, token: str) -> str | None:
        """The reader of a token, or PROGRESS; None: nobody's. Takes as long for every token."""
        matching = [
            name for name, own in self.answers.tokens.items() if secrets.compare_digest(own.encode(), token.encode())
        ]
        return matching[0] if matching else None

    def max_bytes(self, reader: str) -> int:
        """Largest results file that this reader's viewer can write."""
        return BYTES_OF_SESSIONS + BYTES_OF_TRIAL * len(self.answers.study.trials[reader])

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke is no error of the server."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: StudyServer  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    timeout = SILENCE_S
    disable_nagle_algorithm = True  # heads and contents are written one after the other: do not wait in between

    def version_string(self) -> str:
        """The name that the server gives itself: no version."""
        return "medcodi"

    def log_message(self, *_: object) -> None:
        """Nothing: a log of requests would hold the tokens."""

    # ---- requests ----------------------------------------------------------------------------------------------------
    def do_GET(self) -> None:
        """A page, script or picture."""
        place, holder, name = self._parse_path()
        if place == "read" and name is None and holder:  # without the last slash, the page's own links would miss
            last = self.path.partition("?")[0].rpartition("/")[2]
            self._reply(HTTPStatus.PERMANENT_REDIRECT, headers={"Location": f"{last}/"})
        elif place == "read" and holder:
            self._reply_file(holder, name or INDEX)
        elif place == PROGRESS and holder and not name:
            page = progress_page(self.server.title, self.server.answers).encode()
            headers = {"Refresh": str(REFRESH_S), "Content-Security-Policy": PROGRESS_POLICY}
            self._reply(HTTPStatus.OK, page, TYPES[".html"], headers)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, NO_LINK)

    def do_HEAD(self) -> None:
        """The same, without the content."""
        self.do_GET()

    def do_PUT(self) -> None:
        """Answers of a reader."""
        place, reader, name = self._parse_path()
        if place != "read" or reader is None or name != ANSWERS:
            return self._refuse(HTTPStatus.NOT_FOUND, NO_LINK)
        # Nothing is read before its size is known and small enough.
        length, most = self.headers.get("Content-Length", ""), self.server.max_bytes(reader)
        if not (length.isascii() and length.isdecimal()):
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, "The size of the answers is not given.")
        if len(length) > 12 or int(length) > most:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {most:,} bytes of answers are accepted.")
        data = self.rfile.read(int(length))
        if len(data) < int(length):  # the line broke: the page sends them again
            self.close_connection = True
            return None
        return self._store(reader, data)

    def _store(self, reader: str, data: bytes) -> None:
        base = self.headers.get("If-Match", "").strip().strip('"')
        try:
            self.server.answers.store(reader, data, base)
        except ChangedElsewhereError as error:
            self._refuse(HTTPStatus.PRECONDITION_FAILED, str(error))
        except NotStoredError as error:
            print(f"{reader}: {error}", file=sys.stderr, flush=True)
            self._refuse(
                HTTPStatus.INSUFFICIENT_STORAGE,
                "The server has no room. Your answers are stored in this browser and will be sent again: please tell the people who run the study.",
            )
        except DataError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        else:
            self._reply(HTTPStatus.NO_CONTENT)

    def _parse_path(self) -> tuple[str, str | None, str | None]:
        """``read`` or ``progress``, the holder of the token (None: nobody there), and the name after it (None: not even a slash)."""
        parts = self.path.partition("?")[0].split("/", 3)  # "", place, token, name
        place, token = [*parts[1:3], "", ""][:2]
        holder = self.server.holder(token)
        belongs = (holder == PROGRESS) == (place == PROGRESS)
        return place, holder if belongs else None, parts[3] if len(parts) > 3 else None

    # ---- replies -----------------------------------------------------------------------------------------------------
    def _reply_file(self, reader: str, name: str) -> None:
        if name == STORED:
            return self._reply(HTTPStatus.OK, stored_script(self.server.answers.newest(reader)), TYPES[".js"])
        content = self.server.files[reader].get(name)
        try:
            data = content.read_bytes() if isinstance(content, Path) else content
        except OSError:  # a payload that has gone: the viewer says which, and offers to try again
            data = None
        if data is None:
            return self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")
        return self._reply(HTTPStatus.OK, data, TYPES["." + name.rpartition(".")[2]])

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True  # what may follow on the line was not read
        self._reply(status, f"{text}\n".encode(), "text/plain")

    def _reply(
        self, status: HTTPStatus, data: bytes = b"", kind: str = "text/plain", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": f"{kind}; charset=utf-8", **(headers or {})}.items():
            self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def stored_script(result: bytes | None) -> bytes:
    """``stored.js``: the newest results file of a reader, or null."""
    text = "null" if result is None else f"JSON.parse({json.dumps(result.decode('utf-8-sig'))})"
    return f"const MEDCODI_SERVED = {text};\n".encode("ascii")


def progress_page(title: str, answers: AnswersFolder) -> str:
    """The coordinator's page: how far each reader is; nothing of what was answered."""
    readers = answers.progress()
    rows = [
        (
            row.reader,
            row.state,
            f"{row.answered} of {row.num_trials}",
            str(row.sessions or "–"),
            f"{row.minutes:.0f}" if row.sessions else "–",
            {None: "–", True: "passed", False: "not passed"}[row.display_check],
            f"{row.last.astimezone():%Y-%m-%d %H:%M:%S}" if row.last else "–",
        )
        for row in readers
    ]
    columns = ("reader", "state", "items answered", "sessions", "minutes of reading", "display check", "last answer")
    states = [row.state for row in readers]
    head = Head(
        title=f"{title}: progress",
        lead=f"Bundle {answers.study.bundle_id}. The page loads itself again every {REFRESH_S} seconds.",
        facts=[(str(states.count(state)), state) for state in ("not begun", "reading", "finished")],
    )
    return render_page(head, [Section(title="Readers", tables=[Table(columns=columns, rows=rows, left=2)])])


@contextmanager
def study_server(bundle: str | Path, out: str | Path, host: str, port: int) -> Iterator[StudyServer]:
    """A server of a bundle whose answers go to ``out``; its port is bound, and closed when the body ends.

    Raises:
        DataError: As :func:`~medcodi.turing.serving.answers_folder.opened_answers`, or if the port cannot be bound.
    """
    opened = open_bundle(bundle)
    with opened_answers(out, opened) as answers, StudyServer(host, port, opened, answers) as server:
        yield server
