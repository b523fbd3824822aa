"""Separation of arms: areas under the curve, the classifier, runs."""

from __future__ import annotations

import numpy as np

from medcodi.turing.lint.separation import auc_of, chance_of_turns, classifier_scores


def test_auc_and_its_interval() -> None:
    generated = np.arange(40) < 20
    perfect = auc_of(generated.astype(float), generated)
    assert perfect.value == 1 and 0.8 < perfect.low < 0.95 and perfect.separates  # a width even where nothing varies
    nothing = auc_of(np.zeros(40), generated)
    assert nothing.value == 0.5 and not nothing.separates
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        scores = rng.normal(size=40) + generated
        found = auc_of(scores, generated)
        covered += found.low <= 0.7602 <= found.high  # Phi(1 / sqrt(2))
    assert 0.92 <= covered / 400 <= 0.99


def test_the_classifier_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    generated = np.arange(60) % 2 == 0
    groups = [f"p{row // 2}" for row in range(60)]
    noise = rng.normal(size=(60, 8))
    told = noise.copy()
    told[:, 3] += 2.5 * generated
    assert auc_of(classifier_scores(told, generated, groups), generated).low > 0.7
    assert not auc_of(classifier_scores(noise, generated, groups), generated).low > 0.5


def test_arms_by_turns_are_a_pattern() -> None:
    turns = [bool(row % 2) for row in range(30)]
    assert chance_of_turns([turns]) < 1e-4
    assert chance_of_turns([list(np.random.default_rng(2).permutation(turns))]) > 0.05
