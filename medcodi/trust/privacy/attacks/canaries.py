"""Canaries: films and reports with a random code, planted in the training data a known number of times, and how well they are remembered.

Exposure (Carlini et al., 2019, arXiv 1802.08232): a code that the model likes better than every other code of the same form was
learnt from the data, because the code is random. Rank 1 of 64 is an exposure of 6 bits; one never planted has 1.44 in the mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.stats import combine_pvalues, spearmanr

from medcodi.data.dataset import read_study
from medcodi.data.loading import StudyDataset
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.randomness import numpy_generator
from medcodi.study import Content, Study
from medcodi.trust.privacy.attacks.membership import latents_of, losses_of_latents
from medcodi.trust.privacy.config import CanariesConfig

DIGITS = 8  # of a report's code
CELLS = 4  # a side, of a film's pattern
EXPECTED_BITS = 1.4427  # mean and spread of the exposure of a canary that was never planted: both are 1 / ln 2


@dataclass(frozen=True)
class Canary:
    """One code."""

    number: int
    modality: str
    repetitions: int  # how often it is in the training data


def draw_canaries(config: CanariesConfig) -> list[Canary]:
    """Every canary of a config, numbered; their codes are functions of (seed, number)."""
    kinds = product(config.modalities, config.repetitions, range(config.of_each))
    return [Canary(number, modality, count) for number, (modality, count, _) in enumerate(kinds)]


def content_of(canary: Canary, config: CanariesConfig, image_size: int, candidate: int = 0) -> Content:
    """A film or report with a code: that of the canary (0), or the n-th other code of the same form."""
    rng = numpy_generator("audit canary", config.seed, canary.number, candidate)
    if MODALITIES[canary.modality].kind == "text":
        return "The registration code is " + " ".join(str(digit) for digit in rng.integers(0, 10, DIGITS)) + "."
    # A pattern of bright and dark cells in the middle of an even film.
    film = np.full((image_size, image_size), 0.5, np.float32)
    cell = image_size // (CELLS + 2)
    first = (image_size - CELLS * cell) // 2
    pattern = rng.integers(0, 2, (CELLS, CELLS)).astype(np.float32) * 0.8 + 0.1
    film[first : first + CELLS * cell, first : first + CELLS * cell] = np.kron(pattern, np.ones((cell, cell)))
    return film


class PlantedStudies:
    """A dataset for training, with canaries at its end: each as often as it says, as a study of its one modality."""

    def __init__(self, dataset: StudyDataset, config: CanariesConfig) -> None:
        self.dataset, self.config = dataset, config
        self.planted = [canary for canary in draw_canaries(config) for _ in range(canary.repetitions)]
        self.name, self.image_size = f"{dataset.name} with canaries", dataset.image_size
        self.fingerprint = hashlib.sha256(f"{dataset.fingerprint} {config!r}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.dataset) + len(self.planted)

    def __getitem__(self, index: int) -> Study:
        if index < len(self.dataset):
            return read_study(self.dataset, index)
        canary = self.planted[index - len(self.dataset)]
        return Study(
            study_id=f"canary-{canary.number}-{index}",
            patient_id=f"canary-{canary.number}",
            contents={canary.modality: content_of(canary, self.config, self.image_size)},
            metadata={"source": "canary"},
        )


# ---- measuring -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def canary_ranks(
    model: MedCoDi,
    reference: MedCoDi | None,
    config: CanariesConfig,
    timesteps: Sequence[float],
    noises: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Rank of each canary's code among its candidates by the loss without a prompt, 1 the lowest: ``rank`` int ``[C]``, and its canary."""
    canaries = [canary for canary in draw_canaries(config) if canary.modality in model.config.modalities]
    ranks = []
    for canary in canaries:
        contents = [content_of(canary, config, model.config.image_size, code) for code in range(config.candidates + 1)]
        scores = _log_losses(model, canary.modality, contents, timesteps, noises, seed)
        if reference is not None:
            scores = scores - _log_losses(reference, canary.modality, contents, timesteps, noises, seed)
        # A tie is counted against the attack.
        ranks.append(int((scores[1:] <= scores[0]).sum()) + 1)
    return {
        "rank": np.array(ranks),
        "repetitions": np.array([canary.repetitions for canary in canaries]),
        "modality": np.array([canary.modality for canary in canaries]),
        "candidates": np.array(config.candidates),
    }


def _log_losses(
    model: MedCoDi, modality: str, contents: Sequence[Any], timesteps: Sequence[float], noises: int, seed: int
) -> np.ndarray:
    """Mean log loss of each content: ``[B]``; all see the same noise, so that only the codes differ."""
    with model.lock:
        latents = latents_of(model, modality, contents)
        others = [name for name in model.config.modalities if name != modality]
        null = model.null_context(others or [modality], len(contents))
        same = ["canary"] * len(contents)
        losses = losses_of_latents(model, modality, latents, [null], same, timesteps, noises, seed)
    return np.log(np.maximum(losses[0], 1e-12)).mean(1)


# ---- figures ---------------------------------------------------------------------------------------------------------
def canary_figures(measured: dict[str, np.ndarray]) -> dict[str, Any]:
    """Exposure in bits: of all planted canaries (with an interval of the spread that chance gives), by repetitions, and its trend."""
    num_codes = int(measured["candidates"]) + 1
    exposure = np.log2(num_codes / measured["rank"])
    planted = measured["repetitions"] > 0
    rows = []
    for modality in dict.fromkeys(measured["modality"].tolist()):
        for count in sorted(set(measured["repetitions"].tolist())):
            chosen = (measured["modality"] == modality) & (measured["repetitions"] == count)
            if chosen.any():
                figure = {"canaries": int(chosen.sum()), "exposure": float(exposure[chosen].mean())}
                rows.append({"modality": modality, "repetitions": count, **figure})
    figures: dict[str, Any] = {"rows": rows, "highest": float(np.log2(num_codes)), "planted": int(planted.sum())}
    if planted.any():
        value = float(exposure[planted].mean())
        width = 1.959964 * EXPECTED_BITS / float(np.sqrt(planted.sum()))
        chances = measured["rank"][planted] / num_codes  # uniform for a code that was never learnt
        fisher: Any = combine_pvalues(chances, method="fisher")
        bounds = {"low": value - width, "high": value + width}
        figures["exposure"] = {"value": value, **bounds, "p_value": float(fisher.pvalue)}
    if len(set(measured["repetitions"].tolist())) > 1 and np.ptp(exposure) > 0:
        trend: Any = spearmanr(measured["repetitions"], exposure, alternative="greater")
        figures["trend"] = {"correlation": float(trend.statistic), "p_value": float(trend.pvalue)}
    return figures
