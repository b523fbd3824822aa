"""One patient: everything that makes a thorax this thorax, drawn once, in units of half a film (about 19 cm).

Axes: x to the patient's left (the right of the film), y to the back, z to the feet; the film is [-1, 1] squared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    heart_x: float
    heart_radius: float
    heart_tilt: float
    aorta: float  # radius
    mediastinum: float  # half width
    kyphosis: float
    rotation: float
    shift: tuple[float, float, float]  # of the body on the films: x, y, z
    vessel_seed: int
    bone: float  # density
    fat: float
    breast: float
    shoulder_drop: float
    rib_slope: float


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
