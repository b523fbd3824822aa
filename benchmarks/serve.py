"""How fast the page of `medcodi serve` is, and how it holds under load: first picture, and many people at once.

    python benchmarks/serve.py [--people 20] [--seconds 120] [--pictures 10]

A server of its own with the shipped model. First picture: in headless Chromium, from the click to the frame after the one that shows it,
one frontal of a report, 8 steps, the model loaded. Load: people without a browser, which would need more of the machine than the server:
each opens the page, presses Generate over its web socket, fetches the film, looks at it for one to three seconds, and presses again; a
request is lost where neither a picture nor a refusal comes. Memory is the server's resident set. Writes benchmarks/results/serve.json.
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
from collections.abc import Callable
from contextlib import suppress
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import aiohttp
import psutil
import socketio
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


async def press(page: Page) -> dict[str, Any]:
    return await asyncio.wait_for(page.evaluate(PRESS), LONGEST_S)


class Visitor:
    """A person without a browser: the page, its web socket and its films, as the browser asks for them."""

    def __init__(self, address: str, number: int) -> None:
        self.address, self.number = address.rstrip("/"), number
        self.elements: dict[str, Any] = {}
        self.places: set[str] = set()
        self.changed = asyncio.Event()

    async def come(self, http: aiohttp.ClientSession) -> None:
        """Open the page, connect, and fill the form."""
        async with http.get(f"{self.address}/") as answer:
            html = await answer.text()
        raw = re.search(r"parseElements\(String\.raw`(.*?)`\)", html, re.DOTALL)
        client = re.search(r"'client_id': '([0-9a-f-]+)'", html)
        assert raw and client
        self.elements, self.client, self.http = json.loads(unescape(raw[1])), client[1], http
        self.socket = socketio.AsyncClient(http_session=http)
        self.socket.on("update", self._update)
        query = {
            "client_id": self.client,
            "next_message_id": 0,
            "implicit_handshake": "true",
            "tab_id": str(uuid4()),
            "document_id": str(uuid4()),
        }
        await self.socket.connect(
            f"{self.address}?{urlencode(query)}", socketio_path="/_nicegui_ws/socket.io", transports=["websocket"]
        )
        await self._set("Report", f"Large left pleural effusion. Visit {self.number}.")
        await self._set("Lateral X-ray", False)
        await self._set("Steps (empty: the preset's)", 8)

    def _update(self, message: dict[str, Any]) -> None:
        self.elements.update({key: value for key, value in message.items() if isinstance(value, dict)})
        if place := re.search(r"Waiting: (\d+)", self._text("status")):
            self.places.add(place[1])
        self.changed.set()

    def _element(self, matches: Callable[[dict[str, Any]], bool]) -> tuple[str, dict[str, Any]]:
        """The first element of the page that matches: those of Generate come before those of Edit."""
        return min(((key, each) for key, each in self.elements.items() if matches(each)), key=lambda pair: int(pair[0]))

    def _text(self, kind: str) -> str:
        return self._element(lambda each: kind in each.get("class", []))[1].get("text") or ""

    def _panels(self) -> list[dict[str, Any]]:
        return self._element(lambda each: "panels" in each.get("props", {}))[1]["props"]["panels"]

    async def _set(self, label: str, value: Any) -> None:
        await self._emit(lambda each: label in (each.get("props", {}).get("label"), each.get("text")), "update:", value)

    async def _emit(self, matches: Callable[[dict[str, Any]], bool], kind: str, *values: Any) -> None:
        key, element = self._element(matches)
        listener = next(event["listener_id"] for event in element["events"] if event["type"].startswith(kind))
        args = [json.dumps(value) for value in values]
        await self.socket.emit(
            "event", {"id": int(key), "client_id": self.client, "listener_id": listener, "args": args}
        )

    async def press(self) -> dict[str, Any] | None:
        """Press Generate and fetch the film: the seconds, a refusal, or None where neither comes."""
        begun, earlier = time.perf_counter(), [panel.get("film") for panel in self._panels()]
        await self._emit(lambda each: each.get("tag") == "q-btn" and each["props"].get("label") == "Generate", "click")
        while time.perf_counter() - begun < LONGEST_S:
            self.changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), 1)
            films = [panel["film"] for panel in self._panels() if "film" in panel]
            if films and films[-1] not in earlier:
                async with self.http.get(self.address + films[-1]) as answer:
                    assert (await answer.read()).startswith(b"\x89PNG")
                return {"s": time.perf_counter() - begun}
            if refusal := self._text("refusal"):
                return {"refusal": refusal}
        return None


async def visit(visitor: Visitor, until: float) -> list[dict[str, Any] | None]:
    chance, answers = random.Random(visitor.number), []
    while time.perf_counter() < until:
        answers.append(await visitor.press())
        await asyncio.sleep(chance.uniform(1, 3))
    return answers


async def first_pictures(address: str, process: psutil.Process, num: int) -> dict[str, Any]:
    """One person with a browser; the model is loaded by the first two pictures."""
    path = next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=FLAGS)
        page = await sit_down(browser, address, 0)
        for _ in range(2):
            await press(page)
        before = process.cpu_times()
        seconds = [(await press(page))["ms"] / 1000 for _ in range(num)]
        after = process.cpu_times()
        await browser.close()
    worked = (after.user + after.system - before.user - before.system) / num
    # CPU seconds of the server: what a picture costs where others use the machine too.
    return {"median": statistics.median(seconds), "max": max(seconds), "n": num, "cpu_s_of_server": worked}


async def load(address: str, process: psutil.Process, people: int, seconds: float) -> dict[str, Any]:
    """Many people at once, and the memory of the server meanwhile."""
    async with aiohttp.ClientSession() as http:
        visitors = [Visitor(address, number) for number in range(people)]
        for visitor in visitors:
            await visitor.come(http)
        until, memory = time.perf_counter() + seconds, []
        clicking = asyncio.gather(*(visit(visitor, until) for visitor in visitors))
        while not clicking.done():
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(1)
        answers = [answer for of_one in await clicking for answer in of_one]
        for visitor in visitors:
            await visitor.socket.disconnect()
    waited = [answer["s"] for answer in answers if answer and "s" in answer]
    settled = memory[len(memory) // 4 :]  # after everybody's first picture
    return {
        "people": people,
        "seconds": seconds,
        "served": len(waited),
        "refused": sum(bool(answer and "refusal" in answer) for answer in answers),
        "lost": sum(answer is None for answer in answers),
        "people_shown_their_place": sum(bool(visitor.places) for visitor in visitors),
        "answer_s": {"median": statistics.median(waited), "max": max(waited)},
        "memory_mib": {"first": settled[0], "last": settled[-1], "least": min(settled), "most": max(settled)},
    }


async def measure(address: str, process: psutil.Process, args: argparse.Namespace) -> dict[str, Any]:
    pictures = await first_pictures(address, process, args.pictures)
    return {"first_picture_s": pictures, "load": await load(address, process, args.people, args.seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--pictures", type=int, default=10)
    args = parser.parse_args()
    busy = os.getloadavg()[1]  # of 5 minutes: what else the machine does
    server, address, seconds = start_server()
    try:
        figures = asyncio.run(measure(address, psutil.Process(server.pid), args))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
    figures = {"page_ready_s": seconds, **figures, "cores": os.cpu_count(), "load_before": busy}
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
