from __future__ import annotations

from typing import Any

import pytest

from medcodi.errors import ConfigError
from medcodi.trust.privacy.config import AuditConfig, LimitsConfig
from medcodi.trust.privacy.gate import judge, limits_sha256, passes, verdict

KNOWN = {"known": True, "members_confirmed": True, "recorded": "x"}


def families(auroc: tuple[float, float, float], p: float = 0.5) -> dict[str, Any]:
    value, low, high = auroc
    figure = {"value": value, "low": low, "high": high, "p_value": p}
    worse = {"value": 0.9, "low": 0.8, "high": 0.95}
    row = {"direction": "report->frontal", "target": "frontal", "space": "pixels", "calibrated": figure}
    return {
        "membership": {"main": {"attack": "loss", "auroc": figure, "true_alarms": {"0.01": None}}, "p_value": p},
        "memorisation": {
            "rows": [
                row | {"nearest": None, "copies": None},
                row | {"calibrated": worse, "nearest": None, "copies": None},
            ],
            "p_value": 0.4,
        },
        "extraction": {"canaries": None, "phrases": [], "identifiers": [], "p_value": None},
        "reidentification": {"rows": []},
        "attributes": {"rows": []},
    }


def test_a_limit_holds_fails_or_is_not_shown() -> None:
    limits = LimitsConfig(membership_auroc=0.55)
    for auroc, outcome in (
        ((0.5, 0.47, 0.53), "holds"),
        ((0.53, 0.49, 0.58), "not shown"),
        ((0.6, 0.56, 0.64), "fails"),
    ):
        entry = judge(families(auroc), limits)[0]
        assert (entry["limit"], entry["outcome"]) == ("membership_auroc", outcome)
    # The worst space counts; what has no figure is named.
    judged = {entry["limit"]: entry for entry in judge(families((0.5, 0.47, 0.53)), limits)}
    assert judged["memorisation_auroc"]["value"] == 0.9 and judged["memorisation_auroc"]["outcome"] == "fails"
    assert judged["membership_tpr"]["outcome"] == "no figure"


def test_no_limit_is_no_judgement_and_a_p_value_can_fail_alone() -> None:
    limits = LimitsConfig(memorisation_auroc=None, p_value=0.01)
    judged = judge(families((0.51, 0.5, 0.52), p=0.002), limits)
    assert not passes(judged) and [entry["of"] for entry in judged if entry["outcome"] == "fails"] == ["membership"]
    assert passes(judge(families((0.51, 0.5, 0.52)), limits))


def test_the_verdict_says_what_fails_by_how_much_and_what_weakens_it_first() -> None:
    judged = judge(families((0.6, 0.56, 0.64)), LimitsConfig(memorisation_auroc=None))
    result = verdict(judged, None, {**KNOWN, "known": False})
    assert result["outcome"] == "fails"
    assert result["lines"][0].startswith("The controls were not run")
    assert "training list of this model is unknown" in result["lines"][1]
    assert "0.600 [0.560, 0.640]" in result["lines"][2] and "0.050 above the limit 0.55" in result["lines"][2]
    # A control that fails makes every figure worthless.
    failed = verdict(judged, {"holds": False, "problems": ["it missed"]}, KNOWN)
    assert failed["outcome"] == "invalid" and "it missed" in failed["lines"][0]
    # A pass needs every declared limit shown, and controls; what lacks a figure, or an interval that is tight enough, is no pass.
    judged = judge(families((0.5, 0.47, 0.53)), LimitsConfig(memorisation_auroc=None))
    shown = [entry for entry in judged if entry["outcome"] == "holds"]
    good = verdict(shown, {"holds": True}, KNOWN)
    assert good["outcome"] == "passes" and "no proof of privacy" in good["lines"][0]
    assert verdict(judged, {"holds": True}, KNOWN)["outcome"] == "inconclusive"
    assert verdict(shown, None, KNOWN)["outcome"] == "inconclusive"


def test_limits_have_one_hash_and_invalid_ones_are_refused() -> None:
    assert limits_sha256(LimitsConfig()) == limits_sha256(LimitsConfig())
    assert limits_sha256(LimitsConfig()) != limits_sha256(LimitsConfig(membership_auroc=0.56))
    with pytest.raises(ConfigError, match="p_value is 2"):
        LimitsConfig(p_value=2)
    data: Any = {"source": "phantom", "num_studies": 30}
    with pytest.raises(ConfigError, match="no attack reads a generated record"):
        AuditConfig(members=data, non_members=data, directions=("report->record",))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        AuditConfig(members=data, non_members=data, timesteps=(0.1, 1.0))
