from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medcodi.randomness import numpy_generator
from medcodi.trust.privacy.attacks.memorisation import memorisation_figures, most_similar, neighbours
from medcodi.trust.privacy.attacks.spaces import Space, cosine, euclidean, reduced, registered

NUM = 40


class Points:
    """Real studies whose content is a point: members are the first half."""

    def __init__(self) -> None:
        rng = numpy_generator("points")
        self.points = rng.normal(size=(2 * NUM, 8)).astype(np.float32)
        self.patients = [f"p{row}" for row in range(2 * NUM)]
        self.labels = np.repeat([1, 0], NUM)

    def __len__(self) -> int:
        return len(self.points)

    def values(self, _: str, rows: Any) -> np.ndarray:
        return self.points[list(rows)]


SPACE = Space("points", ("image",), lambda _, contents: np.stack(list(contents)), euclidean)


def figures(studies: Points, generated: np.ndarray) -> dict[str, Any]:
    arrays = neighbours(studies, "frontal", range(len(studies)), generated, SPACE, 8)  # type: ignore[arg-type]
    measured = {("report->frontal", "frontal", "points"): arrays}
    result = memorisation_figures(measured, studies.labels, studies.patients, 200, 0)
    return {**result, "measured": measured}


def test_what_follows_the_prompt_alike_is_no_memory() -> None:
    studies = Points()
    noise = numpy_generator("noise").normal(size=studies.points.shape).astype(np.float32)
    near = figures(studies, studies.points + 0.3 * noise)
    assert near["p_value"] > 0.01 and abs(near["rows"][0]["own"]["value"] - 0.5) < 0.15


def test_equal_studies_are_no_nearer_because_they_are_members() -> None:
    studies = Points()
    # As normal reports, which are word for word alike: each of 20 belongs to two members and two non-members.
    studies.points = np.tile(studies.points[:20], (4, 1))
    row = figures(studies, studies.points)["rows"][0]["nearest"]
    assert row["low"] <= 0 <= row["high"] and row["p_value"] > 0.01  # 1e-12 where ties go to the first row


def test_members_that_come_back_are_memory() -> None:
    studies = Points()
    noise = numpy_generator("noise").normal(size=studies.points.shape).astype(np.float32)
    generated = studies.points + noise * np.where(studies.labels == 1, 0.05, 0.8)[:, None].astype(np.float32)
    result = figures(studies, generated)
    row = result["rows"][0]
    assert row["own"]["value"] > 0.99 and row["calibrated"]["value"] > 0.99 and result["p_value"] < 1e-9
    assert row["copies"]["value"] > 0.9 and row["copies"]["low"] > 0.5
    # The pairs that are shown are members, the nearest first.
    pairs = most_similar(result["measured"], studies.labels, 3)
    assert len(pairs) == 3 and all(pair["row"] < NUM for pair in pairs)
    assert pairs[0]["ratio"] <= pairs[1]["ratio"] <= pairs[2]["ratio"] < 0.3


def test_generations_drawn_to_other_members_are_memory_too() -> None:
    studies = Points()
    other = studies.points[numpy_generator("other").integers(0, NUM, 2 * NUM)]
    result = figures(studies, other + 0.01)
    assert result["rows"][0]["nearest"]["value"] > 0.4 and result["p_value"] < 1e-3


def test_neighbours_are_of_other_patients() -> None:
    studies = Points()
    studies.patients[1] = studies.patients[0]
    arrays = neighbours(studies, "frontal", range(80), studies.points, SPACE, 5)  # type: ignore[arg-type]
    assert np.allclose(arrays["own"], 0, atol=1e-3)
    assert 0 not in arrays["nearest"][0] and 1 not in arrays["nearest"][0] and (arrays["nearest"][2] != 2).all()
    table = euclidean(studies.points, studies.points)
    np.fill_diagonal(table, np.inf)
    assert arrays["distance"][5, 0] == pytest.approx(table[5].min(), rel=1e-5)
    assert arrays["real"][5] == pytest.approx(table[5].min(), rel=1e-5)


def test_registration_forgives_a_shift_and_nothing_else() -> None:
    rng = numpy_generator("films")
    films = rng.random((3, 32, 32)).astype(np.float32)
    moved = np.roll(films, (1, -2), axis=(1, 2)) * 0.5 + 0.2
    table = registered(reduced("frontal", moved), reduced("frontal", films))
    assert (np.diag(table) < 1e-5).all() and (table[~np.eye(3, dtype=bool)] > 0.5).all()
    unit = np.eye(3, dtype=np.float32)
    assert np.allclose(cosine(unit, unit), 1 - np.eye(3))
