"""``medcodi evaluate`` and ``medcodi parameters``: what a model is worth, and how large it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from medcodi.app.root import Model, Overrides, app, out


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
        str, typer.Argument(help="A model configuration (configs/models/*.yaml) or a model folder.")
    ] = "configs/models/demo.yaml",
) -> None:
    """Count the parameters of a model, part by part. Nothing is allocated.

    [bold]Examples[/bold]

        medcodi parameters

        medcodi parameters configs/models/medcodi-m.yaml
    """
    from medcodi.app.parameters import parameter_table

    out.print(parameter_table(model))
