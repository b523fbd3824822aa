"""Files that go in and out: uploads, films for the viewer, downloads, and pages to look at."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from asyncio import to_thread
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, Response

from medcodi.errors import MedCoDiError
from medcodi.web.jobs import public_message
from medcodi.web.service import Service
from medcodi.web.sessions import Session

if TYPE_CHECKING:
    from medcodi.generation.result import Generation

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
