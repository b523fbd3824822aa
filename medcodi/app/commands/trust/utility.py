"""``medcodi utility``: is synthetic data useful for training, and what is a synthetic study worth?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcodi.app.arguments import Overrides
from medcodi.app.terminal import app, counting_bar, err, out, print_notes, print_verification, say_loading
from medcodi.console import bars_of
from medcodi.errors import ConfigError

if TYPE_CHECKING:
    from medcodi.trust.utility.config import UtilityConfig


@app.command()
def utility(
    config: Annotated[
        str | None, typer.Option(help="The study: a file, or a recipe (medcodi config list utility).")
    ] = None,
    settings: Overrides = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="A new folder, or that of an interrupted study to resume.", show_default=False),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Measure the cost of the study; do nothing else.")
    ] = False,
    verify: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Check a finished study: every hash, and every figure computed again."),
    ] = None,
) -> None:
    """Train tasks with and without synthetic studies, under the same rules, and test them on real studies.

    A study is a table of arms: shares of the real patients, with synthetic studies, duplicates or new real studies added. Every
    arm has the same optimiser steps. The page shows the performance of each arm with its interval, and the exchange rate: how many
    new real studies one synthetic study is worth. An interrupted study resumes with the same command.

    [bold]Examples[/bold]

        medcodi utility --config small --estimate

        medcodi utility --config small --out runs/utility/small

        medcodi utility --config scarcity train=data/mine validation.path=data/mine test.path=data/mine

        torchrun --nproc-per-node 2 -m medcodi utility --config small

        medcodi utility --verify runs/utility/small
    """
    if verify is not None:
        _verify(verify)
        return
    if config is None:
        raise ConfigError("no study is named", expected="--config", fix="medcodi config list utility shows the recipes")
    say_loading("the study")
    from medcodi.config import apply_overrides, from_dict, read_recipe
    from medcodi.trust.utility.config import UtilityConfig

    values = apply_overrides(read_recipe(UtilityConfig, config), settings or [])
    if out_dir is not None:
        values["out"] = str(out_dir)
    study = from_dict(UtilityConfig, values, source=config)
    if estimate:
        _estimate(study)
    else:
        _run(study)


def _estimate(study: UtilityConfig) -> None:
    from medcodi.trust.utility import estimate

    cost = estimate(study)
    out.print(
        f"{cost['trainings']} trainings of {study.training.num_steps} steps at {cost['steps_per_second']:.1f} steps/s: "
        f"{cost['training_minutes']:.0f} minutes. {cost['synthetic']} studies to be generated: {cost['generation_minutes']:.0f} "
        f"minutes. {cost['real']} studies to be read: {cost['reading_minutes']:.0f} minutes."
    )
    out.print(
        f"In all {cost['minutes']:.0f} minutes on one rank, as this machine is loaded now, and a few for the test."
    )


def _run(study: UtilityConfig) -> None:
    from medcodi.distributed import join_ranks
    from medcodi.errors import DataError
    from medcodi.trust.utility import run
    from medcodi.trust.utility.page import verdict

    ranks = join_ranks(computing=study.device != "cpu", error=DataError)
    try:
        with counting_bar(err) as bar:
            bar.disable = not ranks.is_first  # one bar is enough
            results = run(study, ranks=ranks, on_progress=bars_of(bar))
    finally:
        ranks.leave()
    if ranks.is_first:
        for line in verdict(results):
            out.print(line)
        print_notes(results["notes"])
        out.print(f"The page: {Path(study.out) / 'page.html'}")


def _verify(folder: Path) -> None:
    from medcodi.trust.utility.results import verify

    print_verification(folder, verify(folder), "every hash and every figure")
