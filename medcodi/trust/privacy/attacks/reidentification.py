"""Re-identification: a network that tells whether two films are of one patient, and its own ROC on real pairs, the ruler.

The manner of Packhäuser et al. (2022, Scientific Reports 12, 14851): trained on patients with several studies.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcodi.data.dataset import read_study
from medcodi.data.loading import StudyDataset
from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import ClassifierBlock
from medcodi.evaluation.annotators.classifier_training import augment
from medcodi.randomness import numpy_generator, torch_generator
from medcodi.stages.contrastive import info_nce
from medcodi.trust.privacy.attacks.membership import stacked
from medcodi.trust.privacy.attacks.spaces import Space, cosine
from medcodi.trust.privacy.config import ReidentificationConfig
from medcodi.trust.privacy.statistics import excess
from medcodi.turing.lint.separation import auc_of

SPACE = "re-identification"
LEAST_AUROC = 0.9  # of the ruler; a network below it measures nothing
FALSE_MATCHES = 0.01  # share of pairs of two patients that the threshold lets pass
LEAST_PATIENTS = 8  # with several studies
SCALE = 16.0  # of the cosines, in the loss
DIM = 64


class FilmEncoder(nn.Module):
    """Films of any view -> unit vectors, near to each other for one patient."""

    def __init__(self, views: Sequence[str], channels: Sequence[int] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.views = tuple(views)
        self.stem = nn.Conv2d(1, channels[0], 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.view_bias = nn.Embedding(len(self.views), channels[0])
        pairs = pairwise(channels)
        self.trunk = nn.Sequential(*(ClassifierBlock(first, second, 2) for first, second in pairs))
        self.head = nn.Linear(4 * channels[-1], DIM)

    def forward(self, images: Tensor, view: str) -> Tensor:
        """Films ``[B, 1, S, S]`` in [0, 1] of one view -> ``[B, D]`` of length 1."""
        bias = self.view_bias.weight[self.views.index(view)][:, None, None]
        maps = self.trunk(F.relu(self.norm(self.stem((images - 0.5) * 4)) + bias))
        # The four quarters of the last map: where things are tells patients apart.
        return F.normalize(self.head(F.adaptive_avg_pool2d(maps, 2).flatten(1)), dim=1)

    @torch.no_grad()
    def embed(self, view: str, images: Sequence[np.ndarray]) -> np.ndarray:
        """Films ``[S, S]`` -> float32 ``[B, D]``."""
        return self(stacked(images), view).numpy()

    def space(self) -> Space:
        """The space of its vectors."""
        return Space(SPACE, ("image",), self.embed, cosine)


@dataclass(frozen=True)
class PatientFilms:
    """Films by view and patient, of patients with at least two studies: uint8 ``[S, S]`` each."""

    films: Mapping[str, Mapping[str, list[np.ndarray]]]  # view -> patient -> films

    @classmethod
    def of(cls, dataset: StudyDataset, avoid: set[str]) -> PatientFilms:
        """Read a dataset.

        Raises:
            DataError: If a patient is among those to ``avoid`` (who are audited), or too few have several studies.
        """
        films: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
        shared = set()
        for index in range(len(dataset)):
            study = read_study(dataset, index)
            shared |= {study.patient_id} & avoid
            for view, image in study.images.items():
                films[view][study.patient_id].append(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))
        if shared:
            raise DataError(
                f"{len(shared)} patients of {dataset.name} are audited: {', '.join(sorted(shared)[:3])}",
                expected="a re-identification network that has seen neither members nor non-members",
                fix="train it on other patients (reidentification.train, reidentification.validation)",
            )
        several = {view: {name: own for name, own in of.items() if len(own) > 1} for view, of in films.items()}
        several = {view: patients for view, patients in several.items() if len(patients) >= LEAST_PATIENTS}
        if not several:
            raise DataError(
                f"{dataset.name} holds fewer than {LEAST_PATIENTS} patients with several studies",
                expected="patients with at least two studies each",
                fix="of phantoms: version: 2 and studies_per_patient: 2",
            )
        return cls(several)


# ---- training --------------------------------------------------------------------------------------------------------
def train_network(config: ReidentificationConfig, films: PatientFilms) -> FilmEncoder:
    """Train with InfoNCE between two films of each patient; batches are functions of (seed, step)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = FilmEncoder(sorted(films.films))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-2)
    for step in range(config.num_steps):
        # Two different films of some patients, all of one view.
        view = network.views[step % len(network.views)]
        rng = numpy_generator("reidentification batch", config.seed, step)
        patients = films.films[view]
        names = rng.permutation(sorted(patients))[: config.batch_size]
        pairs = [rng.permutation(len(patients[name]))[:2] for name in names]
        sides = [
            np.stack([patients[name][pair[side]] for name, pair in zip(names, pairs, strict=True)]) for side in (0, 1)
        ]
        images = torch.from_numpy(np.concatenate(sides)).float().div(255)[:, None]
        vectors = network(augment(images, torch_generator("reidentification augmentation", config.seed, step)), view)
        first, second = vectors.chunk(2)
        loss = info_nce(first, second, SCALE).loss
        # Cosine decay of the learning rate.
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.num_steps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return network.eval()


def measure_ruler(network: FilmEncoder, films: PatientFilms, seed: int) -> dict[str, dict[str, Any]]:
    """View -> AUROC of pairs of one patient against pairs of two, on real films, and the distance at 1 % false matches."""
    ruler = {}
    for view in network.views:
        patients = films.films.get(view, {})
        if len(patients) < LEAST_PATIENTS:
            continue
        first, second = (
            network.embed(view, [own[place].astype(np.float32) / 255 for own in patients.values()]) for place in (0, 1)
        )
        table = cosine(first, second)  # [P, P]
        same = np.eye(len(table), dtype=bool)
        # As many pairs of two patients as of one for the interval, all of them for the threshold.
        shift = int(numpy_generator("reidentification pairs", seed).integers(1, len(table)))
        others = table[np.arange(len(table)), (np.arange(len(table)) + shift) % len(table)]
        auc = auc_of(-np.concatenate([table[same], others]), np.arange(2 * len(table)) < len(table))
        threshold = float(np.quantile(table[~same], FALSE_MATCHES))
        ruler[view] = {
            "auroc": {"value": auc.value, "low": auc.low, "high": auc.high},
            "pairs": len(table),
            "distance": threshold,
            "matched_real_pairs": float((table[same] < threshold).mean()),
        }
    return ruler


# ---- figures ---------------------------------------------------------------------------------------------------------
def reidentification_figures(
    measured: Mapping[tuple[str, str, str], Mapping[str, np.ndarray]],
    ruler: Mapping[str, Mapping[str, Any]] | None,
    labels: np.ndarray,
    patients: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Share of generations that the network matches to the patient of their prompt, members' less non-members'."""
    left_out: list[dict[str, str]] = []
    rows = []
    if ruler is None:
        reason = "no such network was trained; reidentification.train names patients with several studies"
        left_out.append({"figure": "re-identification", "reason": reason})
    for (direction, target, space), arrays in measured.items():
        if ruler is None or space != SPACE:
            continue
        own = ruler.get(target)
        if own is None or own["auroc"]["value"] < LEAST_AUROC:
            seen = "was measured on no real pairs" if own is None else f"has an AUROC of {own['auroc']['value']:.2f}"
            reason = f"the network {seen} on {target}, must have {LEAST_AUROC}: train it on more patients, or longer"
            left_out.append({"figure": f"re-identification, {direction} of {target}", "reason": reason})
            continue
        matched = np.where(np.isfinite(arrays["own"]), (arrays["own"] < own["distance"]).astype(float), np.nan)
        figure = excess(matched, labels, patients, resamples, seed, "reidentification", direction, target)
        if figure is not None:
            rows.append({"direction": direction, "target": target, "excess": figure})
    return {"ruler": ruler, "rows": rows, "left_out": left_out}
