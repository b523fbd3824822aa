"""The privacy of a run: what it may spend, its mechanism, whose (epsilon, delta) the library dp-accounting computes, and its secret."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi.config import config
from medcodi.data.dataset import StudyDataset, read_study
from medcodi.distributed import Ranks
from medcodi.errors import MissingExtraError, TrainingError
from medcodi.storage import atomic

if TYPE_CHECKING:
    from medcodi.training.config import TrainConfig


@config
class PrivacyConfig:
    """Differential privacy of a run (Abadi et al., 2016), for each patient; ``batch.global_size`` patients are drawn a step on average."""

    # what the run may spend in all its steps; the noise is computed from it. Give it or noise
    epsilon: float | None = None
    # standard deviation of the noise, in units of clip; 0: no noise, and no promise, for comparison
    noise: float | None = None
    delta: float  # probability with which the promise may fail; below 1 / number of patients
    clip: float = 1.0  # greatest norm of one patient's gradient; .inf: no limit, for comparison

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise is None):
            raise ValueError(f"epsilon={self.epsilon} and noise={self.noise}: give one of them")
        if self.epsilon is not None and not (0 < self.epsilon < math.inf):
            raise ValueError(f"epsilon is {self.epsilon}, must be above 0 and finite")
        if self.noise is not None and not (0 <= self.noise < math.inf):
            raise ValueError(f"noise is {self.noise}, must be 0 or above, and finite")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta is {self.delta}, must be in (0, 1)")
        if not self.clip > 0:
            raise ValueError(f"clip is {self.clip}, must be above 0")
        if self.clip == math.inf and self.noise != 0:
            raise ValueError(
                "clip is .inf with noise: no noise hides a gradient without limit; give a number, such as clip: 1"
            )


def check_low_rank(run: TrainConfig) -> None:
    """Refuse what low-rank changes, or gradients of single patients, cannot be trained with.

    Raises:
        ValueError: Naming the keys.
    """
    if run.low_rank is None:
        if run.privacy is not None:
            raise ValueError(
                "privacy without low_rank: gradients of low-rank changes are bounded; add low_rank: {rank: 8}"
            )
        return
    from medcodi.stages.stage import stage_class

    # Low-rank changes: of a model that others have, on the plain engine.
    stage = stage_class(run.stage.name)
    if not stage.takes_low_rank:
        raise ValueError(f"low_rank in stage {run.stage.name!r}: expected 'diffuse' or 'align'; remove low_rank")
    if run.makes_start or run.environment is not None:
        raise ValueError("low_rank changes a model that others have: give init alone, not model, extend or environment")
    if run.engine.name == "deepspeed":
        raise ValueError("low_rank with engine.name=deepspeed: the changes are small; engine.name=plain trains them")
    if run.stage.options.get("tower_weight"):
        raise ValueError("low_rank with tower_weight, whose projection is trained whole: remove one of them")
    if run.privacy is None:
        return

    # Gradients of single patients: of a loss that is a sum over studies, computed by torch.func.
    if stage.why_not_private is not None:
        raise ValueError(f"privacy in stage {run.stage.name!r}: {stage.why_not_private}; expected 'diffuse'")
    settings = {
        "compile": run.compile,
        "engine.activation_checkpointing": run.engine.activation_checkpointing,
        "precision": "fp16" if run.precision == "fp16" else False,
    }
    for key, value in settings.items():
        if value:
            raise ValueError(
                f"privacy with {key}={value}: gradients of single patients cannot be computed so; leave it out"
            )


# ---- what it spends --------------------------------------------------------------------------------------------------
METHOD = "Poisson sampling of patients, Gaussian noise, privacy loss distributions"
_LEAST_NOISE = 0.1  # from which the noise of an epsilon is sought


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """A step: each patient is drawn with one probability, their clipped gradients are summed, and noise is added."""

    noise: float  # standard deviation, in units of the clipping norm
    clip: float  # greatest norm of one patient's gradient
    delta: float
    patients: int  # N, in the data
    expected: int  # patients a step, on average: the sum is divided by it

    @property
    def rate(self) -> float:
        """Probability with which a patient is drawn in a step."""
        return self.expected / self.patients

    def epsilon(self, steps: int) -> float:
        """Spent by some steps at ``delta``, for one patient more or less; infinite without noise."""
        return _epsilon(self.noise, self.rate, steps, self.delta)

    def spent(self, steps: int) -> dict[str, Any]:
        """The promise after some steps, ready for JSON; ``epsilon`` None: there is none."""
        epsilon = self.epsilon(steps)
        return {
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "delta": self.delta,
            "unit": "patient",
            "patients": self.patients,
            "steps": steps,
            "sampling_rate": self.rate,
            "noise": self.noise,
            "clip": self.clip if math.isfinite(self.clip) else None,
            "accountant": f"dp-accounting: {METHOD}",
        }


def mechanism_of(config: TrainConfig, patients: int) -> Mechanism | None:
    """The mechanism of a run on some patients; None where it is not private.

    Raises:
        MissingExtraError: If dp-accounting is not installed.
        TrainingError: If delta is too large for the patients, or there are fewer than a step draws.
    """
    privacy = config.privacy
    if privacy is None:
        return None
    if config.batch.global_size > patients:
        raise TrainingError(
            f"batch.global_size is {config.batch.global_size}, and the data hold {patients:,} patients",
            expected="fewer patients in a step than there are",
            fix=f"batch.global_size={max(1, patients // 10)}",
        )
    if privacy.delta * patients >= 1:
        raise TrainingError(
            f"privacy.delta is {privacy.delta:g} with {patients:,} patients: publishing one of them whole would keep such a promise",
            expected=f"less than 1 / patients, which is {1 / patients:.2g}",
            fix=f"privacy.delta={0.1 / patients:.1g}",
        )
    _library()  # missing: refused now, and not when the first checkpoint is due
    noise, rate = privacy.noise, config.batch.global_size / patients
    if noise is None:
        assert privacy.epsilon is not None
        noise = noise_for(privacy.epsilon, rate, config.steps, privacy.delta)
    return Mechanism(
        noise=noise, clip=privacy.clip, delta=privacy.delta, patients=patients, expected=config.batch.global_size
    )


# ---- dp-accounting ---------------------------------------------------------------------------------------------------
def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.mechanism_calibration
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError:
        raise MissingExtraError("dp-accounting", extra="privacy", needed_for="private training") from None
    return dp_accounting


def _event(noise: float, rate: float, steps: int) -> Any:
    library = _library()
    step = library.PoissonSampledDpEvent(rate, library.GaussianDpEvent(noise))
    return library.SelfComposedDpEvent(step, steps)


@lru_cache(maxsize=64)
def _epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    if noise == 0:
        return math.inf
    if steps == 0:
        return 0.0
    return float(_library().pld.PLDAccountant().compose(_event(noise, rate, steps)).get_epsilon(delta))


@lru_cache(maxsize=16)
def noise_for(epsilon: float, rate: float, steps: int, delta: float) -> float:
    """The noise with which the steps spend ``epsilon``, to two digits, and no more.

    Raises:
        TrainingError: If no noise is enough.
    """
    library = _library()

    def calibrated(accountant: Any, interval: Any) -> float:
        return library.calibrate_dp_mechanism(
            accountant, lambda noise: _event(noise, rate, steps), epsilon, delta, bracket_interval=interval, tol=5e-3
        )

    # Rényi accounting, which is fast and never promises more, gives a noise that is enough; the least one is not far below.
    try:
        enough = calibrated(_renyi, library.LowerEndpointAndGuess(_LEAST_NOISE, 1.0))
    except library.mechanism_calibration.NoBracketIntervalFoundError:
        raise TrainingError(
            f"privacy.epsilon is {epsilon:g} over {steps:,} steps at a sampling rate of {rate:.3g}",
            expected="what some noise can promise",
            fix="a larger epsilon, fewer steps, or a smaller batch.global_size",
        ) from None
    if _epsilon(enough / 2, rate, steps, delta) <= epsilon:
        return enough / 2
    interval = library.ExplicitBracketInterval(enough / 2, enough)
    return math.ceil(calibrated(library.pld.PLDAccountant, interval) * 1e4) / 1e4


def _renyi() -> Any:
    return _library().rdp.RdpAccountant(orders=range(2, 129))


# ---- patients, and the run's secret ----------------------------------------------------------------------------------
def studies_by_patient(dataset: StudyDataset) -> list[list[int]]:
    """The indices of every patient's studies, in the order of the dataset; no film is read where the dataset knows its patients."""
    known: Any = dataset
    if hasattr(dataset, "identifiers"):
        patients = [known.identifiers(index)[1] for index in range(len(dataset))]
    elif hasattr(dataset, "contents"):
        patients = [patient for _, patient, _ in known.contents()]
    else:
        patients = [read_study(dataset, index).patient_id for index in range(len(dataset))]
    groups: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        groups.setdefault(patient, []).append(index)
    return list(groups.values())


def secret_of(path: Path, ranks: Ranks) -> str:
    """The secret that the draws of patients and the noise are keyed by, the same on all ranks; made when there is none.

    Anyone who knows it can subtract the noise: it is in the run's folder alone, for its owner alone, and is never published.
    """

    def read_or_make() -> str:
        if not path.exists():
            with atomic.replacing(path, error=TrainingError) as partial:
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(secrets.token_hex(32) + "\n")
        return path.read_text(encoding="ascii").strip()

    return ranks.by_first(read_or_make)


def hash_of(secret: str) -> str:
    """A name of the secret, from which it cannot be computed: a run resumes with its own alone."""
    return hashlib.sha256(f"medcodi {secret}".encode()).hexdigest()[:16]
