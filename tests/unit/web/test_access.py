"""The guard in front of everything: token, passwords, other sites, other hosts, large bodies, headers."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")

from medcodi.web import access
from medcodi.web.access import Guard
from medcodi.web.config import Limits, ServeConfig

HOST = {"host": "127.0.0.1:8080"}


async def inner(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


def ask(
    guard: Guard, path: str = "/", *, method: str = "GET", kind: str = "http", **headers: str
) -> tuple[int, dict, str]:
    """Status, headers and body of the answer; a refused web socket has its closing code as status."""
    sent: list[dict[str, Any]] = []
    path, _, query = path.partition("?")
    names = {**HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": kind, "method": method, "path": path, "query_string": query.encode(), "root_path": "", "scheme": "http",
        "server": ("127.0.0.1", 8080), "headers": [(name.encode(), value.encode()) for name, value in names.items()],
    }  # fmt: skip
    if kind == "websocket":
        del scope["method"]

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    asyncio.run(guard(scope, receive, send))
    if sent[0]["type"] == "websocket.close":
        return sent[0]["code"], {}, ""
    got = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], got, b"".join(message.get("body", b"") for message in sent[1:]).decode()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "WRONG_S", 0.0)


def test_an_open_page_answers_its_own_machine_and_site_alone() -> None:
    guard = Guard(inner, ServeConfig())
    status, headers, body = ask(guard)
    assert (status, body, guard.token) == (200, "page", None)
    assert "default-src 'self'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    assert ask(guard, origin="http://127.0.0.1:8080")[0] == 200
    assert ask(guard, origin="http://evil.example")[0] == 403  # a page of another site
    assert ask(guard, host="evil.example:8080", origin="http://evil.example:8080")[0] == 403  # a name that leads here
    assert ask(guard, kind="websocket", origin="http://evil.example")[0] == 1008


def test_elsewhere_a_token_opens_the_page_and_stays_in_a_cookie() -> None:
    guard = Guard(inner, ServeConfig(host="0.0.0.0"))
    assert ask(guard)[0] == 401 and "needs its token" in ask(guard)[2]
    status, _, body = ask(guard, "/?token=wrong")
    assert status == 401 and "The token is wrong" in body
    status, headers, _ = ask(guard, f"/?token={guard.token}")
    assert (status, headers["location"]) == (303, "/")  # without the token
    cookie = headers["set-cookie"].partition(";")[0]
    assert "HttpOnly" in headers["set-cookie"] and guard.token not in headers["set-cookie"]
    assert ask(guard, cookie=cookie)[0] == 200
    assert ask(guard, cookie="medcodi-8080=guessed")[0] == 401
    assert ask(guard, kind="websocket")[0] == 1008


def test_names_and_passwords() -> None:
    guard = Guard(inner, ServeConfig(users={"ann": "rosé"}))

    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    status, headers, _ = ask(guard)
    assert status == 401 and headers["www-authenticate"].startswith("Basic")
    status, headers, body = ask(guard, authorization=basic("ann:rosé"))
    assert (status, body) == (200, "page") and ask(guard, cookie=headers["set-cookie"].partition(";")[0])[0] == 200
    for wrong in (basic("ann:rose"), basic("ben:"), basic(":"), "Basic %%%", "Bearer x"):
        assert ask(guard, authorization=wrong)[0] == 401


def test_bodies_are_refused_by_their_length() -> None:
    guard = Guard(inner, ServeConfig(limits=Limits(max_upload_bytes=100)))
    assert ask(guard, method="POST", content_length="100")[0] == 200
    assert ask(guard, method="POST", content_length="101")[0] == 413
    assert ask(guard, method="POST")[0] == 411
