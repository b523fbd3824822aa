"""The one table of modalities. A further modality is one more row here; docs/MODALITIES.md says what a new kind needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from medcodi.errors import PromptError, one_of

Kind = Literal["image", "text", "table"]


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One kind of content of a study that can be a prompt or a target."""

    name: str
    kind: Kind  # decides which autoencoder, prompt tower and denoiser serve it
    title: str  # for pages and plots
    view_codes: tuple[str, ...] = ()  # words that mean this view, in order of preference: see data/dicom/views.py
    short: str  # one letter, for compact tables
    standard: bool = True  # whether models and directions have it by default


_ROWS = (
    Modality(
        name="frontal",
        kind="image",
        title="Frontal X-ray",
        short="F",
        view_codes=("PA", "AP", "AP SUPINE", "AP ERECT", "FRONTAL", "POSTERO-ANTERIOR", "ANTERO-POSTERIOR")
        + ("POSTEROANTERIOR", "ANTEROPOSTERIOR", "FRONTALE", "FRENTE", "FACE"),
    ),
    Modality(
        name="lateral",
        kind="image",
        title="Lateral X-ray",
        short="L",
        view_codes=("LATERAL", "LL", "RL", "LAT", "L", "LATERALE", "PERFIL", "PROFIL", "SEITLICH"),
    ),
    Modality(name="report", kind="text", title="Report", short="R"),
    Modality(name="record", kind="table", title="Record", short="T", standard=False),
)

MODALITIES: dict[str, Modality] = {row.name: row for row in _ROWS}
STANDARD = tuple(row.name for row in _ROWS if row.standard)  # frontal, lateral, report: the paper's three


def modality(name: str) -> Modality:
    """Look a modality up by name.

    Raises:
        PromptError: If there is no such modality; names the nearest one.
    """
    return MODALITIES[one_of("modality", name, MODALITIES, PromptError)]


def names(kind: Kind | None = None) -> tuple[str, ...]:
    """Names in table order, of one kind or of all."""
    return tuple(row.name for row in _ROWS if kind is None or row.kind == kind)


def in_table_order(chosen: Iterable[str]) -> tuple[str, ...]:
    """The chosen modalities, checked and in table order, each once.

    Raises:
        PromptError: If one is unknown.
    """
    wanted = {modality(name).name for name in chosen}
    return tuple(name for name in MODALITIES if name in wanted)
