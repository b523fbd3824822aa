"""``medcodi plot``: a run, or several beside each other, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcodi.app.root import app, out


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; several are compared in the same charts.")],
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; by default summary.html in the folder of the only run.")
    ] = None,
) -> None:
    """Draw the curves of runs from their logs: one HTML page, with nothing to install and nothing loaded from elsewhere.

    Losses of each modality and of each set of prompts, validation by timestep, gradient norm, speed, memory, signs of
    trouble, the last samples. A run that goes on can be drawn too.

    [bold]Examples[/bold]

        medcodi plot runs/diffuse

        medcodi plot runs/diffuse runs/diffuse-tokens --out compare.html
    """
    from medcodi.errors import TrainingError
    from medcodi.training.monitoring.summary import PAGE, write_summary

    if page is None and len(runs) > 1:
        raise TrainingError(f"{len(runs)} runs and no --out", expected="a name for the page", fix="--out compare.html")
    out.print(f"The page: {write_summary(runs, page or runs[0] / PAGE)}")
