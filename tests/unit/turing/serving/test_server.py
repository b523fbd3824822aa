"""A served study over loopback: what a link leads to, what is stored, what is refused; the server lives on."""

from __future__ import annotations

import http.client
import json
import re
import socket
from pathlib import Path

import pytest

from medcodi.errors import DataError
from medcodi.turing.answers.import_results import import_results
from medcodi.turing.serving.answers_folder import PROGRESS
from medcodi.turing.serving.server import StudyServer, study_server
from tests.unit.turing.result_files import answered, changed

READER = "reader-01"


def ask(
    server: StudyServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of one reply."""
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        line.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = line.getresponse()
        return reply.status, reply.read().decode(), dict(reply.headers)
    finally:
        line.close()


def link(server: StudyServer, name: str = "", reader: str = READER) -> str:
    return f"/read/{server.answers.tokens[reader]}/{name}"


def put(server: StudyServer, result: object, base: str = "", reader: str = READER) -> tuple[int, str]:
    data = result if isinstance(result, bytes) else json.dumps(result, ensure_ascii=False).encode()
    status, text, _ = ask(server, "PUT", link(server, "answers", reader), data, If_Match=f'"{base}"')
    return status, text


def stored(folder: Path) -> list[Path]:
    return sorted((folder / "answers" / "results").glob("*.json"))


def test_a_link_leads_to_the_page_its_scripts_and_payloads(server: StudyServer) -> None:
    status, page, headers = ask(server, "GET", link(server))
    assert status == 200 and "connect-src 'self'" in page and headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer" and "Python" not in headers["Server"]
    names = re.findall(r'(?:src|href)="([\w.]+)"', page)
    assert {"stored.js", "served.js", "study.js", "viewer.css"} <= set(names)
    assert names.index("stored.js") < names.index("served.js") < names.index("viewer.js")
    assert [ask(server, "GET", link(server, name))[0] for name in names] == [200] * len(names)
    payload = next(name for name in server.files[READER] if name.startswith("payloads/"))
    assert ask(server, "GET", link(server, payload))[1].startswith("MEDCODI_PAYLOAD(")
    assert ask(server, "GET", link(server, "stored.js"))[1] == "const MEDCODI_SERVED = null;\n"
    # Without the last stroke, the page is found, and its relative names are right.
    status, _, headers = ask(server, "GET", link(server).rstrip("/"))
    assert status == 308 and headers["Location"] == link(server).split("/", 2)[2]


def test_nothing_else_is_served(server: StudyServer) -> None:
    own, other = server.answers.tokens[READER], server.answers.tokens["reader-02"]
    theirs = next(name for name in server.files["reader-02"] if name.startswith("payloads/"))
    paths = [
        "/",
        "/read",
        "/read/",
        "/read/wrong/",
        f"/read/{own[:-1]}/",
        f"/read/{own}/bundle.json",
        f"/read/{own}/{theirs}",
    ]
    paths += [
        f"/read/{own}/../../bundle.json",
        f"/read/{own}/%2e%2e/%2e%2e/bundle.json",
        f"/read/{own}/payloads/../study.js",
    ]
    paths += [
        f"/read/{own}//etc/passwd",
        f"/progress/{own}",
        f"/read/{server.answers.tokens[PROGRESS]}/",
        "//[",
        "/read/%C3%A9",
    ]
    for path in paths:
        status, text, _ = ask(server, "GET", path)
        assert status == 404 and len(text) < 100 and "/" not in text, path
    assert ask(server, "PUT", f"/progress/{other}", b"{}")[0] == 404 and ask(server, "POST", link(server))[0] == 501
    assert ask(server, "GET", link(server))[0] == 200


def test_answers_are_stored_as_they_were_sent_and_imported(server: StudyServer, bundle: Path, tmp_path: Path) -> None:
    half, whole = answered(bundle, READER, 20), answered(bundle, READER)
    assert put(server, half) == (204, "") and put(server, whole, base=half["checksum"]) == (204, "")
    assert put(server, answered(bundle, "reader-02", 5), reader="reader-02")[0] == 204
    assert [json.loads(path.read_text()) for path in stored(tmp_path)] == [whole, answered(bundle, "reader-02", 5)]
    done = import_results(stored(tmp_path), bundle / "custodian", tmp_path / "table")
    assert len(done.rows) == len(whole["answers"]) + 5 and not done.facts["excluded"]
    script = ask(server, "GET", link(server, "stored.js"))[1]
    text = json.loads(script.removeprefix("const MEDCODI_SERVED = JSON.parse(").removesuffix(");\n"))
    assert json.loads(text) == whole
    # The coordinator sees how far they are, and nothing of what they answered.
    status, page, _ = ask(server, "GET", f"/progress/{server.answers.tokens[PROGRESS]}")
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    num = len(whole["answers"])
    assert (
        status == 200
        and cells[:4] == [READER, "finished", f"{num} of {num}", "1"]
        and cells[8:10] == ["reading", f"5 of {num}"]
    )
    assert "too smooth" not in page and half["answers"][0]["trial"] not in page


def test_what_was_continued_elsewhere_is_not_overwritten(server: StudyServer, bundle: Path, tmp_path: Path) -> None:
    first, second = answered(bundle, READER, 3), answered(bundle, READER, 4)
    assert put(server, first)[0] == 204 and put(server, first)[0] == 204  # again, because the reply was lost
    status, text = put(server, second, base="")
    assert status == 412 and "continued elsewhere" in text and json.loads(stored(tmp_path)[0].read_text()) == first
    assert put(server, second, base=first["checksum"])[0] == 204
    # Fewer answers, of a progress file that the reader chose: those before it stay in a file of their own.
    assert put(server, first, base=second["checksum"])[0] == 204
    earlier = list((tmp_path / "answers" / "earlier").iterdir())
    assert json.loads(stored(tmp_path)[0].read_text()) == first and [
        json.loads(path.read_text()) for path in earlier
    ] == [second]


def test_an_upload_that_is_no_result_of_this_reader_is_refused(
    server: StudyServer, bundle: Path, tmp_path: Path
) -> None:
    result = answered(bundle, READER, 3)
    refused = {
        "is not JSON": b"{", "is no object": b"[]", "nested too deeply": b"[" * 100_000, "is no results file": {**result, "kind": "x"},
        "its checksum is wrong": changed(result, lambda r: r["answers"][0].update(seconds=1), seal=False),
        "by the link of": answered(bundle, "reader-02", 3),
        "bundle 'other'": changed(result, lambda r: r.update(bundle_id="other"), seal=True),
        "holds no consent": changed(result, lambda r: r.update(consent=None), seal=True),
        "was not shown": changed(result, lambda r: r["answers"][0].update(trial="x"), seal=True),
    }  # fmt: skip
    for words, body in refused.items():
        status, text = put(server, body)
        assert status == 400 and words in text and str(tmp_path) not in text, (words, text)
    # Too large, or of unknown size: refused before a byte of it is read.
    most = server.max_bytes(READER)
    assert ask(server, "PUT", link(server, "answers"), None, Content_Length=str(most + 1))[0] == 413
    assert ask(server, "PUT", link(server, "answers"), None, Content_Length="9" * 5000)[0] == 413
    assert ask(server, "PUT", link(server, "answers"), None, Content_Length="-1")[0] == 411
    # A line that breaks in the middle stores nothing.
    with socket.create_connection(("127.0.0.1", server.server_port)) as line:
        line.sendall(f"PUT {link(server, 'answers')} HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{{".encode())
    assert stored(tmp_path) == [] and put(server, result)[0] == 204


def test_a_full_disk_is_named_without_a_path_and_answers_can_be_sent_again(
    server: StudyServer, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "answers" / "results"
    blocked.write_text("in the way")
    status, text = put(server, answered(bundle, READER, 3))
    assert status == 507 and "Your answers are stored in this browser" in text and str(tmp_path) not in text
    assert READER in capsys.readouterr().err  # the coordinator's terminal says why
    blocked.unlink()
    assert put(server, answered(bundle, READER, 3))[0] == 204


def test_a_server_that_starts_again_has_the_links_and_the_answers(served: Path, bundle: Path, tmp_path: Path) -> None:
    half = answered(bundle, READER, 7)
    with study_server(served, tmp_path / "answers", "127.0.0.1", 0) as server:
        tokens = server.answers.tokens
        server.answers.store(READER, json.dumps(half).encode(), "")
        with (
            pytest.raises(DataError, match="in use by another process"),
            study_server(served, tmp_path / "answers", "127.0.0.1", 0),
        ):
            pass
        taken = server.server_port
        with (
            pytest.raises(DataError, match="cannot listen on .*--port 0"),
            study_server(served, tmp_path / "b", "127.0.0.1", taken),
        ):
            pass
    assert len(set(tokens.values())) == 3 and (tmp_path / "answers").stat().st_mode & 0o777 == 0o700
    with study_server(served, tmp_path / "answers", "127.0.0.1", 0) as server:
        assert server.answers.tokens == tokens
        assert [row.answered for row in server.answers.progress()] == [7, 0]
        assert json.loads(server.answers.newest(READER) or b"") == half
