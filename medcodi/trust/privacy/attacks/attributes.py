"""Attributes: what a generated study lets one infer of the record, above what its prompt says already.

The attacker has real studies of other people with their records (the non-members), learns an attribute from them, and reads it in
generations. A model that renders age or sex as such discloses nobody; what counts is the excess for members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medcodi.metrics.bootstrap import resampling_weights
from medcodi.metrics.findings import auroc_statistic
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.study import Direction
from medcodi.trust.privacy.attacks.spaces import Space
from medcodi.trust.privacy.populations import AuditedStudies
from medcodi.trust.privacy.statistics import MEMBER, NON_MEMBER

SOURCES = ("generated", "prompts", "real")  # that an attribute is read in
LEAST_OF_EACH = 10  # studies of each value, in each group
FOLDS = 5
RIDGE = 0.1  # relative to the number of rows


# ---- measuring -------------------------------------------------------------------------------------------------------
def measure(
    studies: AuditedStudies,
    direction: Direction,
    contents: Mapping[str, Sequence[Any]],
    rows: Sequence[int],
    encoder: Space,
    seed: int,
) -> dict[str, np.ndarray]:
    """Scores of every attribute by row of all studies: ``"<attribute>/truth"`` 0, 1, NaN, and ``"<attribute>/generated"`` and so on ``[N]``."""

    def real(names: Sequence[str]) -> np.ndarray:
        used = [name for name in names if MODALITIES[name].kind in encoder.kinds]
        parts = [encoder.features(name, studies.values(name, rows)) for name in used]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 1), np.float32)

    targets = real(direction.targets)
    made = np.concatenate([encoder.features(name, contents[name]) for name in direction.targets], axis=1)
    prompts = real(direction.prompts)
    labels = studies.labels[list(rows)]
    patients = [studies.patients[row] for row in rows]
    measured = {}
    for name, truth in attribute_columns([studies.records[row] for row in rows], labels).items():
        arrays = {
            "truth": truth,
            "generated": inferred(targets, made, truth, labels, patients, seed),
            "prompts": inferred(prompts, prompts, truth, labels, patients, seed),
            "real": inferred(targets, targets, truth, labels, patients, seed),
        }
        for kind, values in arrays.items():
            column = np.full(len(studies), np.nan)
            column[list(rows)] = values
            measured[f"{name}/{kind}"] = column
    return measured


def attribute_columns(records: Sequence[Mapping[str, Any]], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Attributes that both groups have enough of, as 0, 1, NaN: categories of two values, and numbers above their median."""
    columns = {}
    for name in sorted({name for record in records for name in record}):
        values = [record.get(name) for record in records]
        numbers = np.array([value if isinstance(value, int | float) else np.nan for value in values], float)
        categories = sorted({value for value in values if isinstance(value, str)})
        if np.isfinite(numbers).any():
            middle = float(np.nanmedian(numbers))
            title = f"{name} above {middle:g}"
            column = np.where(np.isfinite(numbers), (numbers > middle).astype(float), np.nan)
        elif len(categories) == 2:
            title = f"{name} is {categories[1]}"
            column = np.array([np.nan if value is None else float(value == categories[1]) for value in values])
        else:
            continue
        counts = [((column == value) & (labels == label)).sum() for value in (0, 1) for label in (MEMBER, NON_MEMBER)]
        if min(counts) >= LEAST_OF_EACH:
            columns[title] = column
    return columns


def inferred(
    known: np.ndarray,
    read: np.ndarray,
    truth: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[str],
    seed: int,
) -> np.ndarray:
    """Scores of an attribute in ``read`` ``[B, D]``, by ridge discriminants learnt from the non-members' ``known`` ``[B, D]``.

    Non-members are scored by a discriminant that has not seen their patient; members by the mean of all.
    """
    names, cluster = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    fold = numpy_generator("audit folds", seed, len(names)).permutation(len(names))[cluster] % FOLDS
    outside = (labels == NON_MEMBER) & np.isfinite(truth)
    scores, member_scores = np.zeros(len(read)), []
    for number in range(FOLDS):
        train = outside & (fold != number)
        if len(np.unique(truth[train])) < 2:
            continue
        # Standardise by the training rows; the ridge keeps many features from few rows in check.
        mean, spread = known[train].mean(0), known[train].std(0) + 1e-6
        x = (known[train] - mean) / spread
        wanted = truth[train] * 2 - 1
        gram = x.T @ x / len(x) + RIDGE * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x.T @ (wanted - wanted.mean()) / len(x))
        own = (read - mean) / spread @ weights
        member_scores.append(own)
        scores = np.where(fold == number, own, scores)
    if member_scores:
        scores = np.where(labels == MEMBER, np.mean(member_scores, axis=0), scores)
    return scores


# ---- figures ---------------------------------------------------------------------------------------------------------
def attribute_figures(
    measured: Mapping[tuple[str, str], Mapping[str, np.ndarray]],
    labels: np.ndarray,
    patients: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """AUROC of every (direction, attribute) in generations, prompts and real targets of each group, and the gain for members."""
    rows, left_out = [], []
    for (direction, attribute), arrays in measured.items():
        groups = {"members": labels == MEMBER, "non_members": labels == NON_MEMBER}
        entry: dict[str, Any] = {"direction": direction, "attribute": attribute}
        drawn, values = [], []
        for group, chosen in groups.items():
            used = chosen & np.isfinite(arrays["truth"])
            truth = arrays["truth"][used]
            own = [patient for patient, use in zip(patients, used, strict=True) if use]
            if min((truth == 0).sum(), (truth == 1).sum()) < LEAST_OF_EACH // 2 or len(set(own)) < 2:
                break
            statistics = {source: auroc_statistic(truth, arrays[source][used]) for source in SOURCES}
            ones = np.ones((1, len(own)))
            entry[group] = {source: float(statistic(ones)[0]) for source, statistic in statistics.items()}
            weights = resampling_weights(own, min(resamples, 300), seed, "attributes", group)
            drawn.append(statistics["generated"](weights))
            values.append(entry[group]["generated"])
        if len(drawn) < 2:
            left_out.append({"figure": f"{attribute} in {direction}", "reason": "too few patients of each value"})
            continue
        low, high = np.nanquantile(drawn[0] - drawn[1], [0.025, 0.975])
        entry["gain"] = {"value": values[0] - values[1], "low": float(low), "high": float(high)}
        rows.append(entry)
    if not measured:
        left_out.append(
            {"figure": "attributes", "reason": "no study has a record or metadata with enough of two values"}
        )
    return {"rows": rows, "left_out": left_out}
