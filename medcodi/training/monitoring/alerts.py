"""Early signs that a run goes wrong, read from its logged figures and called out in words.

Rules are functions of figures alone, so that a resumed run, which is shown its log again, says what an undisturbed one
would have said.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medcodi.config import config

NAIVE_LOSS = (0.95, 1.05)  # of a denoiser that always says 0: targets have unit variance
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
FLAT = 0.02  # share of the median that a curve may always move by, however smooth it was
LOGIT_SCALES = (1e-3, math.log(100.0) - 1e-3)  # at or beyond these it stands at its clamp


@config
class AlertConfig:
    """When something is called out; ``patience`` and ``window`` count logged lines.

    Attributes:
        enabled: False: nothing is.
        window: Logged lines that a loss is held against.
        spike: A loss more than so many robust standard deviations above the window's median is a spike.
        patience: A sign must stay for so many logged lines in a row.
        clipped_patience: The same for a gradient that is always clipped, as is usual for a while at the start.
        dead_tolerance: A loss that stays within this share of where it began has not moved.
        min_kl: Nats a report below which its latent says nothing.
        min_spread: Standard deviation of cosines below which all encodings are the same.
        cooldown: After a sign was called out, it is not for so many logged lines.
    """

    enabled: bool = True
    window: int = 50
    spike: float = 8.0
    patience: int = 10
    clipped_patience: int = 50
    dead_tolerance: float = 0.03
    min_kl: float = 0.7
    min_spread: float = 1e-3
    cooldown: int = 100

    def __post_init__(self) -> None:
        if min(self.window, self.patience, self.clipped_patience) < 3:
            raise ValueError("window, patience and clipped_patience must be at least 3")
        if self.spike <= 0 or min(self.dead_tolerance, self.min_kl, self.min_spread) < 0 or self.cooldown < 0:
            raise ValueError("spike must be above 0, the others not negative")


@dataclass(frozen=True)
class Alert:
    """Something worth a look.

    Attributes:
        kind: Which sign.
        about: The figure that it was seen in.
        text: What was seen, what it may mean, what to do.
    """

    kind: str
    about: str
    text: str


# ---- rules: functions of figures ---------------------------------------------------------------------------------
def spike_limit(before: Sequence[float], deviations: float) -> float:
    """The height above which a value is a spike: median + so many deviations, these from the median absolute deviation."""
    middle = statistics.median(before)
    deviation = MAD_TO_DEVIATION * statistics.median(abs(value - middle) for value in before)
    return middle + deviations * max(deviation, FLAT * abs(middle))


def never_moved(values: Sequence[float], tolerance: float) -> bool:
    """True if every value is within a share of the first."""
    return all(abs(value - values[0]) <= tolerance * abs(values[0]) for value in values)


def at_naive_level(values: Sequence[float]) -> bool:
    """True if the median is that of a denoiser that always says 0."""
    return NAIVE_LOSS[0] <= statistics.median(values) <= NAIVE_LOSS[1]


def at_chance(accuracies: Sequence[float], num_rows: int) -> bool:
    """True if the partner was never found more often than by guessing among the rows (half as often again is allowed)."""
    return num_rows > 1 and all(value <= 1.5 / num_rows for value in accuracies)


def is_loss(name: str) -> bool:
    """True for the loss, the loss of a modality or of a pair, and what an autoencoder is off by."""
    first, _, rest = name.partition("/")
    per_part = first == "loss" and rest and "/" not in rest
    return name == "loss" or bool(per_part) or (rest in ("loss", "ce", "l1") and first != "validation")


# ---- the watcher -------------------------------------------------------------------------------------------------
class Alerts:
    """Sees logged lines one after the other, and says what is new about them."""

    def __init__(self, options: AlertConfig, *, num_rows: int, warmup_steps: int = 0) -> None:
        """Begin with nothing seen.

        Args:
            options: When something is called out.
            num_rows: Studies in a global batch: what a contrastive guess is among.
            warmup_steps: Before these are over, a clipped gradient is no sign.
        """
        self.options, self.num_rows, self.warmup_steps = options, num_rows, warmup_steps
        self._seen: dict[str, deque[float]] = {}
        self._begins: dict[str, list[float]] = {}
        self._quiet: dict[tuple[str, str], int] = {}
        self._line = 0

    def see(self, step: int, values: Mapping[str, float]) -> list[Alert]:
        """Take a logged line of training in; every line, in order.

        Args:
            step: Of the line.
            values: Its figures; those of a validation are left alone.

        Returns:
            What it shows that was not called out lately.
        """
        if not self.options.enabled or "loss" not in values:
            return []
        self._line += 1
        found = [alert for rule in RULES for alert in rule(self, step, values)]
        for name, value in values.items():
            if math.isfinite(value):
                size = max(self.options.window, self.options.clipped_patience)
                self._seen.setdefault(name, deque(maxlen=size)).append(value)
                begin = self._begins.setdefault(name, [])
                if len(begin) < self.options.patience:
                    begin.append(value)
        return [alert for alert in found if self._is_new(alert)]

    def _is_new(self, alert: Alert) -> bool:
        key = (alert.kind, alert.about)
        if key in self._quiet and self._line - self._quiet[key] <= self.options.cooldown:
            return False
        self._quiet[key] = self._line
        return True

    def before(self, name: str) -> list[float]:
        """The values of the window, this line's not among them."""
        return list(self._seen.get(name, ()))[-self.options.window :]

    def last(self, name: str, value: float, count: int) -> list[float]:
        """The last ``count`` values, this one among them; empty while there are fewer."""
        values = [*self._seen.get(name, ()), value]
        return values[-count:] if len(values) >= count else []

    def since_start(self, name: str, value: float) -> list[float]:
        """The first values and this one, once there are ``patience`` before it; else empty."""
        begin = self._begins.get(name, [])
        return [*begin, value] if len(begin) >= self.options.patience else []


def _spikes(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    for name in filter(is_loss, values):
        before = alerts.before(name)
        if len(before) < max(10, alerts.options.patience):
            continue
        limit = spike_limit(before, alerts.options.spike)
        if not values[name] <= limit:
            yield Alert(
                "loss spike",
                name,
                f"{name} is {values[name]:.4g} at step {step}, its median over the last {len(before)} logged lines was "
                f"{statistics.median(before):.4g} (limit {limit:.4g}). It may be a bad batch, or a learning rate that is too high. "
                "If it does not come down: go on from a checkpoint before it in a new run with a lower optimizer.lr or optimizer.grad_clip",
            )


def _dead(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    """Parts that get no gradient, and denoisers that stay where they began: at saying nothing."""
    for name, value in values.items():
        part = name.removeprefix("moved/")
        still = alerts.last(name, value, alerts.options.patience) if part != name and values.get("lr", 1.0) > 0 else []
        if still and max(still) == 0.0:
            yield Alert(
                "dead modality",
                part,
                f"the weights of {part} do not change: for {len(still)} logged lines, until step {step}, its norms and "
                f"biases have been the same. It gets no gradient: no study may have what it needs. Look whether the data hold {part} "
                "(the ledger counts it), and whether the stage's options leave it out",
            )
        level = alerts.since_start(name, value) if name.startswith("loss/") and is_loss(name) else []
        if level and never_moved(level, alerts.options.dead_tolerance) and at_naive_level(level):
            yield Alert(
                "dead modality",
                name,
                f"{name} was {level[0]:.4g} at first and is {value:.4g} at step {step}: it has stayed within "
                f"{alerts.options.dead_tolerance:.0%}, where a denoiser is that always says 0. It may learn nothing. Look at grad_norm, "
                "and at the latents' scale of the autoencoder; raise optimizer.lr, or give it more steps if it is only slow",
            )


def _collapsed_logits(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    patience = alerts.options.patience
    clamped = [scale for scale in (values.get("logit_scale"),) if scale is not None]
    clamped = [scale for scale in clamped if not LOGIT_SCALES[0] < scale < LOGIT_SCALES[1]]
    for name in values:
        pair, _, what = name.rpartition("/")
        last = alerts.last(name, values[name], patience) if pair and what in ("top1", "spread") else []
        if what == "spread" and last and max(last) < alerts.options.min_spread:
            yield Alert(
                "collapsed contrast",
                pair,
                f"{pair}: all encodings are the same (the cosines' standard deviation has been below {max(last):.2g} for "
                f"{patience} logged lines, until step {step}). The contrastive loss cannot tell studies apart any more. Go back to a "
                "checkpoint before it, with a lower optimizer.lr, a longer warm-up, or a larger batch.global_size",
            )
        if what == "top1" and last and clamped and at_chance(last, alerts.num_rows):
            yield Alert(
                "collapsed contrast",
                pair,
                f"{pair}: partners are found no more often than by chance ({last[-1]:.3g} of {alerts.num_rows} studies, for {patience} "
                f"logged lines, until step {step}) and logit_scale stands at its clamp, {clamped[0]:.3g}. The logits have collapsed. Go "
                "back to a checkpoint before it, with a lower optimizer.lr or a longer warm-up",
            )


def _collapsed_posterior(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    last = alerts.last("text/kl", values["text/kl"], alerts.options.patience) if "text/kl" in values else []
    if last and max(last) < alerts.options.min_kl and values.get("text/beta", 1.0) > 0:
        yield Alert(
            "collapsed posterior",
            "text/kl",
            f"the report autoencoder's KL is {last[-1]:.2g} nats a report and has been below {alerts.options.min_kl:g} for {len(last)} "
            f"logged lines, until step {step}: its latent says nothing, the decoder writes without it. Lower stage.options.beta, "
            "raise free_bits or word_dropout, or lengthen the cycle (cycle_steps)",
        )


def _always_clipped(alerts: Alerts, step: int, values: Mapping[str, float]) -> Iterator[Alert]:
    if "clipped" not in values or step <= alerts.warmup_steps:
        return
    last = alerts.last("clipped", values["clipped"], alerts.options.clipped_patience)
    if last and min(last) >= 1.0:
        yield Alert(
            "always clipped",
            "grad_norm",
            f"the gradient was clipped in every step of the last {len(last)} logged lines, until step {step} (its norm is "
            f"{values.get('grad_norm', math.nan):.3g}): only its direction counts, and optimizer.lr is in truth lower than it says. Raise "
            "optimizer.grad_clip to about the norm's usual height, or lower optimizer.lr if the loss is uneasy",
        )


# A new sign is one more row.
RULES: tuple[Callable[[Alerts, int, Mapping[str, float]], Iterator[Alert]], ...] = (
    _spikes,
    _dead,
    _collapsed_logits,
    _collapsed_posterior,
    _always_clipped,
)
