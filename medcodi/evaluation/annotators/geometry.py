"""Is it one patient? The geometry of a body, read from each image alone; two views of one patient must tell the same.

The phantom knows its bodies (``medcodi.data.sources.phantom.phantom_body``), so a reader can be fitted and its error measured: ridge
regression from the image at 24×24 pixels to what a body shares between views. Linear, so that it can be fitted in seconds, reads blurred
images as well as sharp ones, and has nothing to do with any network that is judged. An attribute counts where the reader is right
enough in *both* views of real held-out studies. Real data have no such truth; there, likeness in the shared latent space stands instead.
"""

from __future__ import annotations

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
from medcodi.data.sources.phantom import phantom_body
from medcodi.data.sources.phantom.body import Body
from medcodi.errors import CheckpointError, DataError
from medcodi.metrics.bootstrap import Statistic
from medcodi.metrics.coherence import correlation_statistic
from medcodi.study import Study

SIDE, PENALTY = 24, 1.0  # pixels a side, ridge penalty: chosen on 500 phantoms, held against 200 others
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
    told = study.metadata
    if told.get("source") != "phantom" or "seed" not in told or "index" not in told:
        return None
    body = phantom_body(int(told["seed"]), int(told["index"]))
    return np.array([read(body) for read in ATTRIBUTES.values()], dtype=np.float64)


def small_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images ``[H, W]`` in [0, 1] of any size -> float64 ``[N, SIDE * SIDE]``, antialiased."""
    rows = []
    for image in images:
        pixels = torch.as_tensor(np.asarray(image), dtype=torch.float32)[None, None]
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
class GeometryReader:
    """Images of one modality -> the attributes of the body.

    Attributes:
        views: Modality -> its regression.
        attributes: Their names.
        r2: Modality -> share of variance explained on real held-out images, ``[A]``.
        card: How it was fitted.
    """

    views: Mapping[str, _Ridge]
    attributes: tuple[str, ...]
    r2: Mapping[str, np.ndarray]
    card: dict[str, Any] = field(default_factory=dict)

    def read(self, images: Sequence[np.ndarray], modality: str) -> np.ndarray:
        """Attributes of images: float64 ``[N, A]``.

        Raises:
            DataError: If it was not fitted on this modality.
        """
        if modality not in self.views:
            raise DataError(f"the geometry reader cannot read {modality!r}", expected=" or ".join(self.views))
        return self.views[modality](small_images(images))

    def judged(self, first: str, second: str) -> tuple[int, ...]:
        """Places of the attributes that it reads well enough (R² of at least 0.5) in both modalities."""
        both = np.minimum(self.r2[first], self.r2[second])
        return tuple(int(place) for place in np.flatnonzero(both >= MIN_R2))

    def save(self, folder: str | Path) -> Path:
        """Write ``geometry_reader.safetensors`` into ``folder``."""
        arrays = {
            f"{name}.{part}": getattr(ridge, part).astype(np.float32)
            for name, ridge in self.views.items()
            for part in ("mean", "weight", "bias")
        }
        held = {name: [round(float(value), 4) for value in values] for name, values in self.r2.items()}
        card = {"attributes": list(self.attributes), "r2": held, **self.card}
        path = Path(folder) / GEOMETRY_FILE
        partial = path.with_suffix(".partial")
        save_file(arrays, partial, metadata={"card": json.dumps(card)})
        partial.replace(path)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> GeometryReader:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: If it is not there, or damaged.
        """
        path = Path(folder) / GEOMETRY_FILE
        fix = "fit one: medcodi.evaluation.annotators.geometry.fit_geometry"
        if not path.is_file():
            raise CheckpointError(f"no geometry reader in {folder}", expected=GEOMETRY_FILE, fix=fix)
        try:
            with safe_open(path, framework="numpy") as file:
                card = json.loads(file.metadata()["card"])
                parts = {key: file.get_tensor(key).astype(np.float64) for key in file.keys()}  # noqa: SIM118
            r2 = {name: np.array(values) for name, values in card.pop("r2").items()}
            views = {name: _Ridge(*(parts[f"{name}.{part}"] for part in ("mean", "weight", "bias"))) for name in r2}
            return cls(views, tuple(card.pop("attributes")), r2, card)
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}", fix=fix) from None


def fit_geometry(train: StudyDataset, held_out: StudyDataset, modalities: Sequence[str]) -> GeometryReader:
    """Fit a reader on phantoms, and measure it on others.

    Args:
        train: Phantoms, some hundreds.
        held_out: Others, on which ``r2`` is measured.
        modalities: Images to read.

    Raises:
        DataError: If a study is no phantom, or there are fewer than 50 to fit and 20 to measure on.
    """
    (known, truth), (others, other_truth) = _told(train, modalities), _told(held_out, modalities)
    if len(truth) < 50 or len(other_truth) < 20:
        raise DataError(
            f"{len(truth)} studies to fit a geometry reader on and {len(other_truth)} to measure it on",
            expected="at least 50 and 20",
            fix="give more phantoms",
        )
    views, r2 = {}, {}
    scale = truth.std(0)
    for name in modalities:
        mean, bias = known[name].mean(0), truth.mean(0)
        centred = known[name] - mean
        penalty = PENALTY * len(truth) / 500 * np.eye(centred.shape[1])
        weight = np.linalg.solve(centred.T @ centred + penalty, centred.T @ ((truth - bias) / scale)) * scale
        views[name] = _Ridge(mean, weight, bias)
        error = ((views[name](others[name]) - other_truth) ** 2).mean(0)
        r2[name] = 1 - error / other_truth.var(0)
    card = {"fitted_on": train.fingerprint, "num_fitted": len(truth), "num_measured": len(other_truth)}
    return GeometryReader(views, tuple(ATTRIBUTES), r2, card)


def _told(dataset: StudyDataset, modalities: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    pixels: dict[str, list[np.ndarray]] = {name: [] for name in modalities}
    truth = []
    for index in range(len(dataset)):
        study = dataset[index]
        told = geometry_truth(study)
        if told is None:
            raise DataError(f"study {study.study_id!r} is no phantom: its geometry is not known", fix="fit on phantoms")
        truth.append(told)
        for name in modalities:
            pixels[name].append(small_images([study.images[name]])[0])
    stacked = {name: np.stack(rows) if rows else np.zeros((0, SIDE * SIDE)) for name, rows in pixels.items()}
    return stacked, np.array(truth).reshape(len(dataset), len(ATTRIBUTES))


def geometry_agreement(first: np.ndarray, second: np.ndarray) -> Statistic:
    """Mean over attributes of the correlation, across studies, of two readings ``[N, A]``; a function of study weights."""
    if first.shape != second.shape or first.ndim != 2 or not first.shape[1]:
        raise DataError(f"readings of shapes {first.shape} and {second.shape}", expected="[N, A] both")
    each = [correlation_statistic(first[:, k], second[:, k]) for k in range(first.shape[1])]

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.mean([one(weights) for one in each], axis=0)

    return statistic
