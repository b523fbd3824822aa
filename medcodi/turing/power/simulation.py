"""Simulated reader studies and their truth: signal detection and ordered ratings, readers and cases crossed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from medcodi.config import config
from medcodi.errors import ConfigError
from medcodi.randomness import Key, numpy_generator
from medcodi.turing.statistics.detection import Detection
from medcodi.turing.statistics.ratings import Ratings
from medcodi.turing.statistics.resampling import Cases

SCALE = 5  # ratings 1..5, confidence 1..5


@config
class ReaderModel:
    """How simulated readers perceive and answer. Every latent scale has a standard deviation of 1 within one reader and arm.

    Rating: ``q = quality + reader + generated (effect + reader by arm) + case + noise``, cut at ``cuts``.
    Detection: ``s = ± d' / 2 + case + noise``, "generated" where ``s`` exceeds the reader's criterion; confidence by the distance.
    """

    quality: float = 0.6  # latent mean rating of real items
    effect: float = -0.3  # latent shift of generated items; 0 means that they are rated alike
    case_share: float = 0.4  # share of the variance within an arm due to the case, which readers agree on
    reader_sd: float = 0.3  # standard deviation over readers of their mean: severe and mild readers
    interaction_sd: float = 0.15  # standard deviation of the shift over readers
    cuts: tuple[float, ...] = (-1.3, -0.5, 0.3, 1.1)  # where the latent rating passes to the next category
    d_prime: float = 0.8  # mean d'
    d_prime_sd: float = 0.25  # standard deviation of d' over readers
    criterion: float = 0.0  # mean criterion
    criterion_sd: float = 0.25  # standard deviation of the criterion over readers
    detection_case_share: float = 0.3  # share of the variance due to the case, for detection
    confidence_cuts: tuple[float, ...] = (0.2, 0.5, 0.9, 1.4)  # distances from the criterion at which confidence rises
    learning: float = 0.0  # gain of d' from the first to the last trial
    seconds: float = 14.0  # median time of an answer, in seconds

    def __post_init__(self) -> None:
        for name in ("case_share", "detection_case_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} = {getattr(self, name)}", expected="a share in [0, 1)", fix=f"correct {name}"
                )
        for name in ("reader_sd", "interaction_sd", "d_prime_sd", "criterion_sd"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}", expected="0 or more", fix=f"correct {name}")
        if list(self.cuts) != sorted(self.cuts) or len(self.cuts) != SCALE - 1:
            raise ConfigError(f"cuts {self.cuts}", expected=f"{SCALE - 1} rising numbers", fix="correct cuts")


@dataclass(frozen=True)
class SimulatedReaders:
    """Readers drawn from a population, float ``[R]`` each."""

    severity: np.ndarray  # latent mean rating of real items
    shift: np.ndarray  # latent shift of generated items
    d_prime: np.ndarray
    criterion: np.ndarray

    @classmethod
    def draw(cls, model: ReaderModel, num: int, generator: np.random.Generator) -> SimulatedReaders:
        """Draw ``num`` readers from the population that ``model`` describes."""
        z = generator.standard_normal((4, num))
        return cls(
            severity=model.quality + model.reader_sd * z[0],
            shift=model.effect + model.interaction_sd * z[1],
            d_prime=model.d_prime + model.d_prime_sd * z[2],
            criterion=model.criterion + model.criterion_sd * z[3],
        )


@dataclass(frozen=True, kw_only=True)
class SimulatedStudy:
    """Answers of every reader to every item of one simulated study."""

    model: ReaderModel
    drawn: SimulatedReaders
    generated: np.ndarray  # bool [I]
    case: np.ndarray  # int [I], case of each item
    ratings: np.ndarray  # float [R, I] in 1..5
    again: np.ndarray  # float [R, I], ratings of the same items shown a second time
    says_generated: np.ndarray  # float [R, I]
    confidence: np.ndarray  # float [R, I] in 1..5
    evidence: np.ndarray  # float [R, I], latent scale of detection: how generated an item looks
    order: np.ndarray  # int [R, I], trial of each item
    seconds: np.ndarray  # float [R, I]

    @property
    def readers(self) -> list[str]:
        """Names ``reader-01``, ``reader-02``, ..."""
        return [f"reader-{r + 1:02d}" for r in range(len(self.ratings))]

    @cached_property
    def cases(self) -> Cases:
        """Items that are resampled together."""
        arms = np.where(self.generated, "generated", "real")
        return Cases.of([str(c) for c in self.case], [str(a) for a in arms])

    @property
    def as_ratings(self) -> Ratings:
        """The rating task, generated against real."""
        return Ratings(
            readers=self.readers,
            values=self.ratings,
            other=self.generated,
            case=self.case.astype(str),
            cases=self.cases,
        )

    @property
    def forced_choice(self) -> np.ndarray:
        """1 where the generated item of a pair looks more generated than the real one, else 0: float ``[R, I / 2]``."""
        return (self.evidence[:, self.generated] > self.evidence[:, ~self.generated]).astype(float)

    @property
    def as_detection(self) -> Detection:
        """The real-or-generated task."""
        return Detection(
            readers=self.readers,
            says_generated=self.says_generated,
            confidence=self.confidence,
            generated=self.generated,
            cases=self.cases,
        )


def simulate(
    model: ReaderModel, *keys: Key, num_readers: int = 3, num_per_arm: int = 30, paired: bool = False
) -> SimulatedStudy:
    """One study of ``num_readers`` readers and ``2 * num_per_arm`` items, a pure function of ``keys``.

    ``paired``: the generated items show the same cases as the real ones.
    """
    # Design: R readers, I items, each reader's own order.
    generator = numpy_generator("turing simulation", *keys)
    drawn = SimulatedReaders.draw(model, num_readers, generator)
    generated = np.repeat([False, True], num_per_arm)
    case = np.tile(np.arange(num_per_arm), 2) if paired else np.arange(2 * num_per_arm)
    shape = (num_readers, len(generated))
    quality, evidence = generator.standard_normal((2, case.max() + 1))[:, case]  # [I] each, shared by all readers
    noise = generator.standard_normal((4, *shape))  # [4, R, I]
    order = np.argsort(generator.random(shape), axis=1).argsort(axis=1)

    # Ratings: latent mean of reader and item, plus the noise of each answer.
    own = np.sqrt(model.case_share) * quality + drawn.severity[:, None] + generated * drawn.shift[:, None]
    spread = np.sqrt(1 - model.case_share)
    # Detection: evidence s around ± d' / 2, compared with the reader's criterion.
    progress = order / max(shape[1] - 1, 1) - 0.5
    d_prime = drawn.d_prime[:, None] + model.learning * progress
    share = model.detection_case_share
    s = np.where(generated, 0.5, -0.5) * d_prime + np.sqrt(share) * evidence + np.sqrt(1 - share) * noise[2]
    distance = s - drawn.criterion[:, None]
    return SimulatedStudy(
        model=model,
        drawn=drawn,
        generated=generated,
        case=case,
        ratings=_cut(own + spread * noise[0], model.cuts),
        again=_cut(own + spread * noise[1], model.cuts),
        says_generated=(distance > 0).astype(float),
        confidence=_cut(np.abs(distance), model.confidence_cuts),
        evidence=s,
        order=order,
        seconds=model.seconds * np.exp(0.5 * noise[3]),
    )


def _cut(latent: np.ndarray, cuts: tuple[float, ...]) -> np.ndarray:
    return 1.0 + np.searchsorted(np.asarray(cuts), latent)


# ---- truth ---------------------------------------------------------------------------------------------------------------
class Truth:
    """Limits of the statistics of given readers as the number of cases grows."""

    def __init__(self, model: ReaderModel, readers: SimulatedReaders) -> None:
        self.model, self.readers = model, readers
        arm = np.asarray([0.0, 1.0])  # 0 real, 1 generated
        mean = readers.severity[:, None] + arm * readers.shift[:, None]
        self.rating = category_probabilities(mean, model.cuts)  # [R, 2, K]
        # Signed confidences -5..-1, 1..5.
        signed = np.asarray([*(-np.asarray(model.confidence_cuts))[::-1], 0.0, *model.confidence_cuts])
        evidence = (arm - 0.5) * readers.d_prime[:, None] - readers.criterion[:, None]
        self.score = category_probabilities(evidence, tuple(signed))  # [R, 2, 2K]

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Name of the statistic -> limit of each reader, float ``[R]``."""
        half = self.score.shape[2] // 2
        specificity = self.score[:, 0, :half].sum(1)
        sensitivity = self.score[:, 1, half:].sum(1)
        levels = np.arange(1, SCALE + 1)
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "accuracy": (sensitivity + specificity) / 2,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "forced_choice": ndtr(self.readers.d_prime / np.sqrt(2)),
            "d_prime": self.readers.d_prime,
            "criterion": self.readers.criterion,
            "auc": _superiority(self.score[:, 1], self.score[:, 0]),
            "difference": (self.rating[:, 1] - self.rating[:, 0]) @ levels,
            "superiority": _superiority(self.rating[:, 1], self.rating[:, 0]),
        }

    def mean(self, name: str) -> float:
        """Mean of a statistic over the readers."""
        return float(self.values[name].mean())


def category_probabilities(mean: np.ndarray, cuts: tuple[float, ...], sd: float = 1.0) -> np.ndarray:
    """Probabilities ``[..., K]`` of the categories into which ``cuts`` divide a normal variable of means ``[...]``."""
    below = ndtr((np.asarray(cuts) - mean[..., None]) / sd)
    zero, one = np.zeros((*mean.shape, 1)), np.ones((*mean.shape, 1))
    return np.diff(np.concatenate([zero, below, one], axis=-1), axis=-1)


def _superiority(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """P(first > second) + P(equal) / 2 of two ordered categories, ``[R, K]`` each."""
    below = np.cumsum(second, axis=1) - second / 2
    return (first * below).sum(1)
