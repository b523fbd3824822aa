from __future__ import annotations

from dataclasses import replace

import numpy as np

from medcodi.trust.privacy.config import ControlsConfig, LimitsConfig
from medcodi.trust.privacy.controls import control_figures, negative_figures, positive_figures, redraw
from medcodi.trust.privacy.gate import judge
from medcodi.trust.privacy.scores import Scores


def test_the_positive_control_is_flagged_by_every_family(scores: Scores) -> None:
    figures = positive_figures(scores, 200, 0)
    assert figures["flagged"] == ["memorisation", "membership", "extraction"]
    assert all(p < 1e-3 for p in figures["p_values"].values())
    assert figures["membership_auroc"]["low"] > 0.55
    families = scores.families(scores.labels, 200, 0)
    failed = {entry["limit"] for entry in judge(families, LimitsConfig()) if entry["outcome"] == "fails"}
    assert {"membership_auroc", "memorisation_auroc", "canary_exposure", "p_value"} <= failed


def test_the_negative_control_passes(scores: Scores) -> None:
    negative = negative_figures(scores, LimitsConfig(), ControlsConfig(), 0)
    assert negative["repeats"] == 40 and negative["passed"] >= 36 and negative["held_half"] >= 36


def test_redraws_leave_the_members_out_and_differ(scores: Scores) -> None:
    first, second = redraw(scores, 0, 0), redraw(scores, 0, 1)
    assert (first[scores.labels == 1] == -1).all() and (first != second).any()
    assert (first == 1).sum() == (first == 0).sum() == (scores.labels == 0).sum() // 2


def test_an_audit_that_sees_nothing_is_invalid(scores: Scores) -> None:
    # The scores of non-members alone, as if they were the positive control: no family may flag them.
    blind = replace(scores, labels=redraw(scores, 0, 3), canaries=None)
    controls = control_figures(scores, blind, LimitsConfig(), ControlsConfig(), 100, 0)
    assert not controls["holds"] and "the overfitted model was not flagged by" in controls["problems"][0]
    assert np.isfinite(controls["negative"]["rows"][0]["auroc"]["value"])
