"""Derangements: every study gets the truth of another patient."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.evaluation.scoring.case import ScoredStudies, derangements
from tests.unit.evaluation.scoring.conftest import CONFIG, Toy, study_table


@pytest.mark.parametrize("patients", [None, 7, 2])
def test_derangements_give_everybody_another_patient(patients: int | None) -> None:
    names = [str(index % patients if patients else index) for index in range(20)]
    found = derangements(names, 5, seed=0)
    assert 1 <= len(found) <= 5
    for permutation in found:
        assert sorted(permutation) == list(range(20))
        assert all(names[permutation[index]] != names[index] for index in range(20))
    assert len({tuple(permutation) for permutation in found}) == len(found)


def test_the_first_derangement_does_not_depend_on_their_number() -> None:
    names = [str(index) for index in range(9)]
    np.testing.assert_array_equal(derangements(names, 1, 3)[0], derangements(names, 16, 3)[0])


def test_one_patient_with_most_studies_cannot_be_shuffled() -> None:
    with pytest.raises(DataError, match="one patient has 3 of 4 studies"):
        derangements(["a", "a", "a", "b"], 1, seed=0)


def test_scored_studies_are_rows_of_the_table(toy: Toy) -> None:
    studies = ScoredStudies(study_table(toy.held_out), [5, 2], CONFIG, 32)
    assert studies.ids == ["toy5", "toy2"] and len(studies) == 2 and studies.weights.shape == (200, 2)
    np.testing.assert_array_equal(studies.truth, toy.held_out.truth[[5, 2]])
