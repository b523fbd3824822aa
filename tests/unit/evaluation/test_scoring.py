"""Scores of a direction: a perfect and a blind generator, floors, ceilings, derangements, what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from medcodi.data.dataset import row_from_study
from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.evaluation.annotators.features import load_extractor
from medcodi.evaluation.annotators.image_annotators import ClassifierAnnotator
from medcodi.evaluation.comparisons import ALL_TARGETS, multi_prompt_tests
from medcodi.evaluation.derangements import derangements
from medcodi.evaluation.held_out import HeldOut, Value
from medcodi.evaluation.materials import Areas
from medcodi.evaluation.measures.case import NUM_DERANGEMENTS
from medcodi.evaluation.measures.distributions import merged_moments
from medcodi.evaluation.reading import Readers
from medcodi.evaluation.scores import ScoringOptions
from medcodi.evaluation.scoring import DirectionScores, score_direction
from medcodi.metrics import Moments, TextScorer
from medcodi.study import CHEXPERT_LABELS, Direction

OPTIONS = ScoringOptions(bootstrap_samples=200, min_positives=3, kernel_subset=20, diversity_pairs=10)


@pytest.fixture(scope="module")
def held(toy_classifier: FindingClassifier, toy_dataset) -> HeldOut:
    """60 toy studies."""
    return HeldOut(toy_dataset(60, seed=5), toy_classifier)


@pytest.fixture(scope="module")
def readers(toy_classifier: FindingClassifier, tmp_path_factory: pytest.TempPathFactory) -> Readers:
    """Classifier, its features, rule labeler, likeness."""
    folder = toy_classifier.save(tmp_path_factory.mktemp("classifier"))
    features = load_extractor("demo", weights=folder)
    return Readers(ClassifierAnnotator(toy_classifier), [features], similarity=True)


@pytest.fixture(scope="module")
def scorer():
    """Without METEOR, which is slow to start."""
    pytest.importorskip("pycocoevalcap")
    with TextScorer(meteor=False) as one:
        yield one


def score_values(
    direction: str,
    held: HeldOut,
    readers: Readers,
    scorer: TextScorer | None,
    values: Callable[[str, list[int]], list[Value]],
    options: ScoringOptions = OPTIONS,
) -> DirectionScores:
    parsed, rows = Direction.parse(direction), list(range(len(held)))
    generated, real, contents = {}, {}, {}
    for target in parsed.targets:
        truth = held.values(target, rows)
        made = values(target, rows)
        generated[target] = readers.read(target, made, truth, held.patients)
        real[target] = readers.read(target, truth)
        contents[target] = lambda chosen, made=made: [made[row] for row in chosen]
    real |= {prompt: readers.read(prompt, held.values(prompt, rows)) for prompt in parsed.prompts}
    return score_direction(parsed, generated, real, held, rows, readers, scorer, options, contents)


def score(direction: str, held: HeldOut, readers: Readers, scorer: TextScorer | None, move: int) -> dict:
    """Score the real targets of the study ``move`` places on, as if they had been generated."""

    def moved(target: str, rows: list[int]) -> list[Value]:
        return held.values(target, np.roll(rows, -move).tolist())

    return score_values(direction, held, readers, scorer, moved).to_dict()


def test_a_generator_that_gives_back_the_truth_reaches_the_ceiling(held, readers, scorer) -> None:
    scores = score("report->frontal+lateral", held, readers, scorer, 0)
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


def test_a_generator_that_does_not_listen_stays_at_the_floor(held, readers, scorer) -> None:
    scores = score("report->frontal", held, readers, scorer, 7)
    assert scores["primary"]["beats_shuffled"] is False
    assert abs(scores["primary"]["difference"]["value"]) < 0.25
    # A set does not know its order.
    assert scores["targets"]["frontal"]["metrics"]["frechet/demo"]["value"] == pytest.approx(0, abs=1e-6)


def test_reports(held, readers, scorer) -> None:
    right, wrong = (score("frontal->report", held, readers, scorer, move)["targets"]["report"] for move in (0, 7))
    assert right["metrics"]["finding_macro_f1"]["value"] == 1.0 and right["metrics"]["side_accuracy"]["value"] == 1.0
    assert right["metrics"]["bleu_4"]["value"] == pytest.approx(1.0) and right["metrics"]["bleu_4"]["floor"] < 0.95
    assert wrong["metrics"]["finding_macro_f1"]["value"] < 0.8 and wrong["metrics"]["bleu_4"]["value"] < 0.95
    assert "meteor" in {one["metric"] for one in right["left_out"]}  # said, not silent
    sided = {"Pleural Effusion/left", "Pleural Effusion/right"}
    assert set(right["findings"]) == {"No Finding", "Cardiomegaly", "Pleural Effusion"} | sided


def test_a_reader_that_tells_no_sides_says_nothing_of_a_generators(held, readers, monkeypatch) -> None:
    monkeypatch.setattr("medcodi.evaluation.measures.findings.LEAST_SIDES", 1.01)
    told = score("report->frontal", held, readers, None, 0)["targets"]["frontal"]
    assert "side_accuracy" not in told["metrics"]
    reason = next(one["reason"] for one in told["left_out"] if one["metric"] == "side_accuracy")
    assert "tells no sides here: in real targets it has" in reason


def test_without_prompts_there_is_nothing_to_shuffle(held, readers, scorer) -> None:
    primary = score("->report", held, readers, scorer, 3)["primary"]
    assert primary["beats_shuffled"] is None and primary["prompt_reader"] is None


def test_what_is_legible_in_the_prompt_is_what_its_reader_reaches(held, readers, scorer) -> None:
    """Of a report everything; of a film what the classifier tells in it; of both no less than the film alone."""
    told = {
        one: score(f"{one}->lateral", held, readers, scorer, 7)["primary"]["prompt_reader"]
        for one in ("report", "frontal", "frontal+report")
    }
    assert told["report"]["value"] == 1.0
    film = score("lateral->frontal", held, readers, scorer, 0)["primary"]["ceiling"]
    assert told["frontal"]["value"] == pytest.approx(film) and told["frontal"]["low"] <= film <= told["frontal"]["high"]
    assert told["frontal"]["value"] <= told["frontal+report"]["value"] <= 1.0


def test_two_prompts_are_set_beside_the_better_one(held, readers) -> None:
    def told(direction: str, move: int) -> DirectionScores:
        def values(target: str, rows: list[int]) -> list[Value]:
            return held.values(target, np.roll(rows, -move).tolist())

        return score_values(direction, held, readers, None, values)

    given = (told("report->frontal", 1), told("lateral->frontal", 7), told("lateral+report->frontal", 0))
    scores = {one.direction: one for one in given}
    compared = multi_prompt_tests({"ours": scores}, held, OPTIONS)
    tests = [one for one in compared.tests if one["target"] == ALL_TARGETS]
    assert not compared.left_out and {one["system"] for one in tests} == {"ours"}
    whole = {one["metric"]: one["p_value"] for one in compared.tests if one["metric"].endswith("/demo")}
    unpaired = {name.partition("/")[0] for name, p_value in whole.items() if p_value is None}
    assert unpaired == {"frechet", "kernel", "recall", "coverage"}
    better = max(scores[Direction.parse(test["against"])].primary["model"]["value"] for test in tests)
    assert [test["second"] for test in tests if test["against_better"]] == [pytest.approx(better)]
    assert len(tests) == 2 and all(test["not_worse"] for test in tests)


def test_prompts_that_nobody_reads_are_not_legible(held, readers) -> None:
    blind = Readers(None, labeler=readers.labeler)
    assert not blind.can_read("frontal") and blind.can_read("report")
    assert blind.legible({"frontal": readers.read("frontal", held.values("frontal", [0]))}) is None


class FrontalsOnly(ClassifierAnnotator):
    """Knows two findings, and one view."""

    def __init__(self, classifier: FindingClassifier) -> None:
        super().__init__(classifier)
        self.targets, self.modalities = ("Cardiomegaly", "Pleural Effusion"), ("frontal",)
        self.columns = [classifier.config.targets.index(target) for target in self.targets]
        self.dim = len(self.columns)

    def annotate_batch(self, prepared, modality: str) -> np.ndarray:
        return super().annotate_batch(prepared, modality)[:, self.columns]

    def thresholds(self, modality: str) -> np.ndarray:
        return super().thresholds(modality)[self.columns]

    def judged(self, modality: str) -> tuple[str, ...]:
        return self.targets if modality in self.modalities else ()


def test_a_reader_judges_only_the_views_and_findings_that_it_knows(held, toy_classifier) -> None:
    readers = Readers(FrontalsOnly(toy_classifier))
    assert readers.can_read("frontal") and not readers.can_read("lateral")
    film = readers.read("frontal", held.values("frontal", [0, 1, 2]))
    legible = readers.legible({"frontal": film, "lateral": film})
    assert legible is not None and (~np.isnan(legible).any(0)).sum() == 2 and readers.legible({"lateral": film}) is None
    options = replace(OPTIONS, metrics=("findings",))

    def told(direction: str) -> DirectionScores:
        return score_values(direction, held, readers, None, held.values, options)

    lateral = told("report->lateral")
    assert lateral.primary["model"] is None
    assert lateral.targets["lateral"].left_out[0]["metric"] == "finding_macro_f1"
    assert told("lateral->report").primary["prompt_reader"] is None
    both = told("frontal->report")
    known = [CHEXPERT_LABELS.index(name) for name in ("Cardiomegaly", "Pleural Effusion")]
    assert set(known) < set(both.targets["report"].counted)  # "No Finding" counts too, and is not held against the film
    assert both.primary["prompt_reader"]["value"] > 0.9


def test_the_same_scores_twice(held, readers, scorer) -> None:
    first, second = (score("report->frontal", held, readers, scorer, 1) for _ in range(2))
    assert first == second


def test_too_few_studies_leave_metrics_out_with_the_number_needed(toy_classifier, toy_dataset, readers) -> None:
    few = HeldOut(toy_dataset(8, seed=5), toy_classifier)
    options = ScoringOptions(bootstrap_samples=100, min_positives=50, neighbours=9)
    told = score_values(
        "report->frontal", few, readers, None, lambda target, rows: few.values(target, rows), options
    ).to_dict()
    target = told["targets"]["frontal"]
    left_out = {one["metric"]: one for one in target["left_out"]}
    dim = readers.features[0].dim
    assert (left_out["frechet/demo"]["needed"], left_out["frechet/demo"]["available"]) == (dim, 8)
    assert f"needs at least {dim} studies; there are 8" in left_out["frechet/demo"]["reason"]
    assert left_out["prdc/demo"]["needed"] == 10 and left_out["finding_macro_f1"]["needed"] == 50
    assert left_out["kernel/demo: over subsets of 1000"]["needed"] == 1000
    assert told["primary"]["model"] is None and "frechet/demo" not in target["metrics"]


def test_no_interval_of_few_resamples_and_no_ceiling_of_few_studies(toy_classifier, toy_dataset, readers) -> None:
    """34 studies of 5 patients: enough for the distance, but two patients have fewer than the 16 features."""
    few, dim = HeldOut(toy_dataset(34, seed=5, patients=5), toy_classifier), readers.features[0].dim
    options = ScoringOptions(bootstrap_samples=100, frechet_samples=99, metrics=("frechet",))
    told = score_values(
        "report->frontal",
        few,
        readers,
        None,
        lambda target, rows: few.values(target, np.roll(rows, 1).tolist()),
        options,
    ).targets["frontal"]
    figure, left_out = told.metrics["frechet/demo"], {one["metric"]: one for one in told.left_out}
    assert figure["value"] is not None
    assert [figure[key] for key in ("low", "high", "ceiling", "halves")] == [None] * 4
    assert (
        left_out["frechet/demo: interval"]["available"] == 99 and "100" in left_out["frechet/demo: interval"]["reason"]
    )
    ceiling = left_out["frechet/demo: ceiling"]
    assert 2 * dim < len(few) and ceiling["needed"] == dim and ceiling["available"] in (13, 14)


def test_wide_features_have_no_interval(held, readers, monkeypatch) -> None:
    monkeypatch.setattr("medcodi.evaluation.measures.distributions.WIDE", 8)
    told = score("report->frontal", held, readers, None, 7)["targets"]["frontal"]
    assert told["metrics"]["frechet/demo"]["low"] is None and told["metrics"]["frechet/demo"]["ceiling"] is not None
    assert "frechet/demo: interval" in {one["metric"] for one in told["left_out"]}


def test_the_floor_of_areas_is_the_mean_over_all_derangements(held, readers) -> None:
    told = score_values("report->frontal", held, readers, None, held.values).targets["frontal"]
    areas, ones = told.materials["finding_auroc"], np.ones((1, len(held)))
    assert isinstance(areas, Areas)
    floors = [
        Areas(areas.truth[moved], areas.scores, "auroc", areas.names).statistic()(ones)[0]
        for moved in derangements(held.patients, NUM_DERANGEMENTS, OPTIONS.seed)
    ]
    assert told.metrics["finding_auroc"]["floor"] == pytest.approx(np.mean(floors)) != pytest.approx(floors[0])


def test_odd_contents_are_flagged_and_scored_as_they_are(held, readers, scorer) -> None:
    def odd(target: str, rows: list[int]) -> list[Value]:
        values = held.values(target, rows)
        if isinstance(values[0], str):
            values[3], values[4] = "", "El corazón y los pulmones son normales sin derrame pleural ni neumotórax."
        else:
            values[3], values[4] = np.zeros_like(values[3]), np.full_like(values[4], 0.7)
        return values

    images = score_values("report->frontal", held, readers, scorer, odd).targets["frontal"]
    assert images.flags["constant"] == {"count": 2, "studies": ["toy3", "toy4"]}
    assert images.flags["black"] == {"count": 1, "studies": ["toy3"]}
    reports = score_values("frontal->report", held, readers, scorer, odd).targets["report"]
    assert reports.flags["empty"] == {"count": 1, "studies": ["toy3"]}
    assert reports.flags["not English"]["studies"] == ["toy4"]
    assert any("1 of 60 reports are empty" in note for note in reports.notes)


def test_truth_comes_from_the_report_where_no_labels_are_told(toy_dataset) -> None:
    dataset = toy_dataset(6, seed=5)
    told = HeldOut(dataset, None).truth
    for study in dataset.studies:
        object.__setattr__(study, "labels", {})
    read = HeldOut(dataset, None)
    assert read.truth_source == "reference report"
    np.testing.assert_array_equal(read.truth, told)


def test_a_blank_label_is_absent_where_others_are_told(toy_dataset) -> None:
    """As CheXpert's tables are stored: 1, 0, -1, blank. Only what is uncertain, or told of nobody, is unknown."""
    dataset = toy_dataset(3, seed=5)
    labels = ({"Edema": 1.0, "Fracture": -1.0}, {"Edema": 0.0}, {})
    stored = [
        row_from_study(replace(one, labels=told), "test") for one, told in zip(dataset.studies, labels, strict=True)
    ]
    dataset.studies = [
        replace(study, labels={name: float(value) for name, value in zip(CHEXPERT_LABELS, row["labels"], strict=True)})
        for study, row in zip(dataset.studies, stored, strict=True)
    ]
    edema, fracture, lesion = (CHEXPERT_LABELS.index(name) for name in ("Edema", "Fracture", "Lung Lesion"))
    truth = HeldOut(dataset, None).truth
    assert truth[0, edema] == 1 and np.isnan(truth[0, fracture]) and truth[0, lesion] == 0
    assert (truth[1] == 0).all() and np.isnan(truth[2]).all()
    given = HeldOut(dataset, None, unmentioned="unknown").truth
    assert given[0, edema] == 1 and given[1, edema] == 0 and np.isnan(given).sum() == 3 * 14 - 2


def test_what_is_shown_and_was_not_mentioned_is_a_false_positive(toy_classifier, toy_dataset, readers) -> None:
    """A generator that shows every finding everywhere must not be told from one that shows the right ones by negations alone."""
    dataset = toy_dataset(40, seed=5)
    everything = next(one for one in dataset.studies if min(one.labels["Cardiomegaly"], one.labels["Pleural Effusion"]))
    mentioned = [{name: value for name, value in one.labels.items() if value} for one in dataset.studies]
    dataset.studies = [replace(one, labels=told) for one, told in zip(dataset.studies, mentioned, strict=True)]

    def primary(unmentioned: str) -> float | None:
        held = HeldOut(dataset, toy_classifier, unmentioned=unmentioned)
        told = score_values(
            "report->frontal", held, readers, None, lambda target, rows: [everything.contents[target]] * len(rows)
        )
        return told.primary["model"] and told.primary["model"]["value"]

    absent = primary("absent")
    assert (
        primary("unknown") is None and absent is not None and absent < 0.8
    )  # no negative, nothing counts; or it costs


def test_moments_of_blocks_are_those_of_all(held, readers) -> None:
    features = np.random.default_rng(0).normal(3, 2, (2500, 5))
    whole, merged = Moments.of(features), merged_moments(features)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("patients", [None, 7, 2])
def test_derangements_give_everybody_another_patient(patients: int | None) -> None:
    names = [str(index % patients if patients else index) for index in range(20)]
    found = derangements(names, 5, seed=0)
    assert 1 <= len(found) <= 5
    for permutation in found:
        assert sorted(permutation) == list(range(20))
        assert all(names[permutation[index]] != names[index] for index in range(20))
    assert len({tuple(permutation) for permutation in found}) == len(found)


def test_one_patient_with_most_studies_cannot_be_shuffled() -> None:
    with pytest.raises(DataError, match="one patient has 3 of 4 studies"):
        derangements(["a", "a", "a", "b"], 1, seed=0)


def test_images_without_a_classifier_are_refused() -> None:
    with pytest.raises(DataError, match="without a finding classifier"):
        Readers(None).read("frontal", [np.zeros((32, 32))])


def test_a_study_that_cannot_be_read_stops_or_is_listed(toy_dataset) -> None:
    class Broken(toy_dataset):  # type: ignore[misc, valid-type]
        def study_id(self, index: int) -> str:
            return f"toy{index}"

        def __getitem__(self, index: int):
            if index == 2:
                raise OSError("disk")
            return super().__getitem__(index)

    with pytest.raises(DataError, match="'toy2'"):
        HeldOut(Broken(6), None)
    held = HeldOut(Broken(6), None, exclude_unreadable=True)
    assert [one.study_id for one in held.excluded] == ["toy2"] and held.ids == ["toy0", "toy1", "toy3", "toy4", "toy5"]
    np.testing.assert_array_equal(held.studies[2].images["frontal"], Broken(6).studies[3].images["frontal"])
