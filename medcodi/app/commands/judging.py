"""``medcodi evaluate`` and ``medcodi parameters``: what a model is worth, and how large it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from medcodi.app.root import Model, Overrides, app, out
from medcodi.errors import ConfigError

WIDEST = 160  # columns that a table may take


@app.command()
def evaluate(
    config: Annotated[
        Path | None, typer.Option(help="An evaluation configuration; ready ones lie in configs/eval/.")
    ] = None,
    settings: Overrides = None,
    model: Model = None,
    data: Annotated[str | None, typer.Option(help="Prepared dataset.", show_default="held-out phantoms")] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder for results.json and page.html.", show_default=False)
    ] = None,
) -> None:
    """Judge a model in every direction against held-out studies, beside a control and the ceiling.

    [bold]Examples[/bold]

        medcodi evaluate num_studies=64

        medcodi evaluate --config configs/eval/demo.yaml

        medcodi evaluate --model runs/join/model --data data/mine --out results/ num_studies=200
    """
    from medcodi.app.evaluation import evaluation_values
    from medcodi.config import apply_overrides, from_dict
    from medcodi.evaluation.matrix import EvaluateConfig
    from medcodi.evaluation.matrix import evaluate as run
    from medcodi.evaluation.results_page import summary_table

    values = apply_overrides(evaluation_values(config, model=model, data=data, out_dir=out_dir), settings or [])
    options = from_dict(EvaluateConfig, values, source=str(config or "evaluate"))
    summary = summary_table(run(options))
    table = Table(*summary.columns)
    for row in summary.rows:
        table.add_row(*row)
    out.print(table)
    out.print(f"The page: {Path(options.out) / 'page.html'}")


@app.command()
def parameters(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model configuration (configs/models/*.yaml) or a model folder.",
            show_default="configs/models/demo.yaml",
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="The same, by name.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in the place of the table.")] = False,
) -> None:
    """Count a model's parameters: each component, the stage that trains it, its memory. Nothing is allocated.

    A model of MedCoDi-M's size is set beside the published one, and every difference is named.

    [bold]Examples[/bold]

        medcodi parameters

        medcodi parameters --config configs/models/medcodi-m.yaml

        medcodi parameters checkpoints/demo --json
    """
    from medcodi.app.parameters import count_parameters, parameter_table, reckoning_table

    if model is not None and config is not None:
        raise ConfigError(
            f"two models to count: {model} and --config {config}", expected="one", mend="run the command for each"
        )
    count = count_parameters(model or config or "configs/models/demo.yaml")
    if as_json:
        out.print_json(json.dumps(count.to_dict()))
        return
    for table in (parameter_table(count), *([reckoning_table(count)] if count.is_comparable else [])):
        # Rather past the terminal's edge than figures cut short.
        table.width = out.measure(table, options=out.options.update(max_width=WIDEST)).maximum
        out.print(table)
