"""A balanced manifest: groups of equal size, findings kept and independent of them, and what is refused."""

from __future__ import annotations

import csv
from collections import Counter

import pytest

from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.errors import DataError, PromptError
from medcodi.generation.bulk.balance import BalancedField, balanced, read_balance
from medcodi.generation.bulk.manifest import Row, RowDefaults, read_manifest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """101 reports of mostly old men, whose every third has an effusion; the last has no findings in words, and no record."""
    root = tmp_path_factory.mktemp("balance")
    with (root / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "patient_id", "split", "report", "Age", "Sex", "bmi"])
        for number in range(100):
            sex, age = ("F", 30 + number % 10) if number % 5 == 0 else ("M", 60 + number % 30)
            words = "Left pleural effusion." if number % 3 == 0 else "Clear lungs."
            report = f"INDICATION: A {age}-year-old {sex}.\nFINDINGS: {words}\nIMPRESSION: Study {number}."
            writer.writerow([f"s{number}", f"p{number}", "train", report, age, sex, 20 + number / 10])
        writer.writerow(["s100", "p100", "train", "INDICATION: Cough.", "", "", ""])
    options = {"record": True}
    prepare(PrepareConfig(source="csv", path=str(root / "t.csv"), out=str(root / "data"), options=options))
    return str(root / "data")


FIELDS = (BalancedField(name="sex"), BalancedField(name="age", width=20.0))


def test_groups_are_of_equal_size_and_findings_stay(data):
    result = balanced(data, "train", FIELDS)
    assert set(result.after) == {(sex, band) for sex in "FM" for band in ("20-40", "60-80", "80-100")}
    assert sum(result.before.values()) == 100 and result.before["F", "60-80"] == 0
    assert max(result.after.values()) - min(result.after.values()) <= 1
    assert result.num_left_out == 1 and len(result.rows) == 100
    # Each study's findings once, without the indication that names another patient.
    assert [row["id"] for row in result.rows] == [f"s{number}" for number in range(100)]
    assert result.rows[3]["report"] == "FINDINGS: Left pleural effusion.\nIMPRESSION: Study 3."
    # Numbers are those of the dataset, in the band that was dealt.
    ages = Counter(float(row["record.age"]) for row in result.rows)
    assert all(30 <= age < 40 or 60 <= age < 90 for age in ages)
    # Findings go with no group: a third of either sex, within what chance allows (4 standard deviations).
    for sex in "FM":
        rows = [row for row in result.rows if row["record.sex"] == sex]
        assert abs(sum("effusion" in row["report"] for row in rows) - len(rows) / 3) < 4 * (len(rows) * 2 / 9) ** 0.5


def test_it_depends_on_its_seed_alone(data):
    assert balanced(data, "train", FIELDS).rows == balanced(data, "train", FIELDS).rows
    assert balanced(data, "train", FIELDS).rows != balanced(data, "train", FIELDS, seed=1).rows


def test_it_is_read_as_a_manifest_and_never_overwrites(data, tmp_path):
    path, result = tmp_path / "balanced.csv", balanced(data, "train", FIELDS)
    result.write(path)
    result.write(path)  # the same again
    rows = read_manifest(path, RowDefaults())
    assert len(rows) == 100 and all(isinstance(row, Row) for row in rows)
    assert str(rows[0].direction) == "report+record->frontal+lateral"
    path.write_text("something else")
    with pytest.raises(DataError, match="is not the manifest that --balance would write"):
        result.write(path)
    assert path.read_text() == "something else"


@pytest.mark.parametrize("text", ["", "sex,", "age:x", "age:0", "age:-5", "age:inf", "sex,sex"])
def test_fields_that_make_no_sense_are_refused(text):
    with pytest.raises(PromptError, match="sex,age:20"):
        read_balance(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sexx", "did you mean 'sex'"),
        ("age", "age is a number.*age:20"),
        ("sex:20", "sex is categorical"),
        ("bmi:0.1,sex", "studies of .* have findings in words, for"),
    ],
)
def test_what_the_dataset_cannot_give_is_refused(data, text, message):
    with pytest.raises(DataError, match=message):
        balanced(data, "train", read_balance(text))
