"""Simulated reader studies with known truth: signal detection and ordered ratings with crossed readers and cases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from medcodi.config import config
from medcodi.errors import ConfigError
from medcodi.randomness import Key, numpy_generator
from medcodi.turing.statistics.detection import Detection
from medcodi.turing.statistics.ratings import Ratings
from medcodi.turing.statistics.resampling import Cases

SCALE = 5  # ratings 1..5, confidence 1..5


@config
class ReaderModel:
    """How simulated readers see and answer. All latent scales have a total standard deviation of 1 for one reader's answers.

    Rating: ``q = quality + reader + generated (effect + reader by arm) + case + noise``, cut at ``cuts``.
    Detection: ``s = ± d' / 2 + case + noise``, "generated" where ``s`` exceeds the reader's criterion; confidence by the distance.
    """

    quality: float = 0.6  # latent mean rating of real items
    effect: float = -0.3  # latent shift of generated items; 0 means that they are rated alike
    case_share: float = 0.4  # share of the variance within an arm that belongs to the case: readers agree about it
    reader_sd: float = 0.3  # spread of readers' means: severe and mild ones
    interaction_sd: float = 0.15  # spread over readers of the shift
    cuts: tuple[float, ...] = (-1.3, -0.5, 0.3, 1.1)  # where the latent rating passes to the next category
    d_prime: float = 0.8  # mean d'
    d_prime_sd: float = 0.25  # spread of d' over readers
    criterion: float = 0.0  # mean criterion
    criterion_sd: float = 0.25  # spread of the criterion
    detection_case_share: float = 0.3  # share of the variance that belongs to the case, for detection
    confidence_cuts: tuple[float, ...] = (0.2, 0.5, 0.9, 1.4)  # distances from the criterion at which confidence rises
    learning: float = 0.0  # what d' gains from the first to the last trial
    seconds: float = 14.0  # median time of an answer

    def __post_init__(self) -> None:
        """Refuse what no reader can be."""
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

    @property
    def without_readers(self) -> ReaderModel:
        """The same with readers all alike."""
        return replace(self, reader_sd=0.0, interaction_sd=0.0, d_prime_sd=0.0, criterion_sd=0.0)


@dataclass(frozen=True)
class Readers:
    """Drawn readers: severity and shift of ratings, d' and criterion, each float ``[R]``."""

    severity: np.ndarray
    shift: np.ndarray
    d_prime: np.ndarray
    criterion: np.ndarray

    @classmethod
    def draw(cls, model: ReaderModel, num: int, generator: np.random.Generator) -> Readers:
        """``num`` readers of the population that ``model`` describes."""
        z = generator.standard_normal((4, num))
        return cls(
            severity=model.quality + model.reader_sd * z[0],
            shift=model.effect + model.interaction_sd * z[1],
            d_prime=model.d_prime + model.d_prime_sd * z[2],
            criterion=model.criterion + model.criterion_sd * z[3],
        )


@dataclass(frozen=True, kw_only=True)
class SimulatedStudy:
    """One study: what each reader answered to each item."""

    model: ReaderModel  # how readers answer
    drawn: Readers  # the readers
    generated: np.ndarray  # bool `[I]`
    case: np.ndarray  # case of each item, int `[I]`
    ratings: np.ndarray  # float `[R, I]` in 1..5
    again: np.ndarray  # float `[R, I]`: the ratings of the same items shown a second time
    says_generated: np.ndarray  # float `[R, I]`
    confidence: np.ndarray  # float `[R, I]` in 1..5
    evidence: np.ndarray  # float `[R, I]`: how generated the item looked, the latent scale of detection
    order: np.ndarray  # int `[R, I]`: trial of each item
    seconds: np.ndarray  # float `[R, I]`

    @property
    def readers(self) -> list[str]:
        """``reader-01`` and so on."""
        return [f"reader-{r + 1:02d}" for r in range(len(self.ratings))]

    @cached_property
    def cases(self) -> Cases:
        """Which items are drawn together."""
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
        """1 where the generated item of a pair looked the more generated, else 0: float ``[R, I / 2]``, a real and a generated item each."""
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

    Args:
        model: How readers answer.
        *keys: Keys of the randomness.
        num_readers: Readers, drawn anew.
        num_per_arm: Real items, and as many generated ones.
        paired: The generated items are made from the same cases as the real ones.
    """
    generator = numpy_generator("turing simulation", *keys)
    drawn = Readers.draw(model, num_readers, generator)
    generated = np.repeat([False, True], num_per_arm)
    case = np.tile(np.arange(num_per_arm), 2) if paired else np.arange(2 * num_per_arm)
    shape = (num_readers, len(generated))
    quality, evidence = generator.standard_normal((2, case.max() + 1))[:, case]
    noise = generator.standard_normal((4, *shape))
    order = np.argsort(generator.random(shape), axis=1).argsort(axis=1)

    own = np.sqrt(model.case_share) * quality + drawn.severity[:, None] + generated * drawn.shift[:, None]
    spread = np.sqrt(1 - model.case_share)
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


def tidy_rows(
    study: SimulatedStudy, *, rating_task: str = "realism", detection_task: str = "detection", repeats: int = 0
) -> list[dict[str, Any]]:
    """The study as rows of the tidy table: a rating task, then a real-or-generated task, then ``repeats`` repeated ratings."""
    rows = []
    num = len(study.generated)
    for r, reader in enumerate(study.readers):
        for item in range(num):
            shared = _row(study, reader, item)
            seconds = round(float(study.seconds[r, item]), 2)
            rows.append(
                shared
                | {"task": rating_task, "kind": "rating", "position": int(study.order[r, item]), "seconds": seconds}
                | {"rating": study.ratings[r, item]}
            )
            choice = "generated" if study.says_generated[r, item] else "real"
            rows.append(
                shared
                | {"task": detection_task, "kind": "real_or_generated", "position": num + int(study.order[r, item])}
                | {"choice": choice, "confidence": study.confidence[r, item], "seconds": seconds}
                | {"correct": int((choice == "generated") == bool(study.generated[item]))}
            )
        for item in range(min(repeats, num)):
            rows.append(
                _row(study, reader, item)
                | {"task": rating_task, "kind": "rating", "position": 2 * num + item, "seconds": study.model.seconds}
                | {"rating": study.again[r, item], "repeat_of": f"item-{item:03d}", "item": f"item-{item:03d}-again"}
            )
    return rows


def _row(study: SimulatedStudy, reader: str, item: int) -> dict[str, Any]:
    case = f"case-{study.case[item]:03d}"
    arm = "generated" if study.generated[item] else "real"
    return {"reader": reader, "item": f"item-{item:03d}", "case": case, "patient": case, "arm": arm, "practice": False}
