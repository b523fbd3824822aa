"""``medcodi evaluate`` and ``medcodi parameters``: what a model is worth, and how large it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medcodi.app.root import Model, Overrides, app, err, out
from medcodi.errors import ConfigError

if TYPE_CHECKING:
    from medcodi.evaluation.options import EvaluateConfig

WIDEST = 160  # columns that a table may take


@app.command()
def evaluate(
    config: Annotated[
        Path | None, typer.Option(help="An evaluation configuration; ready ones lie in configs/eval/.")
    ] = None,
    settings: Overrides = None,
    model: Model = None,
    data: Annotated[str | None, typer.Option(help="Prepared dataset.", show_default="held-out phantoms")] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder of the bundle.", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option(help="Sampler and steps: fast, faster, reference.")] = None,
    generated: Annotated[
        Path | None, typer.Option(help="Judge what another system generated: a folder or a CSV.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(help="Its name.", show_default="of the folder")] = None,
    systems: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="Several systems in one table; repeatable.")
    ] = None,
    exclude_unreadable: Annotated[
        bool, typer.Option("--exclude-unreadable", help="List what cannot be read as excluded, and go on without it.")
    ] = False,
    verify: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Compute a bundle's figures again and say what differs.")
    ] = None,
) -> None:
    """Judge a model, or any system's images and reports, in every direction, beside a control and the ceiling.

    One folder holds the figures, a page, the exact lists and hashes of what was scored, and what was generated.

    [bold]Examples[/bold]

        medcodi evaluate num_studies=64

        medcodi evaluate --config configs/eval/demo.yaml

        medcodi evaluate --model runs/join/model --data data/mine --out results/ num_studies=200

        medcodi evaluate --generated theirs/ --system RoentGen --data data/mine --out results/

        medcodi evaluate --systems RoentGen=theirs/ UniXGen=others.csv --data data/mine --out results/

        medcodi evaluate --verify results/
    """
    from medcodi.app.evaluation import evaluation_values, named_systems
    from medcodi.config import apply_overrides, from_dict
    from medcodi.evaluation.options import EvaluateConfig

    if verify is not None:
        _verify(verify, data, model)
        return
    named, overrides = named_systems(generated, system, systems or [], settings or [])
    values = evaluation_values(
        config, model=model, data=data, out_dir=out_dir, systems=named, preset=preset, exclude=exclude_unreadable
    )
    options = from_dict(EvaluateConfig, apply_overrides(values, overrides), source=str(config or "evaluate"))
    evaluate_and_tell(options)


def evaluate_and_tell(options: EvaluateConfig) -> None:
    """Evaluate; the first rank prints the table, what the figures say, and what must not be overlooked."""
    from medcodi.evaluation.matrix import evaluate as run
    from medcodi.evaluation.pages.summary import terminal_table
    from medcodi.evaluation.pages.verdict import alarms, verdict

    results = run(options)
    if int(os.environ.get("RANK", "0")):
        return
    columns, rows = terminal_table(results)
    table = Table(*columns, show_lines=True)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    for line in verdict(results):
        out.print(line, markup=False)
    for line in alarms(results):
        err.print(f"[yellow]Note:[/yellow] {escape(line)}")
    out.print(f"The page: {Path(options.out) / 'page.html'}")


def _verify(folder: Path, data: str | None, model: str | None) -> None:
    from medcodi.evaluation.verification import verify_bundle

    found = verify_bundle(folder, data=data, model=model)
    for one in found.differences:
        out.print(f"- {one}", markup=False)
    for note in found.notes:
        err.print(f"[yellow]Note:[/yellow] {escape(note)}")
    checked = f"{found.num_files} files, {found.num_contents} contents, {found.num_figures} figures"
    if not found.holds:
        out.print(f"{folder} does not hold: {len(found.differences)} differences ({checked} looked at).")
        raise typer.Exit(1)
    out.print(f"{folder} holds: {checked} are as it says.")


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
            f"two models to count: {model} and --config {config}", expected="one", fix="run the command for each"
        )
    count = count_parameters(model or config or "configs/models/demo.yaml")
    if as_json:
        out.print_json(json.dumps(count.to_dict()))
        return
    for table in (parameter_table(count), *([reckoning_table(count)] if count.is_comparable else [])):
        # Rather past the terminal's edge than figures cut short.
        table.width = out.measure(table, options=out.options.update(max_width=WIDEST)).maximum
        out.print(table)
