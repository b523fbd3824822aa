"""Coherence of jointly generated modalities, each figure beside real pairs (its ceiling) and re-paired generations (its floor).

Three questions of a pair of targets of one study: do the findings read from both agree, do both find each other in the shared
latent space, and (images of phantoms) do both show one body? The floor gives every study the second modality of another patient's
generation (derangements, as everywhere), so it keeps what the model makes of each modality and loses only that they belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medcodi.errors import DataError
from medcodi.evaluation.annotators.geometry import geometry_agreement
from medcodi.metrics.bootstrap import Interval, Statistic, bootstrap_interval
from medcodi.metrics.coherence import RECALLS, Contingency, agreement, pair_similarity, partner_ranks, retrieval


@dataclass(frozen=True)
class Figure:
    """One figure: of generated pairs, of real ones, of re-paired ones."""

    value: Interval
    ceiling: float | None = None
    floor: float | None = None
    lower_is_better: bool = False

    @property
    def share_of_ceiling(self) -> float | None:
        """Value over ceiling, where more is better and the ceiling is positive."""
        if self.ceiling is None or self.lower_is_better or not self.ceiling > 0:
            return None
        return self.value.value / self.ceiling

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **self.value.to_dict(),
            "ceiling": _plain(self.ceiling),
            "floor": _plain(self.floor),
            "share_of_ceiling": _plain(self.share_of_ceiling),
            "lower_is_better": self.lower_is_better,
        }


@dataclass(frozen=True)
class Coherence:
    """Coherence of one pair of modalities.

    Attributes:
        figures: Name -> figure.
        per_finding: Finding -> kappa, f1, agreement, of generated pairs (``ceiling_...`` of real ones).
        notes: What was not measured, and why.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    per_finding: dict[str, dict[str, float | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairReadings:
    """What was read from two modalities of the same N studies.

    Attributes:
        labels: Findings of each, ``[N, K]`` of 0, 1, NaN; None: not read.
        latents: Of each in the shared latent space, ``[N, D]``; None: not read.
        geometry: Attributes of each, ``[N, A]``, those that count; None: not read.
    """

    labels: tuple[np.ndarray, np.ndarray] | None = None
    latents: tuple[np.ndarray, np.ndarray] | None = None
    geometry: tuple[np.ndarray, np.ndarray] | None = None


def _plain(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _at_ones(statistic: Statistic, num: int) -> float:
    return float(statistic(np.ones((1, num)))[0])


def coherence(
    generated: PairReadings,
    real: PairReadings | None,
    names: Sequence[str],
    moved: Sequence[np.ndarray],
    weights: np.ndarray,
    *,
    recalls: Sequence[int] = RECALLS,
) -> Coherence:
    """All coherence figures that the readings allow.

    Args:
        generated: Of the jointly generated studies.
        real: Of the same studies' real contents: the ceiling.
        names: The ``K`` findings of ``labels``.
        moved: Derangements of the studies between patients, int ``[N]`` each; the floor is their mean.
        weights: Bootstrap weights, ``[R, N]``.
        recalls: Which k of recall at k.

    Raises:
        DataError: If shapes do not fit, or there is no derangement.
    """
    if not len(moved):
        raise DataError("no derangement to take a floor from", expected="at least one")
    found = Coherence(notes=())
    figures, per_finding, notes = found.figures, found.per_finding, []
    if generated.labels is not None:
        _findings(figures, per_finding, generated.labels, real.labels if real else None, names, moved, weights)
    else:
        notes.append("finding agreement was not measured: findings were not read from both")
    if generated.latents is not None:
        _latents(figures, generated.latents, real.latents if real else None, moved, weights, recalls)
    else:
        notes.append("retrieval was not measured: there are no latents of both")
    if generated.geometry is not None and generated.geometry[0].shape[1]:
        _geometry(figures, generated.geometry, real.geometry if real else None, moved, weights)
    else:
        notes.append("geometry was not measured: no attribute is known (real data) or read well enough in both")
    return Coherence(figures, per_finding, tuple(notes))


def _findings(
    figures: dict[str, Figure],
    per_finding: dict[str, dict[str, float | None]],
    labels: tuple[np.ndarray, np.ndarray],
    real: tuple[np.ndarray, np.ndarray] | None,
    names: Sequence[str],
    moved: Sequence[np.ndarray],
    weights: np.ndarray,
) -> None:
    first, second = labels
    pairs = Contingency.of(first, second)
    floor = Contingency.mean([Contingency.of(first, second[rows]) for rows in moved])
    ceiling = Contingency.of(*real) if real is not None else None
    num = len(first)
    for measure in ("kappa", "f1"):
        figures[f"finding_{measure}"] = Figure(
            bootstrap_interval(pairs.macro(measure), weights),
            None if ceiling is None else _at_ones(ceiling.macro(measure), num),
            _at_ones(floor.macro(measure), num),
        )
    told = agreement(first, pairs, names).per_finding
    beside = None if ceiling is None else agreement(first, ceiling, names).per_finding
    for name in names:
        per_finding[name] = {key: _plain(value) for key, value in told[name].items()}
        for key in ("kappa", "f1"):
            per_finding[name][f"ceiling_{key}"] = None if beside is None else _plain(beside[name][key])


def _latents(
    figures: dict[str, Figure],
    latents: tuple[np.ndarray, np.ndarray],
    real: tuple[np.ndarray, np.ndarray] | None,
    moved: Sequence[np.ndarray],
    weights: np.ndarray,
    recalls: Sequence[int],
) -> None:
    first, second = latents
    found, ceiling = retrieval(first, second, recalls=recalls), None
    if real is not None:
        ceiling = retrieval(*real, recalls=recalls)
    floors = partner_ranks(first, second, moved)
    figures["retrieval_median_rank"] = Figure(
        bootstrap_interval(found.median_statistic(), weights),
        None if ceiling is None else ceiling.median_rank,
        float(np.median(floors, axis=1).mean()),
        lower_is_better=True,
    )
    for k in recalls:
        figures[f"retrieval_recall_at_{k}"] = Figure(
            bootstrap_interval(found.recall_statistic(k), weights),
            None if ceiling is None else ceiling.recall[k],
            float((floors <= k).mean()),
        )
    alike = pair_similarity(first, second)
    known = np.ones_like(alike)
    figures["latent_similarity"] = Figure(
        bootstrap_interval(lambda rows: rows @ alike / (rows @ known), weights),
        None if real is None else float(pair_similarity(*real).mean()),
        float(np.mean([pair_similarity(first, second[rows]).mean() for rows in moved])),
    )


def _geometry(
    figures: dict[str, Figure],
    geometry: tuple[np.ndarray, np.ndarray],
    real: tuple[np.ndarray, np.ndarray] | None,
    moved: Sequence[np.ndarray],
    weights: np.ndarray,
) -> None:
    first, second = geometry
    num = len(first)
    figures["geometry_correlation"] = Figure(
        bootstrap_interval(geometry_agreement(first, second), weights),
        None if real is None else _at_ones(geometry_agreement(*real), num),
        float(np.mean([_at_ones(geometry_agreement(first, second[rows]), num) for rows in moved])),
    )
