"""Take the pictures of pages in docs: python tools/screenshots.py.

A small reader study is served and read in headless Chromium: the first item of each task, then the coordinator's page. Its two arms are
phantoms of two populations, drawn by a computer; nobody's films are shown. Then the page of ``medcodi data show`` on a sample.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
import threading
from contextlib import chdir
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from medcodi.config import from_dict
from medcodi.data.images import save_png8
from medcodi.data.preparation.ledger import overview, write_overview
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sample import write_sample
from medcodi.data.sources.phantom import phantom_study
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real
from medcodi.turing.serving.answers_folder import PROGRESS, reader_links
from medcodi.turing.serving.server import study_server

OUT = Path(__file__).resolve().parents[1] / "docs/images"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SIDE, NUM_CASES = 384, 12
TASKS = {
    "origin": (
        "turing-viewer",
        {"kind": "real_or_generated", "modalities": ["frontal"], "free_text": "What gave it away?"},
    ),
    "views": ("turing-viewer-pair", {"kind": "coherence", "modalities": ["frontal", "lateral"]}),
    "words": ("turing-viewer-report", {"kind": "coherence", "modalities": ["frontal", "report"]}),
}


def make_bundle(folder: Path) -> Path:
    """A bundle of three readers, without its key."""
    # The generated arm: films and reports as another system's files.
    made = folder / "generated"
    made.mkdir()
    with (made / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "frontal", "lateral", "report"])
        for index in range(NUM_CASES):
            study = phantom_study(7, index, SIDE)
            for view, film in study.images.items():
                save_png8(film, made / f"{index}-{view}.png")
            writer.writerow([f"made-{index}", f"{index}-frontal.png", f"{index}-lateral.png", study.report])
    tasks = [{"id": task, "num_items": 3, **values} for task, (_, values) in TASKS.items()]
    values = {"name": "pictures", "title": "Reading chest examinations", "tasks": tasks, "image_size": SIDE}
    study = from_dict(ReaderStudyConfig, values)
    real = open_real("phantom", num_phantoms=NUM_CASES, image_size=SIDE)
    export_bundle(study, real, open_generated(str(made), study.sampling, 0), folder / "bundle", salt="of the pictures")
    shutil.copytree(folder / "bundle/readers", folder / "machine/served/readers")
    return folder / "machine/served"


def wait_until(page: Page, expression: str) -> None:
    """Ask now and then: the page's own policy forbids the evaluation that waiting inside it would need."""
    for _ in range(3000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(10)
    raise TimeoutError(expression)


def read(browser: Browser, link: str, num_items: int, *, take: bool = False) -> None:
    """Answer the first items of a link by keyboard; with ``take``, take a picture of each task's first one."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(link)
    for key in ("Enter", "Tab", "Space", "Tab", "Enter"):
        page.keyboard.press(key)
    page.keyboard.type(page.evaluate("Turing.displayDigits"))
    page.keyboard.press("Enter")
    taken: set[str] = set()
    for _ in range(num_items):
        while page.evaluate("document.body.dataset.page") != "reading":
            page.keyboard.press("Enter")
        wait_until(page, "Boolean(Turing.app.page) && Turing.app.page.ready")
        task = page.evaluate("Turing.app.page.task.id")
        if take and task not in taken:
            page.wait_for_timeout(300)
            page.screenshot(path=OUT / f"{TASKS[task][0]}.png")
            taken.add(task)
        page.keyboard.press("r")  # a choice, where there is one
        page.keyboard.press("4")
        page.keyboard.press("Enter")
    wait_until(page, "!Turing.server.busy")
    page.close()


def reader_study(browser: Browser, folder: Path) -> None:
    """The viewer, and the coordinator's page."""
    with study_server(make_bundle(folder), folder / "answers", "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        readers = list(server.answers.study.trials)
        links = reader_links(server.url, server.answers.tokens, readers)
        num_items = len(server.answers.study.trials[readers[0]])
        read(browser, links[readers[0]], num_items, take=True)
        read(browser, links[readers[1]], 4)
        page = browser.new_page(viewport={"width": 1000, "height": 520})
        page.goto(links[PROGRESS])
        page.screenshot(path=OUT / "turing-progress.png")
        server.shutdown()


def dataset(browser: Browser, folder: Path) -> None:
    """The page of a dataset, one of whose films is no picture."""
    write_sample(folder / "sample", 24, image_size=192)
    (folder / "sample/images/study003_frontal.png").write_text("no picture", encoding="utf-8")
    with chdir(folder):  # the ledger names files as they were given: from here, briefly
        prepare(PrepareConfig(source="csv", path="sample/studies.csv", out="mine", image_size=192))
    path = write_overview(overview(folder / "mine", num=3), folder / "page.html")
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(path.as_uri())
    page.click("summary >> nth=0")
    page.screenshot(path=OUT / "data-show.png")


def main() -> None:
    """Take all pictures."""
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if chromium is None:
        sys.exit("no Chromium on this machine. Install it: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        reader_study(browser, Path(name))
        dataset(browser, Path(name))
        browser.close()


if __name__ == "__main__":
    main()
