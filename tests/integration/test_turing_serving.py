"""A served reader study in a real browser: by keyboard alone, through a killed server, from two computers at once; then import."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_turing_viewer import Reader, assert_imports
from tests.integration.test_turing_viewer import browser as browser
from tests.integration.test_turing_viewer import bundle as bundle

pytestmark = pytest.mark.long


class Serving:
    """The command, in a process of its own."""

    def __init__(self, served: Path, answers: Path, port: int = 0) -> None:
        command = [
            sys.executable,
            "-m",
            "medcodi",
            "turing",
            "serve",
            str(served),
            "--out",
            str(answers),
            "--port",
            str(port),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(2)]  # the one reader's, the coordinator's
        self.links = dict(line.strip().split(": ", 1) for line in lines)
        self.port = int(self.links["coordinator"].split(":")[2].split("/")[0])

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@pytest.fixture
def served(bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "machine" / "served"
    shutil.copytree(bundle / "readers", folder / "readers")
    return folder


def note(reader: Reader) -> str:
    return reader.page.evaluate("(document.getElementById('server-note') || {textContent: ''}).textContent")


def settle(reader: Reader) -> None:
    """Until the server has everything."""
    reader.wait_until("!Turing.server.busy && !Turing.server.sending && !Turing.server.due")


def test_a_session_by_keyboard_alone_through_a_killed_server(
    browser: Any, bundle: Path, served: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    serving = Serving(served, answers)
    reader = Reader(browser, serving.links["reader-01"])
    assert "Your answers are sent to the server" in reader.page.inner_text("main")
    reader.through_the_door_by_keys()
    reader.go_on(by_keys=True)
    num = 0
    while reader.where() == "reading":
        task = reader.wait_for_item()
        assert reader.page.evaluate(
            "document.querySelector('#missing.called') === null"
        )  # nothing is missed before it is asked
        reader.answer(task)
        num += 1
        if num == 2:
            # Killed in the middle: the reader goes on, is told, and everything arrives once it is back.
            settle(reader)
            serving.end(signal.SIGKILL)
            reader.press("Enter")
            reader.go_on(by_keys=True)
            reader.answer(reader.wait_for_item())
            reader.wait_until("Boolean((document.getElementById('server-note') || {}).textContent)")
            assert "does not answer" in note(reader)
            serving = Serving(served, answers, serving.port)
            settle(reader)
            assert note(reader) == ""
        if num == 4:
            # Another computer, by the same link: nothing is lost, and nothing is carried.
            settle(reader)
            reader.context.close()
            reader.sit_down(browser)
            assert f"Welcome back: {len(reader.clicked)} of" in reader.page.inner_text("main")
            reader.press("Enter")
            reader.go_on(by_keys=True)
            continue
        reader.press("Enter")
        reader.go_on(by_keys=True)
    assert reader.where() == "end"
    reader.wait_until("document.getElementById('saved').textContent.includes('stored on the server')")
    (result,) = (answers / "results").glob("*.json")
    values = json.loads(result.read_text(encoding="utf-8"))
    assert (
        values["complete"] and {answer["position"]: answer["value"] for answer in values["answers"]} == reader.clicked
    )
    # The coordinator, and the end of the serving.
    page = browser.new_page()
    page.goto(serving.links["coordinator"])
    assert "finished" in page.inner_text("td:nth-child(2)")
    assert serving.end(signal.SIGINT) == 0 and reader.failures == []
    assert_imports(result, bundle, reader.clicked, tmp_path)


def test_two_computers_of_one_reader_are_told(browser: Any, served: Path, tmp_path: Path) -> None:
    serving = Serving(served, tmp_path / "answers")
    first = Reader(browser, serving.links["reader-01"])
    first.through_the_door()
    first.go_on()
    first.answer(first.wait_for_item())
    settle(first)
    # The second one goes on from there; looking alone takes nothing over.
    second = Reader(browser, serving.links["reader-01"])
    assert "Welcome back: 1 of" in second.page.inner_text("main")
    first.press("5")
    settle(first)
    # An answer of the first does not get through before the second writes.
    first.context.set_offline(True)
    first.press("4")
    first.wait_until("Boolean((document.getElementById('server-note') || {}).textContent)")
    second.page.reload()
    second.page.click("#continue")
    second.go_on()
    second.answer(second.wait_for_item())
    settle(second)
    # The first is told as soon as it reaches the server; its answer stays with it, and is offered as a file.
    first.context.set_offline(False)
    first.page.wait_for_selector("#elsewhere")
    assert note(first) == ""
    first.press("Enter")  # continue here
    first.page.wait_for_selector("#unsent")
    copy = json.loads(first.download("#unsent button:first-of-type").read_text(encoding="utf-8"))
    assert [answer["value"] for answer in copy["answers"]] == [{"rating": 4}]
    assert "Welcome back: 2 of" in first.page.inner_text("main")
    first.page.click("#continue")
    first.go_on()
    first.wait_for_item()
    settle(first)
    # Two tabs of one browser: the one that was there first is told as soon as the other writes.
    tab = first.context.new_page()
    tab.goto(first.url)
    tab.click("#continue")
    first.page.wait_for_selector("#elsewhere")
    (result,) = (tmp_path / "answers" / "results").glob("*.json")
    assert len(json.loads(result.read_text(encoding="utf-8"))["answers"]) == 2
    assert serving.end(signal.SIGINT) == 0 and first.failures + second.failures == []
