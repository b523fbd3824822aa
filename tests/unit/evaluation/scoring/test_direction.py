"""Scores of a direction: a perfect and a blind generator, floors, ceilings, derangements, what is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medcodi.evaluation.annotate import Annotators
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.evaluation.annotators.image_annotators import ClassifierAnnotator
from medcodi.evaluation.config import ScoringConfig
from medcodi.evaluation.report.alarms import alarms
from medcodi.evaluation.report.summary import terminal_table, verdict
from medcodi.evaluation.scoring.comparisons import multi_prompt_tests
from medcodi.evaluation.scoring.direction import SCORERS, DirectionScores, legible_findings
from medcodi.evaluation.scoring.metrics import ALL_TARGETS, METRIC_GROUPS
from medcodi.evaluation.studies import HeldOutStudies
from medcodi.study import CHEXPERT_LABELS, Direction
from tests.unit.evaluation.scoring.conftest import CONFIG, Toy


def test_every_group_of_metrics_has_a_scorer() -> None:
    """Coherence is of pairs of targets."""
    assert {*SCORERS, "coherence", "subgroups"} == set(METRIC_GROUPS)
    assert set(METRIC_GROUPS) - set(ScoringConfig().metrics) == {"severity", "alignment", "by_finding"}


def test_a_generator_that_gives_back_the_truth_reaches_the_ceiling(toy_with_texts: Toy) -> None:
    scores = toy_with_texts.score_moved("report->frontal+lateral", 0)
    primary = scores["primary"]
    assert primary["fraction_of_ceiling"] == 1.0 and primary["beats_shuffled"] is True
    assert primary["difference"]["low"] > 0.2
    assert primary["fraction_low"] == primary["fraction_high"] == 1.0
    metrics = scores["targets"]["frontal"]["metrics"]
    macro = metrics["finding_macro_f1"]
    assert macro["value"] == macro["ceiling"] > macro["floor"] + 0.2
    assert metrics["finding_auroc"]["value"] == metrics["finding_auroc"]["ceiling"] > 0.95
    assert metrics["finding_auroc"]["floor"] < 0.8
    assert metrics["side_accuracy"]["value"] > 0.95 > metrics["side_accuracy"]["floor"] + 0.2
    assert metrics["frechet/demo"]["value"] == pytest.approx(0, abs=1e-6)
    assert metrics["frechet/demo"]["ceiling"] == pytest.approx(metrics["frechet/demo"]["halves"])
    assert metrics["kernel/demo"]["value"] == pytest.approx(0, abs=1e-9)  # no image meets itself
    assert metrics["coverage/demo"]["value"] == 1
    for name in ("kernel", "precision", "recall", "density", "coverage"):
        assert metrics[f"{name}/demo"]["halves"] == pytest.approx(metrics[f"{name}/demo"]["ceiling"])
    assert metrics["ssim"]["value"] == pytest.approx(1) and metrics["ssim"]["floor"] < 0.95
    assert metrics["ms_ssim"]["value"] == pytest.approx(metrics["ms_ssim"]["ceiling"])
    sides = scores["targets"]["frontal"]["findings"]["Pleural Effusion/left"]
    assert sides["f1"] == sides["ceiling_f1"] > sides["floor_f1"]
    agree = scores["coherence"]["frontal+lateral"]["metrics"]["finding_kappa"]
    assert agree["value"] == agree["ceiling"] > 0.9 and agree["floor"] < 0.3


def test_a_generator_that_does_not_listen_stays_at_the_floor(toy_with_texts: Toy) -> None:
    scores = toy_with_texts.score_moved("report->frontal", 7)
    assert scores["primary"]["beats_shuffled"] is False
    assert abs(scores["primary"]["difference"]["value"]) < 0.25
    # A set does not know its order.
    assert scores["targets"]["frontal"]["metrics"]["frechet/demo"]["value"] == pytest.approx(0, abs=1e-6)


def test_reports(toy_with_texts: Toy) -> None:
    right, wrong = (toy_with_texts.score_moved("frontal->report", move)["targets"]["report"] for move in (0, 7))
    assert right["metrics"]["finding_macro_f1"]["value"] == 1.0 and right["metrics"]["side_accuracy"]["value"] == 1.0
    assert right["metrics"]["bleu_4"]["value"] == pytest.approx(1.0) and right["metrics"]["bleu_4"]["floor"] < 0.95
    assert wrong["metrics"]["finding_macro_f1"]["value"] < 0.8 and wrong["metrics"]["bleu_4"]["value"] < 0.95
    assert "meteor" in {one["metric"] for one in right["left_out"]}  # said, not silent
    sided = {"Pleural Effusion/left", "Pleural Effusion/right"}
    assert set(right["findings"]) == {"No Finding", "Cardiomegaly", "Pleural Effusion"} | sided


def test_without_prompts_there_is_nothing_to_shuffle(toy_with_texts: Toy) -> None:
    primary = toy_with_texts.score_moved("->report", 3)["primary"]
    assert primary["beats_shuffled"] is None and primary["prompt_reader"] is None


def test_what_is_legible_in_the_prompt_is_what_its_reader_reaches(toy_with_texts: Toy) -> None:
    """Of a report everything; of a film what the classifier tells in it; of both no less than the film alone."""
    told = {
        one: toy_with_texts.score_moved(f"{one}->lateral", 7)["primary"]["prompt_reader"]
        for one in ("report", "frontal", "frontal+report")
    }
    assert told["report"]["value"] == 1.0
    film = toy_with_texts.score_moved("lateral->frontal", 0)["primary"]["ceiling"]
    assert told["frontal"]["value"] == pytest.approx(film) and told["frontal"]["low"] <= film <= told["frontal"]["high"]
    assert told["frontal"]["value"] <= told["frontal+report"]["value"] <= 1.0


def test_two_prompts_are_compared_with_the_better_one(toy: Toy) -> None:
    def moved(direction: str, move: int) -> DirectionScores:
        return toy.score(direction, lambda target, rows: toy.held_out.values(target, np.roll(rows, -move).tolist()))

    given = (moved("report->frontal", 1), moved("lateral->frontal", 7), moved("lateral+report->frontal", 0))
    scores = {one.direction: one for one in given}
    compared = multi_prompt_tests({"ours": scores}, toy.held_out.patients, CONFIG)
    tests = [one for one in compared.tests if one["target"] == ALL_TARGETS]
    assert not compared.left_out and {one["system"] for one in tests} == {"ours"}
    p_values = {one["metric"]: one["p_value"] for one in compared.tests if one["metric"].endswith("/demo")}
    unpaired = {name.partition("/")[0] for name, p_value in p_values.items() if p_value is None}
    assert unpaired == {"frechet", "kernel", "recall", "coverage"}
    better = max(scores[Direction.parse(test["against"])].primary["model"]["value"] for test in tests)
    assert [test["second"] for test in tests if test["against_better"]] == [pytest.approx(better)]
    assert len(tests) == 2 and all(test["not_worse"] for test in tests)


def test_prompts_without_findings_are_not_legible(toy: Toy) -> None:
    blind = Annotators(labeler=toy.annotators.labeler)
    assert not blind.finds_in("frontal") and blind.finds_in("report")
    assert legible_findings([]) is None


class FrontalsOnly(ClassifierAnnotator):
    """Knows two findings, and one view."""

    def __init__(self, classifier: FindingClassifier) -> None:
        super().__init__(classifier)
        every = classifier.config.targets
        self.targets, self.modalities = ("Cardiomegaly", "Pleural Effusion"), ("frontal",)
        self.columns, self.dim = [every.index(target) for target in self.targets], 2

    def annotate_batch(self, prepared, modality: str) -> np.ndarray:
        return super().annotate_batch(prepared, modality)[:, self.columns]

    def thresholds(self, modality: str) -> np.ndarray:
        return super().thresholds(modality)[self.columns]

    def judged(self, modality: str) -> tuple[str, ...]:
        return self.targets if modality in self.modalities else ()


def test_an_annotator_judges_only_the_views_and_findings_that_it_knows(toy: Toy, toy_classifier) -> None:
    annotators = Annotators(images=FrontalsOnly(toy_classifier))
    limited = replace(toy, annotators=annotators)
    assert annotators.finds_in("frontal") and not annotators.finds_in("lateral")
    film = annotators.annotate("frontal", [0, 1, 2], toy.held_out.values("frontal", [0, 1, 2]))
    legible = legible_findings([film])
    assert legible is not None and (~np.isnan(legible).any(0)).sum() == 2
    other = annotators.annotate("lateral", [0, 1, 2], toy.held_out.values("lateral", [0, 1, 2]))
    assert legible_findings([other]) is None
    config = replace(CONFIG, metrics=("findings",))

    def scores(direction: str) -> DirectionScores:
        return limited.score(direction, toy.held_out.values, config)

    lateral = scores("report->lateral")
    assert lateral.primary["model"] is None
    assert lateral.targets["lateral"].left_out[0]["metric"] == "finding_macro_f1"
    assert scores("lateral->report").primary["prompt_reader"] is None
    both = scores("frontal->report")
    known = [CHEXPERT_LABELS.index(name) for name in ("Cardiomegaly", "Pleural Effusion")]
    assert set(known) < set(both.targets["report"].counted)  # "No Finding" counts too, and is not held against the film
    assert both.primary["prompt_reader"]["value"] > 0.9


def test_the_same_scores_twice(toy_with_texts: Toy) -> None:
    first, second = (toy_with_texts.score_moved("report->frontal", 1) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("normal", [False, True])
def test_a_generator_that_writes_eeeee_has_no_headline(toy: Toy, toy_dataset, normal: bool) -> None:
    """For every film, the same letters; also where nearly all studies are normal, so that *No Finding* alone counts."""
    if normal:
        dataset = toy_dataset(120, seed=5)
        healthy = [study for study in dataset.studies if not study.findings]
        dataset.studies = healthy[:16] + [study for study in dataset.studies if study.findings][:2]
        toy = Toy(HeldOutStudies(dataset), toy.annotators)
    scores = toy.score("frontal->report", lambda target, rows: ["eeeee"] * len(rows)).to_dict()
    # The labeler takes it for a normal report, which comes near the ceiling if most studies are normal.
    counted = set(scores["targets"]["report"]["findings"])
    assert (counted == {"No Finding"}) == normal
    assert scores["targets"]["report"]["flags"]["no language"]["count"] == len(toy.held_out)
    comparisons = {"multi_prompt": [], "systems": [], "left_out": []}
    system = {"directions": {"frontal->report": scores}, "coverage": {}}
    results = {"systems": {"letters": system}, "comparisons": comparisons, "excluded": []}
    results["data"] = {"num_studies": len(toy.held_out)}
    (headline,) = verdict(results)
    assert headline.startswith("letters: 0 of 1 directions follow") and "%" not in headline
    columns, ((row),) = terminal_table(results)
    assert "%" not in row[columns.index("of ceiling")]
    assert any("contents of report are no language" in line for line in alarms(results))
