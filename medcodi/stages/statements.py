"""Statements about findings, and how well encodings of prompts agree with them.

InfoNCE alone finds what tells most studies apart (the patient, large findings) long before a finding that few studies have, and a
denoiser cannot draw what its prompt's encoding left out. So ``align`` can also ask each encoding to lie nearer to the statements that
hold for its study than to their denials: what UniCL (Yang et al., 2022, arXiv 2204.03610) and MedCLIP (Wang et al., 2022, arXiv
2210.10163) do with labels. The statements are texts, encoded by the text tower like any other; whether they hold is read from the
study's report by the rule labeler. So nothing is needed but pairs of films and reports, and nothing is added to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from medcodi.metrics.labeler import label_report, labels_from_findings
from medcodi.study import CHEXPERT_LABELS

_SIDED = ("Lung Opacity", "Lung Lesion", "Consolidation", "Atelectasis", "Pneumothorax", "Pleural Effusion")


@dataclass(frozen=True)
class Statement:
    """A finding, on a side or on any, with the words that claim and deny it."""

    label: str  # of CheXpert's
    side: str | None = None  # "left", "right"

    @property
    def claim(self) -> str:
        """The text that says it."""
        if self.label == "No Finding":
            return "No acute cardiopulmonary abnormality."
        return f"{self._words.capitalize()}."

    @property
    def denial(self) -> str:
        """The text that says the contrary."""
        return "Abnormal chest." if self.label == "No Finding" else f"No {self._words}."

    @property
    def _words(self) -> str:
        return f"{self.side} {self.label.lower()}" if self.side else self.label.lower()


STATEMENTS: tuple[Statement, ...] = (
    *(Statement(label) for label in CHEXPERT_LABELS),
    *(Statement(label, side) for label in _SIDED for side in ("left", "right")),
)
STATEMENT_TEXTS: tuple[str, ...] = (
    *(statement.claim for statement in STATEMENTS),
    *(statement.denial for statement in STATEMENTS),
)


@lru_cache(maxsize=1 << 17)
def _truth(report: str) -> tuple[float, ...]:
    findings = label_report(report)
    labels = labels_from_findings(findings)
    sides: dict[str, set[str | None]] = {}
    for finding in findings:
        if finding.state == "positive":
            sides.setdefault(finding.label, set()).add(finding.side)
    row = []
    for statement in STATEMENTS:
        value = labels.get(statement.label, 0.0)
        told = sides.get(statement.label, set()) - {None}
        if statement.side and value == 1.0:
            value = float(statement.side in told or "bilateral" in told) if told else -1.0
        row.append(value if value >= 0 else float("nan"))
    return tuple(row)


def statement_truth(reports: Sequence[str]) -> Tensor:
    """Which statements hold, as the reports tell it.

    Args:
        reports: B texts.

    Returns:
        float32 ``[B, K]``: 1 holds, 0 does not (or is not mentioned), NaN: the report is unsure, tells no side, or is empty.
    """
    rows = [_truth(report) if report.strip() else (float("nan"),) * len(STATEMENTS) for report in reports]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(reports), len(STATEMENTS))


@dataclass(frozen=True)
class Agreement:
    """How encodings agree with statements, row by row.

    Attributes:
        loss: ``[B]`` binary cross-entropy in nats, summed over statements.
        hits: ``[B]`` share of the claims that hold which the encoding is nearer to than to their denial; without gradient.
        claims: ``[B]`` how many hold.
    """

    loss: Tensor
    hits: Tensor
    claims: Tensor


def agreement(pooled: Tensor, statements: Tensor, truth: Tensor, scale: Tensor) -> Agreement:
    """Hold encodings against statements: the logit of each is ``scale * pooled . (claim - denial)``.

    Args:
        pooled: Unit vectors ``[B, D]`` of one modality.
        statements: Unit vectors ``[2 K, D]`` of ``STATEMENT_TEXTS``.
        truth: ``[B, K]`` of :func:`statement_truth`; NaN takes no part.
        scale: Inverse temperature.
    """
    claims, denials = statements.float().chunk(2)
    with torch.autocast(pooled.device.type, enabled=False):
        logits = scale * pooled.float() @ (claims - denials).T  # [B, K]
    holds = truth.nan_to_num(0.0)
    claims_held = holds.sum(1)
    hits = ((logits.detach() > 0) * holds).sum(1) / claims_held.clamp(min=1)
    return Agreement(statement_loss(logits, truth), hits, claims_held)


def statement_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy of logits ``[B, K]`` against :func:`statement_truth`, in nats, summed over what is known: ``[B]``."""
    each = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(0.0), reduction="none")
    return (each * ~truth.isnan()).sum(1)
