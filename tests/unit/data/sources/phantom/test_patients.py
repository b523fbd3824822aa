"""Phantom version 2: one body a patient, findings that change, a record that follows the truth."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest

from medcodi.data.dataset import PHANTOMS_PER_SPLIT, row_from_study, study_from_row
from medcodi.data.loading import DataConfig
from medcodi.data.sources.phantom import PhantomDataset, body_of, draw_visit, phantom_visit_study
from medcodi.data.sources.phantom.body import LASTING
from medcodi.data.sources.phantom.patients import NOISE, expected_values
from medcodi.errors import DataError
from medcodi.record import CLINICAL_RECORD


@lru_cache
def visits(num: int = 3000, studies_per_patient: int = 1) -> list:
    return [draw_visit(3, index, studies_per_patient) for index in range(num)]


def test_a_study_is_a_pure_function_of_its_keys():
    first, other = phantom_visit_study(7, 5, 32, 4), phantom_visit_study(7, 6, 32, 4)
    again = phantom_visit_study(7, 5, 32, 4)
    assert all(np.array_equal(first.images[view], again.images[view]) for view in ("frontal", "lateral"))
    assert first.record == again.record and first.report == again.report and first.findings == again.findings
    assert first.patient_id == other.patient_id != phantom_visit_study(7, 8, 32, 4).patient_id
    assert not np.array_equal(first.images["frontal"], other.images["frontal"])
    assert body_of(first.metadata) == draw_visit(7, 5, 4).body


def test_a_patient_keeps_the_body_and_ages():
    for patient in range(20):
        several = [draw_visit(1, patient * 5 + number, 5) for number in range(5)]
        bodies = [visit.body for visit in several]
        assert len({(body.sex, body.habitus, body.vessel_seed, body.half_width) for body in bodies}) == 1
        ages = [body.age for body in bodies]
        assert ages == sorted(ages) and [visit.number for visit in several] == list(range(5))
        # Lasting findings stay and do not shrink.
        for before, after in pairwise(several):
            left = {finding.label for finding in before.findings} - {finding.label for finding in after.findings}
            assert not left & LASTING


def test_findings_change_between_visits():
    pairs = [(draw_visit(2, 2 * patient, 2), draw_visit(2, 2 * patient + 1, 2)) for patient in range(400)]
    labels = [tuple({finding.label for finding in visit.findings} for visit in pair) for pair in pairs]
    appeared = np.mean([bool(after - before) for before, after in labels])
    resolved = np.mean([bool(before - after) for before, after in labels if before - LASTING])
    assert 0.2 < appeared < 0.8 and 0.2 < resolved < 0.8
    assert all(len(visit.findings) <= 4 for pair in pairs for visit in pair)


def test_the_report_may_name_age_and_sex():
    named = 0
    for visit in visits()[:300]:
        if visit.report.startswith("INDICATION"):
            named += 1
            indication = visit.report.splitlines()[0].lower()
            assert str(visit.body.age) in indication
            words = ("woman", "female", "lady") if visit.body.sex == "F" else (" man", " male", "gentleman")
            assert any(word in indication for word in words)
    assert 80 < named < 160


@pytest.mark.parametrize("name", list(NOISE))
def test_values_follow_the_truth_by_the_relations_that_are_written_down(name):
    pairs = [(visit.record.get(name), expected_values(visit.body, visit.findings)[name]) for visit in visits()]
    known = [(value, expected) for value, expected in pairs if value is not None]
    assert 0.08 < 1 - len(known) / len(pairs) < 0.16  # missing
    field = CLINICAL_RECORD.fields[name]
    residuals = np.array([(np.log(v) if field.scale == "log" else v) - expected for v, expected in known])
    # Oxygen saturation ends at 100, so its noise is cut on one side.
    slack = 0.25 if name == "oxygen_saturation" else 5 / np.sqrt(len(known))
    assert abs(residuals.mean()) < slack * NOISE[name]
    assert residuals.std() == pytest.approx(NOISE[name], rel=0.2 if name == "oxygen_saturation" else 0.06)


def test_haemoglobin_is_independent_of_the_truth():
    rows = [
        (visit.record["haemoglobin"], len(visit.findings), visit.body.age, visit.body.sex == "F")
        for visit in visits()
        if "haemoglobin" in visit.record
    ]
    correlations = np.corrcoef(np.array(rows, dtype=float).T)[0, 1:]
    assert np.abs(correlations).max() < 4 / np.sqrt(len(rows))


def test_age_sex_and_habitus_show_on_the_films():
    studies = [phantom_visit_study(5, index, 32) for index in range(160)]
    films = np.stack([np.concatenate([image.ravel() for image in study.images.values()]) for study in studies])
    for name in ("age", "bmi", "sex"):
        truth = np.array(
            [float(study.record[name] == "F") if name == "sex" else study.record[name] for study in studies]
        )
        # Ridge regression from half of the studies, read on the others.
        x, y = films[:80] - films[:80].mean(0), truth[:80] - truth[:80].mean()
        weights = x.T @ np.linalg.solve(x @ x.T + 3.0 * np.eye(80), y)
        assert np.corrcoef((films[80:] - films[:80].mean(0)) @ weights, truth[80:])[0, 1] > 0.6, name


def test_splits_keep_patients_apart_and_other_numbers_are_refused():
    ids = [
        {DataConfig(source="phantom", num_studies=8, image_size=32, split=split, version=2, studies_per_patient=8).build()[i].patient_id for i in (0, 7)}
        for split in ("train", "val", "test")
    ]  # fmt: skip
    assert all(len(of_split) == 1 for of_split in ids) and len(set.union(*ids)) == 3
    assert all(PHANTOMS_PER_SPLIT % number == 0 for number in (1, 2, 4, 5, 8, 10))
    for version, number, message in (
        (2, 3, "studies_per_patient is 3"),
        (1, 2, "phantom version 1"),
        (3, 1, "version 3"),
    ):
        with pytest.raises(DataError, match=message):
            PhantomDataset(4, image_size=32, version=version, studies_per_patient=number)


def test_records_survive_a_prepared_row():
    import pyarrow as pa

    from medcodi.data.preparation.shards import _schema

    study = phantom_visit_study(0, 0, 32)
    table = pa.Table.from_pylist([row_from_study(study, "train")], schema=_schema())
    assert study_from_row(table, 32).record == study.record


def test_the_dataset_knows_its_version_and_records():
    one, two = PhantomDataset(2, image_size=32), PhantomDataset(2, image_size=32, version=2)
    assert (
        one.fingerprint
        != two.fingerprint
        != PhantomDataset(2, image_size=32, version=2, studies_per_patient=2).fingerprint
    )
    assert one.record(0) is None and two.record(1) == two[1].record and two.report(1) == two[1].report


@pytest.mark.parametrize(("version", "per_patient"), [(1, 1), (2, 4)])
def test_identifiers_are_known_without_the_films(version: int, per_patient: int) -> None:
    phantoms = PhantomDataset(6, 3, 32, 40, version, per_patient)
    for index in (0, 5):
        study = phantoms[index]
        assert phantoms.identifiers(index) == (study.study_id, study.patient_id)
