"""``medcodi serve``: the page for people who look rather than type."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from medcodi.app.arguments import Device, DicomCa, DicomCert, Model
from medcodi.app.terminal import app, err, out


@app.command()
def serve(
    model: Model = None,
    host: Annotated[str, typer.Option(help="Address; another than loopback asks everyone for a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.")] = 8080,
    look: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of runs, evaluations, audits ...: their pages are shown, read only."),
    ] = None,
    auth: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:PASSWORD", help="Who may see the page, or @file with one a line; repeatable."),
    ] = None,
    root_path: Annotated[str, typer.Option(help="Path under which a reverse proxy serves the page: /medcodi.")] = "",
    annotator: Annotated[
        str | None,
        typer.Option(help="Reads findings in films: demo or xrv.", show_default="demo, of a model of phantoms"),
    ] = None,
    dicom_store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Offer to send what was generated: https://HOST/dicom-web (STOW-RS), dicom://HOST:PORT/AET (C-STORE), or dicoms:// (with TLS).",
        ),
    ] = None,
    outbox: Annotated[Path, typer.Option(help="Folder of DICOM studies on their way there.")] = Path("outbox"),
    dicom_ca: DicomCa = None,
    dicom_cert: DicomCert = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait.")] = 32,
    device: Device = None,
) -> None:
    """Serve a page to generate, edit and look, for one person or several.

    The page is local, works offline and loads nothing from elsewhere. Uploads stay in a temporary folder and go with the page.

    [bold]Examples[/bold]

        medcodi serve

        medcodi serve --model models/ours --look runs/ --port 8081

        medcodi serve --host 0.0.0.0 --auth @people.txt

        medcodi serve --dicom-store https://pacs.example.org/dicom-web
    """
    from medcodi.web.config import Limits, ServeConfig, read_users
    from medcodi.web.server import check_installed, serve

    check_installed()
    config = ServeConfig(
        host=host,
        port=port,
        root_path=root_path,
        users=read_users(auth or []),
        look=look,
        model=model,
        device=device,
        annotator=annotator,
        dicom_store=dicom_store,
        outbox=outbox,
        dicom_ca=dicom_ca,
        dicom_cert=dicom_cert,
        limits=Limits(max_waiting=queue),
    )
    err.print(Text("Starting ...", style="dim"))

    def say(address: str) -> None:
        out.print(f"The page: {address}", markup=False)
        err.print("Ctrl-C ends it.", markup=False)

    with suppress(KeyboardInterrupt):  # as uvicorn leaves it once everything is closed
        serve(config, say)
    err.print("Ended. Everything that was uploaded is deleted.", markup=False)
