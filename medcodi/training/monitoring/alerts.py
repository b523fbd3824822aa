"""Early signs that a run goes wrong, found in its logged values and described in words.

Rules are functions of values alone, so that a resumed run, which replays its log, calls out what an undisturbed one would.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medcodi.config import config

NAIVE_LOSS = (0.95, 1.05)  # of a denoiser that always predicts 0: targets have unit variance
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
FLAT = 0.02  # share of the median by which a curve may always move, however smooth it was
LOGIT_SCALES = (1e-3, math.log(100.0) - 1e-3)  # at or beyond these it is at its clamp


@config
class AlertConfig:
    """When a sign is called out; ``patience`` and ``window`` count logged lines."""

    enabled: bool = True  # false: never
    window: int = 50  # logged lines that a loss is compared with
    spike: float = 8.0  # robust standard deviations above the window's median at which a loss is a spike
    patience: int = 10  # logged lines in a row for which a sign must stay
    clipped_patience: int = 50  # the same for a gradient that is always clipped, which is common at the start of a run
    dead_tolerance: float = 0.03  # a loss that stays within this share of its start has not moved
    min_kl: float = 0.7  # nats per report below which a latent holds no information
    min_spread: float = 1e-3  # standard deviation of cosines below which all encodings are the same
    cooldown: int = 100  # logged lines for which a sign is not called out again

    def __post_init__(self) -> None:
        if min(self.window, self.patience, self.clipped_patience) < 3:
            raise ValueError("window, patience and clipped_patience must be at least 3")
        if self.spike <= 0 or min(self.dead_tolerance, self.min_kl, self.min_spread) < 0 or self.cooldown < 0:
            raise ValueError("spike must be above 0, the others not negative")


@dataclass(frozen=True)
class Alert:
    """A sign of trouble."""

    kind: str  # which sign
    subject: str  # name of the value, or of the part, that shows it
    text: str  # what was seen, what it may mean, what to do


# ---- rules: functions of values ----------------------------------------------------------------------------------
def spike_limit(before: Sequence[float], deviations: float) -> float:
    """Median plus ``deviations`` times the standard deviation, estimated by the median absolute deviation (MAD)."""
    middle = statistics.median(before)
    deviation = MAD_TO_DEVIATION * statistics.median(abs(value - middle) for value in before)
    return middle + deviations * max(deviation, FLAT * abs(middle))


def never_moved(values: Sequence[float], tolerance: float) -> bool:
    """True if every value is within a share of the first."""
    return all(abs(value - values[0]) <= tolerance * abs(values[0]) for value in values)


def at_naive_level(values: Sequence[float]) -> bool:
    """True if the median is that of a denoiser that always predicts 0."""
    return NAIVE_LOSS[0] <= statistics.median(values) <= NAIVE_LOSS[1]


def at_chance(accuracies: Sequence[float], num_rows: int) -> bool:
    """True if every accuracy is at most 1.5 times that of guessing among the rows."""
    return num_rows > 1 and all(value <= 1.5 / num_rows for value in accuracies)


def is_loss(name: str) -> bool:
    """True for the loss, the loss of a modality or of a pair, and an autoencoder's reconstruction error."""
    first, _, rest = name.partition("/")
    per_part = first == "loss" and rest and "/" not in rest
    return name == "loss" or bool(per_part) or (rest in ("loss", "ce", "l1") and first != "validation")


# ---- the history of the log --------------------------------------------------------------------------------------
class Alerts:
    """Checks logged lines one after the other, and returns the signs of trouble that are new."""

    def __init__(self, config: AlertConfig, *, num_rows: int, warmup_steps: int = 0) -> None:
        self.config = config
        self.num_rows = num_rows  # studies in a global batch: a contrastive guess is among these
        self.warmup_steps = warmup_steps  # until these are over, a clipped gradient is no sign
        self._history: dict[str, deque[float]] = {}
        self._first: dict[str, list[float]] = {}
        self._called_out: dict[tuple[str, str], int] = {}  # (kind, subject) -> line
        self._line = 0

    def check(self, step: int, values: Mapping[str, float]) -> list[Alert]:
        """The signs in a logged line that were not called out within ``cooldown`` lines; call it with every line, in order."""
        if not self.config.enabled or "loss" not in values:  # a line of a validation
            return []
        self._line += 1
        alerts = [alert for rule in RULES for alert in rule(self, step, values)]

        # The line joins the history only now: rules compare it with those before it.
        for name, value in values.items():
            if math.isfinite(value):
                size = max(self.config.window, self.config.clipped_patience)
                self._history.setdefault(name, deque(maxlen=size)).append(value)
                first = self._first.setdefault(name, [])
                if len(first) < self.config.patience:
                    first.append(value)
        return [alert for alert in alerts if self._is_new(alert)]

    def _is_new(self, alert: Alert) -> bool:
        key = (alert.kind, alert.subject)
        if key in self._called_out and self._line - self._called_out[key] <= self.config.cooldown:
            return False
        self._called_out[key] = self._line
        return True

    def before(self, name: str) -> list[float]:
        """The values of the window, without this line's."""
        return list(self._history.get(name, ()))[-self.config.window :]

    def is_absent(self, name: str, values: Mapping[str, float]) -> bool:
        """True where earlier lines have a value, and this one has not: its steps held no study with that modality."""
        return name in self._history and name not in values

    def last(self, name: str, value: float, count: int) -> list[float]:
        """The last ``count`` values, with this line's; empty while there are fewer."""
        values = [*self._history.get(name, ()), value]
        return values[-count:] if len(values) >= count else []

    def since_start(self, name: str, value: float) -> list[float]:
        """The first ``patience`` values and this line's; empty while there are fewer."""
        first = self._first.get(name, [])
        return [*first, value] if len(first) >= self.config.patience else []


def _spikes(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    for name in filter(is_loss, values):
        before = alerts.before(name)
        if len(before) < max(10, alerts.config.patience):
            continue
        limit = spike_limit(before, alerts.config.spike)
        if not values[name] <= limit:  # NaN is a spike too
            yield Alert(
                "loss spike",
                name,
                f"{name} is {values[name]:.4g} at step {step}; its median over the last {len(before)} logged lines was "
                f"{statistics.median(before):.4g} (limit {limit:.4g}). The batch may be bad, or the learning rate too high. If it "
                "does not come down, start a new run from a checkpoint before it, with a lower optimizer.lr or optimizer.grad_clip",
            )


def _dead(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    """Parts that get no gradient, and denoisers whose loss stays at that of predicting 0."""
    for name, value in values.items():
        # Norms and biases of a part that do not change at all.
        part = name.removeprefix("moved/")
        is_update = part != name and values.get("lr", 1.0) > 0
        is_update = is_update and not alerts.is_absent(f"loss/{part}", values)  # no study of this line has it
        updates = alerts.last(name, value, alerts.config.patience) if is_update else []
        if updates and max(updates) == 0.0:
            yield Alert(
                "dead modality",
                part,
                f"the weights of {part} do not change: its norms and biases have been the same for {len(updates)} logged lines, "
                f"until step {step}. It gets no gradient; maybe no study has what it needs. Check whether the data hold {part} "
                "(see the ledger), and whether the stage's options leave it out",
            )

        # A denoiser's loss that stays where it started.
        losses = alerts.since_start(name, value) if name.startswith("loss/") and is_loss(name) else []
        if losses and never_moved(losses, alerts.config.dead_tolerance) and at_naive_level(losses):
            yield Alert(
                "dead modality",
                name,
                f"{name} was {losses[0]:.4g} at first and is {value:.4g} at step {step}: it has stayed within "
                f"{alerts.config.dead_tolerance:.0%}, at the loss of a denoiser that always predicts 0. It may learn nothing. Check "
                "grad_norm and the scale of the autoencoder's latents; raise optimizer.lr, or give it more steps if it is only slow",
            )


def _collapsed_logits(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    patience = alerts.config.patience
    scale = values.get("logit_scale")
    is_clamped = scale is not None and not LOGIT_SCALES[0] < scale < LOGIT_SCALES[1]
    for name in values:
        pair, _, what = name.rpartition("/")
        last = alerts.last(name, values[name], patience) if pair and what in ("top1", "spread") else []
        if what == "spread" and last and max(last) < alerts.config.min_spread:
            yield Alert(
                "collapsed contrast",
                pair,
                f"{pair}: all encodings are the same (the standard deviation of the cosines has been below {max(last):.2g} for "
                f"{patience} logged lines, until step {step}). The contrastive loss cannot tell studies apart any more. Start from a "
                "checkpoint before it, with a lower optimizer.lr, a longer warm-up, or a larger batch.global_size",
            )
        if what == "top1" and last and is_clamped and at_chance(last, alerts.num_rows):
            yield Alert(
                "collapsed contrast",
                pair,
                f"{pair}: partners are found no more often than by chance ({last[-1]:.3g} of {alerts.num_rows} studies, for {patience} "
                f"logged lines, until step {step}) and logit_scale is at its clamp, {scale:.3g}. The logits have collapsed. Start "
                "from a checkpoint before it, with a lower optimizer.lr or a longer warm-up",
            )


def _collapsed_posterior(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    last = alerts.last("text/kl", values["text/kl"], alerts.config.patience) if "text/kl" in values else []
    if last and max(last) < alerts.config.min_kl and values.get("text/beta", 1.0) > 0:
        yield Alert(
            "collapsed posterior",
            "text/kl",
            f"the report autoencoder's KL is {last[-1]:.2g} nats per report and has been below {alerts.config.min_kl:g} for "
            f"{len(last)} logged lines, until step {step}: its latent holds no information, and the decoder writes without it. Lower "
            "stage.options.beta, raise free_bits or word_dropout, or lengthen the cycle (cycle_steps)",
        )


def _always_clipped(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    if "clipped" not in values or step <= alerts.warmup_steps:
        return
    last = alerts.last("clipped", values["clipped"], alerts.config.clipped_patience)
    if last and min(last) >= 1.0:
        yield Alert(
            "always clipped",
            "grad_norm",
            f"the gradient was clipped in every step of the last {len(last)} logged lines, until step {step} (its norm is "
            f"{values.get('grad_norm', math.nan):.3g}): only its direction counts, and optimizer.lr is lower than configured. Raise "
            "optimizer.grad_clip to about the usual norm, or lower optimizer.lr if the loss is unstable",
        )


# A new sign is one more row.
RULES: tuple[Callable[[Alerts, int, Mapping[str, float]], Iterator[Alert]], ...] = (
    _spikes,
    _dead,
    _collapsed_logits,
    _collapsed_posterior,
    _always_clipped,
)
