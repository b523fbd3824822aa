"""``medcodi turing power``: which tests are planned, from a study file or from options."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.app.commands.turing.analysis import _numbers, _planned_tests
from medcodi.errors import ConfigError, DataError

STUDY = Path(__file__).resolve().parents[4] / "configs/turing/medcodi-m.yaml"


def test_numbers_are_sorted_and_unique() -> None:
    assert _numbers("--items", "40, 20,40,") == [20, 40]
    with pytest.raises(DataError, match="--items 'many'"):
        _numbers("--items", "many")


def test_options_describe_one_test() -> None:
    assert _planned_tests(None, None, "rating", 0.5) == [("rating", "rating", 0.5, 0.05, True)]
    with pytest.raises(ConfigError, match="--kind and --margin"):
        _planned_tests(None, None, "rating", None)


def test_a_study_gives_a_test_for_each_declared_margin() -> None:
    tests = _planned_tests(STUDY, None, None, None)
    assert len(tests) > 1 and all(margin > 0 for _, _, margin, _, _ in tests)
    (one,) = _planned_tests(STUDY, tests[0][0], None, None)
    assert one == tests[0]


def test_margins_of_other_scales_are_converted(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    task = "{id: film, kind: rating, modalities: [frontal], num_items: 10, scale: {min: 1, max: 10}}"
    study.write_text(f"name: demo\ntitle: Demo\nmargins: {{film: 0.9}}\ntasks:\n  - {task}\n")
    ((_, _, margin, _, _),) = _planned_tests(study, None, None, None)
    assert margin == pytest.approx(0.9 * 4 / 9)  # 1 to 10 has nine steps, the simulated scale four


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        _planned_tests(STUDY, "frontl", None, None)
    with pytest.raises(ConfigError, match="drop --kind and --margin"):
        _planned_tests(STUDY, None, "rating", None)
