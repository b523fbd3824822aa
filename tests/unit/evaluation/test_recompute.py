"""Comparison of nested figures: by tolerance, by name, and without an end to what is listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.errors import DataError
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.recompute import RESCORABLE, Verification, rescore_bundle, verify_bundle


def test_numbers_are_compared_by_tolerance_and_everything_else_exactly() -> None:
    verification = Verification()
    stored = {"f1": 0.5, "nested": [1, {"name": "a", "flag": True}], "gone": None}
    verification.compare("x", stored, {"f1": 0.5 + 1e-9, "nested": [1, {"name": "a", "flag": True}]}, 1e-6)
    assert verification.holds and verification.num_figures == 2
    verification.compare("x", stored, {"f1": 0.6, "nested": [1, {"name": "b", "flag": 1}, 2]}, 1e-6)
    assert [str(difference) for difference in verification.differences] == [
        "x / f1: 0.5 in the bundle, 0.6 found",
        "x / nested / 1 / name: a in the bundle, b found",
        "x / nested / 2: nothing in the bundle, 2 found",
    ]
    # Integers are counts and seeds: none is near another.
    counts = Verification()
    counts.compare("n", {"seed": 10_000_000, "f1": 1}, {"seed": 10_000_001, "f1": 1.0 + 1e-9}, 1e-6)
    assert [difference.where for difference in counts.differences] == ["n / seed"]


def test_long_values_are_cut() -> None:
    verification = Verification()
    verification.differ("file", "a" * 100, None)
    assert str(verification.differences[0]) == f"file: {'a' * 57}... in the bundle, nothing found"


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for recompute in (verify_bundle, rescore_bundle):
        with pytest.raises(DataError, match=r"bundle\.json is unreadable"):
            recompute(tmp_path)


def test_settings_that_may_change_exist_and_annotations_are_not_among_them() -> None:
    fields = set(EvaluateConfig.__dataclass_fields__)  # type: ignore[attr-defined]
    assert set(RESCORABLE) < fields and not set(RESCORABLE) & {"seed", "diversity_pairs", "unmentioned", "extractors"}
