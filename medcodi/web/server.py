"""The server: one page in three parts, the addresses that it uses, and how it starts and ends."""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi import __version__
from medcodi.errors import ConfigError, MedCoDiError, MissingExtraError
from medcodi.web.config import ServeConfig

if TYPE_CHECKING:
    from medcodi.web.service import Service

LOG = logging.getLogger("medcodi.web")
RECONNECT_S = 30.0  # for which a page that lost its connection keeps its session
# Scripts of the shared viewer and ours, in the order in which they build on each other.
SCRIPTS = (
    "viewer/dom.js",
    "viewer/png.js",
    "viewer/picture.js",
    "viewer/views.js",
    "viewer/controls.js",
    "static/comparison.js",
)
STYLES = ("viewer/panels.css", "static/serve.css")


def check_installed() -> None:
    """Refuse to serve without the extra."""
    if find_spec("nicegui") is None:
        raise MissingExtraError("nicegui", extra="web", needed_for="medcodi serve")


def serve(config: ServeConfig, say: Callable[[str], Any]) -> None:
    """Serve until Ctrl-C.

    Args:
        config: Where, for whom, and which model.
        say: Called with the address once the page answers.

    Raises:
        MissingExtraError: If the extra ``web`` is not installed.
        ConfigError: If the port is in use, or the address is none of this machine.
        CheckpointError: If there is no such model.
    """
    check_installed()
    listener = listen(config)
    import uvicorn

    from medcodi.web.access import Guard
    from medcodi.web.service import Service

    # NiceGUI looks for its server among all objects, some of which warn when they are looked at.
    warnings.filterwarnings("ignore", category=FutureWarning, module="nicegui")
    service = Service(config)
    try:
        guard = Guard(build_app(service, ready=lambda: say(address(config, guard.token))), config)
        options: dict[str, Any] = {"ws": "wsproto", "ws_max_size": 2**20, "log_level": "warning", "access_log": False}
        server = uvicorn.Server(
            uvicorn.Config(guard, root_path=config.root_path, timeout_graceful_shutdown=2, **options)
        )
        server.run(sockets=[listener])
    finally:
        listener.close()
        service.close()


def listen(config: ServeConfig) -> socket.socket:
    """A socket bound to the address of a config."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host.strip("[]"), config.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port {config.port} of {config.host} cannot be used: {error.strerror}",
            expected="a free port of this machine",
            fix=f"--port {min(config.port + 1, 65535)}, or stop what uses it",
        ) from None
    return listener


def address(config: ServeConfig, token: str | None) -> str:
    """The address that a person opens, with the token where one is needed."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    query = "" if token is None else f"?token={token}"
    return f"http://{host}:{config.port}{config.root_path}/{query}"


def build_app(service: Service, ready: Callable[[], Any] = lambda: None) -> Any:
    """The ASGI application of a :class:`~medcodi.web.service.Service`, without its guard."""
    from fastapi import FastAPI
    from nicegui import app as pages
    from nicegui import ui
    from starlette.staticfiles import StaticFiles

    from medcodi.web.access import files_of

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/viewer", StaticFiles(directory=str(files("medcodi.pages") / "viewer")))
    app.mount("/static", StaticFiles(directory=str(Path(__file__).parent / "static")))
    app.include_router(files_of(service))

    @ui.page("/")
    def index() -> None:
        build_page(service)

    pages.on_startup(ready)
    ui.run_with(
        app, title="MedCoDi", dark=True, language="en-US", reconnect_timeout=RECONNECT_S, show_welcome_message=False
    )
    return app


def build_page(service: Service) -> None:
    """One open page: its session, its three parts, and its end."""
    from nicegui import ui

    from medcodi.web.elements import Text
    from medcodi.web.parts import EditPage, GeneratePage, LookPage

    _add_head(service.config.root_path)
    try:
        session = service.sessions.open()
    except MedCoDiError as error:
        Text("p", str(error), "refusal").props("role=alert")
        return
    ui.context.client.on_delete(lambda: service.leave(session))
    facts = service.facts
    with ui.element("header").classes("head"):
        Text("h1", "MedCoDi")
        with ui.tabs().props("no-caps dense align=left").classes("parts") as tabs:
            parts = {name: ui.tab(name) for name in ("Generate", "Edit", "Look")}
        Text("span", f"{facts.name}, {facts.image_size} × {facts.image_size}", "quiet")
    Text("p", f"{facts.knows} Research only: nothing here is for diagnosis.", "knows")

    def edit(contents: dict[str, Any]) -> None:
        editing.take(contents)
        tabs.value = "Edit"

    with ui.tab_panels(tabs, value=parts["Generate"], animated=False).classes("panels-of-page"):
        with ui.tab_panel(parts["Generate"]):
            GeneratePage(service, session, edit)
        with ui.tab_panel(parts["Edit"]):
            editing = EditPage(service, session)
        with ui.tab_panel(parts["Look"]):
            LookPage(service)


def _add_head(prefix: str) -> None:
    from nicegui import ui

    scripts = "".join(f'<script src="{prefix}/{name}?{__version__}"></script>' for name in SCRIPTS)
    styles = "".join(f'<link rel="stylesheet" href="{prefix}/{name}?{__version__}">' for name in STYLES)
    ui.add_head_html(styles + scripts)
    ui.add_body_html(
        '<div id="overlays"></div><div id="announcer" class="unseen" role="status" aria-live="polite"></div>'
    )
