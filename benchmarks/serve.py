"""How the page of `medcodi serve` holds under load: many people who click, the place in the queue, memory, and the first picture.

    python benchmarks/serve.py [--people 20] [--seconds 120] [--pictures 10] [--dry-run]

A server of its own, with the shipped model. First pictures: one person in headless Chromium (where there is one), from the click to the
frame after the one that shows a frontal of a report, 8 steps, the model loaded. Load: people without a browser, which would need more
of the machine than the server does: each opens the page, presses Generate over its web socket, fetches the film, looks at it for 1 to 3
seconds, and presses again. A click is lost where neither a picture nor a refusal comes within two minutes. Memory is the server's
resident set. Every wait has a limit, and everything that was started is ended. Writes benchmarks/results/serve.json; a dry run (2 people,
10 s, 2 pictures) only prints.
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
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import aiohttp
import psutil
import socketio

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
RESULTS = Path(__file__).parent / "results" / "serve.json"
START_S, LOAD_S = 120.0, 300.0  # until the page answers, and until the model is loaded
LOST_S = 120.0  # a click without an answer after this is lost
STEPS = 8

# Presses Generate; resolves at the frame after the new picture, or at a refusal.
PRESS = """() => new Promise((resolve) => {
  for (const canvas of document.querySelectorAll(".viewer canvas")) canvas.dataset.old = "1";
  const from = performance.now();
  document.querySelector(".q-btn.primary").click();
  const look = () => {
    const refusal = document.querySelector(".run + .refusal").innerText;
    if (refusal) return resolve({ refusal });
    if (document.querySelector(".viewer canvas:not([data-old])")) {
      return requestAnimationFrame(() => resolve({ s: (performance.now() - from) / 1000 }));
    }
    setTimeout(look, 16);
  };
  setTimeout(look, 16);
})"""


class Server:
    """The command in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.log, self.address = folder / "log", f"http://127.0.0.1:{port}"
        begun = time.perf_counter()
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "medcodi", "serve", "--port", str(port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        # Ready: the command says its address.
        while "The page:" not in self.log.read_text():
            if self.process.poll() is not None or time.perf_counter() - begun > START_S:
                self.end()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.02)
        self.ready_s = time.perf_counter() - begun
        self.usage = psutil.Process(self.process.pid)

    def rss(self) -> float:
        """MiB."""
        return self.usage.memory_info().rss / 2**20

    def cpu_s(self) -> float:
        """Processor time so far, over all threads."""
        times = self.usage.cpu_times()
        return times.user + times.system

    def end(self) -> None:
        """Ask it to end as Ctrl-C does; kill its group where it does not."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)


class Person:
    """A person without a browser: the page, its web socket and its films, asked for as the browser asks for them."""

    def __init__(self, http: aiohttp.ClientSession, address: str, number: int) -> None:
        self.http, self.address, self.number = http, address, number
        self.elements: dict[str, dict[str, Any]] = {}  # id -> what the server says of an element
        self.next_message = self.num_reconnections = 0
        self.places: set[int] = set()  # in the queue, as the page said
        self.changed = asyncio.Event()
        self.socket = socketio.AsyncClient(http_session=http, reconnection=False)
        self.socket.on("update", self._update)

    async def come(self) -> None:
        """Open the page, connect, and fill the form."""
        async with self.http.get(f"{self.address}/") as answer:
            html = await answer.text()
        elements = re.search(r"parseElements\(String\.raw`(.*?)`\)", html, re.DOTALL)
        client = re.search(r"'client_id': '([0-9a-f-]+)'", html)
        assert elements and client, "the page is not as NiceGUI writes it"
        self.elements, self.client = json.loads(unescape(elements[1])), client[1]
        self.tab = {"tab_id": str(uuid4()), "document_id": str(uuid4())}
        await self._connect()
        await self._set("Report", f"Large left pleural effusion. Visit {self.number}.")
        await self._set("Lateral X-ray", False)
        await self._set("Steps (empty: the preset's)", STEPS)

    async def _connect(self) -> None:
        """Open the web socket, or open it again as a browser does: the server sends what was missed."""
        query = {
            "client_id": self.client,
            "next_message_id": self.next_message,
            "implicit_handshake": "true",
            **self.tab,
        }
        await self.socket.connect(
            f"{self.address}?{urlencode(query)}",
            socketio_path="/_nicegui_ws/socket.io",
            transports=["websocket"],
            wait_timeout=30,
        )

    async def _stay_connected(self) -> None:
        if not self.socket.connected:
            self.num_reconnections += 1
            await self._connect()

    async def press(self, limit_s: float = LOST_S) -> dict[str, Any]:
        """Press Generate and fetch the film: the seconds, a refusal, or that the click is lost."""
        earlier = self._films()
        self._element("refusal")[1]["text"] = ""  # of the press before
        begun = time.perf_counter()
        await self._emit(self._find(lambda each: each["props"].get("label") == "Generate", tag="q-btn"), "click", None)
        while (seconds := time.perf_counter() - begun) < limit_s:
            await self._stay_connected()
            self.changed.clear()
            new = [film for film in self._films() if film not in earlier]
            if new:
                async with self.http.get(self.address + new[-1]) as answer:
                    assert (await answer.read()).startswith(b"\x89PNG")
                return {"s": time.perf_counter() - begun}
            if refusal := self._element("refusal")[1].get("text"):
                return {"refusal": refusal, "s": seconds}
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), 1)
        seconds = round(time.perf_counter() - begun, 1)
        return {"lost": {"status": self._element("status")[1].get("text"), "s": seconds}}

    async def click_until(self, until: float) -> list[dict[str, Any]]:
        """Press, look at the picture, press again."""
        chance, answers = random.Random(self.number), []
        await asyncio.sleep(chance.uniform(0, 2))
        while time.perf_counter() < until:
            answers.append(await self.press())
            if "lost" in answers[-1]:
                break
            await asyncio.sleep(chance.uniform(1, 3))
        return answers

    async def _update(self, message: dict[str, Any]) -> None:
        """Take over elements that are new, changed or (None) gone."""
        self.next_message = message.pop("_id") + 1
        for key, element in message.items():
            if element is None:
                self.elements.pop(key, None)
            else:
                self.elements[key] = element
        if place := re.search(r"Waiting: (\d+)", self._element("status")[1].get("text") or ""):
            self.places.add(int(place[1]))
        self.changed.set()
        with suppress(socketio.exceptions.SocketIOError):  # of a socket that has just closed
            await self.socket.emit("ack", {"client_id": self.client, "next_message_id": self.next_message})

    def _find(self, matches: Callable[[dict[str, Any]], Any], tag: str = "") -> tuple[str, dict[str, Any]]:
        """The first element of the page that matches: those of Generate come before those of Edit."""
        found = ((key, each) for key, each in self.elements.items() if tag in each.get("tag", "") and matches(each))
        return min(found, key=lambda pair: int(pair[0]))

    def _element(self, name: str) -> tuple[str, dict[str, Any]]:
        return self._find(lambda each: name in each.get("class", ()))

    def _films(self) -> list[str]:
        panels = self._find(lambda each: "panels" in each.get("props", {}))[1]["props"]["panels"]
        return [panel["film"] for panel in panels if "film" in panel]

    async def _set(self, label: str, value: Any) -> None:
        element = self._find(lambda each: label in (each.get("props", {}).get("label"), each.get("text")))
        await self._emit(element, "update:", value)

    async def _emit(self, element: tuple[str, dict[str, Any]], kind: str, value: Any) -> None:
        key, values = element
        listener = next(event["listener_id"] for event in values["events"] if event["type"].startswith(kind))
        message = {"id": int(key), "client_id": self.client, "listener_id": listener, "args": [json.dumps(value)]}
        await self._stay_connected()
        await self.socket.emit("event", message)


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median, 95th percentile and greatest; None where there is nothing."""
    if not values:
        return None
    at_95 = sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]
    return {"median": round(statistics.median(values), 3), "p95": round(at_95, 3), "max": round(max(values), 3)}


async def first_pictures(server: Server, http: aiohttp.ClientSession, num: int) -> dict[str, Any]:
    """One person alone, with the model loaded: without a browser, then in one."""
    person = Person(http, server.address, 0)
    begun = time.perf_counter()
    await asyncio.wait_for(person.come(), 60)
    await person.press(LOAD_S)  # waits for the model
    loaded_s = server.ready_s + time.perf_counter() - begun
    before = server.cpu_s()
    fetched = [(await person.press())["s"] for _ in range(num)]
    cpu_s = (server.cpu_s() - before) / num
    await person.socket.disconnect()
    figures = {"model_loaded_s": round(loaded_s, 2), "cpu_s_of_server_a_picture": round(cpu_s, 3)}
    figures |= {"click_to_film_s": {**(spread(fetched) or {}), "n": num}}
    drawn = await asyncio.wait_for(in_browser(server.address, num), 60 + num * 30)
    return figures | {"click_to_drawn_s": drawn and {**(spread(drawn) or {}), "n": num}}


async def in_browser(address: str, num: int) -> list[float] | None:
    """Seconds from the click to the drawn picture in Chromium; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        return None
    from playwright.async_api import async_playwright

    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(30_000)
            await page.goto(f"{address}/")
            await page.get_by_role("button", name="Generate", exact=True).wait_for()
            await page.locator("textarea").first.fill("Large left pleural effusion.")
            await page.get_by_role("checkbox", name="Lateral X-ray").click()
            await page.get_by_text("Settings").first.click()
            await page.get_by_label("Steps").first.fill(str(STEPS))
            await page.wait_for_timeout(500)
            await asyncio.wait_for(page.evaluate(PRESS), 60)  # draws the viewer's controls
            return [(await asyncio.wait_for(page.evaluate(PRESS), 30))["s"] for _ in range(num)]
        finally:
            await browser.close()


async def load(server: Server, http: aiohttp.ClientSession, num_people: int, seconds: float) -> dict[str, Any]:
    """Many people at once, and the memory of the server meanwhile."""
    people = [Person(http, server.address, number) for number in range(1, num_people + 1)]
    for person in people:
        await asyncio.wait_for(person.come(), 60)
    begun, before = time.perf_counter(), server.cpu_s()
    clicking = asyncio.gather(*(person.click_until(begun + seconds) for person in people))
    # Memory once a second, until the last click is answered.
    memory: list[tuple[float, float]] = []
    while not clicking.done() and time.perf_counter() - begun < seconds + LOST_S + 10:
        memory.append((time.perf_counter() - begun, server.rss()))
        await asyncio.sleep(0.5)
    answers = [answer for of_person in await asyncio.wait_for(clicking, 10) for answer in of_person]
    took, cpu_s = time.perf_counter() - begun, server.cpu_s() - before
    for person in people:
        await asyncio.wait_for(person.socket.disconnect(), 10)
    # Of memory, the second half of the time: everybody has had pictures by then.
    second = [mib for at, mib in memory if seconds / 2 <= at <= seconds] or [memory[-1][1]]
    middle = statistics.median(second)
    served = [answer["s"] for answer in answers if set(answer) == {"s"}]
    return {
        "people": num_people,
        "seconds": seconds,
        "clicks": len(answers),
        "served": len(served),
        "refused": sum("refusal" in answer for answer in answers),
        "lost": sum("lost" in answer for answer in answers),
        "how_lost": [answer["lost"] for answer in answers if "lost" in answer],
        "reconnections": sum(person.num_reconnections for person in people),
        "click_to_film_s": spread(served),
        "pictures_a_second": round(len(served) / took, 2),
        "cores_used_by_server": round(cpu_s / took, 2),
        "people_who_saw_a_place": sum(bool(person.places) for person in people),
        "places_seen": sorted(set().union(*(person.places for person in people))),
        "rss_mib": {"start": round(memory[0][1], 1), "end": round(memory[-1][1], 1), "second_half": round(middle, 1)},
        "greatest_deviation_in_second_half": round(max(abs(mib / middle - 1) for mib in second), 4),
    }


async def measure(server: Server, args: argparse.Namespace) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=60)  # of a request; the web sockets have none
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        pictures = await first_pictures(server, http, args.pictures)
        return {"first_picture": pictures, "load": await load(server, http, args.people, args.seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--dry-run", action="store_true", help="2 people, 10 s, 2 pictures; prints alone")
    args = parser.parse_args()
    if args.dry_run:
        args.people, args.seconds, args.pictures = 2, 10.0, 2
    command = f"python benchmarks/serve.py --people {args.people} --seconds {args.seconds:g} --pictures {args.pictures}"
    machine = {
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all cores"),  # of the model
        "load_average": os.getloadavg()[0],  # what else the machine does
    }
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        # Whatever hangs, the benchmark and its server end.
        limit = LOAD_S + 60 * args.pictures + 60 * args.people + args.seconds + LOST_S
        try:
            figures = asyncio.run(asyncio.wait_for(measure(server, args), limit))
        finally:
            server.end()
    figures = {"command": command, "machine": machine, "page_ready_s": round(server.ready_s, 2), **figures}
    print(json.dumps(figures))
    if not args.dry_run:
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
