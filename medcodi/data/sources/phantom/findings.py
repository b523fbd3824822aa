"""The findings of a phantom, and their exact truth."""

from __future__ import annotations

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
_OPACITIES = {"Consolidation", "Edema", "Lung Lesion", "Atelectasis"}


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Positive findings of one study, each drawn by itself; at most four, and about a quarter of studies have none."""
    if rng.random() < NORMAL_SHARE:
        return ()
    labels = [label for label, share in PREVALENCE.items() if rng.random() < share]
    chosen = [labels[index] for index in sorted(rng.permutation(len(labels))[:4])]
    return tuple(_draw(rng, label) for label in chosen)


def _draw(rng: np.random.Generator, label: str) -> Finding:
    side, size = _pick(rng, SIDES), _pick(rng, SIZES)
    if label in ("Cardiomegaly", "Edema"):
        return Finding(label=label, side="bilateral" if label == "Edema" else None, size=size)
    if label == "Pleural Effusion":
        return Finding(label=label, side="bilateral" if rng.random() < 0.25 else side, size=size)
    if label == "Pneumothorax":
        return Finding(label=label, side=side, size=size)
    if label in ("Consolidation", "Lung Lesion"):
        lobe = _pick(rng, LOBES[side])
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
