"""``medcodi parameters``: how large a model is, beside the published one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from medcodi.app.terminal import app, out
from medcodi.errors import ConfigError

if TYPE_CHECKING:
    from medcodi.app.parameters import ParameterCount

MAX_WIDTH = 160  # columns of a table
UNITS = {"GiB": 2**30, "MiB": 2**20}


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Count a model's parameters: each component, the stage that trains it, its memory. Nothing is allocated.

    A model of MedCoDi-M's size is set beside the published one, and every difference is named.

    [bold]Examples[/bold]

        medcodi parameters

        medcodi parameters --config configs/models/medcodi-m.yaml

        medcodi parameters checkpoints/demo --json
    """
    from medcodi.app.parameters import count_parameters

    if model is not None and config is not None:
        raise ConfigError(
            f"two models to count: {model} and --config {config}", expected="one", fix="run the command for each"
        )
    count = count_parameters(model or config or "configs/models/demo.yaml")
    if as_json:
        out.print_json(json.dumps(count.to_dict()))
        return
    for table in (parameter_table(count), *([reckoning_table(count)] if count.is_comparable else [])):
        # A narrow terminal wraps the lines: no number is cut short.
        table.width = out.measure(table, options=out.options.update(max_width=MAX_WIDTH)).maximum
        out.print(table)


def parameter_table(count: ParameterCount) -> Table:
    """The rows and their sum; beside them the published file's, where the model is comparable to it."""
    from medcodi.app.parameters import BYTES, PUBLISHED, memory_bytes

    table = Table(title=count.source, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("component", "trained in"):
        table.add_column(column, no_wrap=True)
    # GiB for models that need one, else MiB.
    unit = next((name for name, size in UNITS.items() if memory_bytes(count.total)["fp32"] >= size), "MiB")

    def memory(number: int) -> list[str]:
        return [f"{size / UNITS[unit]:.2f}" for size in memory_bytes(number).values()]

    for column in ("parameters", "share", *(f"{name} {unit}" for name in BYTES)):
        table.add_column(column, justify="right", no_wrap=True)
    if count.is_comparable:
        table.add_column("published file", justify="right", no_wrap=True)
    # A component that several stages train takes several rows and is named in the first.
    shown = ""
    for row in count.rows:
        cells = ["" if row.component == shown else row.component, ", ".join(row.trained_in) or "none"]
        cells += [f"{row.parameters:,}", f"{100 * row.share:.1f} %", *memory(row.parameters)]
        table.add_row(*cells, *([f"{row.published:,}"] if row.published is not None else []))
        shown = row.component
    # The sum of all rows.
    table.add_section()
    cells = ["all", "", f"{count.total:,}", "100 %", *memory(count.total)]
    table.add_row(*cells, *([f"{sum(p.stored for p in PUBLISHED.values()):,}"] if count.is_comparable else []))
    return table


def reckoning_table(count: ParameterCount) -> Table:
    """From the paper's count to this model's, every difference named; the changes add up to the last parameter."""
    from medcodi.app.parameters import PAPER_TOTAL, reckoning

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    # From the abstract's rounded total to the exact one of the file, then line by line.
    lines = reckoning(count.parts)
    above = PAPER_TOTAL - lines[0].parameters
    table.add_row(f"{PAPER_TOTAL / 1e9:.2f} B", f"in the paper; its file holds {above / 1e9:.2f} B fewer")
    for line in lines:
        table.add_row(f"{line.parameters:+,}" if line.kind == "change" else f"= {line.parameters:,}", line.what)
    return table
