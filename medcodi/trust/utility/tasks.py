"""The tasks that synthetic studies may help with: findings from films, findings from reports, films retrieved by reports."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcodi.evaluation.annotators.classifier import ClassifierConfig, FindingClassifier
from medcodi.evaluation.annotators.classifier_training import augment, finding_loss
from medcodi.trust.utility.config import NetworkConfig, UtilityConfig
from medcodi.trust.utility.pools import Pool

_WORD = re.compile(r"[a-z0-9]+")
STRONG_PASSES = 2  # of the standard augmentation: shifts, turns, contrast and blur add up
ERASED = 0.3  # longest side of the rectangle that strong augmentation erases, as a share of the film


class Task(Protocol):
    """A task that a network learns from a pool, and is tested on."""

    def build(self) -> nn.Module:
        """A network with fresh weights, by torch's global generator."""
        ...

    def loss(
        self, network: Any, pool: Pool, rows: Tensor, weights: Tensor, augmentation: str, rng: torch.Generator
    ) -> Tensor:
        """The mean loss of some rows; ``weights``, ``[K]``, are those of positives."""
        ...

    def predict(self, network: Any, pool: Pool) -> np.ndarray:
        """Findings: probabilities float64 ``[N, K]``. Retrieval: the rank of each study's film, from 1, ``[N, 1]``."""
        ...


# ---- films -----------------------------------------------------------------------------------------------------------
def film_network(config: NetworkConfig, size: int, views: Sequence[str], findings: Sequence[str]) -> FindingClassifier:
    """The residual network of the finding classifier, which knows the sides of a film."""
    return ClassifierConfig(
        image_size=size,
        channels=config.channels,
        blocks=config.blocks,
        targets=tuple(findings),
        modalities=tuple(views),
    ).build()


def augmented(films: Tensor, augmentation: str, rng: torch.Generator) -> Tensor:
    """Films ``[B, 1, S, S]`` in [0, 1], moved, blurred, with noise; ``strong``: more of it, and a rectangle erased. Never mirrored."""
    if augmentation == "none":
        return films
    films = augment(films, rng)
    if augmentation == "standard":
        return films
    for _ in range(STRONG_PASSES - 1):
        films = augment(films, rng)
    # Erase a rectangle of each film: its corner and its sides are uniform.
    size = films.shape[-1]
    top, left, height, width = (
        torch.rand(4, len(films), 1, generator=rng) * torch.tensor([1, 1, ERASED, ERASED])[:, None, None]
    )
    axis = torch.arange(size)[None] / size  # [1, S]
    rows, columns = (axis >= top) & (axis < top + height), (axis >= left) & (axis < left + width)  # [B, S]
    erased = (rows[:, :, None] & columns[:, None, :]).to(films.device)[:, None]
    return torch.where(erased, films.mean((2, 3), keepdim=True), films)


@dataclass
class FilmTask:
    """Findings, with sides, from one view or several; a study's probability is that of the mean logit of its views."""

    network: NetworkConfig
    size: int  # pixels a side
    views: tuple[str, ...]
    findings: tuple[str, ...]

    def build(self) -> nn.Module:
        """As :class:`Task`."""
        return film_network(self.network, self.size, self.views, self.findings)

    def loss(
        self, network: Any, pool: Pool, rows: Tensor, weights: Tensor, augmentation: str, rng: torch.Generator
    ) -> Tensor:
        """As :class:`Task`."""
        logits = self._logits(network, pool, rows, augmentation, rng)  # [B, V, K]
        truth = pool.truth[rows].to(logits.device)[:, None].expand(logits.shape)
        return finding_loss(logits, truth, weights, pool.has_image[rows].to(logits.device))

    def predict(self, network: Any, pool: Pool) -> np.ndarray:
        """As :class:`Task`."""
        parts = []
        for rows in torch.arange(len(pool)).split(256):
            logits = self._logits(network, pool, rows, "none", torch.Generator()).double().cpu()
            present = pool.has_image[rows].double()[..., None]
            parts.append(((logits * present).sum(1) / present.sum(1)).sigmoid().numpy())
        return np.concatenate(parts)

    def _logits(self, network: Any, pool: Pool, rows: Tensor, augmentation: str, rng: torch.Generator) -> Tensor:
        films, views = films_of(pool, rows, augmentation, rng, network.head.weight.device)
        return network(films, views).unflatten(0, (len(rows), len(self.views)))


def films_of(pool: Pool, rows: Tensor, augmentation: str, rng: torch.Generator, device: Any) -> tuple[Tensor, Tensor]:
    """Films of some rows, one after the other: ``[B V, 1, S, S]`` in [0, 1], augmented; and the view of each, ``[B V]``."""
    films = pool.images[rows].to(device)  # [B, V, S, S]
    views = torch.arange(films.shape[1], device=device).repeat(len(rows))
    films = augmented(films.flatten(0, 1)[:, None].float() / 255, augmentation, rng)
    return films.contiguous(memory_format=torch.channels_last), views


# ---- reports ---------------------------------------------------------------------------------------------------------
class ReportNetwork(nn.Module):
    """Hashed words and pairs of words, averaged, and one hidden layer."""

    def __init__(self, config: NetworkConfig, num_outputs: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(config.buckets, config.width, mode="mean")
        self.head = nn.Linear(config.width, num_outputs)
        nn.init.normal_(self.words.weight, std=0.1)

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Tokens of all reports one after the other, and where each begins, ``[B]`` -> ``[B, num_outputs]``."""
        return self.head(F.relu(self.words(tokens, offsets)))


@dataclass
class Tokens:
    """Hashed words and pairs of words of reports, each report hashed once."""

    buckets: int
    _known: dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, reports: Sequence[str], dropped: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens of all reports, and where each begins; a share of the tokens is dropped, but never the first of a report."""
        rows = [self._of(report) for report in reports]
        lengths = torch.tensor([len(row) for row in rows])
        tokens, starts = torch.from_numpy(np.concatenate(rows)), lengths.cumsum(0) - lengths
        if not dropped:
            return tokens, starts
        stay = torch.rand(len(tokens), generator=rng) >= dropped
        stay[starts] = True
        return tokens[stay], torch.cat([torch.zeros(1, dtype=torch.int64), stay.cumsum(0)])[starts]

    def _of(self, report: str) -> np.ndarray:
        if report not in self._known:
            words = _WORD.findall(report.lower()) or [""]
            texts = [*words, *(f"{a} {b}" for a, b in pairwise(words))]
            self._known[report] = np.array([zlib.crc32(text.encode()) % self.buckets for text in texts], dtype=np.int64)
        return self._known[report]


DROPPED = {"none": 0.0, "standard": 0.05, "strong": 0.3}  # share of the words that augmentation drops


@dataclass
class ReportTask:
    """Findings from reports."""

    network: NetworkConfig
    findings: tuple[str, ...]

    def __post_init__(self) -> None:
        self._tokens = Tokens(self.network.buckets)

    def build(self) -> nn.Module:
        """As :class:`Task`."""
        return ReportNetwork(self.network, len(self.findings))

    def loss(
        self, network: Any, pool: Pool, rows: Tensor, weights: Tensor, augmentation: str, rng: torch.Generator
    ) -> Tensor:
        """As :class:`Task`."""
        logits = self._logits(network, pool, rows, augmentation, rng)
        return finding_loss(logits, pool.truth[rows].to(logits.device), weights)

    def predict(self, network: Any, pool: Pool) -> np.ndarray:
        """As :class:`Task`."""
        logits = self._logits(network, pool, torch.arange(len(pool)), "none", torch.Generator())
        return logits.double().sigmoid().cpu().numpy()

    def _logits(self, network: Any, pool: Pool, rows: Tensor, augmentation: str, rng: torch.Generator) -> Tensor:
        tokens = self._tokens([pool.reports[row] for row in rows.tolist()], DROPPED[augmentation], rng)
        return network(*(part.to(network.head.weight.device) for part in tokens))


# ---- retrieval -------------------------------------------------------------------------------------------------------
class RetrievalNetwork(nn.Module):
    """A film tower and a report tower into one space."""

    def __init__(self, config: NetworkConfig, size: int, views: Sequence[str]) -> None:
        super().__init__()
        self.films = film_network(config, size, views, ("embedding",))
        self.project = nn.Linear(4 * config.channels[-1], config.width)
        self.reports = ReportNetwork(config, config.width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def film_embeddings(self, films: Tensor, views: Tensor) -> Tensor:
        """``[B, 1, S, S]`` -> ``[B, D]``: mean and maximum of each half, so that sides are seen."""
        halves = self.films.feature_map(films, views).chunk(2, dim=-1)
        return self.project(
            torch.cat([pool for half in halves for pool in (half.mean((2, 3)), half.amax((2, 3)))], dim=1)
        )


@dataclass
class RetrievalTask:
    """The film of a report among the films of all studies; symmetric InfoNCE."""

    network: NetworkConfig
    size: int
    views: tuple[str, ...]

    def __post_init__(self) -> None:
        self._tokens = Tokens(self.network.buckets)

    def build(self) -> nn.Module:
        """As :class:`Task`."""
        return RetrievalNetwork(self.network, self.size, self.views)

    def loss(
        self, network: Any, pool: Pool, rows: Tensor, weights: Tensor, augmentation: str, rng: torch.Generator
    ) -> Tensor:
        """As :class:`Task`; the same study drawn twice, or its duplicate, is no negative of itself."""
        films, reports = self._embeddings(network, pool, rows, augmentation, rng)
        logits = network.logit_scale.clamp(0, math.log(100.0)).exp() * films.float() @ reports.float().T  # [B, B]
        numbers = torch.tensor([zlib.crc32(pool.ids[row].encode()) for row in rows.tolist()], device=logits.device)
        same = (numbers[:, None] == numbers[None]) & ~torch.eye(len(rows), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same, -1e4)
        truth = torch.arange(len(rows), device=logits.device)
        return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2

    def predict(self, network: Any, pool: Pool) -> np.ndarray:
        """As :class:`Task`; films that are equally near share the worse rank."""
        parts = [
            self._embeddings(network, pool, rows, "none", torch.Generator())
            for rows in torch.arange(len(pool)).split(256)
        ]
        films, reports = (torch.cat([part[side].double().cpu() for part in parts]) for side in (0, 1))
        scores = reports @ films.T  # [N reports, N films]
        return (scores >= scores.diagonal()[:, None]).sum(1, keepdim=True).double().numpy()

    def _embeddings(
        self, network: Any, pool: Pool, rows: Tensor, augmentation: str, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        device = network.project.weight.device
        films, views = films_of(pool, rows, augmentation, rng, device)
        present = pool.has_image[rows].to(device)[..., None].float()
        embedded = network.film_embeddings(films, views).unflatten(0, present.shape[:2])  # [B, V, D]
        tokens = self._tokens([pool.reports[row] for row in rows.tolist()], DROPPED[augmentation], rng)
        texts = network.reports(*(part.to(device) for part in tokens))
        return F.normalize((embedded.float() * present).sum(1), dim=1), F.normalize(texts.float(), dim=1)


def task_of(config: UtilityConfig, size: int, findings: tuple[str, ...]) -> Task:
    """The task that a config names."""
    if config.task == "films":
        return FilmTask(config.network, size, config.views, findings)
    if config.task == "reports":
        return ReportTask(config.network, findings)
    return RetrievalTask(config.network, size, config.views)
