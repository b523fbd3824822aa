"""``medcodi dicom send`` and ``dicom fetch``: generated studies to a hospital's server, a study from it as prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from medcodi.app.arguments import refuse_full_folder
from medcodi.app.terminal import count_progress, counting_bar, dicom_app, err, out
from medcodi.errors import PromptError
from medcodi.modality import modality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medcodi.generation.result import Generation

RetrySeconds = Annotated[
    float, typer.Option("--retry-seconds", help="How long a server that is away is tried again, since its last answer.")
]
RETRY_SECONDS = 60.0


@dicom_app.command()
def send(
    outbox: Annotated[Path, typer.Argument(help="An outbox, as generate --dicom-store or --outbox writes it.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="URL", help="https://HOST/dicom-web (STOW-RS), or dicom://HOST:PORT/AET (C-STORE)."
        ),
    ],
    retry_seconds: RetrySeconds = RETRY_SECONDS,
) -> None:
    """Send what a server has not confirmed yet. What is in the outbox stays there; each instance arrives once.

    Exit code 3: the server is away, and the same command sends the rest later. Exit code 2: it refuses some objects.

    [bold]Examples[/bold]

        medcodi dicom send outbox --to https://pacs.example.org/dicom-web

        medcodi dicom send outbox --to dicom://pacs.example.org:104/ARCHIVE

        medcodi dicom send outbox --to dicom://MYTITLE@pacs.example.org:104/ARCHIVE --retry-seconds 3600
    """
    deliver(outbox, to, retry_seconds)


@dicom_app.command()
def fetch(
    url: Annotated[str, typer.Argument(metavar="URL", help="Root of a DICOMweb server: https://HOST/dicom-web.")],
    study: Annotated[str, typer.Option("--study", metavar="UID", help="Study Instance UID.")],
    out_dir: Annotated[
        Path, typer.Option("--out", help="A new folder, which only you can read: the study is a patient's.")
    ] = Path("fetched"),
) -> None:
    """Fetch a study as files that are prompts: a film a view, the report's text, the record of the tags.

    [bold]Examples[/bold]

        medcodi dicom fetch https://pacs.example.org/dicom-web --study 1.2.840.113619.2.5 --out fetched

        medcodi generate --prompt frontal=fetched/frontal.dcm --prompt report=@fetched/report.txt --target lateral
    """
    refuse_full_folder(out_dir)
    from medcodi.pacs.fetching import fetch as run

    # Files on stdout, notes and the next command on stderr.
    fetched = run(url, study, out_dir)
    for note in fetched.notes:
        err.print(Text.assemble(("Left out:", "yellow"), f" {note}"))
    for path in fetched.files.values():
        out.print(str(path))
    # Images are paths; texts and records are read from their files.
    signs = {name: "" if modality(name).kind == "image" else "@" for name in fetched.files}
    prompts = (f"--prompt {name}={signs[name]}{path}" for name, path in fetched.files.items())
    err.print(f"Prompts: medcodi generate {' '.join(prompts)}", markup=False)


def check_store(url: str | None, outbox: Path, targets: Sequence[str] | None) -> None:
    """Refuse an invalid address, a folder that is no outbox, a missing package, or no object, before anything is generated."""
    from medcodi.data.dicom.attributes import check_pydicom
    from medcodi.pacs.outbox import Outbox
    from medcodi.pacs.servers import read_address

    check_pydicom()
    if url is not None:
        read_address(url)
    if outbox.exists():
        Outbox(outbox).open()
    if targets and all(modality(name).kind == "table" for name in targets):
        raise PromptError(
            f"{', '.join(targets)} alone is no DICOM object",
            expected="an image or a report, whose attributes hold it",
            fix="add --target frontal or --target report",
        )


def add_to_outbox(generation: Generation, outbox: Path, *, pdf: bool) -> None:
    """Write each sample into the outbox, as one study."""
    from medcodi.data.dicom.writing import study_objects
    from medcodi.pacs.outbox import Outbox

    for sample in generation.samples:
        objects = study_objects(sample.contents, {**generation.provenance, "seeds": [sample.seed]}, pdf=pdf)
        if objects:
            Outbox(outbox).add(objects)


def deliver(outbox: Path, to: str, retry_seconds: float) -> None:
    """Send an outbox, and print what has arrived; refusals of the server end in a ServerError."""
    from medcodi.pacs.outbox import Outbox
    from medcodi.pacs.sending import send as run
    from medcodi.pacs.servers import ServerError

    # Send, say what arrived, and refuse where something has not.
    with counting_bar(err) as bar:
        delivery = run(Outbox(outbox), to, retry_s=retry_seconds, on_progress=count_progress(bar, "sending"))
    before = f"; {delivery.before:,} had arrived before" if delivery.before else ""
    out.print(f"{delivery.sent:,} instances of {delivery.studies:,} studies arrived at {to}{before}", markup=False)
    if problems := delivery.problems:
        for study, problem in list(problems.items())[:10]:
            err.print(Text.assemble(("Not sent:", "yellow"), f" study {study}: {problem}"))
        raise ServerError(
            f"{len(problems):,} of {delivery.studies:,} studies have not arrived whole",
            expected="a server that takes every object",
            fix=f"have it accept them, or repair it; medcodi dicom send {outbox} --to {to} tries them again",
        )
