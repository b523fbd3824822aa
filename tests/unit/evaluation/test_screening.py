"""Odd images and reports: found, named, and stopped at, left out or flagged as the policy says; never replaced."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.annotators.language import looks_english
from medcodi.evaluation.screening import FILES_POLICY, screen_images, screen_reports

OPENI = Path(__file__).resolve().parents[4] / "shared" / "data" / "reports" / "openi_reports.csv"
FILM = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)


def film(seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def test_what_is_odd_about_images_is_found_and_flagged() -> None:
    images = [film(1), np.zeros((32, 32), np.uint8), film(1), np.full((32, 32), 0.5), film(2)]
    found = screen_images(images, list("abcde"))
    assert [(one.name, one.reason) for one in found.oddities] == [
        ("b", "constant"),
        ("c", "duplicate"),
        ("d", "constant"),
    ]
    assert found.oddities[1].detail == "the same as a" and found.sizes == {"32×32": 5}
    screened = found.applied()
    assert screened.kept == (0, 1, 2, 3, 4) and len(screened.flagged) == 3 and not screened.excluded
    assert screened.to_dict()["num_scored"] == 5 and screened.to_dict()["flagged"][0]["id"] == "b"


def test_copies_and_blanks_among_files_stop_the_run_or_are_listed() -> None:
    found = screen_images([film(1), film(1), np.zeros((32, 32), np.uint8)], ["a.png", "b.png", "c.png"])
    with pytest.raises(DataError, match=r"1 of 3 frontals: duplicate: b.png \(the same as a.png\).*exclude"):
        found.applied(FILES_POLICY, "frontals")
    screened = found.applied({**FILES_POLICY, "duplicate": "exclude", "constant": "exclude"})
    assert screened.kept == (0,) and [one.to_dict()["reason"] for one in screened.excluded] == ["duplicate", "constant"]


def test_mixed_sizes_stop_unless_they_are_left_out() -> None:
    found = screen_images([film(1), film(2), film(3, 40)], list("abc"))
    with pytest.raises(DataError, match=r"1 of 3 items: other size: c \(40×40, most are 32×32\)"):
        found.applied()
    assert found.applied({"other size": "exclude"}).kept == (0, 1)


def test_values_that_are_no_pixels_stop() -> None:
    for bad in (np.full((32, 32), np.nan), np.full((32, 32), 7.0), np.zeros((0, 0))):
        with pytest.raises(DataError, match="not finite: b"):
            screen_images([film(1), bad], list("ab")).applied({"other size": "flag"})


def test_reports_that_cannot_be_read_are_flagged_or_stop() -> None:
    reports = ["No effusion.", " \n ", "Kein Erguss, das Herz ist nicht vergrößert.", "no  effusion"]
    found = screen_reports(reports, list("abcd"))
    assert [(one.name, one.reason) for one in found.oddities] == [
        ("b", "empty"),
        ("c", "not English"),
        ("d", "duplicate"),
    ]
    assert found.applied().kept == (0, 1, 2, 3)
    with pytest.raises(DataError, match="1 of 4 references: empty: b"):
        found.applied({"empty": "stop"}, "references")
    assert found.applied({"not English": "exclude"}).kept == (0, 1, 3)


def test_policies_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'duplicate'"):
        screen_images([], []).applied({"duplicat": "flag"})
    with pytest.raises(ConfigError, match="unknown action 'drop'"):
        screen_images([], []).applied({"duplicate": "drop"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Heart size normal. Lungs clear.", True),
        ("XXXX", True),
        ("", True),
        ("1.5 cm", True),
        ("Patient met criteria; die-cast clip projects over the chest.", True),
        ("No se observa derrame pleural. Silueta cardiaca de tamaño normal.", False),
        ("Pas d'épanchement pleural. Le coeur est de taille normale.", False),
        ("Assenza di versamento. Il cuore è nei limiti della norma.", False),
        ("Não há derrame pleural. O coração não está aumentado.", False),
        ("Geen pleuravocht, het hart is niet vergroot.", False),
        ("Сердце не увеличено, лёгкие чистые.", False),
        ("肺野清晰，心影不大。", False),
    ],
)
def test_english_or_not(text: str, english: bool) -> None:
    assert looks_english(text) is english


@pytest.mark.skipif(not OPENI.is_file(), reason=f"real reports are not at {OPENI}")
def test_no_real_english_report_is_taken_for_another_language() -> None:
    with OPENI.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3174
    assert all(looks_english(f"{row['findings']} {row['impression']}") for row in rows)
