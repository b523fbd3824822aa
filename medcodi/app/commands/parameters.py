"""``medcodi parameters``: a model's parameters part by part, and every difference from the published MedCoDi-M."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from medcodi.app.terminal import app, out, show
from medcodi.errors import ConfigError
from medcodi.recipes import recipe_names

if TYPE_CHECKING:
    from medcodi.model import MedCoDi

MAX_WIDTH = 160  # columns of a table
UNITS = {"GiB": 2**30, "MiB": 2**20}
BYTES = {"fp32": 4, "bf16": 2}  # of one parameter


@app.command()
def parameters(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model recipe (medcodi config list models) or a model folder.",
            show_default="the recipe demo",
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="The same, by name.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Count a model's parameters: each component, the stage that trains it, its memory. Nothing is allocated.

    A model of MedCoDi-M's size is set beside the published one, and every difference is named.

    [bold]Examples[/bold]

        medcodi parameters

        medcodi parameters medcodi-m

        medcodi parameters runs/join/model --json
    """
    if model is not None and config is not None:
        raise ConfigError(
            f"two models to count: {model} and --config {config}", expected="one", fix="run the command for each"
        )
    count = count_parameters(model or config or "demo")
    if as_json:
        out.print_json(json.dumps(count.to_dict()))
        return
    for table in (parameter_table(count), *([reckoning_table(count)] if count.is_comparable else [])):
        # A narrow terminal wraps the lines: no number is cut short.
        table.width = out.measure(table, options=out.options.update(max_width=MAX_WIDTH)).maximum
        show(table)


def parameter_table(count: ParameterCount) -> Table:
    """The rows and their sum; beside them the published file's, where the model is comparable to it."""
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


# ---- counting --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ParameterRow:
    """Parameters of one component that the same stages train."""

    component: str  # name, as in its file
    trained_in: tuple[str, ...]  # the stages that train them, in order; empty: frozen in all
    parameters: int  # their number
    share: float  # of all parameters of the model, in [0, 1]
    bytes: dict[str, int]  # precision -> bytes of these parameters
    published: int | None  # number in the same part of the published file; None if the model is not comparable to it


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one model."""

    source: str  # the configuration file or model folder
    rows: list[ParameterRow]  # in the order of assembly
    parts: dict[str, int]  # part (see :func:`published_part`) -> parameters

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parts.values())

    @property
    def is_comparable(self) -> bool:
        """Whether it is compared with the published model."""
        return is_comparable(self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values: dict[str, Any] = {
            "source": self.source,
            "parameters": self.total,
            "bytes": memory_bytes(self.total),
            "rows": [asdict(row) for row in self.rows],
        }
        if self.is_comparable:
            values["paper"] = PAPER_TOTAL
            values["published_to_here"] = [asdict(line) for line in reckoning(self.parts)]
        return values


def count_parameters(source: str | Path) -> ParameterCount:
    """Count a model on the meta device: nothing is allocated, no weight is read.

    Args:
        source: A YAML file of a :class:`ModelConfig`, the name of a shipped one, or a model folder.

    Raises:
        ConfigError: If the YAML file is not a model configuration.
        CheckpointError: If the folder holds no model.
    """
    from medcodi.stages.stage import trained_in

    # Sum the parameters by row of the table, and by part of the published file.
    model = _on_meta(source)
    stages = trained_in(model)
    groups: dict[tuple[str, tuple[str, ...]], int] = {}
    published: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    parts: dict[str, int] = {}
    for component, name, key, number in _parameters(model):
        row, part = (component, stages[key]), published_part(component, name)
        groups[row] = groups.get(row, 0) + number
        parts[part] = parts.get(part, 0) + number
        published.setdefault(row, set()).add(part)
    # One row per component and set of stages, with the published number of its parts beside it.
    total, comparable = sum(parts.values()), is_comparable(parts)
    return ParameterCount(
        source=str(source),
        rows=[
            ParameterRow(
                component=row[0],
                trained_in=row[1],
                parameters=number,
                share=number / total,
                bytes=memory_bytes(number),
                published=sum(PUBLISHED[part].stored for part in published[row] if part in PUBLISHED)
                if comparable
                else None,
            )
            for row, number in groups.items()
        ],
        parts=parts,
    )


def _on_meta(source: str | Path) -> MedCoDi:
    import torch

    from medcodi.config import load
    from medcodi.model import MedCoDi, ModelConfig
    from medcodi.networks.tokenizer import AbsentTokenizer

    named = f"models/{source}" in recipe_names() and not (Path(source) / "model_index.json").is_file()
    if not named and Path(source).suffix not in (".yaml", ".yml"):
        return MedCoDi.from_pretrained(source, lazy=True)
    config = load(ModelConfig, source)
    with torch.device("meta"):
        return MedCoDi(config, AbsentTokenizer(config.vocab_size, "prompts"))


def _parameters(model: MedCoDi) -> Iterator[tuple[str, str, str, int]]:
    """Component, name within it, name in the model, and size of every parameter; a shared one once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for component, module in model.components().items():
        for name, parameter in module.named_parameters():
            yield component, name, names[id(parameter)], parameter.numel()


def memory_bytes(number: int) -> dict[str, int]:
    """Precision -> bytes of ``number`` parameters."""
    return {precision: number * size for precision, size in BYTES.items()}


# ---- the published model, and the reckoning that leads from it to another --------------------------------------------
@dataclass(frozen=True)
class Published:
    """Parameters of one part of the published checkpoint."""

    stored: int  # in the file; a tied matrix counts once
    live: int  # those that the generation of still images, or the encoding of a prompt, executes


PAPER_TOTAL = 6.77e9  # arXiv 2501.04614, abstract
# Counted from the public code: the sums by prefix are in tests/golden/xgem_prefixes.json.
PUBLISHED: dict[str, Published] = {
    "prompt_encoders.image_tower": Published(613_996_912, 303_966_208),
    "prompt_encoders.text_tower": Published(123_650_304, 123_650_304),
    "prompt_encoders.logit_scale": Published(1, 0),
    "autoencoder_image": Published(101_951_463, 83_653_863),
    "autoencoder_text": Published(241_599_744, 241_599_744),
    "denoiser_frontal": Published(1_422_027_851, 859_520_964),
    "denoiser_frontal.connectors": Published(243_947_200, 243_947_200),
    "denoiser_lateral": Published(1_422_027_851, 859_520_964),
    "denoiser_lateral.connectors": Published(243_947_200, 243_947_200),
    "denoiser_report": Published(1_708_848_448, 1_708_848_448),
    "denoiser_report.connectors": Published(243_947_200, 243_947_200),
    "environment_frontal": Published(106_809_196, 52_352_800),
    "environment_lateral": Published(106_809_196, 52_352_800),
    "environment_report": Published(95_589_760, 95_589_760),
}
_NONE = Published(0, 0)
_TEMPERATURE, _TIME = "prompt_encoders.logit_scale", ".time"


def published_part(component: str, name: str) -> str:
    """The part of a parameter: a key of ``PUBLISHED``, ``environment_*.time``, or the component."""
    first = f"{component}.{name.split('.', 1)[0]}"
    if first in PUBLISHED or (component.startswith("environment_") and first.endswith(_TIME)):
        return first
    return f"{component}.connectors" if ".connector." in name else component


def is_comparable(parts: Mapping[str, int]) -> bool:
    """Whether at least one denoiser has the published size."""
    return any(
        count == PUBLISHED.get(part, _NONE).live for part, count in parts.items() if part.startswith("denoiser_")
    )


@dataclass(frozen=True)
class ReckoningLine:
    """One line of the reckoning: a running sum, or a change to it."""

    kind: str  # "sum" or "change"
    parameters: int
    what: str


def reckoning(parts: Mapping[str, int]) -> list[ReckoningLine]:
    """Lead from the parameters of the published file to those of a model, naming every difference.

    Args:
        parts: Parameters of each part (see :func:`published_part`).

    Returns:
        Sums (the file, the part of it that runs, the model) and the changes that lead from each to the next.
    """
    # What of the published file runs.
    stored, live = sum(p.stored for p in PUBLISHED.values()), sum(p.live for p in PUBLISHED.values())
    temperature = PUBLISHED[_TEMPERATURE].stored - PUBLISHED[_TEMPERATURE].live
    lines = [
        ReckoningLine("sum", stored, "in the published file"),
        ReckoningLine("change", live - stored + temperature, "video layers, which no still image runs"),
        ReckoningLine("change", -temperature, "the temperature of the prompt encoders: generation does not use it"),
        ReckoningLine("sum", live, "of these can run"),
    ]

    # Differences of the parts; those with one reason become one line.
    changes: dict[str, int] = {}
    for part in [*PUBLISHED, *(part for part in parts if part not in PUBLISHED)]:
        change = parts.get(part, 0) - PUBLISHED.get(part, _NONE).live
        if change:
            reason = _reason(part, parts.get(part, 0))
            changes[reason] = changes.get(reason, 0) + change
    lines += [ReckoningLine("change", change, reason) for reason, change in changes.items()]
    return [*lines, ReckoningLine("sum", sum(parts.values()), "here")]


def _reason(part: str, count: int) -> str:
    if part == _TEMPERATURE:
        return "the temperature again: the stage align trains it"
    if part.endswith(_TIME):
        return "the time embedding: each environment encoder has its own, a copy of its denoiser's"
    return f"{part}: {count:,} here, {PUBLISHED.get(part, _NONE).live:,} there"
