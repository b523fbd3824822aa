"""How fast the page of `medcodi serve` is, and how it holds under load: first picture, and many people at once.

    python benchmarks/serve.py [--people 20] [--seconds 120] [--pictures 10]

A server of its own with the shipped model, and headless Chromium. First picture: from the click to the frame after the one that shows
it, one frontal of a report, 8 steps, the model loaded. Load: every person presses Generate, waits for the picture, looks at it for one
to three seconds, and presses again; a request is lost where neither a picture nor a refusal comes. Memory is the server's resident
set. Writes benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from playwright.async_api import Page, async_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
RESULTS = Path(__file__).parent / "results" / "serve.json"
LONGEST_S = 300.0  # that a request may take before it counts as lost

# Presses Generate; resolves at the frame after the new picture, or at a refusal.
PRESS = """() => new Promise((resolve) => {
  for (const canvas of document.querySelectorAll(".viewer canvas")) canvas.dataset.old = "1";
  const from = performance.now(), places = new Set();
  document.querySelector(".q-btn.primary").click();
  const look = () => {
    const status = document.querySelector(".status").innerText, refusal = document.querySelector(".run + .refusal").innerText;
    const place = status.match(/Waiting: (\\d+)/);
    if (place) places.add(Number(place[1]));
    if (refusal) return resolve({ refusal });
    if (document.querySelector(".viewer canvas:not([data-old])")) {
      return requestAnimationFrame(() => resolve({ ms: performance.now() - from, places: [...places] }));
    }
    setTimeout(look, 16);
  };
  setTimeout(look, 16);
})"""


def start_server() -> tuple[subprocess.Popen[str], str, float]:
    """The process, its address, and the seconds until the page answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "medcodi", "serve", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    for line in iter(server.stdout.readline, ""):
        if match := re.search(r"The page: (\S+)", line):
            return server, match[1], time.perf_counter() - begun
    raise RuntimeError("the server did not start")


async def sit_down(browser: Any, address: str, number: int) -> Page:
    page = await (await browser.new_context(viewport={"width": 1280, "height": 800})).new_page()
    page.set_default_timeout(120_000)
    await page.goto(address)
    await page.get_by_role("button", name="Generate", exact=True).wait_for()
    await page.locator("textarea").first.fill(f"Large left pleural effusion. Visit {number}.")
    await page.get_by_role("checkbox", name="Lateral X-ray").click()
    await page.get_by_text("Settings").first.click()
    await page.get_by_label("Steps").fill("8")
    await page.wait_for_timeout(500)
    return page


async def press(page: Page) -> dict[str, Any] | None:
    """The answer to a click, or None where it is lost."""
    try:
        return await asyncio.wait_for(page.evaluate(PRESS), LONGEST_S)
    except TimeoutError:
        return None


async def click_for(page: Page, until: float, number: int) -> list[dict[str, Any] | None]:
    chance, answers = random.Random(number), []
    while time.perf_counter() < until:
        answers.append(await press(page))
        await asyncio.sleep(chance.uniform(1, 3))
    return answers


async def measure(address: str, process: psutil.Process, args: argparse.Namespace) -> dict[str, Any]:
    path = next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=FLAGS)
        # One person: the first two pictures wait for the model.
        alone = await sit_down(browser, address, 0)
        for _ in range(2):
            await press(alone)
        before = process.cpu_times()
        pictures = [answer["ms"] for _ in range(args.pictures) if (answer := await press(alone)) and "ms" in answer]
        after = process.cpu_times()
        worked = (after.user + after.system - before.user - before.system) / args.pictures
        # All of them: memory before, meanwhile and after.
        people = [await sit_down(browser, address, number) for number in range(args.people)]
        until, memory = time.perf_counter() + args.seconds, []
        clicking = asyncio.gather(*(click_for(page, until, number) for number, page in enumerate(people)))
        while not clicking.done():
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(2)
        answers = [answer for of_one in await clicking for answer in of_one]
        await browser.close()
    served = [answer for answer in answers if answer and "ms" in answer]
    settled = memory[len(memory) // 4 :]  # after everybody's first picture
    return {
        "first_picture_s": {"median": statistics.median(pictures) / 1000, "max": max(pictures) / 1000, "n": len(pictures)},
        "cpu_s_per_picture": worked,  # of the server: what a picture costs where others use the machine too
        "people": args.people, "seconds": args.seconds, "served": len(served),
        "refused": sum(bool(answer and "refusal" in answer) for answer in answers),
        "lost": sum(answer is None for answer in answers),
        "place_shown": sum(bool(answer["places"]) for answer in served),
        "answer_s": {"median": statistics.median(a["ms"] for a in served) / 1000, "max": max(a["ms"] for a in served) / 1000},
        "memory_mib": {"first": settled[0], "last": settled[-1], "least": min(settled), "most": max(settled)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--pictures", type=int, default=10)
    args = parser.parse_args()
    load = os.getloadavg()[1]  # of 5 minutes: what else the machine does
    server, address, seconds = start_server()
    try:
        figures = asyncio.run(measure(address, psutil.Process(server.pid), args))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
    figures = {"page_ready_s": seconds, **figures, "cores": os.cpu_count(), "load_before": load}
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
