"""``medcodi card``: the card of a model, from its folder and from the bundles that judged it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcodi.app.terminal import app, out
from medcodi.errors import DataError


@app.command()
def card(
    model: Annotated[str, typer.Argument(help="Model folder, a hub repository, or demo.")],
    evaluation: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Bundle of medcodi evaluate.", show_default=False)
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Bundle of medcodi audit.", show_default=False)
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it here.", show_default="the terminal")
    ] = None,
) -> None:
    """Print or write the card of a model: what it is, what it was trained on, how well it does, what it discloses.

    Figures come from bundles of this very model, whose hashes are checked; without a bundle the card says that nothing is known.

    [bold]Examples[/bold]

        medcodi card demo

        medcodi card runs/mine/model --evaluation runs/mine/evaluation --audit audit/ --out runs/mine/model/README.md
    """
    from medcodi.model.card import model_card, write_card

    text = model_card(model, evaluation=evaluation, audit=audit)
    if out_file is None:
        out.print(text, end="")
    elif write_card(text, out_file):
        out.print(f"The card: {out_file}")
    else:
        raise DataError(
            f"{out_file} exists, and somebody wrote or changed it",
            expected="a new file, or a card that medcodi has written",
            fix="another --out, or remove the file",
        )
