"""One patient: the findings with their exact labels, and the body that has them, in units of half a film (about 19 cm).

Axes: x to the patient's left (the right of the film), y to the back, z to the feet; the film is [-1, 1] squared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcodi.study import CHEXPERT_LABELS, Finding

SIZES = ("small", "moderate", "large")
SIDES = ("left", "right")
LOBES = {"left": ("upper", "lower"), "right": ("upper", "middle", "lower")}
NORMAL_SHARE = 0.22
PREVALENCE = {
    "Cardiomegaly": 0.24,
    "Pleural Effusion": 0.30,
    "Pneumothorax": 0.18,
    "Consolidation": 0.26,
    "Edema": 0.16,
    "Lung Lesion": 0.24,
    "Atelectasis": 0.16,
    "Support Devices": 0.24,
}
LASTING = {"Cardiomegaly", "Lung Lesion", "Support Devices"}  # findings that do not resolve, and grow only
_OPACITIES = {"Consolidation", "Edema", "Lung Lesion", "Atelectasis"}


# ---- findings --------------------------------------------------------------------------------------------------------
def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Positive findings of one study, each drawn by itself; at most four, and about a quarter of studies have none."""
    if rng.random() < NORMAL_SHARE:
        return ()
    labels = [label for label, share in PREVALENCE.items() if rng.random() < share]
    chosen = [labels[index] for index in sorted(rng.permutation(len(labels))[:4])]
    return tuple(_draw(rng, label) for label in chosen)


def _draw(rng: np.random.Generator, label: str) -> Finding:
    side, size = pick(rng, SIDES), pick(rng, SIZES)
    if label in ("Cardiomegaly", "Edema"):
        return Finding(label=label, side="bilateral" if label == "Edema" else None, size=size)
    if label == "Pleural Effusion":
        return Finding(label=label, side="bilateral" if rng.random() < 0.25 else side, size=size)
    if label == "Pneumothorax":
        return Finding(label=label, side=side, size=size)
    if label in ("Consolidation", "Lung Lesion"):
        lobe = pick(rng, LOBES[side])
        return Finding(label=label, side=side, location=lobe, size=size if label == "Lung Lesion" else None)
    if label == "Atelectasis":
        return Finding(label=label, side=side, location="lower")
    return Finding(label=label, side=side)


def labels_of(findings: tuple[Finding, ...]) -> dict[str, float]:
    """All fourteen CheXpert labels.

    ``No Finding`` allows support devices, as CheXpert does; lung opacity follows from its kinds.
    """
    present = {finding.label for finding in findings}
    if present & _OPACITIES:
        present.add("Lung Opacity")
    if not present - {"Support Devices"}:
        present.add("No Finding")
    return {label: float(label in present) for label in CHEXPERT_LABELS}


def growth_and_rise(findings: Sequence[Finding]) -> tuple[float, dict[str, float]]:
    """How much wider the heart is, as a fraction, and side -> how far a hemidiaphragm stands higher than it would."""
    size_of = {finding.label: finding.size for finding in findings}
    growth = {None: 0.0, "small": 0.16, "moderate": 0.30, "large": 0.46}[size_of.get("Cardiomegaly")]
    return growth, {finding.side or "": 0.10 for finding in findings if finding.label == "Atelectasis"}


# ---- body ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Body:
    """Shape and posture of one patient."""

    sex: str
    age: int
    habitus: float  # 0 slim .. 1 large
    half_width: float  # of the rib cage
    half_depth: float
    apex: float  # z of the lung apices
    dome_left: float  # z of the hemidiaphragms' tops
    dome_right: float
    heart_x: float  # of its middle
    heart_radius: float
    heart_tilt: float  # of its long axis, in radians: from the left towards the feet
    aorta: float  # radius
    mediastinum: float  # half width
    kyphosis: float  # how much the spine bends back: y grows by kyphosis * z^2
    rotation: float  # not shown on the films yet; drawing it is part of every study's stream of random numbers
    shift: tuple[float, float, float]  # of the body on the films: x, y, z
    vessel_seed: int
    bone: float  # density, about 1
    fat: float  # thickness under the skin
    breast: float  # size, 0 to about 2.5
    shoulder_drop: float  # z by which the shoulders are lower
    rib_slope: float  # z by which a rib falls from back to front
    unfolding: float = 0.0  # of the aorta, 0 young .. 1 old


def draw_body(rng: np.random.Generator, *, cardiomegaly: float = 0.0, raised: dict[str, float] | None = None) -> Body:
    """Draw a patient.

    Args:
        rng: Decides everything.
        cardiomegaly: How much wider the heart is, as a fraction.
        raised: Side -> how far a hemidiaphragm stands higher than it would.
    """
    raised = raised or {}
    sex = "F" if rng.random() < 0.5 else "M"
    age = int(np.clip(rng.normal(55, 18), 18, 92))
    habitus = float(np.clip(rng.beta(2.2, 2.6), 0, 1))
    half_width = float(rng.normal(0.70 if sex == "M" else 0.66, 0.03)) + 0.03 * habitus
    inspiration = float(rng.normal(0.0, 0.05))
    dome = 0.46 + inspiration - 0.06 * habitus
    return Body(
        sex=sex,
        age=age,
        habitus=habitus,
        half_width=half_width,
        half_depth=float(rng.normal(0.46, 0.025)) + 0.05 * habitus,
        apex=float(rng.normal(-0.74, 0.03)),
        dome_left=dome + float(rng.normal(0.035, 0.02)) - raised.get("left", 0.0),
        dome_right=dome - float(rng.normal(0.03, 0.02)) - raised.get("right", 0.0),
        heart_x=float(rng.normal(0.10, 0.02)),
        heart_radius=float(rng.normal(0.275, 0.015)) * (1 + cardiomegaly),
        heart_tilt=float(rng.normal(0.55, 0.12)),
        aorta=float(rng.normal(0.065, 0.008)) + 0.0006 * max(age - 50, 0),
        mediastinum=float(rng.normal(0.125, 0.012)),
        kyphosis=float(rng.normal(0.05, 0.02)) + 0.001 * max(age - 60, 0),
        rotation=float(rng.normal(0, 0.03)),
        shift=(float(rng.normal(0, 0.03)), float(rng.normal(0, 0.04)), float(rng.normal(0.02, 0.03))),
        vessel_seed=int(rng.integers(2**31)),
        bone=float(rng.normal(1.0, 0.1)) * (1.0 if age < 60 else 0.88),
        fat=0.03 + 0.10 * habitus + float(rng.random()) * 0.02,
        breast=(float(rng.uniform(0.5, 1.2)) if sex == "F" else float(rng.uniform(0, 0.25))),
        shoulder_drop=float(rng.normal(0, 0.04)),
        rib_slope=float(rng.normal(0.30, 0.04)),
    )
