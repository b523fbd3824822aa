"""Analysis of one task: ratings, choices or findings, as flat records of estimates, tests and equivalences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from medcodi.errors import DataError
from medcodi.turing.analysis.task_results import (
    TaskResults,
    add_agreement,
    add_alpha,
    add_learning,
    add_time,
    num_known,
)
from medcodi.turing.answers.table import TaskAnswers
from medcodi.turing.statistics import (
    NEW_READERS,
    SINGLE_READER,
    THESE_READERS,
    detection,
    jackknife,
    ratings,
    two_way_bootstrap,
)

OTHER_ARMS = ("generated", "autoencoded", "mismatched")


def analyze_ratings(answers: TaskAnswers, results: TaskResults) -> None:
    """Ratings: every other arm against real items (difference, superiority, rank tests, mixed model, equivalence), and agreement."""
    values = answers.matrix("rating")  # [R, I]
    highest = answers.highest or (5 if np.nanmax(values) <= 5 else 10)
    arms = [arm for arm in OTHER_ARMS if (answers.arm == arm).any()]
    # Distribution and mean of each arm.
    for arm in [*(["real"] if (answers.arm == "real").any() else []), *arms]:
        chosen = answers.arm == arm
        counts = [ratings.distribution(row[chosen], 1, highest).tolist() for row in values]
        results.extra.setdefault("distributions", {})[arm] = dict(zip(answers.readers, counts, strict=True))
        if chosen.sum() > 1:
            own = values[:, chosen]
            means = jackknife(detection.mean_statistic(own), answers.cases(chosen), num=num_known(own))
            results.add_means("ratings", "mean rating", means, contrast=arm, possible=(1, highest))
    # Each other arm against real items.
    for arm in _enough(answers, arms, results):
        pair = answers.ratings(values, arm)
        _contrast(pair, f"{arm} - real", results, equivalent=arm == "generated", widest=highest - 1)
    add_agreement(values, answers.readers, answers.cases(), results, ordered=True)
    add_time(answers, results)


def _contrast(pair: ratings.Ratings, contrast: str, results: TaskResults, *, equivalent: bool, widest: float) -> None:
    """Add one arm against real items; ``widest`` is the largest difference that the scale has."""
    possible = (-widest, widest)
    difference, superiority = ratings.difference(pair), ratings.superiority(pair)
    if not difference.num_readers:
        results.notes.append(f"{contrast}: no reader answered items of both arms")
        return
    # All readers together.
    results.add_means("ratings", "difference in mean rating", difference, contrast=contrast, possible=possible)
    results.add_means("ratings", "probability of a higher rating", superiority, share=True, contrast=contrast)
    # Each reader; the resampled values omit readers without answers to both arms.
    values = ratings.difference_statistic(pair)(np.ones((1, pair.values.shape[1])))[0]  # [R]
    position = 0
    for r, reader in enumerate(pair.readers):
        if not np.isfinite(values[r]):
            results.notes.append(f"{contrast}: {reader} did not answer items of both arms and is left out here")
            continue
        own = difference.single(position).estimate(THESE_READERS, level=results.level)
        own = replace(own, population=SINGLE_READER).within(*possible)
        results.add("ratings", "difference in mean rating", own, contrast=contrast, reader=reader)
        name, p = ratings.reader_rank_test(pair, r)
        results.test(name, p, group="ratings", contrast=contrast, reader=reader, population=SINGLE_READER)
        position += 1
    # Tests of all readers together, and equivalence.
    name, p = ratings.pooled_rank_test(pair)
    results.test(f"{name} on item means", p, group="ratings", contrast=contrast)
    results.t_tests("t test of the difference", difference, 0.0, group="ratings", contrast=contrast)
    if equivalent:
        results.equivalent("difference in mean rating", difference, reference=0.0, contrast=contrast, possible=possible)
    # Mixed model.
    model = ratings.fit_mixed(pair, level=results.level)
    if model is None:
        results.notes.append(f"{contrast}: no mixed model (fewer than 2 readers, or ratings all alike)")
        return
    model = replace(model, effect=model.effect.within(*possible))
    results.extra.setdefault("mixed", {})[contrast] = model.to_dict()
    results.add("mixed model", "difference in mean rating", model.effect, contrast=contrast)
    results.test("mixed model, t", model.p, group="mixed model", contrast=contrast, population=NEW_READERS)


def analyze_choices(answers: TaskAnswers, results: TaskResults) -> None:
    """Choices: real or generated with confidence, or a forced choice between two."""
    if len(answers.kind.sides) > 1:
        _forced_choice(answers, results)
        return
    arms = [arm for arm in OTHER_ARMS if (answers.arm == arm).any()]
    for arm in _enough(answers, arms, results):
        chosen = (answers.arm == "real") | (answers.arm == arm)
        pair = detection.Detection(
            readers=answers.readers,
            says_generated=answers.says_generated[:, chosen],
            confidence=answers.matrix("confidence")[:, chosen],
            generated=answers.arm[chosen] == arm,
            cases=answers.cases(chosen),
        )
        _detection(pair, f"{arm} against real", results, equivalent=arm == "generated")
    add_agreement(answers.says_generated, answers.readers, answers.cases(), results, ordered=False)
    add_learning(answers, results)


def _detection(pair: detection.Detection, contrast: str, results: TaskResults, *, equivalent: bool) -> None:
    # Accuracy, sensitivity and specificity: bootstrap over cases.
    statistics = detection.rates(pair)
    for name, statistic in statistics.items():
        keys = (results.seed, results.task, contrast, name)
        resampled = two_way_bootstrap(statistic, pair.cases, *keys, num_resamples=results.num_resamples, num=pair.num)
        results.add_means("detection", name.replace("_", " "), resampled, share=True, contrast=contrast)
    # Signal detection: d' and criterion.
    for criterion, name in ((False, "d'"), (True, "criterion c")):
        resampled = jackknife(detection.dprime_statistic(pair, criterion=criterion), pair.cases, num=pair.num)
        results.add_means("detection", name, resampled, contrast=contrast)
    # ROC from confidence.
    singles, pooled = detection.pooled_roc(pair, level=results.level)
    for estimate in pooled:
        if np.isfinite(estimate.low) or estimate.population == THESE_READERS:
            results.add("detection", "area under the ROC curve", estimate, contrast=contrast)
    # Each reader.
    curves = {}
    for r, reader in enumerate(pair.readers):
        for name, estimate in detection.reader_shares(pair, level=results.level)[r].items():
            results.add("detection", name, estimate, contrast=contrast, reader=reader)
        for name, estimate in detection.reader_dprime(pair, r, level=results.level).items():
            label = "d'" if name == "d_prime" else "criterion c"
            results.add("detection", label, estimate, contrast=contrast, reader=reader)
        results.add("detection", "area under the ROC curve", singles[r], contrast=contrast, reader=reader)
        results.chance_test(pair.correct[r], contrast=contrast, reader=reader)
        if np.isfinite(singles[r].value):
            curves[reader] = detection.roc_points(pair.scores[r], pair.generated).round(6).tolist()
    results.extra.setdefault("roc", {})[contrast] = curves
    # Tests of all readers together, and equivalence with guessing.
    balanced = jackknife(statistics["balanced_accuracy"], pair.cases, num=pair.num)
    results.t_tests("t test of balanced accuracy against 0.5", balanced, 0.5, group="detection", contrast=contrast)
    if equivalent:
        results.equivalent("balanced accuracy", balanced, reference=0.5, contrast=contrast, possible=(0, 1))


def _forced_choice(answers: TaskAnswers, results: TaskResults) -> None:
    correct, cases, contrast = answers.matrix("correct"), answers.cases(), "generated against real"
    # Accuracy of all readers together, then of each.
    statistic = detection.mean_statistic(correct)
    keys = (results.seed, results.task, "accuracy")
    resampled = two_way_bootstrap(statistic, cases, *keys, num_resamples=results.num_resamples, num=num_known(correct))
    results.add_means("detection", "accuracy", resampled, share=True, contrast=contrast)
    for r, reader in enumerate(answers.readers):
        known = correct[r][np.isfinite(correct[r])]
        estimate = detection.wilson_estimate(float(known.sum()), len(known), level=results.level)
        results.add("detection", "accuracy", estimate, contrast=contrast, reader=reader)
        results.chance_test(correct[r], contrast=contrast, reader=reader)
    # Tests against guessing, and equivalence with it.
    plain = jackknife(statistic, cases, num=num_known(correct))
    results.t_tests("t test of accuracy against 0.5", plain, 0.5, group="detection", contrast=contrast)
    results.equivalent("accuracy", plain, reference=0.5, contrast=contrast, possible=(0, 1))
    add_agreement(correct, answers.readers, cases, results, ordered=False)
    add_learning(answers, results)


def analyze_findings(answers: TaskAnswers, results: TaskResults) -> None:
    """Findings: checklists against the known truth, for each finding, and real against generated items over all findings."""
    right = []  # of each finding: 1 right, 0 wrong, NaN unknown, [R, I]
    add_time(answers, results)
    for name in answers.finding_names:
        marked, true = answers.findings(name)
        correct = np.where(np.isfinite(marked) & np.isfinite(true), (marked == true).astype(float), np.nan)
        right.append(correct)
        for arm in ("real", "generated"):
            chosen = answers.arm == arm
            for statistic, items in (
                ("accuracy", chosen),
                ("sensitivity", chosen & (true == 1)),
                ("specificity", chosen & (true == 0)),
            ):
                own = correct[:, items]
                if np.isfinite(own).any() and items.sum() > 1:
                    resampled = jackknife(detection.mean_statistic(own), answers.cases(items), num=num_known(own))
                    estimate = resampled.share(THESE_READERS, level=results.level)
                    results.add(f"finding: {name}", statistic, estimate, contrast=arm)
        if np.isfinite(marked).any() and len(answers.readers) > 1:
            add_alpha(marked, "nominal", answers.cases(), results, group=f"finding: {name}")
    # Share of right marks of each reader and item, over all findings with a known truth.
    known = np.asarray(right)  # [F, R, I]
    if not len(known) or not np.isfinite(known).any():
        results.notes.append("no truth of the findings is known: agreement between readers only")
        return
    count = np.isfinite(known).sum(0)
    share = np.where(count > 0, np.nansum(known, axis=0) / np.maximum(count, 1), np.nan)
    # Real against generated items, as if the share were a rating.
    if not all((answers.arm == arm).any() for arm in ("real", "generated")):
        raise _one_arm(answers)
    difference = ratings.difference(answers.ratings(share, "generated"))
    name, contrast = "difference in accuracy over all findings", "generated - real"
    results.add_means("findings", name, difference, contrast=contrast, possible=(-1, 1))
    results.t_tests("t test of the difference", difference, 0.0, group="findings", contrast=contrast)
    results.equivalent(name, difference, reference=0.0, contrast=contrast, possible=(-1, 1))


def _enough(answers: TaskAnswers, arms: list[str], results: TaskResults) -> list[str]:
    """Arms with at least two items; the others are noted.

    Raises:
        DataError: If there is no item of one of these arms, or there are fewer than two real ones.
    """
    if not (answers.arm == "real").any() or not arms:
        raise _one_arm(answers)
    counts = {arm: int((answers.arm == arm).sum()) for arm in ("real", *arms)}
    if counts["real"] < 2:
        raise DataError(
            f"task {answers.task!r} has answers to 1 real item", expected="2 or more", fix="wait for more answers"
        )
    results.notes += [f"{arm}: answers to 1 item only, not compared" for arm in arms if counts[arm] < 2]
    return [arm for arm in arms if counts[arm] >= 2]


def _one_arm(answers: TaskAnswers) -> DataError:
    arms = ", ".join(sorted(set(answers.arm))) or "no"
    return DataError(
        f"task {answers.task!r} has answers to {arms} items only",
        expected="real items and those of another arm",
        fix="wait for more answers, or import their results again",
    )


ANALYSES: Mapping[str, Callable[[TaskAnswers, TaskResults], None]] = {
    "rating": analyze_ratings,
    "choice": analyze_choices,
    "findings": analyze_findings,
}
