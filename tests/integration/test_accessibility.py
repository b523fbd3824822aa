"""Every kind of page that we write, under axe-core in a real browser: no serious or critical violation."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcodi.model import MedCoDi
from tests.integration.test_turing_viewer import FLAGS, Reader, browser_path, playwright
from tests.integration.test_turing_viewer import bundle as bundle

pytestmark = pytest.mark.long
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make setup")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser_path(), args=FLAGS, timeout=180_000)
        yield chromium
        chromium.close()


def serious(page: Any, *, narrow: bool = False) -> list[str]:
    """Violations that keep somebody out: rule, how many places, the first one; with ``narrow``, in a narrow window too."""
    if narrow:
        wide = serious(page)
        page.set_viewport_size({"width": 600, "height": 800})  # tables are wider than this
        return wide + serious(page)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{each['id']} ({each['impact']}), {len(each['nodes'])} times: {each['nodes'][0]['html'][:160]} {each['nodes'][0]['failureSummary'][:300]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


# ---- pages that are files ----------------------------------------------------------------------------------------------
def evaluation(folder: Path) -> Path:
    from medcodi.evaluation.report.page import write_results_page
    from tests.unit.evaluation.report.test_page import results

    def real(modality: str, picture: dict) -> Any:
        return "A report. " * 80 if modality == "report" else np.zeros((64, 64))

    return write_results_page(folder / "page.html", results(), real, lambda *_: {"frontal": np.ones((64, 64))})


def training_run(folder: Path) -> Path:
    from medcodi.training.monitoring.summary import write_summary
    from tests.unit.training.monitoring.test_summary import run

    return write_summary([run(folder / "one"), run(folder / "two", 2.0)], folder / "summary.html")


def reader_study_report(folder: Path) -> Path:
    from medcodi.turing.analysis.analyze import analyze
    from medcodi.turing.analysis.report import write_report
    from medcodi.turing.answers.table import answers_from_rows
    from tests.unit.turing.simulated_rows import FACTS, simulated

    answers = answers_from_rows(simulated(), FACTS)
    return write_report(analyze(answers, num_resamples=200), answers, folder / "report")


def dataset(folder: Path) -> Path:
    from medcodi.data.preparation.ledger import overview, write_overview
    from medcodi.data.preparation.prepare import PrepareConfig, prepare
    from medcodi.data.sample import write_sample

    table = write_sample(folder / "sample", 24, image_size=32)
    (folder / "sample/images/study001_frontal.png").write_text("no picture")
    out = str(folder / "data")
    prepare(PrepareConfig(source="csv", path=str(table), out=out, image_size=32))
    return write_overview(overview(out, num=4), folder / "page.html")


FILES: dict[str, Callable[[Path], Path]] = {
    "evaluation": evaluation, "run": training_run, "reader study's report": reader_study_report, "dataset": dataset,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_page(name: str, browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(FILES[name](tmp_path).as_uri())
    assert serious(page, narrow=True) == []
    page.close()


def test_the_demo(browser: Any, tiny_model: MedCoDi, tmp_path: Path) -> None:
    from medcodi.app.commands.demo import write_demo
    from medcodi.console import SafeConsole

    model = str(tiny_model.save_pretrained(tmp_path / "tiny"))
    path = write_demo(
        model, tmp_path / "demo", seed=0, num_inference_steps=1, device="cpu", console=SafeConsole(quiet=True)
    )
    page = browser.new_page()
    page.goto(path.as_uri())
    assert serious(page, narrow=True) == []
    page.close()


# ---- the reader study, from the welcome to the end ---------------------------------------------------------------------
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_a_served_reader_study_and_the_coordinators_page(
    theme: str, browser: Any, bundle: Path, tmp_path: Path
) -> None:
    from medcodi.turing.serving.answers_folder import PROGRESS, reader_links
    from medcodi.turing.serving.server import study_server

    shutil.copytree(bundle / "readers", tmp_path / "machine/served/readers")
    with study_server(tmp_path / "machine/served", tmp_path / "answers", "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        links = reader_links(server.url, server.answers.tokens, ["reader-01"])
        reader = Reader(browser, links["reader-01"])
        reader.page.evaluate(f"Turing.settings.set('theme', '{theme}')")
        found: dict[str, list[str]] = {}

        def look(name: str) -> None:
            found[name] = [*found.get(name, []), *serious(reader.page)]

        look("welcome")
        reader.press("Enter")
        look("consent")
        reader.press("Tab", "Space", "Tab", "Enter")
        look("display")
        reader.page.keyboard.type("1")
        reader.press("Enter", "Enter")
        look("display, not passed")
        reader.page.fill("#digits", reader.page.evaluate("Turing.displayDigits"))
        reader.press("Enter")
        look("intro")
        reader.go_on(by_keys=True)
        while reader.where() == "reading":
            task = reader.wait_for_item()
            look(f"item of {task['id']}")
            reader.answer(task)
            look(f"answered item of {task['id']}")
            if len(reader.clicked) == 1:
                reader.press("h")
                look("help")
                reader.press("Escape", "p")
                look("pause")
                reader.press("Enter")
                reader.page.evaluate("Turing.server.tell('Not stored on the server.')")
                look("note")
                reader.page.evaluate("Turing.server.tell('')")
            reader.press("Enter")
            if reader.where() == "block-end":
                look("end of a task")
            reader.go_on(by_keys=True)
        look("end")
        coordinator = browser.new_page()
        coordinator.goto(links[PROGRESS])
        found["progress"] = serious(coordinator)
        server.shutdown()
        thread.join()
    assert {name: violations for name, violations in found.items() if violations} == {} and len(found) == 21
