"""Results of a small evaluation, as far as tables need them."""

from __future__ import annotations

from typing import Any


def figure(value: float, ceiling: float | None = None, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "ceiling": ceiling, "floor": None, **more}


def direction(prompts: list[str], targets: list[str], f1: float) -> dict[str, Any]:
    primary = {
        "model": figure(f1), "shuffled": figure(0.2), "ceiling": 0.9, "difference": figure(f1 - 0.2),
        "fraction_of_ceiling": f1 / 0.9, "fraction_low": f1 / 0.9 - 0.03, "fraction_high": f1 / 0.9 + 0.03,
        "beats_shuffled": True, "prompt_reader": figure(0.85),
    }  # fmt: skip
    pair = {
        "+".join(targets): {
            "metrics": {"finding_kappa": figure(0.7, 0.75, share_of_ceiling=0.7 / 0.75)},
            "left_out": [],
        }
    }
    return {
        "prompts": prompts,
        "num_studies": 400,
        "primary": primary,
        "targets": {name: {"metrics": {"side_accuracy": figure(0.97, 0.99)}} for name in targets},
        "coherence": pair if len(targets) > 1 else {},
    }


def results() -> dict[str, Any]:
    test = {"system": "demo", "direction": "lateral+report->frontal", "target": "all", "metric": "finding_macro_f1"}
    test |= {"not_worse": True, "first_is": "better"}
    tests = [
        {**test, "against": "report->frontal", "difference": figure(0.05), "against_better": True},
        {**test, "against": "lateral->frontal", "difference": figure(0.2), "against_better": False},
    ]
    directions = {
        "report->frontal": direction(["report"], ["frontal"], 0.81),
        "lateral+report->frontal": direction(["lateral", "report"], ["frontal"], 0.86),
        "report->frontal+lateral": direction(["report"], ["frontal", "lateral"], 0.75),
        "->report": {**direction([], ["report"], 0.2), "targets": {"report": {"metrics": {}}}},
    }
    return {
        "systems": {"demo": {"directions": directions}},
        "comparisons": {"multi_prompt": tests, "systems": [], "left_out": []},
    }
