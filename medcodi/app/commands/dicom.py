"""``medcodi dicom send`` and ``dicom fetch``: generated studies to a hospital's server, a study from it as prompts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from medcodi.app.arguments import DicomCa, DicomCert, refuse_full_folder
from medcodi.app.delivery import deliver
from medcodi.app.terminal import dicom_app, err, out
from medcodi.modality import modality
from medcodi.pacs.servers import RETRY_S

RetrySeconds = Annotated[
    float, typer.Option("--retry-seconds", help="How long a server that is away is tried again, since its last answer.")
]


@dicom_app.command()
def send(
    outbox: Annotated[
        Path, typer.Argument(help="An outbox, as --dicom-store or --outbox of generate and synthesize write it.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="URL",
            help="https://HOST/dicom-web (STOW-RS), dicom://HOST:PORT/AET (C-STORE), or dicoms:// (with TLS).",
        ),
    ],
    retry_seconds: RetrySeconds = RETRY_S,
    dicom_ca: DicomCa = None,
    dicom_cert: DicomCert = None,
) -> None:
    """Send what a server has not confirmed yet. What is in the outbox stays there; each instance arrives once.

    Exit code 3: the server is away, and the same command sends the rest later. Exit code 2: it refuses some objects.

    [bold]Examples[/bold]

        medcodi dicom send outbox --to https://pacs.example.org/dicom-web

        medcodi dicom send outbox --to dicom://pacs.example.org:104/ARCHIVE

        medcodi dicom send outbox --to dicom://MYTITLE@pacs.example.org:104/ARCHIVE --retry-seconds 3600

        medcodi dicom send outbox --to dicoms://pacs.example.org:2762/ARCHIVE --dicom-ca hospital-ca.pem --dicom-cert client.pem
    """
    from medcodi.pacs.tls import Tls

    deliver(outbox, to, retry_seconds, Tls(ca=dicom_ca, certificate=dicom_cert))


@dicom_app.command()
def fetch(
    url: Annotated[str, typer.Argument(metavar="URL", help="Root of a DICOMweb server: https://HOST/dicom-web.")],
    study: Annotated[str, typer.Option("--study", metavar="UID", help="Study Instance UID.")],
    out_dir: Annotated[
        Path, typer.Option("--out", help="A new folder, which only you can read: the study is a patient's.")
    ] = Path("fetched"),
    dicom_ca: DicomCa = None,
    dicom_cert: DicomCert = None,
) -> None:
    """Fetch a study as files that are prompts: a film a view, the report's text, the record of the tags.

    [bold]Examples[/bold]

        medcodi dicom fetch https://pacs.example.org/dicom-web --study 1.2.840.113619.2.5 --out fetched

        medcodi generate --prompt frontal=fetched/frontal.dcm --prompt report=@fetched/report.txt --target lateral
    """
    refuse_full_folder(out_dir)
    from medcodi.pacs.fetching import fetch as run
    from medcodi.pacs.tls import Tls

    # Files on stdout, notes and the next command on stderr.
    fetched = run(url, study, out_dir, tls=Tls(ca=dicom_ca, certificate=dicom_cert))
    for note in fetched.notes:
        err.print(Text.assemble(("Left out:", "yellow"), f" {note}"))
    for path in fetched.files.values():
        out.print(str(path))
    # Images are paths; texts and records are read from their files.
    signs = {name: "" if modality(name).kind == "image" else "@" for name in fetched.files}
    prompts = [f"--prompt {shlex.quote(f'{name}={signs[name]}{path}')}" for name, path in fetched.files.items()]
    err.print(f"Prompts: {' '.join(prompts)}", markup=False)
    # The first alone: all of them would leave nothing to generate, and not every model has a record.
    err.print(f"For example: medcodi generate {prompts[0]}", markup=False)
