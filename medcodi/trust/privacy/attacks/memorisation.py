"""Memorisation: are generations nearer to members than to non-members, beyond what the prompts explain?

A generation resembles the study whose report prompted it, whether or not the model was trained on it: that is conditioning. So
members' prompts are always set against non-members' prompts, and both against studies of other patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medcodi.evaluation.studies import HeldOutStudies
from medcodi.metrics.bootstrap import known_mean
from medcodi.metrics.paired import holm
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.trust.privacy.attacks.spaces import Space
from medcodi.trust.privacy.statistics import LEFT_OUT, MEMBER, excess, nearest_excess, separation

COPY_QUANTILE = 0.01  # of the distances between real patients; a generation nearer to a study than that is a copy
_BLOCK = 256  # generations at a time


# ---- measuring -------------------------------------------------------------------------------------------------------
def neighbours(
    studies: HeldOutStudies,
    target: str,
    rows: Sequence[int],
    generated: Sequence[Any],
    space: Space,
    num: int,
) -> dict[str, np.ndarray]:
    """Distances of generations to the real studies, in one space.

    Args:
        studies: The real ones.
        target: The modality that was generated.
        rows: Of the studies whose prompts gave the generations; the real ones are these too.
        generated: One for each row.
        space: In which distances are taken.
        num: Nearest neighbours that are stored.

    Returns:
        By row of all studies, NaN or -1 elsewhere: ``own`` ``[N]``, the distance to the study of the prompt; ``nearest`` and
        ``distance`` ``[N, K]``, the nearest studies of other patients; ``real`` ``[N]``, the distance of the real study to the nearest of
        another patient.
    """
    real = space.features(target, studies.values(target, rows))
    made = space.features(target, generated)
    patients = np.array([studies.patients[row] for row in rows], dtype=object)
    num = min(num, len(rows) - 1)
    own, between = np.full(len(studies), np.nan), np.full(len(studies), np.nan)
    nearest = np.full((len(studies), num), -1, np.int32)
    distance = np.full((len(studies), num), np.nan)
    index = np.asarray(rows)
    rng = numpy_generator("audit ties", len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        own_rows = index[part]
        # To the study of the prompt.
        table = space.distances(made[part], real).astype(np.float64)  # [B, R]
        own[own_rows] = table[np.arange(len(own_rows)), np.arange(start, start + len(own_rows))]
        # To studies of other patients.
        same = patients[part][:, None] == patients[None]
        table[same] = np.inf
        # Ties are drawn: members come first in the rows, and would be the nearest of all equal reports.
        order = np.lexsort((rng.random(table.shape), table), axis=1)[:, :num]
        found = np.take_along_axis(table, order, axis=1)
        nearest[own_rows] = np.where(np.isfinite(found), index[order], -1)
        distance[own_rows] = np.where(np.isfinite(found), found, np.nan)
        # Between real patients.
        table = space.distances(real[part], real).astype(np.float64)
        table[same] = np.inf
        between[own_rows] = table.min(1)
    between[~np.isfinite(between)] = np.nan
    return {"own": own, "nearest": nearest, "distance": distance, "real": between}


def measure(
    studies: HeldOutStudies,
    contents: Mapping[str, Sequence[Any]],
    rows: Sequence[int],
    spaces: Sequence[Space],
    num: int,
) -> dict[str, np.ndarray]:
    """:func:`neighbours` of all targets of a direction: ``"<target>/<space>/own"`` and so on."""
    measured = {}
    for target, values in contents.items():
        for space in spaces:
            if MODALITIES[target].kind in space.kinds:
                arrays = neighbours(studies, target, rows, values, space, num)
                measured |= {f"{target}/{space.name}/{name}": array for name, array in arrays.items()}
    return measured


# ---- figures ---------------------------------------------------------------------------------------------------------
def memorisation_figures(
    measured: Mapping[tuple[str, str, str], Mapping[str, np.ndarray]],
    labels: np.ndarray,
    patients: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Figures of every (direction, target, space), and the family's p (Holm over all tests)."""
    rows, left_out = [], []
    for (direction, target, space), arrays in measured.items():
        named = {"direction": direction, "target": target, "space": space}
        own = separation(-arrays["own"], labels, patients)
        if own is None:
            left_out.append({"figure": f"{direction} of {target} in {space}", "reason": "too few patients have it"})
            continue
        # Calibrated by how near the generation is to anybody: a plain film is near to many.
        others = known_mean(arrays["distance"], 1)
        calibrated = separation(-arrays["own"] / np.maximum(others, 1e-9), labels, patients)
        nearest = nearest_excess(_nearest_labelled(arrays["nearest"], labels), labels, patients)
        threshold = copy_threshold(arrays["real"], labels)
        copied = np.where(np.isfinite(arrays["own"]), (arrays["own"] < threshold).astype(float), np.nan)
        copies = excess(copied, labels, patients, resamples, seed, "copies", direction, target, space)
        figures = {"own": own, "calibrated": calibrated, "nearest": nearest, "copies": copies}
        rows.append({**named, **figures, "copy_distance": threshold})
    tests = [row[name]["p_value"] for row in rows for name in ("own", "calibrated", "nearest") if row[name]]
    return {"rows": rows, "p_value": min(holm(tests), default=None), "num_tests": len(tests), "left_out": left_out}


def copy_threshold(between: np.ndarray, labels: np.ndarray) -> float:
    """Distance below which a generation is nearer to a study than all but 1 % of real studies are to another patient's."""
    known = between[(labels != LEFT_OUT) & np.isfinite(between)]
    return float(np.quantile(known, COPY_QUANTILE)) if len(known) else 0.0


def most_similar(
    measured: Mapping[tuple[str, str, str], Mapping[str, np.ndarray]], labels: np.ndarray, num: int
) -> list[dict[str, Any]]:
    """The members whose generations are nearest to them, compared with other patients: direction, target, space, row, ratio.

    Every direction and target has its share of ``num``, or short reports, which are soon alike, would leave no room for films.
    """
    pairs = []
    for (direction, target, space), arrays in measured.items():
        ratio = arrays["own"] / np.maximum(known_mean(arrays["distance"], 1), 1e-9)
        for row in np.flatnonzero((labels == MEMBER) & np.isfinite(ratio)):
            pairs.append((float(ratio[row]), direction, target, space, int(row)))
    share = -(-num // max(len({key[:2] for key in measured}), 1))
    chosen: dict[tuple[str, str, int], dict[str, Any]] = {}
    for ratio, direction, target, space, row in sorted(pairs):
        if len(chosen) >= num:
            break
        if sum(key[:2] == (direction, target) for key in chosen) >= share:
            continue
        entry = {"direction": direction, "target": target, "space": space, "row": row, "ratio": ratio}
        chosen.setdefault((direction, target, row), entry)
    return list(chosen.values())


def _nearest_labelled(nearest: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Nearest stored neighbour that has a label: int ``[N]``, -1 where none has."""
    usable = (nearest >= 0) & (labels[np.maximum(nearest, 0)] != LEFT_OUT)  # [N, K]
    first = np.argmax(usable, axis=1)
    return np.where(usable.any(1), nearest[np.arange(len(nearest)), first], -1)
