"""Power grows with items and stays at alpha on the margin."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.app.cli import main
from medcodi.errors import ConfigError
from medcodi.turing.answers.table import answers_from_rows
from medcodi.turing.power.power import model_from_pilot, needed, power, with_truth
from medcodi.turing.power.simulation import ReaderModel, SimulatedReaders, Truth, simulate
from tests.unit.turing.simulated_rows import tidy_rows


def test_the_true_difference_is_set() -> None:
    for name, value, reference in (
        ("difference", 0.2, 0.0),
        ("balanced_accuracy", 0.04, 0.5),
        ("forced_choice", 0.1, 0.5),
    ):
        model = with_truth(ReaderModel(), name, value, reference)
        many = Truth(model, SimulatedReaders.draw(model, 50_000, np.random.default_rng(1)))
        assert many.mean(name) == pytest.approx(reference + value, abs=0.01)


def test_power_grows_with_items_and_margin() -> None:
    cells = power("rating", 0.5, items=(10, 80), readers=(3,), num_studies=60)
    assert cells[0].these_readers < cells[1].these_readers > 0.8
    assert needed(cells)[0].items == 80
    wide = power("forced_choice", 0.25, items=(40,), readers=(2,), num_studies=40)
    assert wide[0].these_readers > 0.9 and wide[0].new_readers is None


def test_near_the_margin_equivalence_is_rarely_shown() -> None:
    model = ReaderModel(d_prime_sd=0.0, criterion_sd=0.0)
    cells = power("real_or_generated", 0.1, items=(40,), readers=(3,), true_value=0.0999, model=model, num_studies=150)
    assert cells[0].these_readers <= 0.1


def test_impossible_questions_are_refused() -> None:
    for arguments, message in (
        (("rating", -1.0), "margin"),
        (("findings", 0.1), "no power for tasks of kind 'findings'"),
        (("ratng", 0.1), "did you mean 'rating'"),
    ):
        with pytest.raises(ConfigError, match=message):
            power(*arguments, items=(10,), readers=(2,), num_studies=1)
    with pytest.raises(ConfigError, match="outside the margin"):
        power("rating", 0.2, true_value=0.3)
    with pytest.raises(ConfigError, match="share in"):
        ReaderModel(case_share=1.5)


def test_a_pilot_gives_the_spread_of_its_readers() -> None:
    told = ReaderModel(case_share=0.6, reader_sd=0.5, quality=0.0)
    study = simulate(told, "pilot", num_readers=8, num_per_arm=100)
    model = model_from_pilot(answers_from_rows(tidy_rows(study)), "realism")
    assert model.case_share == pytest.approx(0.55, abs=0.1) and 0.2 < model.reader_sd < 0.9
    with pytest.raises(ConfigError, match="is not a rating"):
        model_from_pilot(answers_from_rows(tidy_rows(study)), "detection")


def test_the_power_command(capsys: pytest.CaptureFixture) -> None:
    arguments = [
        "turing",
        "power",
        "--kind",
        "rating",
        "--margin",
        "1.5",
        "--items",
        "30",
        "--readers",
        "2",
        "--studies",
        "50",
    ]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code in (0, None)
    assert "2 readers and 30 items an arm" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["turing", "power"])
    assert left.value.code == 2


def test_a_name_with_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture) -> None:
    options = ["--margin", "0.5", "--items", "10", "--readers", "2", "--studies", "50"]
    with pytest.raises(SystemExit) as left:
        main(["turing", "power", "--kind", "rating", "--task", "[/] [bold]x", *options])
    printed = capsys.readouterr()
    assert left.value.code in (0, None), printed.err
    assert "[/] [bold]x: power to show" in " ".join(printed.out.split())
