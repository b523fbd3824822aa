"""Each sign is called out on its case, once; none is on healthy curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from medcodi.errors import ConfigError
from medcodi.training.monitoring.alerts import Alert, AlertConfig, Alerts, is_loss, spike_limit

QUICK = AlertConfig(window=20, patience=5, clipped_patience=10, cooldown=30)


def seen(lines: Iterable[dict[str, float]], options: AlertConfig = QUICK, **about: int) -> list[tuple[int, Alert]]:
    alerts = Alerts(options, **{"num_rows": 16, **about})
    return [(step, alert) for step, line in enumerate(lines, 1) for alert in alerts.check(step, {"lr": 1e-3, **line})]


def falling(step: int, start: float = 1.0, seed: int = 0) -> float:
    noise = 0.03 * np.random.default_rng([seed, step]).standard_normal()
    return start * (0.2 + 0.8 * math.exp(-step / 40)) * (1.0 + noise)


def healthy(step: int) -> dict[str, float]:
    """All that the stages log, as it goes when it goes well."""
    modalities = {f"loss/{name}": falling(step, seed=seed) for seed, name in enumerate(("frontal", "report"))}
    return {
        "loss": sum(modalities.values()),
        **modalities,
        **{f"moved/{name}": 1e-3 for name in ("frontal", "report")},
        "grad_norm": 2.0 if step < 8 else 0.5,
        "clipped": 1.0 if step < 8 else 0.2,
        "frontal-report/loss": falling(step, math.log(16)),
        "frontal-report/top1": min(0.9, 1 / 16 + step / 100),
        "frontal-report/spread": 0.05,
        "logit_scale": 2.7 + step / 200,
        "text/kl": 30.0 * falling(step),
        "text/ce": falling(step, 7.0),
        "text/beta": 0.1,
    }


def test_healthy_curves_are_left_alone() -> None:
    assert seen(healthy(step) for step in range(200)) == []


def test_a_modality_that_rare_studies_hold_is_not_called_dead() -> None:
    def line(step: int) -> dict[str, float]:
        values = {**healthy(step), "moved/lateral": 0.0 if step else 1e-3}
        return values if step else {**values, "loss/lateral": 1.0}

    assert seen(line(step) for step in range(40)) == []
    dead = [alert.subject for _, alert in seen({**line(step), "loss/lateral": falling(step)} for step in range(40))]
    assert set(dead) == {"lateral"}  # studies hold it, and its weights do not move


def test_a_spike_is_called_out_once_and_again_after_the_cool_down() -> None:
    def line(step: int) -> dict[str, float]:
        return {**healthy(step), "loss/frontal": 2.5 if step in (60, 61, 130) else falling(step)}

    found = seen(line(step) for step in range(150))
    assert [(step - 1, alert.kind, alert.subject) for step, alert in found] == [
        (60, "loss spike", "loss/frontal"),
        (130, "loss spike", "loss/frontal"),
    ]
    assert all(word in found[0][1].text for word in ("loss/frontal is 2.5", "median", "optimizer.lr"))


def test_the_limit_is_robust_to_an_earlier_spike_and_not_zero_on_a_flat_curve() -> None:
    assert spike_limit([1.0, 1.1, 0.9, 1.0, 50.0, 1.05, 0.95], 8.0) < 2.0
    assert spike_limit([1.0] * 20, 8.0) == pytest.approx(1.16)


CASES: list[tuple[str, str, Callable[[int], dict[str, float]], str]] = [
    ("dead modality", "report", lambda step: {"moved/report": 0.0}, "gets no gradient"),
    ("dead modality", "loss/report", lambda step: {"loss/report": 1.0 + 0.004 * (-1) ** step}, "may learn nothing"),
    ("collapsed contrast", "frontal-report", lambda step: {"frontal-report/spread": 1e-5}, "encodings are the same"),
    (
        "collapsed contrast",
        "frontal-report",
        lambda step: {"frontal-report/top1": 1 / 16, "logit_scale": math.log(100.0)},
        "by chance",
    ),
    ("collapsed posterior", "text/kl", lambda step: {"text/kl": 0.05}, "latent holds no information"),
    ("always clipped", "grad_norm", lambda step: {"clipped": 1.0, "grad_norm": 30.0}, "optimizer.grad_clip"),
]


@pytest.mark.parametrize(("kind", "about", "ill", "word"), CASES)
def test_each_sign_on_its_case(kind: str, about: str, ill: Callable[[int], dict[str, float]], word: str) -> None:
    found = seen({**healthy(step), **ill(step)} for step in range(30))
    assert {(alert.kind, alert.subject) for _, alert in found} == {(kind, about)} and len(found) == 1
    assert word in found[0][1].text and "step" in found[0][1].text


def test_what_is_no_sign() -> None:
    clipped = ({**healthy(step), "clipped": 1.0} for step in range(30))
    assert seen(clipped, warmup_steps=100) == []  # a warm-up is uneasy
    trained = ({**healthy(step), "loss/report": 0.11} for step in range(60))
    assert seen(trained) == []  # a run that starts from a trained model need not move much
    chance = ({**healthy(step), "frontal-report/top1": 1 / 16} for step in range(60))
    assert seen(chance) == []  # slow to begin, but its temperature is free
    no_beta = ({**healthy(step), "text/kl": 0.01, "text/beta": 0.0} for step in range(30))
    assert seen(no_beta) == []
    assert seen([{"validation/loss": 1e9}] * 40) == []
    assert seen(({**healthy(step), "clipped": 1.0} for step in range(30)), AlertConfig(enabled=False)) == []


def test_shown_its_log_again_it_goes_on_as_if_it_had_not_stopped() -> None:
    lines = [
        {**healthy(step), "moved/report": 0.0, "lr": 1e-3, "loss": 9.0 if step == 55 else 1.0} for step in range(80)
    ]
    whole, resumed = Alerts(QUICK, num_rows=16), Alerts(QUICK, num_rows=16)
    said = [whole.check(step, line) for step, line in enumerate(lines)]
    for step, line in enumerate(lines[:40]):
        resumed.check(step, json.loads(json.dumps(line)))
    assert [resumed.check(step, line) for step, line in enumerate(lines) if step >= 40] == said[40:]
    assert any(said[40:])


def test_which_figures_are_losses() -> None:
    losses = ["loss", "loss/frontal", "frontal-report/loss", "text/ce", "image/l1"]
    assert list(filter(is_loss, [*losses, "loss/frontal/from report", "validation/loss", "lr", "text/kl"])) == losses


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 3"):
        AlertConfig(window=1)
