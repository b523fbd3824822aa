"""How many parameters a model has, part by part, and how that count follows from the published MedCoDi-M's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medcodi.config import load
from medcodi.model import MedCoDi, ModelConfig
from medcodi.networks.tokenizer import AbsentTokenizer
from medcodi.stages.trained import trained_in

BYTES = {"fp32": 4, "bf16": 2}  # of one parameter


@dataclass(frozen=True)
class ParameterRow:
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
        parts: Part (see :func:`published_part`) -> parameters.
    """

    source: str
    rows: list[ParameterRow]
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
            ParameterRow(
                component=row[0],
                trained_in=row[1],
                parameters=number,
                share=number / total,
                bytes=memory_bytes(number),
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


def memory_bytes(number: int) -> dict[str, int]:
    """Precision -> bytes that so many parameters take."""
    return {precision: number * size for precision, size in BYTES.items()}


@dataclass(frozen=True)
class Published:
    """Parameters of one part in the published checkpoint.

    Attributes:
        stored: In the file (a tied matrix once).
        live: Of these, the ones that some generation of still images, or encoding of a prompt, executes.
    """

    stored: int
    live: int


PAPER_TOTAL = 6.77e9  # arXiv 2501.04614, abstract
# Counted from the public code; tests/golden/xgem_prefixes.json holds the sums by prefix that these come from.
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
    """The part that a parameter belongs to: a key of ``PUBLISHED``, ``environment_*.time``, or the component."""
    first = f"{component}.{name.split('.', 1)[0]}"
    if first in PUBLISHED or (component.startswith("environment_") and first.endswith(_TIME)):
        return first
    return f"{component}.connectors" if ".connector." in name else component


def is_comparable(parts: Mapping[str, int]) -> bool:
    """Whether a model's parts are the published ones: at least one denoiser has the same size."""
    return any(
        count == PUBLISHED.get(part, _NONE).live for part, count in parts.items() if part.startswith("denoiser_")
    )


@dataclass(frozen=True)
class ReckoningLine:
    """One line of the reckoning: a sum so far, or what is added to it."""

    kind: str  # "sum" or "change"
    parameters: int
    what: str


def reckoning(parts: Mapping[str, int]) -> list[ReckoningLine]:
    """From the published file's parameters to a model's, every difference named.

    Args:
        parts: Parameters of each part (see :func:`published_part`).

    Returns:
        Lines whose changes add up from each sum to the next: the file, what runs of it, the model.
    """
    stored, live = sum(p.stored for p in PUBLISHED.values()), sum(p.live for p in PUBLISHED.values())
    temperature = PUBLISHED[_TEMPERATURE].stored - PUBLISHED[_TEMPERATURE].live
    lines = [
        ReckoningLine("sum", stored, "in the published file"),
        ReckoningLine("change", live - stored + temperature, "video layers, which no still image runs"),
        ReckoningLine("change", -temperature, "the temperature of the prompt encoders: generation does not use it"),
        ReckoningLine("sum", live, "of these can run"),
    ]
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
