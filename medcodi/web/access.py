"""Who may see the page (loopback alone, a token, or names with passwords), what a browser may load for it, and the files that go in and out."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import secrets
import tempfile
import zipfile
from asyncio import to_thread
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medcodi.errors import MedCoDiError
from medcodi.web.config import ServeConfig, is_loopback
from medcodi.web.jobs import public_message
from medcodi.web.service import Service
from medcodi.web.sessions import Session

if TYPE_CHECKING:
    from medcodi.generation.result import Generation


MAX_ADMITTED = 10_000  # browsers that are remembered; the oldest is forgotten, and gives its token again
WRONG_S = 1.0  # that a wrong token or password waits for its answer
# The browser itself holds the page to this machine: nothing is loaded from elsewhere, sent elsewhere, or framed elsewhere.
# NiceGUI's page needs inline scripts, and Vue compiles templates.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}


class Guard:
    """ASGI middleware in front of everything: pages, files, uploads and the web socket."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self.app, self.config = app, config
        # Without users, everything but an open page asks for this token.
        self.token = None if config.is_open or config.users else secrets.token_urlsafe(24)
        self.cookie = f"medcodi-{config.port}"  # browsers share cookies between ports
        self._admitted: deque[str] = deque(maxlen=MAX_ADMITTED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the connection, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        connection = HTTPConnection(scope)
        refusal, cookie = self._stranger(connection) or self._too_large(connection), None
        if refusal is None and not self.config.is_open:
            refusal, cookie = await self._admission(connection)
        if refusal is None:
            return await self.app(scope, receive, self._with_headers(send, cookie))
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        await refusal(scope, receive, self._with_headers(send, cookie))

    def _stranger(self, connection: HTTPConnection) -> Response | None:
        """Refuse requests that another site's page makes in the browser of somebody who may see this one."""
        host = connection.headers.get("host", "")
        if self.config.is_open and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return _text(f"This page is for its own machine. Expected http://localhost:{self.config.port}.", 403)
        origin = connection.headers.get("origin")
        own = {host, connection.headers.get("x-forwarded-host", host)}
        if origin is not None and urlsplit(origin).netloc not in own:
            return _text("A page of another site asked for this. Fix: let the proxy pass the header Host on.", 403)
        return None

    def _too_large(self, connection: HTTPConnection) -> Response | None:
        """Refuse a body by its announced length, which the server holds it to."""
        if connection.scope.get("method") in ("GET", "HEAD", "OPTIONS", None):
            return None
        length, limit = connection.headers.get("content-length", ""), self.config.limits.max_upload_bytes
        if not length.isdigit():
            return _text("The request does not say how long it is. Expected the header Content-Length.", 411)
        if int(length) > limit:
            return _text(f"{int(length):,} bytes are too many. Expected at most {limit:,}.", 413)
        return None

    async def _admission(self, connection: HTTPConnection) -> tuple[Response | None, str | None]:
        """The refusal of somebody without cookie, token or password, and the cookie of somebody new."""
        if connection.cookies.get(self.cookie) in self._admitted:
            return None, None
        token = connection.query_params.get("token")
        if self.token is not None and token is not None and secrets.compare_digest(token.encode(), self.token.encode()):
            # The address without the token: it does not stay in the history, nor in a link that is passed on.
            return RedirectResponse(connection.url.path, 303), self._new_cookie()
        if self.config.users and self._password_is_right(connection.headers.get("authorization", "")):
            return None, self._new_cookie()
        if token is not None or "authorization" in connection.headers:
            await asyncio.sleep(WRONG_S)
        if self.config.users:
            headers = {"WWW-Authenticate": 'Basic realm="MedCoDi", charset="UTF-8"'}
            return _text("Wrong name or password, or none.", 401, headers), None
        wrong = "The token is wrong" if token is not None else "This page needs its token"
        return _text(f"{wrong}. Fix: open the whole address that medcodi serve printed.", 401), None

    def _password_is_right(self, header: str) -> bool:
        scheme, _, encoded = header.partition(" ")
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        # Compared in every case, so that the time does not say which names there are.
        expected = self.config.users.get(name, "")
        return (
            scheme.lower() == "basic"
            and secrets.compare_digest(password.encode(), expected.encode())
            and bool(expected)
        )

    def _new_cookie(self) -> str:
        self._admitted.append(secrets.token_urlsafe(24))
        path = self.config.root_path or "/"
        return f"{self.cookie}={self._admitted[-1]}; Path={path}; HttpOnly; SameSite=Lax"

    def _with_headers(self, send: Send, cookie: str | None) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if cookie is not None:
                    headers.append("Set-Cookie", cookie)
            await send(message)

        return sending


def _text(text: str, status: int, headers: dict[str, Any] | None = None) -> Response:
    return PlainTextResponse(text + "\n", status, headers)


# ---- files: uploads, films for the viewer, downloads, and pages to look at -------------------------------------------
# A page to look at: its own scripts and pictures, and nothing of this server or any other.
LOOK_POLICY = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; font-src data:"


def files_of(service: Service) -> APIRouter:
    """The addresses of a service's files. Sessions, films and results have keys that cannot be guessed."""
    router = APIRouter()

    def session_of(key: str) -> Session:
        session = service.sessions.get(key)
        if session is None:
            raise HTTPException(404, "this page has ended. Fix: open it again")
        return session

    @router.post("/uploads/{session}/{slot}")
    async def upload(session: str, slot: str, request: Request) -> dict[str, str]:
        # A refusal is an answer like another: the browser would log a status of 4xx as an error of the page.
        name = unquote(request.headers.get("x-file-name", ""))
        try:
            return {"name": await session_of(session).take(slot, name, request.stream())}
        except MedCoDiError as error:
            return {"message": public_message(error)}

    @router.get("/films/{session}/{key}")
    def film(session: str, key: str) -> Response:
        path = session_of(session).film_path(key)
        if path is None:
            raise HTTPException(404, "this film is no longer there")
        return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    @router.get("/results/{session}/{key}/{form}")
    async def result(session: str, key: str, form: str) -> Response:
        generation = session_of(session).results.get(key)
        if generation is None:
            raise HTTPException(404, "this result is no longer there. Fix: generate it again, with the same seed")
        name = f"medcodi-{key[:8]}"
        if form == "json":
            text = json.dumps(generation.provenance, indent=2)
            return Response(text, media_type="application/json", headers=_saved_as(f"{name}.json"))
        try:
            data = await to_thread(archive, generation, form)
        except MedCoDiError as error:
            raise HTTPException(400, public_message(error)) from None
        return Response(data, media_type="application/zip", headers=_saved_as(f"{name}-{form}.zip"))

    @router.get("/look/{name:path}")
    def look(name: str) -> Response:
        path = service.pages.file(name)
        if path is None:
            raise HTTPException(404, "no page that MedCoDi wrote is there")
        return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": LOOK_POLICY})

    return router


def archive(generation: Generation, form: str) -> bytes:
    """The files of a result as ``Generation.save`` writes them, in one ZIP."""
    data = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="medcodi-serve-") as folder, zipfile.ZipFile(data, "w") as opened:
        saved = generation.save(Path(folder) / "result", form)
        for path in sorted(path for path in saved.rglob("*") if path.is_file()):
            opened.write(path, path.relative_to(saved).as_posix())
    return data.getvalue()


def _saved_as(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
