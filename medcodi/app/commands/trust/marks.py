"""``medcodi verify-mark`` and ``sign-mark``: what says that a film, report or record is generated, and a signed statement of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from medcodi.app.terminal import app, count_progress, counting_bar, err, out, say_loading

NOT_AS_WRITTEN = 1  # exit code if a file is unmarked, changed, incomplete, foreign or broken
_STYLES = {"marked": "green", "incomplete": "yellow", "foreign": "yellow"}  # others are red


@app.command()
def verify_mark(
    path: Annotated[Path, typer.Argument(help="A film, report or record; or a folder of them.", show_default=False)],
) -> None:
    """Say what marks a file as generated, what is missing, and what was changed since it was written.

    PNG: XMP (IPTC's source type, the model, a hash of the pixels) and the invisible watermark; DICOM: its tags; reports and
    records: provenance.json or result.json beside them; C2PA manifests where there are any. The exit code is 1 unless every
    file is marked and unchanged. A mark is no signature: anybody can write one, and remove one.

    [bold]Examples[/bold]

        medcodi verify-mark generated/frontal.png

        medcodi verify-mark synthetic/
    """
    say_loading("the files")
    from medcodi.trust.marks.verify import MARKED, verify_marks

    with counting_bar(err) as bar:
        checks = verify_marks(path, on_progress=count_progress(bar, "checking"))
    for check in checks:
        out.print(Text.assemble((f"{check.outcome:<10}", _STYLES.get(check.outcome, "red")), f" {check.path}"))
        for fact in check.facts:
            out.print(Text(f"           {fact}"))
        if check.fix:
            out.print(Text(f"           Fix: {check.fix}"))
    counts = Counter(check.outcome for check in checks)
    if len(checks) > 1:
        out.print(", ".join(f"{number} {outcome}" for outcome, number in counts.most_common()))
    if set(counts) != {MARKED}:
        raise typer.Exit(NOT_AS_WRITTEN)


@app.command()
def sign_mark(
    path: Annotated[Path, typer.Argument(help="A generated PNG, or a folder of them.", show_default=False)],
    key: Annotated[Path, typer.Option(help="Your private key, PEM without a password.", show_default=False)],
    certificates: Annotated[
        Path, typer.Option(help="Its certificate and those that signed it, PEM.", show_default=False)
    ],
) -> None:
    """Sign generated films: a C2PA manifest beside each, which says that a model made it, and which.

    frontal.png gets frontal.c2pa; the film itself stays as it is. Only films whose mark is there and unchanged are signed. Nothing is
    sent or fetched.

    [bold]Examples[/bold]

        medcodi sign-mark generated/ --key signing.key --certificates chain.pem
    """
    say_loading("the films")
    from medcodi.trust.marks import credentials
    from medcodi.trust.marks.verify import films_to_sign

    signing_key = credentials.read_key(key, certificates)
    for written in credentials.sign(films_to_sign(path), signing_key):
        out.print(str(written))
