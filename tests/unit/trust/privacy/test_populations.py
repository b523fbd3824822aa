from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from medcodi.data.sources.phantom import phantom_findings, phantom_report
from medcodi.data.sources.phantom.body import labels_of
from medcodi.errors import DataError
from medcodi.randomness import numpy_generator
from medcodi.study import Study
from medcodi.trust.privacy.populations import AuditedStudies, JoinedStudies, choose


class Studies:
    """Studies in memory: even films of a brightness, phantom reports and labels."""

    def __init__(self, name: str, num: int, first: int, brightness: float = 0.5, size: int = 32) -> None:
        self.name, self.fingerprint, self.image_size = name, f"{name}-{num}", size
        self.studies = []
        for index in range(first, first + num):
            rng = numpy_generator("film", index)
            findings = phantom_findings(0, index)[:1]
            film = (brightness + 0.1 * rng.random((size, size))).astype(np.float32)
            self.studies.append(
                Study(
                    study_id=f"s{index}",
                    patient_id=f"p{index}",
                    contents={"frontal": film, "report": phantom_report(0, index)},
                    labels=labels_of(findings),
                    metadata={"source": "phantom", "sex": "FM"[index % 2], "age": 30 + 20 * (index % 3)},
                )
            )

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> Study:
        return self.studies[index]


def test_matched_groups_are_alike_and_no_model_is_needed_to_see_that_others_are_not() -> None:
    studies = AuditedStudies(JoinedStudies(Studies("a", 200, 0), Studies("b", 200, 1000)))
    facts = studies.facts
    assert facts["members"] == facts["non_members"] >= 60 and facts["pools"] == {"members": 200, "non_members": 200}
    assert all(abs(row["standardised"]) < 1e-6 for row in facts["differences"] if row["what"] in ("age", "female"))
    assert facts["bias_floor"]["low"] < 0.5 < facts["bias_floor"]["high"] and not studies.alarms
    assert set(studies.having(["report"])) == {*studies.rows(1), *studies.rows(0)}
    # Brighter films are told apart at a glance; the audit says so.
    other = AuditedStudies(JoinedStudies(Studies("a", 60, 0), Studies("b", 60, 1000, 0.55)), matching="none")
    assert other.facts["members"] == 60 and other.facts["bias_floor"]["value"] > 0.95
    assert any("a classifier that sees no model" in alarm for alarm in other.alarms)


def test_as_many_of_each_stratum() -> None:
    strata = [("x",)] * 30 + [("y",)] * 10 + [("x",)] * 5 + [("y",)] * 40
    inside = np.arange(len(strata)) < 40
    labels = choose(strata, inside, "exact", None, 0)
    counted = Counter((strata[row][0], int(labels[row])) for row in np.flatnonzero(labels >= 0))
    assert counted == {("x", 1): 5, ("x", 0): 5, ("y", 1): 10, ("y", 0): 10}
    cut = choose(strata, inside, "none", 12, 0)
    assert (cut == 1).sum() == (cut == 0).sum() == 12
    assert (choose(strata, inside, "none", None, 0) >= 0).all()


def test_overlap_too_few_and_one_film_twice_are_named() -> None:
    with pytest.raises(DataError, match=r"20 patients are among members and non-members: 'p40', .* …"):
        AuditedStudies(JoinedStudies(Studies("a", 60, 0), Studies("b", 60, 40)))
    with pytest.raises(DataError, match=r"10 non-members are left of 10"):
        AuditedStudies(JoinedStudies(Studies("a", 60, 0), Studies("b", 10, 1000)), matching="none")
    with pytest.raises(DataError, match="one size"):
        JoinedStudies(Studies("a", 1, 0), Studies("b", 1, 9, size=64))
    members, others = Studies("a", 30, 0), Studies("b", 30, 1000)
    others.studies[3] = replace(others.studies[3], contents=members.studies[5].contents)
    alarms = AuditedStudies(JoinedStudies(members, others), matching="none").alarms
    assert any("1 films are in both populations" in alarm for alarm in alarms)
