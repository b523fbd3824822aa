"""Numbers and names as they are written."""

from __future__ import annotations

import pytest

from medcodi.evaluation.report.wording import interval, number, percent, pretty, share, signed, title


def test_numbers_have_the_digits_that_matter() -> None:
    values = (None, 0, 0.0004, 0.98765, 12.345, -0.5)
    assert [number(value) for value in values] == ["–", "0.000", "4.0e-04", "0.988", "12.3", "-0.500"]
    assert [signed(value) for value in (None, 0.5, -0.5)] == ["–", "+0.500", "−0.500"]
    assert (percent(0.934), percent(None), percent(0.934, "")) == ("93 %", "–", "93")
    assert (
        interval({"low": 0.69, "high": 0.731}) == "[0.690, 0.731]" and interval({"low": None}) == interval(None) == ""
    )


def test_directions_and_metrics_have_titles() -> None:
    assert (
        pretty("frontal+report->lateral") == "frontal + report → lateral" and pretty("->report") == "nothing → report"
    )
    assert title("frechet/xrv") == "Fréchet distance (xrv) ↓" and title("ms_ssim") == "MS-SSIM between patients"


@pytest.mark.parametrize(
    ("value", "floor", "ceiling", "better", "expected"),
    [
        (0.5, 0.0, 1.0, "up", 0.5),
        (2.0, 3.0, 1.0, "down", 0.5),
        (0.5, 0.5, 0.51, "up", None),  # floor and ceiling are too near
        (2.0, 1.0, 3.0, "down", None),  # the ceiling is worse than the floor
        (0.5, 0.0, 1.0, "", None),
        (0.5, None, 1.0, "up", None),
    ],
)
def test_a_share_is_between_floor_and_ceiling(value, floor, ceiling, better, expected) -> None:
    assert share({"value": value, "floor": floor, "ceiling": ceiling}, better) == expected
