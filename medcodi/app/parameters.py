"""How many parameters a model has, part by part, without allocating one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from medcodi.app.published import PAPER_TOTAL, PUBLISHED, is_comparable, published_part, reckoning
from medcodi.config import load
from medcodi.model import MedCoDi, ModelConfig
from medcodi.networks.tokenizer import AbsentTokenizer
from medcodi.stages.stage import trained_in

BYTES = {"fp32": 4, "bf16": 2}
UNITS = {"GiB": 2**30, "MiB": 2**20}


@dataclass(frozen=True)
class Row:
    """Parameters of one component that the same stages train.

    Attributes:
        component: As its file is called.
        trained_in: The stages that train them, in order; empty: none does.
        parameters: How many.
        share: Of all the model's.
        bytes: Precision -> what they take in memory, alone.
        published: How many the published file has in the same place; None where the model is not comparable to it.
    """

    component: str
    trained_in: tuple[str, ...]
    parameters: int
    share: float
    bytes: dict[str, int]
    published: int | None


@dataclass(frozen=True)
class ParameterCount:
    """A model, counted.

    Attributes:
        source: What was counted.
        rows: In the order of assembly.
        parts: Part (see :func:`medcodi.app.published.published_part`) -> parameters.
    """

    source: str
    rows: list[Row]
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parts.values())

    @property
    def is_comparable(self) -> bool:
        """Whether it stands beside the published model."""
        return is_comparable(self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values: dict[str, Any] = {
            "source": self.source,
            "parameters": self.total,
            "bytes": _bytes(self.total),
            "rows": [asdict(row) for row in self.rows],
        }
        if self.is_comparable:
            values["paper"] = PAPER_TOTAL
            values["published_to_here"] = [asdict(line) for line in reckoning(self.parts)]
        return values


def count_parameters(source: str | Path) -> ParameterCount:
    """Count a model on the meta device: nothing is allocated, no weight is read.

    Args:
        source: A YAML file of a :class:`ModelConfig`, or a model folder.

    Raises:
        ConfigError: If the YAML file is not a model configuration.
        CheckpointError: If the folder holds no model.
    """
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
    total, beside = sum(parts.values()), is_comparable(parts)
    return ParameterCount(
        source=str(source),
        rows=[
            Row(
                component=row[0],
                trained_in=row[1],
                parameters=number,
                share=number / total,
                bytes=_bytes(number),
                published=sum(PUBLISHED[part].stored for part in published[row] if part in PUBLISHED)
                if beside
                else None,
            )
            for row, number in groups.items()
        ],
        parts=parts,
    )


def _on_meta(source: str | Path) -> MedCoDi:
    if Path(source).suffix not in (".yaml", ".yml"):
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


def _bytes(number: int) -> dict[str, int]:
    return {precision: number * size for precision, size in BYTES.items()}


def parameter_table(count: ParameterCount) -> Table:
    """The rows and their sum; beside them the published file's, where the model is comparable to it."""
    table = Table(title=count.source, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("component", "trained in"):
        table.add_column(column, no_wrap=True)
    unit = next((name for name, size in UNITS.items() if _bytes(count.total)["fp32"] >= size), "MiB")

    def memory(number: int) -> list[str]:
        return [f"{size / UNITS[unit]:.2f}" for size in _bytes(number).values()]

    for column in ("parameters", "share", *(f"{name} {unit}" for name in BYTES)):
        table.add_column(column, justify="right", no_wrap=True)
    if count.is_comparable:
        table.add_column("published file", justify="right", no_wrap=True)
    shown = ""
    for row in count.rows:
        cells = ["" if row.component == shown else row.component, ", ".join(row.trained_in) or "none"]
        cells += [f"{row.parameters:,}", f"{100 * row.share:.1f} %", *memory(row.parameters)]
        table.add_row(*cells, *([f"{row.published:,}"] if row.published is not None else []))
        shown = row.component
    table.add_section()
    cells = ["all", "", f"{count.total:,}", "100 %", *memory(count.total)]
    table.add_row(*cells, *([f"{sum(p.stored for p in PUBLISHED.values()):,}"] if count.is_comparable else []))
    return table


def reckoning_table(count: ParameterCount) -> Table:
    """From the paper's count to this model's, every difference named; the changes add up to the last parameter."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    lines = reckoning(count.parts)
    above = PAPER_TOTAL - lines[0].parameters
    table.add_row(f"{PAPER_TOTAL / 1e9:.2f} B", f"in the paper; its file holds {above / 1e9:.2f} B fewer")
    for line in lines:
        table.add_row(f"{line.parameters:+,}" if line.kind == "change" else f"= {line.parameters:,}", line.what)
    return table
