"""Fields of generated records, obedience of films to a record, and findings by subgroup: from tables of annotations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medcodi.errors import ConfigError
from medcodi.evaluation.annotations import AnnotationTable, StudyTable
from medcodi.evaluation.config import ScoringConfig
from medcodi.evaluation.scoring.case import Case, ScoredStudies
from medcodi.evaluation.scoring.direction import DirectionScores, score_direction
from medcodi.evaluation.scoring.findings import score_subgroups
from medcodi.evaluation.scoring.groups import groups_of, parse_bands
from medcodi.evaluation.scoring.statistics import F1Statistic
from medcodi.metrics.fields import expected_values
from medcodi.metrics.findings import Confusion
from medcodi.record import CLINICAL_RECORD
from medcodi.study import CHEXPERT_LABELS, Direction

NUM, DRAWS = 80, 8
FIELDS = {name: CLINICAL_RECORD.fields[name] for name in ("age", "sex", "bnp")}
CONFIG = ScoringConfig(bootstrap_samples=200, min_positives=3, subgroup_studies=10, metrics=("records", "obedience"))


def studies(config: ScoringConfig = CONFIG) -> ScoredStudies:
    """Eighty patients of all ages and both sexes; the natural logarithm of bnp rises with age; some ages are unknown."""
    rng = np.random.default_rng(1)
    age, sex = rng.uniform(20, 80, NUM), rng.integers(0, 2, NUM).astype(float)
    truth = np.stack([age, sex, 2 + age / 20 + rng.normal(0, 0.1, NUM)], 1)
    truth[::10, 0] = np.nan
    labels = np.zeros((NUM, 14), np.float32)
    labels[:, 2] = rng.random(NUM) < 0.5
    table = StudyTable(
        ids=[f"s{row}" for row in range(NUM)],
        patients=[f"p{row // 2}" for row in range(NUM)],
        places=list(range(NUM)),
        modalities=[frozenset({"frontal", "record"})] * NUM,
        truth=labels,
        sides=np.zeros((NUM, 14), np.int8),
        fields=FIELDS,
        records={"record": truth},
    )
    return ScoredStudies(table, list(range(NUM)), config, 32)


def of_records(draws: np.ndarray) -> AnnotationTable:
    arrays = {"draws": draws, "values": expected_values(FIELDS, draws)}
    return AnnotationTable("record", list(range(NUM)), [f"h{row}" for row in range(NUM)], arrays=arrays, fields=FIELDS)


def of_films(truth: np.ndarray, noise: float, judged: tuple[str, ...] = ("age", "sex")) -> AnnotationTable:
    """An annotator that reads ages with an error, and is surer of the sex the less there is of it."""
    rng = np.random.default_rng(2)
    male = np.clip(0.5 + (truth[:, 1] - 0.5) * 0.9 + rng.normal(0, noise / 40, NUM), 0, 1)
    columns = (np.nan_to_num(truth[:, 0], nan=50.0) + rng.normal(0, noise, NUM), 1 - male, male, rng.normal(size=NUM))
    arrays = {"values": np.stack(columns, 1), "range": np.ones(NUM), "brightness": np.ones(NUM)}
    hashes = [f"f{row}" for row in range(NUM)]
    return AnnotationTable("frontal", list(range(NUM)), hashes, arrays=arrays, fields=FIELDS, judged_fields=judged)


def score(direction: str, generated: AnnotationTable, real: dict[str, AnnotationTable]) -> DirectionScores:
    parsed = Direction.parse(direction)
    return score_direction(parsed, studies(), {parsed.targets[0]: generated}, real)


def draws_around(centre: np.ndarray, spread: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    draws = np.repeat(centre[:, None], DRAWS, 1)
    draws[:, :, 0] += rng.normal(0, spread, (NUM, DRAWS))
    return draws


def test_a_record_is_scored_field_by_field_between_floor_and_ceiling() -> None:
    truth = studies().records("record")
    rng = np.random.default_rng(4)
    centre = truth.copy()
    centre[:, 0] += rng.normal(0, 5, NUM)
    real = {"record": of_records(truth[:, None]), "frontal": of_films(truth, 4)}
    scores = score("frontal->record", of_records(draws_around(centre, 5)), real)
    metrics, left_out = scores.targets["record"].metrics, scores.targets["record"].left_out
    assert left_out == [] and scores.primary["model"] is None
    age = {measure: metrics[f"record_{measure}/age"] for measure in ("mae", "r2", "r", "coverage", "spread")}
    assert age["mae"]["ceiling"] < age["mae"]["value"] < 7 < age["mae"]["floor"] and age["mae"]["studies"] == 72
    assert age["r2"]["floor"] < 0 < 0.7 < age["r2"]["value"] < age["r2"]["ceiling"] < 1
    assert age["r2"]["low"] < age["r2"]["value"] < age["r2"]["high"] and abs(age["r"]["floor"]) < 0.3
    assert age["coverage"]["expected"] == pytest.approx(7 / 9) and abs(age["coverage"]["value"] - 7 / 9) < 0.15
    assert 0.6 < age["spread"]["value"] < 1.6 and age["spread"]["draws"] == DRAWS
    assert metrics["record_accuracy/sex"]["value"] == 1 == metrics["record_auroc/sex"]["value"]
    assert metrics["record_accuracy/sex"]["floor"] < 0.7
    assert (
        metrics["record_r2/bnp"]["value"] == 1 and metrics["record_r2/bnp"]["ceiling"] is None
    )  # no annotator reads it


def test_what_cannot_be_scored_is_listed() -> None:
    truth = studies().records("record")
    few = truth.copy()
    few[:, 2] = np.nan
    scores = score("->record", of_records(few[:, None]), {"record": of_records(truth[:, None])}).targets["record"]
    reasons = {entry["metric"]: entry["reason"] for entry in scores.left_out}
    assert reasons["record/bnp"] == "no generated record has it"
    assert "at least 2 draws" in reasons["record_spread/age"] and "record_mae/age" in scores.metrics
    same = [f"h{min(row, 70)}" for row in range(NUM)]
    repeated = replace(of_records(few[:, None]), hashes=same)
    assert (
        score("->record", repeated, {"record": of_records(truth[:, None])}).targets["record"].flags["repeated"]["count"]
        == 9
    )


def test_films_obey_the_record_that_prompts_them() -> None:
    truth = studies().records("record")
    real = {"frontal": of_films(truth, 2)}
    metrics = score("record->frontal", of_films(truth, 8), real).targets["frontal"].metrics
    age, sex = metrics["obedience_r/age"], metrics["obedience_auroc/sex"]
    assert abs(age["floor"]) < 0.3 < 0.8 < age["value"] < age["ceiling"]
    assert sex["value"] > 0.9 and sex["ceiling"] == 1 and "obedience_r/bnp" not in metrics
    (entry,) = [entry for entry in score("record->frontal", of_films(truth, 8), real).targets["frontal"].left_out]
    assert entry["metric"] == "obedience" and "bnp" in entry["reason"]
    # Without a record as prompt nothing is obeyed; with an annotator that reads none, that is said.
    assert not any(
        name.startswith("obedience") for name in score("->frontal", of_films(truth, 8), real).targets["frontal"].metrics
    )
    blind = replace(of_films(truth, 2), fields={}, judged_fields=())
    (entry,) = score("record->frontal", blind, {"frontal": blind}).targets["frontal"].left_out
    assert "reads no field of a record" in entry["reason"]


def test_groups_are_crossed_and_bands_begin_at_multiples() -> None:
    table = studies().table
    groups, reason = groups_of(table, ("sex", "age:20"))
    assert (
        reason == ""
        and groups[0] == ""
        and set(groups) - {""} == {f"sex {sex}, age {low}–{low + 20}" for sex in "FM" for low in (20, 40, 60)}
    )
    assert f"age {int(table.records['record'][1, 0] // 20 * 20)}–" in groups[1]
    age = int(table.records["record"][1, 0] // 20 * 20)
    assert f"age {age}–" in groups[1]
    assert set(groups_of(table, ("bnp:1000",))[0]) == {"bnp 0–1000"}  # on the plain scale
    assert groups_of(table, ("race",)) == ([], "no record has race")
    assert groups_of(table, ("age",))[1] == "age needs a width of bands"
    assert parse_bands("age:7.5") == ("age", 7.5)
    for wrong in ("age:x", "age:0", ":20"):
        with pytest.raises(ConfigError, match="subgroup_by"):
            ScoringConfig(subgroup_by=(wrong,))


def case_of(predicted: np.ndarray, config: ScoringConfig) -> Case:
    """A case whose one finding was read as ``predicted``."""
    scored = studies(config)
    empty = AnnotationTable("report", scored.rows)
    case = Case("report", scored, empty, empty)
    case.scores.counted = [2]
    confusion, perfect = (Confusion.of(scored.truth[:, [2]], own[:, None]) for own in (predicted, scored.truth[:, 2]))
    names = ((f"report: {CHEXPERT_LABELS[2]}",),)
    for measure in ("macro_f1", "micro_f1"):
        value, ceiling = (F1Statistic((own,), measure, names) for own in (confusion, perfect))
        case.scores.add(f"finding_{measure}", value, scored.weights, ceiling=ceiling)
    return case


def test_the_worst_group_the_gap_and_its_interval() -> None:
    config = replace(CONFIG, subgroup_by=("sex",))
    truth = studies().truth[:, 2]
    male = studies().records("record")[:, 1] == 1
    rng = np.random.default_rng(5)
    # Men are read well, of women a third is wrong.
    wrong = ~male & (rng.random(NUM) < 0.35)
    case = case_of(np.where(wrong, 1 - truth, truth), config)
    score_subgroups(case)
    result = case.scores.to_dict()["subgroups"]["finding_macro_f1"]
    assert (result["worst"], result["best"], result["findings"]) == ("sex F", "sex M", 1)
    women = Confusion.of(truth[~male, None], np.where(wrong, 1 - truth, truth)[~male, None]).f1(
        np.ones((1, (~male).sum()))
    )
    assert result["groups"]["sex F"]["value"] == pytest.approx(float(women[0, 0]))
    assert result["groups"]["sex F"]["studies"] == int((~male).sum()) and result["groups"]["sex F"]["ceiling"] == 1
    gap = result["gap"]
    assert gap["value"] == pytest.approx(1 - result["groups"]["sex F"]["value"]) and gap["ceiling"] == 0
    assert 0 < gap["low"] < gap["value"] < gap["high"] and gap["floor"] < gap["low"]
    # Where nothing differs, the gap is about what chance gives.
    even = case_of(np.where(rng.random(NUM) < 0.2, 1 - truth, truth), config)
    score_subgroups(even)
    gap = even.scores.subgroups["finding_macro_f1"]["gap"]
    assert gap["value"] < 3 * gap["floor"] + 0.05


def test_small_groups_and_unknown_studies_are_listed() -> None:
    case = case_of(studies().truth[:, 2], replace(CONFIG, subgroup_studies=14))
    score_subgroups(case)
    left_out = {entry["metric"]: entry for entry in case.scores.left_out}
    small = [name for name in left_out if name.startswith("subgroups: sex")]
    assert small and all(left_out[name]["available"] < 14 == left_out[name]["needed"] for name in small)
    assert left_out["subgroups: unknown"]["reason"] == "8 studies lack sex or age:20"
    alone = case_of(studies().truth[:, 2], replace(CONFIG, subgroup_by=("race",)))
    score_subgroups(alone)
    (entry,) = alone.scores.left_out
    assert (
        entry["reason"] == "no record has race"
        and not alone.scores.subgroups
        and "subgroups" not in alone.scores.to_dict()
    )
    # Studies without records have no groups, and nothing is said of them.
    none = case_of(studies().truth[:, 2], CONFIG)
    none.studies.table.records.clear()
    score_subgroups(none)
    assert none.scores.left_out == [] and not none.scores.subgroups
