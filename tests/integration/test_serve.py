"""People at the page of ``medcodi serve``, in a real browser: generate, edit, look, download, several at once, hostile, cut off."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medcodi.pages.page import Head, Section, render_page, write_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
pytest.importorskip("nicegui", reason="the extra web is not installed: make setup")
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PATIENCE_MS = 180_000  # on a busy machine, on which the model is loaded meanwhile
FOCUSED = """() => {
  const element = document.activeElement;
  return [element.getAttribute("role") || element.tagName.toLowerCase(), element.getAttribute("aria-label") || element.innerText];
}"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(temporary: Path, *options: str) -> Iterator[str]:
    """A server with the shipped model, as the command line starts it: its address. It ends as by Ctrl-C, and leaves nothing."""
    command = [sys.executable, "-m", "medcodi", "serve", "--port", str(free_port()), *options]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        found = next((match[1] for line in lines if (match := re.search(r"The page: (\S+)", line))), None)
        assert found is not None, "the server did not start"
        yield found
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
        assert "Traceback" not in server.stdout.read()
    assert not list(temporary.glob("medcodi-serve-*"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a folder to look at, which holds one page of ours and one that is not."""
    look = tmp_path_factory.mktemp("runs")
    section = Section(title="A run", text="Loss went down.")
    write_page(look / "run" / "index.html", render_page(Head(title="The run", lead="one line"), [section]))
    (look / "notes.html").write_text("<!doctype html><script>alert(1)</script>")
    with serving(tmp_path_factory.mktemp("tmp"), "--look", str(look)) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine. Install it: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


class Person:
    """Somebody at the page; notes every error of the console and every request that leaves this machine."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.failures: list[str] = []
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.failures.append(said.text))
        self.page.on("request", lambda request: self._only_here(request.url))
        self.page.goto(address)
        self.button("Generate").wait_for()

    def _only_here(self, url: str) -> None:
        if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url):
            self.failures.append(f"asked for {url}")

    def part(self, name: str) -> Any:
        return self.page.get_by_role("region", name=name)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self, report: str, *, targets: tuple[str, ...] = ("Frontal X-ray",), steps: int = 2) -> None:
        """Fill the form of Generate; `targets` alone are ticked."""
        self.page.get_by_label("Report", exact=True).and_(self.page.locator("textarea")).fill(report)
        if not self.page.get_by_label("Samples").is_visible():
            self.page.get_by_text("Settings").click()
        self.page.get_by_label("Steps").fill(str(steps))
        for title in ("Frontal X-ray", "Lateral X-ray"):
            box = self.page.get_by_role("checkbox", name=title)
            if (title in targets) != (box.get_attribute("aria-checked") == "true"):
                box.click()

    def generate(self) -> None:
        self.button("Generate").click()
        self.done()

    def done(self) -> None:
        self.page.get_by_role("status").filter(has_text="Done in").wait_for()
        self.page.locator(".viewer canvas").first.wait_for()

    def readout(self) -> str:
        return self.page.get_by_label("Window and zoom").inner_text()

    def leave(self) -> None:
        self.context.close()
        assert self.failures == []


@pytest.fixture
def person(browser: Any, address: str) -> Iterator[Person]:
    person = Person(browser, address)
    yield person
    person.leave()


def downloaded(person: Person, link: str) -> bytes:
    with person.page.expect_download() as waiting:
        person.page.get_by_role("link", name=link, exact=True).click()
    return Path(waiting.value.path()).read_bytes()


def test_a_person_generates_drags_window_and_level_and_downloads(person: Person, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    page = person.page
    person.ask("Large left pleural effusion.", targets=("Frontal X-ray", "Lateral X-ray"))
    person.generate()
    assert page.locator(".viewer figcaption").all_inner_texts() == [
        "Prompt · Report", "Generated · Frontal X-ray", "Generated · Lateral X-ray",
    ]  # fmt: skip
    assert "Read: large left Pleural Effusion." in page.locator(".viewer").inner_text()  # in the report, by the labeler
    assert page.locator(".panel-note").count() == 3  # and in both films, by the classifier
    assert "Synthetic. Not for diagnosis." in page.locator(".notes").inner_text()

    # A drag changes window and level of both films, keys zoom and invert, a preset is pressed.
    canvas = page.locator(".viewer canvas").first
    canvas.scroll_into_view_if_needed()
    box, before = canvas.bounding_box(), person.readout()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 60, steps=4)
    page.mouse.up()
    assert person.readout() != before
    page.keyboard.press("i")
    assert page.get_by_role("button", name="Invert").get_attribute("aria-pressed") == "true"
    page.keyboard.press("+")
    page.keyboard.press("Home")
    assert person.readout() == before

    # Downloads: what Generation.save writes, with provenance.
    with zipfile.ZipFile(io.BytesIO(downloaded(person, "PNG"))) as files:
        assert sorted(files.namelist()) == ["frontal.png", "lateral.png", "provenance.json"]
        assert json.loads(files.read("provenance.json"))["seeds"] == [0]
    with zipfile.ZipFile(io.BytesIO(downloaded(person, "DICOM"))) as files:
        tags = pydicom.dcmread(io.BytesIO(files.read("frontal.dcm")))
        assert tags.SyntheticData == "YES"
    assert json.loads(downloaded(person, "Provenance alone (JSON)"))["settings"]["num_inference_steps"] == 2


def test_an_examination_is_edited_step_by_step(person: Person) -> None:
    page = person.page
    person.ask("The lungs are clear.", targets=("Frontal X-ray",))
    person.generate()
    person.button("Edit this examination").click()
    edits = page.get_by_label("Statements about findings")
    edits.fill("Large left pleural effusion.")
    person.button("Edit").click()
    person.done()
    titles = page.locator(".viewer:visible figcaption").all_inner_texts()
    assert titles == [
        "Before | after · Frontal X-ray", "Difference · Frontal X-ray", "Before · Report", "After · Report",
    ]  # fmt: skip
    assert "Large left pleural effusion." in page.locator(".viewer:visible .report").nth(1).inner_text()

    # The line between before and after follows the arrow keys.
    line = page.get_by_role("slider", name=re.compile("line between before and after"))
    shown = "() => document.querySelector('.viewer canvas').toDataURL()"
    line.focus()
    half = page.evaluate(shown)
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(shown) != half

    # A second edit starts from the first; undo shows the first again, redo the second.
    edits.fill("Severe cardiomegaly.")
    page.wait_for_timeout(400)
    person.button("Edit").click()
    page.locator(".history li").nth(1).wait_for()
    assert page.locator(".history li").all_inner_texts() == ["Large left pleural effusion.", "Severe cardiomegaly."]
    person.button("Undo").click()
    page.locator(".history li.undone").wait_for()
    assert page.locator(".history li.undone").all_inner_texts() == ["Severe cardiomegaly."]
    person.button("Redo").click()
    page.locator(".history li.undone").wait_for(state="detached")


def test_two_people_at_once_both_get_theirs(browser: Any, address: str) -> None:
    people = [Person(browser, address) for _ in range(2)]
    # The first one's takes long, so that it is not done before it is cancelled.
    for number, (person, steps) in enumerate(zip(people, (200, 2), strict=True)):
        person.ask(f"Severe cardiomegaly, patient {number}.", steps=steps)
    people[0].button("Generate").click()
    people[1].button("Generate").click()
    people[1].page.get_by_role("status").filter(
        has_text=re.compile("Waiting: 1 before you|Starting|Denoising")
    ).wait_for()
    # The first one cancels, and the second one's turn comes.
    people[0].button("Cancel").click()
    people[0].page.get_by_role("status").filter(has_text="Cancelled").wait_for()
    people[1].done()
    assert "patient 1" in people[1].page.locator(".viewer").inner_text()
    assert people[0].page.locator(".viewer canvas").count() == 0
    for person in people:
        person.leave()


def huge_png() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in less than a megabyte."""
    side = 30_000

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((1 + side // 8) * side), 1)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_hostile_uploads_and_texts_are_refused_and_the_service_lives_on(person: Person) -> None:
    page = person.page
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("a.txt", "no film")
    frontal = page.locator(".drop").filter(has_text="Frontal X-ray").locator("input").first
    for name, data, refusal in (
        ("huge.png", huge_png(), "radiograph of at most"),
        ("chest.dcm", zipped.getvalue(), "not a DICOM file"),
        ("../../page.png", b"<html><script>alert(1)</script></html>", "not an image"),
        ("empty.png", b"", "empty"),
    ):
        frontal.set_input_files({"name": name, "mimeType": "image/png", "buffer": data})
        message = page.locator(".drop .refusal").filter(has_text=re.compile(refusal))
        message.wait_for()
        assert "/" not in message.inner_text().replace("w/", "")  # no folder of the server

    # Markup in a report is text; 5,000 words are refused at once.
    page.on("dialog", lambda dialog: person.failures.append(f"a dialog: {dialog.message}"))
    person.ask("<img src=x onerror=alert(1)><script>alert(2)</script> Severe cardiomegaly.")
    person.generate()
    assert "<img src=x onerror=alert(1)>" in page.locator(".viewer .report").first.inner_text()
    person.ask("word " * 5000)
    page.wait_for_timeout(400)
    person.button("Generate").click()
    page.locator(".run + .refusal").filter(has_text="5,000 words").first.wait_for()
    person.ask("Severe cardiomegaly.")
    page.wait_for_timeout(400)
    person.generate()


def test_a_connection_that_is_lost_in_the_middle_finds_its_result(person: Person) -> None:
    person.ask("Severe cardiomegaly.", steps=60)
    person.button("Generate").click()
    person.page.get_by_role("status").filter(has_text="Denoising").wait_for()
    person.context.set_offline(True)
    person.page.wait_for_timeout(2000)
    person.context.set_offline(False)
    person.done()
    person.failures.clear()  # the browser notes each attempt to reconnect


def test_the_keyboard_alone_suffices(person: Person) -> None:
    page = person.page
    page.get_by_role("tab", name="Generate").focus()

    def tab_to(role: str, name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate(FOCUSED)
            if focused == [role, name] or focused[0] == role == "textarea":
                return
        raise AssertionError(f"no {role} {name} within 40 tabs")

    tab_to("textarea", "Report")
    page.keyboard.type("Large left pleural effusion.")
    page.wait_for_timeout(400)
    tab_to("checkbox", "Frontal X-ray")
    page.keyboard.press("Space")  # the frontal is off, the lateral alone is made
    tab_to("button", "Generate")
    page.keyboard.press("Enter")
    person.done()
    assert page.locator(".viewer figcaption").all_inner_texts()[-1] == "Generated · Lateral X-ray"
    tab_to("img", "Generated · Lateral X-ray: picture. Shortcuts change window, zoom and place; press H for them.")
    before = person.readout()
    page.keyboard.press("]")
    assert person.readout() != before
    page.keyboard.press("w")  # the first preset
    assert person.readout() == before
    page.keyboard.press("h")
    page.get_by_role("dialog", name="Keys of the viewer").get_by_text("Invert").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")


def test_every_part_of_the_page_is_accessible(person: Person) -> None:
    """axe-core finds nothing serious in the parts of the page, empty and with a result."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-core is not installed: make setup"
    ).Axe()
    page = person.page
    person.ask("Large left pleural effusion.")
    person.generate()
    person.button("Edit this examination").click()
    for part in ("Edit", "Look", "Generate"):
        page.get_by_role("tab", name=part).click()
        page.wait_for_timeout(300)
        found = axe.run(page).response["violations"]
        serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
        assert [(rule["id"], [node["html"][:160] for node in rule["nodes"]]) for rule in serious] == [], part


def test_pages_of_a_folder_are_opened_read_only(person: Person, address: str) -> None:
    page = person.page
    page.get_by_role("tab", name="Look").click()
    assert page.locator(".pages button").all_inner_texts() == ["run/index.html"]  # not the one that is not ours
    person.button("run/index.html").click()
    page.frame_locator("iframe").get_by_text("Loss went down.").wait_for()
    for name in ("notes.html", "../pyproject.toml", "%2e%2e/secret.html"):
        assert page.request.get(f"{address}look/{name}").status == 404


def test_names_passwords_and_tokens_are_asked_for_and_a_port_in_use_is_refused(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path, "--auth", "ann:secret") as address:
        # Web socket, films and pages are open to the one who gave her password, and to nobody else.
        ann = Person(browser, address, http_credentials={"username": "ann", "password": "secret"})
        ann.page.get_by_role("tab", name="Edit").click()
        ann.page.get_by_label("Statements about findings").wait_for()
        ann.leave()
        stranger = browser.new_context(http_credentials={"username": "ann", "password": "guessed"})
        assert stranger.request.get(address).status == stranger.request.get(f"{address}viewer/dom.js").status == 401
        stranger.close()
        port = address.rstrip("/").rpartition(":")[2]
        second = [sys.executable, "-m", "medcodi", "serve", "--port", port]
        refused = subprocess.run(second, capture_output=True, text=True)
        assert refused.returncode == 2 and f"--port {int(port) + 1}" in refused.stderr
    # Behind a proxy that strips the path, the page names itself by the path that the browser sees.
    with serving(tmp_path, "--root-path", "/medcodi") as address:
        here, _, token = address.partition("medcodi/?token=")
        visitor = browser.new_context()
        assert visitor.request.get(f"{here}?token=wrong").status == 401
        opened = visitor.request.get(f"{here}?token={token}", max_redirects=0)
        cookie = {"Cookie": opened.headers["set-cookie"].partition(";")[0]}
        assert (opened.status, opened.headers["location"]) == (303, "/medcodi/")
        assert 'src="/medcodi/viewer/dom.js' in visitor.request.get(here, headers=cookie).text()
        assert visitor.request.get(f"{here}viewer/dom.js", headers=cookie).status == 200
        visitor.close()


def test_the_benchmark_of_many_people_ends_and_loses_no_click() -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("socketio")
    command = [sys.executable, str(ROOT / "benchmarks/serve.py"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    load = figures["load"]
    assert load["people"] == 2 and load["lost"] == load["refused"] == 0
    assert load["served"] == load["clicks"] >= 2  # each of both at least once
    assert figures["first_picture"]["click_to_film_s"]["n"] == 2


def test_a_result_is_sent_to_a_dicom_server_that_is_away_and_comes_back(browser: Any, tmp_path: Path) -> None:
    """Orthanc, killed and started again: the person reads what it answers, and every study arrives once."""
    pacs = pytest.importorskip("tests.integration.test_pacs", reason="the extra dicom is not installed")
    if pacs.ORTHANC is None or not pacs.PLUGIN.exists():
        pytest.skip("needs Orthanc (Debian: orthanc orthanc-dicomweb)")
    orthanc = pacs.Orthanc(tmp_path)
    orthanc.start()
    try:
        with serving(tmp_path, "--dicom-store", orthanc.url, "--outbox", str(tmp_path / "outbox")) as address:
            person = Person(browser, address)
            send = person.button("Send to 127.0.0.1")
            assert not send.is_visible()
            person.ask("Severe cardiomegaly.", targets=("Frontal X-ray", "Lateral X-ray"))
            person.generate()
            send.click()
            arrived = person.page.get_by_role("status").filter(has_text=f"Arrived at {orthanc.url}: 1 study")
            arrived.wait_for()
            assert len(orthanc.get("studies")) == 1 and len(orthanc.get("instances")) == 2
            # The server goes; another result waits in the outbox, and the person reads why.
            orthanc.kill()
            person.page.get_by_label("Seed").first.fill("1")
            person.page.wait_for_timeout(400)
            person.generate()
            arrived.wait_for(state="detached")
            send.click()
            refusal = person.page.get_by_role("alert").filter(has_text="cannot be reached")
            refusal.wait_for()
            assert "everything is in the outbox" in refusal.inner_text() and str(tmp_path) not in refusal.inner_text()
            orthanc.start()
            send.click()
            arrived.wait_for()
            assert len(orthanc.get("studies")) == 2 and len(orthanc.get("instances")) == 4
            person.leave()
    finally:
        orthanc.kill()
