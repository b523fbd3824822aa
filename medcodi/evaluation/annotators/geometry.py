"""Geometry of a body, annotated from each image alone: two views of one patient must show the same body.

The phantom knows its bodies (``medcodi.data.sources.phantom.body_of``), so an annotator can be fitted and its error measured: ridge
regression from the image at 24×24 pixels to what both views share of a body. It is linear: fitted in seconds, as good on blurred images as
on sharp ones, and unrelated to any network that is evaluated. An attribute counts where it is annotated well enough in *both* views of
real held-out studies. Real data have no such truth; there, similarity in the shared latent space stands instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medcodi.data.loading import StudyDataset
from medcodi.data.sources.phantom import body_of
from medcodi.data.sources.phantom.body import Body
from medcodi.errors import CheckpointError, DataError
from medcodi.metrics.bootstrap import Statistic
from medcodi.metrics.coherence import correlation_statistic
from medcodi.storage import atomic
from medcodi.study import Study

SIDE, PENALTY = 24, 1.0  # pixels a side, ridge penalty: chosen on 500 phantoms, checked on 200 others
MIN_R2 = 0.5
GEOMETRY_FILE = "geometry_reader.safetensors"

# What the two films share, in half-films: both are projections along another axis, at the same height.
ATTRIBUTES: dict[str, Callable[[Body], float]] = {
    "height on the film": lambda body: body.shift[2],
    "level of the diaphragm": lambda body: (body.dome_left + body.dome_right) / 2 - body.shift[2],
    "width of the chest": lambda body: body.half_width,
    "habitus": lambda body: body.habitus,
    "size of the heart": lambda body: body.heart_radius,
}


def geometry_truth(study: Study) -> np.ndarray | None:
    """The attributes of a phantom's body, float64 ``[A]``; None for a study that is no phantom."""
    metadata = study.metadata
    if metadata.get("source") != "phantom" or "seed" not in metadata or "index" not in metadata:
        return None
    body = body_of(metadata)
    return np.array([attribute(body) for attribute in ATTRIBUTES.values()], dtype=np.float64)


def small_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images ``[H, W]`` in [0, 1] of any size -> float64 ``[N, SIDE * SIDE]``, antialiased."""
    rows = []
    for image in images:
        pixels = torch.as_tensor(np.asarray(image), dtype=torch.float32)[None, None]  # [1, 1, H, W]
        rows.append(F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True).reshape(-1).double().numpy())
    return np.stack(rows) if rows else np.zeros((0, SIDE * SIDE))


@dataclass(frozen=True)
class _Ridge:
    mean: np.ndarray  # [P]
    weight: np.ndarray  # [P, A]
    bias: np.ndarray  # [A]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return (pixels - self.mean) @ self.weight + self.bias


@dataclass(frozen=True)
class GeometryAnnotator:
    """Images of one modality -> the attributes of the body, float64 ``[N, A]``."""

    views: Mapping[str, _Ridge]  # modality -> its regression
    attributes: tuple[str, ...]
    r2: Mapping[str, np.ndarray]  # modality -> share of variance explained on real held-out images, [A]
    card: dict[str, Any] = field(default_factory=dict)  # how it was fitted
    name: str = "geometry"

    def reads(self, modality: str) -> bool:
        """Whether it was fitted on a modality."""
        return modality in self.views

    def identity(self, modality: str) -> str:
        """SHA-256 over the regression of a modality."""
        ridge = self.views[modality]
        return hashlib.sha256(b"".join(part.tobytes() for part in (ridge.mean, ridge.weight, ridge.bias))).hexdigest()

    def annotate(self, contents: Sequence[np.ndarray], modality: str) -> np.ndarray:
        """Attributes of images ``[H, W]`` in [0, 1]; a DataError if it was not fitted on this modality."""
        if modality not in self.views:
            raise DataError(f"the geometry annotator cannot read {modality!r}", expected=" or ".join(self.views))
        return self.views[modality](small_images(contents))

    def judged(self, first: str, second: str) -> tuple[int, ...]:
        """Columns of the attributes that it annotates well enough (R² of at least 0.5) in both modalities."""
        worse = np.minimum(self.r2[first], self.r2[second])
        return tuple(int(column) for column in np.flatnonzero(worse >= MIN_R2))

    def save(self, folder: str | Path) -> Path:
        """Write ``geometry_reader.safetensors`` into ``folder``."""
        arrays = {
            f"{name}.{part}": getattr(ridge, part).astype(np.float32)
            for name, ridge in self.views.items()
            for part in ("mean", "weight", "bias")
        }
        r2 = {name: [round(float(value), 4) for value in values] for name, values in self.r2.items()}
        card = {"attributes": list(self.attributes), "r2": r2, **self.card}
        path = Path(folder) / GEOMETRY_FILE
        with atomic.replacing(path, error=CheckpointError) as partial:
            save_file(arrays, partial, metadata={"card": json.dumps(card)})
        return path

    @classmethod
    def load(cls, folder: str | Path) -> GeometryAnnotator:
        """Read what :meth:`save` wrote; a missing or damaged file is a CheckpointError."""
        path = Path(folder) / GEOMETRY_FILE
        fix = "fit one: medcodi.evaluation.annotators.geometry.fit_geometry"
        if not path.is_file():
            raise CheckpointError(f"no geometry annotator in {folder}", expected=GEOMETRY_FILE, fix=fix)
        try:
            with safe_open(path, framework="numpy") as file:
                card = json.loads(file.metadata()["card"])
                parts = {key: file.get_tensor(key).astype(np.float64) for key in file.keys()}  # noqa: SIM118
            r2 = {name: np.array(values) for name, values in card.pop("r2").items()}
            views = {name: _Ridge(*(parts[f"{name}.{part}"] for part in ("mean", "weight", "bias"))) for name in r2}
            return cls(views, tuple(card.pop("attributes")), r2, card)
        except (SafetensorError, LookupError, TypeError, AttributeError, ValueError, OSError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}", fix=fix) from None


def fit_geometry(train: StudyDataset, held_out: StudyDataset, modalities: Sequence[str]) -> GeometryAnnotator:
    """Fit an annotator on phantoms, some hundreds, and measure its ``r2`` on others; at least 50 and 20, else a DataError."""
    (fit_pixels, fit_truth), (test_pixels, test_truth) = (_examples(data, modalities) for data in (train, held_out))
    if len(fit_truth) < 50 or len(test_truth) < 20:
        raise DataError(
            f"{len(fit_truth)} studies to fit a geometry annotator on and {len(test_truth)} to measure it on",
            expected="at least 50 and 20",
            fix="give more phantoms",
        )
    views, r2 = {}, {}
    scale = fit_truth.std(0)
    for name in modalities:
        # Ridge regression in closed form: (X'X + penalty I) W = X'Y, with X and Y centred and Y scaled.
        mean, bias = fit_pixels[name].mean(0), fit_truth.mean(0)
        centred = fit_pixels[name] - mean
        penalty = PENALTY * len(fit_truth) / 500 * np.eye(centred.shape[1])
        weight = np.linalg.solve(centred.T @ centred + penalty, centred.T @ ((fit_truth - bias) / scale)) * scale
        views[name] = _Ridge(mean, weight, bias)
        # R² on the held-out phantoms.
        error = ((views[name](test_pixels[name]) - test_truth) ** 2).mean(0)
        r2[name] = 1 - error / test_truth.var(0)
    card = {"fitted_on": train.fingerprint, "num_fitted": len(fit_truth), "num_measured": len(test_truth)}
    return GeometryAnnotator(views, tuple(ATTRIBUTES), r2, card)


def _examples(dataset: StudyDataset, modalities: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Small images of each modality, ``[N, P]``, and the true attributes, ``[N, A]``."""
    pixels: dict[str, list[np.ndarray]] = {name: [] for name in modalities}
    truth = []
    for index in range(len(dataset)):
        study = dataset[index]
        attributes = geometry_truth(study)
        if attributes is None:
            raise DataError(f"study {study.study_id!r} is no phantom: its geometry is unknown", fix="fit on phantoms")
        truth.append(attributes)
        for name in modalities:
            pixels[name].append(small_images([study.images[name]])[0])
    stacked = {name: np.stack(rows) if rows else np.zeros((0, SIDE * SIDE)) for name, rows in pixels.items()}
    return stacked, np.array(truth).reshape(len(dataset), len(ATTRIBUTES))


def geometry_agreement(first: np.ndarray, second: np.ndarray) -> Statistic:
    """Mean over attributes of the correlation, across studies, of two annotations ``[N, A]``; a function of study weights."""
    if first.shape != second.shape or first.ndim != 2 or not first.shape[1]:
        raise DataError(f"annotations of shapes {first.shape} and {second.shape}", expected="[N, A] both")
    correlations = [correlation_statistic(first[:, k], second[:, k]) for k in range(first.shape[1])]

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.mean([correlation(weights) for correlation in correlations], axis=0)

    return statistic
