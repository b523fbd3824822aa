"""A reader's whole session in a real browser, from file://: read, drag, rate, reload, go on elsewhere, finish; then import."""

from __future__ import annotations

import csv
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcodi.config import from_dict
from medcodi.data.images import save_png8
from medcodi.data.sources.phantom import phantom_study
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.bundle.payloads import image_content, payload_script, read_payload
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
STUDY = {
    "name": "session",
    "title": "Reading chest examinations",
    "tasks": [
        {"id": "quality", "kind": "quality", "modalities": ["frontal"], "num_items": 1},
        {
            "id": "origin",
            "kind": "real_or_generated",
            "modalities": ["frontal"],
            "num_items": 2,
            "practice": 1,
            "free_text": "What gave it away?",
        },
        {"id": "pick", "kind": "forced_choice", "modalities": ["frontal"], "num_items": 1},
        {"id": "fit", "kind": "coherence", "modalities": ["frontal", "report"], "num_items": 1},
        {"id": "find", "kind": "findings", "modalities": ["frontal"], "num_items": 1},
    ],
    "readers": 1,
    "image_size": 96,
    "blinding": {"crop": "none"},
    "margins": {"fit": 0.5},
}
NUM_CASES = 8


def browser_path() -> str:
    """Where the machine's Chromium is; the test says how to install one where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine. Install it: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "frontal", "report"])
        for index in range(NUM_CASES):
            study = phantom_study(7, index, 96)
            save_png8(study.images["frontal"], folder / f"{index}.png")
            writer.writerow([f"made-{index}", f"{index}.png", study.report])
    study = from_dict(ReaderStudyConfig, STUDY)
    out = tmp_path_factory.mktemp("turing") / "bundle"
    export_bundle(
        study,
        open_real("phantom", num_phantoms=NUM_CASES, image_size=96),
        open_generated(str(folder), study.sampling, 0),
        out,
        salt="a salt for tests",
    )
    return out


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser_path(), args=FLAGS)
        yield chromium
        chromium.close()


class Reader:
    """A person at the keyboard, who notes what was answered."""

    def __init__(self, browser: Any, index: Path | str) -> None:
        self.url = index if isinstance(index, str) else index.as_uri()
        self.near = ("file:", "data:", "blob:", *([self.url] if isinstance(index, str) else []))
        self.clicked: dict[int, dict[str, Any]] = {}
        self.failures: list[str] = []
        self.sit_down(browser)

    def sit_down(self, browser: Any) -> None:
        """A fresh profile: nothing kept."""
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on("request", lambda request: self._only_files(request.url))
        self.page.goto(self.url)

    def _only_files(self, url: str) -> None:
        if not url.startswith(self.near):
            self.failures.append(f"asked for {url}")

    def where(self) -> str:
        return self.page.evaluate("document.body.dataset.page")

    def index(self) -> int:
        return self.page.evaluate("Turing.app.page.index")

    def wait_for_item(self) -> dict[str, Any]:
        self.wait_until("Boolean(Turing.app.page) && Turing.app.page.ready")
        return self.page.evaluate(
            "(({kind, id, free_text, findings}) => ({kind, id, free_text, findings}))(Turing.app.page.task)"
        )

    def wait_until(self, expression: str) -> None:
        """Ask now and then: the page's own policy forbids the evaluation that waiting inside it would need."""
        for _ in range(2000):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(10)
        raise TimeoutError(expression)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def drag(self, dx: int, dy: int) -> None:
        box = self.page.locator("canvas").first.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y + dy, steps=4)
        self.page.mouse.up()

    def picture(self) -> dict[str, Any]:
        return self.page.evaluate(
            "(({lo, hi, invert, zoom, scale, centre}) => ({lo, hi, invert, zoom, scale, centre}))(Turing.app.page.views.current)"
        )

    def answer(self, task: dict[str, Any]) -> None:
        """By keyboard alone, differently at every place."""
        place, kind = self.index(), task["kind"]
        if kind in ("quality", "rating", "coherence"):
            rating = 1 + (2 * place + 1) % 5
            self.press(str(rating))
            self.clicked[place] = {"rating": rating}
        elif kind == "real_or_generated":
            choice, confidence = ("real", "R") if place % 2 else ("generated", "G"), 1 + place % 5
            self.press(choice[1], str(confidence))
            self.clicked[place] = {"choice": choice[0], "confidence": confidence}
        elif kind == "forced_choice":
            self.press("B")
            self.clicked[place] = {"choice": "B"}
            if self.page.evaluate("Boolean(Turing.app.page.task.confidence)"):
                self.press("4")
                self.clicked[place]["confidence"] = 4
        else:
            said = ["present", *["absent"] * (len(task["findings"]) - 1)]
            self.press("Y", *["N"] * (len(said) - 1))
            self.clicked[place] = {"findings": dict(zip(task["findings"], said, strict=True))}

    def through_the_door(self) -> None:
        self.page.click("#begin")
        self.page.check("#consent")
        self.page.click("#agree")
        self.page.fill("#digits", "000000x")
        self.page.click("#display-go")  # wrong, almost surely: six random digits
        self.page.fill("#digits", self.page.evaluate("Turing.displayDigits"))
        self.page.click("#display-go")

    def through_the_door_by_keys(self) -> None:
        """The same without a mouse."""
        self.press("Enter", "Tab", "Space", "Tab", "Enter")  # begin; tick; continue
        self.page.keyboard.type(self.page.evaluate("Turing.displayDigits"))
        self.press("Enter")

    def download(self, button: str) -> Path:
        with self.page.expect_download() as waiting:
            self.page.click(button)
        return Path(waiting.value.path())

    def go_on(self, *, by_keys: bool = False) -> None:
        """Start tasks and close them, until an item or the end is there."""
        while (page := self.where()) in ("intro", "block-end"):
            if by_keys:
                self.press("Enter")
            else:
                self.page.click("#start" if page == "intro" else "#next-task")


@pytest.mark.parametrize("bits", [8, 12])
def test_the_browser_reads_the_pixels_that_were_written(browser: Any, bundle: Path, tmp_path: Path, bits: int) -> None:
    """Every row filter of PNG, one and two bytes a pixel; and a payload of the bundle itself."""
    folder = Path(shutil.copytree(bundle / "readers/reader-01", tmp_path / "reader-01"))
    noise, down, across = np.random.default_rng(0).random((40, 33)), *np.mgrid[0:40, 0:33]
    for number, values in enumerate(
        (noise, down / 40, across / 33, (down + across) / 80 + 0.02 * noise, down * across / 1400)
    ):
        image = (np.rint(np.clip(values, 0, 1) * (2**bits - 1)) * (65535 / (2**bits - 1))).round().astype(np.uint16)
        (folder / f"payloads/{number:016x}.js").write_bytes(
            payload_script(f"{number:016x}", image_content(image, bits))
        )
    reader = Reader(browser, folder / "index.html")
    filters = set()
    for path in sorted((folder / "payloads").iterdir())[:8]:
        payload = read_payload(path)
        if payload.fields["kind"] == "image":
            rows = zlib.decompress(b"".join(idat_chunks(payload.data)))
            filters |= set(rows[:: len(rows) // payload.image.shape[0]])
            pixels = reader.page.evaluate(
                f"Turing.app.payloads.get('{path.stem}').then(({{pixels}}) => Array.from(pixels))"
            )
            assert pixels == payload.image.ravel().tolist(), path.name
    assert len(filters) >= 4 and not reader.failures


def idat_chunks(png: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            yield png[at + 8 : at + 8 + size]
        at += size + 12


def test_a_whole_session(browser: Any, bundle: Path, tmp_path: Path) -> None:
    reader = Reader(browser, bundle / "readers/reader-01/index.html")
    reader.through_the_door()
    reader.go_on()

    # The first item: window, zoom, place, and back; the answer survives a reload in the middle.
    task = reader.wait_for_item()
    start = reader.picture()
    reader.drag(60, -40)
    dragged = reader.picture()
    assert dragged["hi"] - dragged["lo"] > start["hi"] - start["lo"]  # to the right widens
    reader.press("i", "+", "+", "ArrowRight")
    moved = reader.picture()
    assert moved["invert"] and moved["zoom"] > start["zoom"] and moved["centre"] != start["centre"]
    reader.press("o")
    assert reader.picture()["scale"] == pytest.approx(1)
    reader.press("Home")
    assert reader.picture() == start
    reader.answer(task)
    reader.page.reload()
    reader.page.click("#continue")
    reader.go_on()

    progress, done = None, False
    while not done:
        task, place = reader.wait_for_item(), reader.index()
        reader.answer(task)
        if task["free_text"] and place % 2:
            reader.press("t")
            reader.page.keyboard.type(f"the ribs {place}")
            reader.press("Escape")
        if task["id"] == "origin" and progress is None and place > 2:
            reader.press("Backspace")  # back within the task: the answer is still there, and can be changed
            reader.wait_for_item()
            assert reader.index() == place - 1
            kept = reader.page.evaluate("Turing.app.page.item.value")
            assert kept == reader.clicked[place - 1]
            reader.press("2")
            reader.clicked[place - 1]["confidence"] = 2
            with reader.page.expect_download() as waiting:
                reader.press("s")
            progress = tmp_path / "progress.json"
            progress.write_bytes(Path(waiting.value.path()).read_bytes())
            reader.context.close()
            reader.sit_down(browser)  # another machine
            reader.page.set_input_files("#progress-file", str(progress))
            reader.wait_until("document.body.dataset.page !== 'welcome'")
            reader.page.click("#continue")
            reader.go_on()
            continue
        reader.press("Enter")
        reader.go_on()
        done = reader.where() == "end"
    assert progress is not None, "the session never went on elsewhere"
    result = tmp_path / "result.json"
    result.write_bytes(reader.download("#download").read_bytes())
    assert reader.failures == []

    told = json.loads(result.read_text(encoding="utf-8"))
    assert told["complete"] and told["display_check"]["passed"] and len(told["sessions"]) >= 3
    assert {answer["position"]: answer["value"] for answer in told["answers"]} == reader.clicked
    assert all(answer["seconds"] > 0 for answer in told["answers"])
    changed = [answer for answer in told["answers"] if answer["changes"]]
    assert len(changed) == 1 and changed[0]["value"]["confidence"] == 2
    assert_imports(result, bundle, reader.clicked, tmp_path)


def assert_imports(result: Path, bundle: Path, clicked: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    """Checksum, key and all are accepted, and the tidy table says what was clicked; an edit is refused."""
    from medcodi.app.cli import main

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return int(stop.value.code or 0)

    key = bundle / "custodian"
    assert run("turing", "import", result, "--key", key, "--out", tmp_path / "table") == 0
    with (tmp_path / "table/answers.csv").open(encoding="utf-8", newline="") as file:
        rows = {int(row["position"]): row for row in csv.DictReader(file)}
    assert set(rows) == set(clicked)
    for place, value in clicked.items():
        assert not value.get("rating") or float(rows[place]["rating"]) == value["rating"]
        assert not value.get("choice") or rows[place]["choice"] == value["choice"]
    assert run("turing", "analyze", tmp_path / "table", "--out", tmp_path / "report") == 0
    assert (tmp_path / "report/report.html").is_file()

    edited = tmp_path / "edited.json"
    edited.write_text(result.read_text(encoding="utf-8").replace('"rating": ', '"rating": 1'), encoding="utf-8")
    assert run("turing", "import", edited, "--key", key, "--out", tmp_path / "other") == 2
