"""The head of the finding classifier that reads fields of a record from an image: age, sex, body-mass index.

A number has one output, its standardised value; a category has one for each of its values. What it reads is judged on real held-out
images: a field counts where it is recognised there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcodi.metrics.fields import NUMBERS, Fields, columns_of
from medcodi.metrics.findings import auroc

# Least correlation of a number, and least AUROC of a category, on real held-out images of at least MIN_STUDIES studies.
MIN_CORRELATION, MIN_AUROC, MIN_STUDIES = 0.5, 0.8, 20


class RecordHead(nn.Module):
    """Pooled features ``[B, P]`` of images of V views -> C outputs: one of each number, one of each category."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_features: int, num_views: int, fields: Fields) -> None:
        super().__init__()
        self.fields, self.num_views = dict(fields), num_views
        self.columns = columns_of(fields)
        self.num_columns = max(column.stop for column in self.columns.values())
        self.linear = nn.Linear(num_features, num_views * self.num_columns)
        # Of numbers, on their own scale, in the training studies; 0 and 1 of categories.
        self.register_buffer("mean", torch.zeros(self.num_columns))
        self.register_buffer("std", torch.ones(self.num_columns))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Take mean and standard deviation of each number from the training studies, ``[M, F]``, NaN where unknown."""
        for index, (name, field) in enumerate(self.fields.items()):
            known = values[:, index][~values[:, index].isnan()]
            if field.is_numeric and len(known) > 1:
                self.mean[self.columns[name]] = known.mean()
                self.std[self.columns[name]] = known.std().clamp(min=1e-6)

    def forward(self, pooled: Tensor, views: Tensor) -> Tensor:
        """Outputs ``[B, C]`` by the head of each image's view, long ``[B]``."""
        outputs = self.linear(pooled).unflatten(1, (self.num_views, -1))  # [B, V, C]
        return outputs[torch.arange(len(views), device=views.device), views]

    def loss(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Half the squared error of numbers and the cross-entropy of categories, averaged over the known fields.

        Args:
            outputs: ``[B, C]``.
            values: ``[B, F]`` on each field's own scale, categories by index, NaN where unknown.
        """
        known = ~values.isnan()  # [B, F]
        losses = []  # F of [B]
        for index, (name, field) in enumerate(self.fields.items()):
            own, columns = outputs[:, self.columns[name]].float(), self.columns[name]
            truth = values[:, index].nan_to_num(0.0)
            if field.is_numeric:
                losses.append(0.5 * (own[:, 0] - (truth - self.mean[columns]) / self.std[columns]).square())
            else:
                losses.append(F.cross_entropy(own, truth.long(), reduction="none"))
        return (torch.stack(losses, 1) * known).sum() / known.sum().clamp(min=1)

    def read(self, outputs: Tensor) -> Tensor:
        """Outputs ``[B, C]`` -> numbers on their own scale, and the probability of each category."""
        parts = []
        for name, field in self.fields.items():
            own, columns = outputs[:, self.columns[name]].float(), self.columns[name]
            parts.append(own * self.std[columns] + self.mean[columns] if field.is_numeric else own.softmax(1))
        return torch.cat(parts, 1)


def measure_reading(fields: Fields, truth: np.ndarray, values: np.ndarray) -> dict[str, dict[str, Any]]:
    """Figures of what was recognised: field -> studies, and r and r2 of a number, or auroc and accuracy of categories (None where undefined).

    Args:
        fields: Of the record.
        truth: ``[N, F]``, NaN where unknown.
        values: What was read, ``[N, C]``.
    """
    measured: dict[str, dict[str, Any]] = {}
    columns = columns_of(fields)
    for index, (name, field) in enumerate(fields.items()):
        known = ~np.isnan(truth[:, index])
        true, read = truth[known, index], values[known, columns[name]]
        figures: dict[str, float] = {}
        # Numbers: R² and correlation. Categories: the mean area of each against the others, and accuracy.
        if field.is_numeric and len(true) > 1:
            ones = np.ones((1, len(true)))
            figures = {
                measure: float(statistic(true, read[:, 0].astype(np.float64))(ones)[0])
                for measure, statistic in NUMBERS.items()
            }
        elif not field.is_numeric and len(true):
            areas = [auroc((true == category).astype(float), read[:, category]) for category in range(read.shape[1])]
            figures = {"auroc": float(np.nanmean(areas)) if not np.isnan(areas).all() else np.nan}
            figures["accuracy"] = float((read.argmax(1) == true).mean())
        finite = {key: round(value, 5) if np.isfinite(value) else None for key, value in figures.items()}
        measured[name] = {**finite, "studies": int(known.sum())}
    return measured


def recognised(measured: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The fields that were recognised well enough, by what :func:`measure_reading` gave."""
    return tuple(
        name
        for name, figures in measured.items()
        if figures["studies"] >= MIN_STUDIES
        and ((figures.get("r") or 0) >= MIN_CORRELATION or (figures.get("auroc") or 0) >= MIN_AUROC)
    )
