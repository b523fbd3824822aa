"""Config of differentially private training: what a run may spend, and how it bounds what one patient can change."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medcodi.config import config

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
    if stage.not_private is not None:
        raise ValueError(f"privacy in stage {run.stage.name!r}: {stage.not_private}; expected 'diffuse'")
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
