"""How fast the reader study's viewer is in headless Chromium: first item, next item, window/level drag.

    python benchmarks/turing_viewer.py

A bundle of 100 frontals at 512 x 512, opened from file:// in 1280 x 800, without a GPU. Measured in the page: from the start of
navigation, and from the key that leads on, to the frame after the one that shows the item; frames drawn while the pointer drags
window and level, every one of which maps all pixels anew (one picture, and two linked ones). Writes benchmarks/results/turing_viewer.json.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from turing_export import PER_ARM, SIDE, make_arms

from medcodi.config import from_dict
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
BARS = {"first_item_s": 2.0, "next_item_ms": 150.0, "frames_per_second": 30.0}
NUM_NEXT = 30

# Counts the frames of a second of dragging: the pointer moves once a frame, as a hand's events are delivered.
DRAG = """() => new Promise((resolve) => {
  const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect(), views = Turing.app.page.views;
  const at = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type, { pointerId: 1, isPrimary: true, bubbles: true, cancelable: true,
    button: type === "pointermove" ? -1 : 0, buttons: type === "pointerup" ? 0 : 1, clientX: box.left + x, clientY: box.top + y }));
  canvas.setPointerCapture = canvas.releasePointerCapture = () => {};
  at("pointerdown", 100, 100);
  const from = performance.now(), drawn = views.frames;
  let step = 0;
  const move = () => {
    step += 1;
    at("pointermove", 100 + 80 * Math.sin(step / 9), 100 + 60 * Math.cos(step / 7));
    const took = performance.now() - from;
    if (took < 2000) return requestAnimationFrame(move);
    at("pointerup", 100, 100);
    resolve((views.frames - drawn) / (took / 1000));
  };
  requestAnimationFrame(move);
})"""
SHOWN = "document.addEventListener('turing-shown', ({detail}) => { window.shownAt = [detail.index, detail.at]; });"


def make_bundle(folder: Path) -> Path:
    make_arms(folder)
    frontals = {"id": "frontal", "kind": "rating", "modalities": ["frontal"], "num_items": PER_ARM - 10}
    pairs = {"id": "pick", "kind": "forced_choice", "modalities": ["frontal"], "num_items": 10}
    values = {"name": "speed", "title": "Reading", "tasks": [frontals, pairs], "readers": 1, "image_size": SIDE}
    study = from_dict(ReaderStudyConfig, {**values, "blinding": {"crop": "none"}})
    made = open_generated(str(folder / "generated"), study.sampling, 0)
    export_bundle(study, open_real(str(folder / "real")), made, folder / "bundle")
    return folder / "bundle/readers/reader-01/index.html"


def through_the_door(page: Page) -> None:
    page.click("#begin")
    page.check("#consent")
    page.click("#agree")
    page.fill("#digits", page.evaluate("Turing.displayDigits"))
    page.click("#display-go")


def wait_until(page: Page, expression: str) -> None:
    """Ask now and then: the page's own policy forbids the evaluation that waiting inside it would need."""
    for _ in range(3000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(10)
    raise TimeoutError(expression)


def shown(page: Page, index: int) -> float:
    wait_until(page, f"Boolean(window.shownAt) && window.shownAt[0] === {index}")
    return float(page.evaluate("window.shownAt[1]"))


def next_items(page: Page, num: int) -> list[float]:
    """Milliseconds from the key to the next item, `num` times."""
    took = []
    for _ in range(num):
        page.keyboard.press("3")
        page.wait_for_timeout(300)  # a reader looks at an item for longer than this
        index = page.evaluate("Turing.app.page.index")
        began = page.evaluate("window.beganAt = performance.now()")
        page.evaluate("Turing.app.page.forward()")
        took.append(shown(page, index + 1) - began)
    return took


def measure(index: Path, browser: Any) -> dict[str, Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(SHOWN)
    page.goto(index.as_uri())
    opened = page.evaluate("performance.now()")  # the welcome page is there
    through_the_door(page)
    page.click("#start")
    shown(page, 0)
    page.keyboard.press("3")
    # Opened again at an item, as after a break: from navigation to the picture.
    page.reload()
    reopened = page.evaluate("performance.now()")
    page.click("#continue")
    clicked = page.evaluate("performance.now()")
    first = shown(page, page.evaluate("Turing.app.page.index"))
    following = next_items(page, NUM_NEXT)
    one = [page.evaluate(DRAG) for _ in range(3)]
    page.evaluate("(() => { const { session } = Turing.app, { start } = session.blocks[1]; session.state.begun = 1; Turing.app.page.leave();"
                  " Turing.app.read(start); })()")  # fmt: skip
    wait_until(page, "Boolean(Turing.app.page) && Turing.app.page.ready")
    two = [page.evaluate(DRAG) for _ in range(3)]
    context.close()
    return {
        "page_s": opened / 1000,
        "first_item_s": (reopened + (first - clicked)) / 1000,
        "next_item_ms": {"median": statistics.median(following), "max": max(following), "n": len(following)},
        "frames_per_second": {"one": {"median": statistics.median(one), "min": min(one)}, "two_linked": {"median": statistics.median(two), "min": min(two)}},
    }  # fmt: skip


def main() -> None:
    path = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if path is None:
        sys.exit("no Chromium on this machine. Install it: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        index = make_bundle(Path(name))
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        found = measure(index, browser)
        version = browser.version
        browser.close()
    machine = {"cpu_count": os.cpu_count(), "load_average": os.getloadavg()[0], "chromium": version, "gpu": None}
    results = {
        "command": "python benchmarks/turing_viewer.py",
        "machine": machine,
        "bars": BARS,
        "images": f"{SIDE} x {SIDE}",
        **found,
    }
    print(json.dumps(results, indent=1))
    Path("benchmarks/results/turing_viewer.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
