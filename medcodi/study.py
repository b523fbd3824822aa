"""Studies (one examination of one patient), their findings, and directions of generation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from medcodi.errors import DataError, PromptError
from medcodi.modality import MODALITIES, STANDARD, Kind, in_table_order, modality
from medcodi.record import Record, record_text

# CheXpert's fourteen names, in CheXpert's order (Irvin et al., 2019, Table 1).
CHEXPERT_LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of a study, as truth (phantom) or as read from a report (labeler)."""

    label: str  # one of CHEXPERT_LABELS
    side: str | None = None  # "left", "right", "bilateral"; None where it has no side
    location: str | None = None  # "upper", "middle", "lower" lobe or zone
    size: str | None = None  # "small", "moderate", "large"
    state: str = "positive"  # "positive", "negative", "uncertain"


def finding_words(finding: Finding) -> str:
    """``"large left lower Lung Lesion"``."""
    return " ".join(filter(None, (finding.size, finding.side, finding.location, finding.label)))


# What a study holds of one modality, a prompt gives and a model generates: float32 [H, W] in [0, 1], bone bright; a text; or a record.
Content = np.ndarray | str | Record
CONTENT_TYPES: dict[Kind, type] = {"image": np.ndarray, "text": str, "table": Mapping}


def content_text(value: Content | None) -> str | None:
    """A text or record in words; None for an image or nothing."""
    if isinstance(value, Mapping):
        return record_text(value)
    return value if isinstance(value, str) else None


@dataclass(frozen=True, kw_only=True)
class Study:
    """One examination: at most one image per view, a report, labels, metadata."""

    study_id: str  # unique in its dataset
    patient_id: str  # studies of one patient share it; splits keep them together
    # modality name -> content. What is absent has no key
    contents: Mapping[str, Content] = field(default_factory=dict)
    # CheXpert name -> 1 present, 0 absent, -1 uncertain. Unknown labels have no key
    labels: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()  # exact truth where it is known (the phantom), else empty
    # further values of the source (sex, age, view position, licence ...)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.contents.items():
            if not isinstance(value, CONTENT_TYPES[modality(name).kind]):
                raise DataError(
                    f"study {self.study_id!r}: {name} holds a {type(value).__name__}",
                    expected="an array for images, a str for reports, fields with values for records",
                )
        unknown = set(self.labels) - set(CHEXPERT_LABELS)
        if unknown:
            raise DataError(
                f"study {self.study_id!r}: unknown labels {sorted(unknown)}", expected="CheXpert's fourteen names"
            )

    @property
    def images(self) -> dict[str, np.ndarray]:
        """The image modalities present, float32 ``[H, W]`` in [0, 1]."""
        return {name: value for name, value in self.contents.items() if isinstance(value, np.ndarray)}

    @property
    def report(self) -> str | None:
        """The first text modality present, or None."""
        return next((value for value in self.contents.values() if isinstance(value, str)), None)

    @property
    def record(self) -> Record | None:
        """The record, or None."""
        return next((value for value in self.contents.values() if isinstance(value, Mapping)), None)


@dataclass(frozen=True, order=True)
class Direction:
    """Prompts -> targets, e.g. ``frontal+report->lateral``. Disjoint; targets non-empty; no prompts: unconditional."""

    prompts: tuple[str, ...]
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", in_table_order(self.prompts))
        object.__setattr__(self, "targets", in_table_order(self.targets))
        both = set(self.prompts) & set(self.targets)
        if both:
            raise PromptError(
                f"{', '.join(sorted(both))} is both prompt and target in '{self}'",
                expected="prompts and targets without a common modality",
                fix="leave it out of the targets, or out of the prompts",
            )
        if not self.targets:
            raise PromptError(
                f"'{self}' has no targets",
                expected="at least one of " + ", ".join(MODALITIES),
                fix="name a target, or give fewer prompts",
            )

    def __str__(self) -> str:
        return "+".join(self.prompts) + "->" + "+".join(self.targets)

    @classmethod
    def parse(cls, text: str) -> Direction:
        """Read ``"frontal+report->lateral"`` (``→`` works too; nothing before the arrow: unconditional).

        Raises:
            PromptError: If there is no arrow, or a modality is unknown, doubled on both sides, or no target is left.
        """
        before, arrow, after = text.replace("→", "->").replace(" ", "").partition("->")
        if not arrow:
            raise PromptError(
                f"'{text}' is not a direction", expected="prompts->targets such as frontal+report->lateral"
            )
        return cls(tuple(filter(None, before.split("+"))), tuple(filter(None, after.split("+"))))


def subsets(items: Iterable[str], least: int = 1) -> list[tuple[str, ...]]:
    """Every subset of at least ``least`` items, smaller ones first; items keep their order."""
    items = list(items)
    return [subset for size in range(least, len(items) + 1) for subset in combinations(items, size)]


def all_directions(modalities: Iterable[str] = STANDARD) -> list[Direction]:
    """Every direction with a prompt and a target: 12 of them for 3 modalities, single targets first."""
    modalities = in_table_order(modalities)
    directions = [
        Direction(prompts, targets)
        for targets in subsets(modalities)
        for prompts in subsets(name for name in modalities if name not in targets)
    ]
    return sorted(directions, key=lambda direction: (len(direction.targets), len(direction.prompts)))
