"""Statements about findings, and how well encodings of prompts agree with them.

InfoNCE alone learns what separates most studies (the patient, large findings) long before a finding that few studies have, and a
denoiser cannot draw what its prompt's encoding lacks. So ``align`` can also train each encoding to be nearer to the statements that
hold for its study than to their denials, as UniCL (Yang et al., 2022, arXiv 2204.03610) and MedCLIP (Wang et al., 2022, arXiv
2210.10163) do with labels. Statements are texts for the text tower; the rule labeler reads from the report whether they hold.
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
    """A finding, on one side or any, in words."""

    label: str  # one of CheXpert's
    side: str | None = None  # "left", "right"

    @property
    def claim(self) -> str:
        """The text that states it."""
        if self.label == "No Finding":
            return "No acute cardiopulmonary abnormality."
        return f"{self._words.capitalize()}."

    @property
    def denial(self) -> str:
        """The text that states the contrary."""
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
        stated = sides.get(statement.label, set()) - {None}
        if statement.side and value == 1.0:  # a finding without a side leaves both sides open
            value = float(statement.side in stated or "bilateral" in stated) if stated else -1.0
        row.append(value if value >= 0 else float("nan"))
    return tuple(row)


def statement_truth(reports: Sequence[str]) -> Tensor:
    """Truth of the statements by each report, float32 ``[B, K]``: 1 holds, 0 does not (or is not mentioned).

    NaN where the report is uncertain, names no side, or is empty.
    """
    rows = [_truth(report) if report.strip() else (float("nan"),) * len(STATEMENTS) for report in reports]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(reports), len(STATEMENTS))


@dataclass(frozen=True)
class StatementAgreement:
    """Agreement of encodings with statements, row by row."""

    loss: Tensor  # [B] binary cross-entropy in nats, summed over statements
    hits: Tensor  # [B] share of the claims that hold which the encoding is nearer to than to their denial; without gradient
    claims: Tensor  # [B] number of claims that hold


def agreement(pooled: Tensor, statements: Tensor, truth: Tensor, scale: Tensor) -> StatementAgreement:
    """Compare encodings with statements: the logit of each is ``scale * pooled . (claim - denial)``.

    Args:
        pooled: Unit vectors ``[B, D]`` of one modality.
        statements: Unit vectors ``[2 K, D]`` of ``STATEMENT_TEXTS``.
        truth: ``[B, K]`` of :func:`statement_truth`; NaN does not count.
        scale: Inverse temperature.
    """
    claims, denials = statements.float().chunk(2)
    with torch.autocast(pooled.device.type, enabled=False):
        logits = scale * pooled.float() @ (claims - denials).T  # [B, K]
    holds = truth.nan_to_num(0.0)
    num_claims = holds.sum(1)
    hits = ((logits.detach() > 0) * holds).sum(1) / num_claims.clamp(min=1)
    return StatementAgreement(statement_loss(logits, truth), hits, num_claims)


def statement_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy ``[B]`` of logits ``[B, K]`` against :func:`statement_truth`, in nats, summed over known statements."""
    each = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(0.0), reduction="none")
    return (each * ~truth.isnan()).sum(1)
