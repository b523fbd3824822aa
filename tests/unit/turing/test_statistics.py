"""Statistics equal the maintained libraries', published worked examples, and hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from benchmarks.turing_truth import icc_satterthwaite
from medcodi.errors import ConfigError, DataError
from medcodi.turing.power.simulation import ReaderModel, SimulatedStudy, simulate
from medcodi.turing.statistics import (
    NEW_READERS,
    THESE_READERS,
    Cases,
    agreement,
    consistency,
    detection,
    equivalence,
    jackknife,
    ratings,
    two_way_bootstrap,
)
from medcodi.turing.statistics.intervals import share_interval, wilson

CLOSE = {"rel": 0, "abs": 1e-9}


@pytest.fixture(scope="module")
def study() -> SimulatedStudy:
    return simulate(ReaderModel(), "tests", num_readers=3, num_per_arm=30)


@pytest.fixture(scope="module")
def paired() -> SimulatedStudy:
    return simulate(ReaderModel(), "tests", num_readers=3, num_per_arm=30, paired=True)


# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): 4 observers, 12 units, missing data.
_ = np.nan
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)
# Shrout & Fleiss (1979), table 2: 6 targets, 4 judges.
TARGETS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)


@pytest.mark.parametrize(
    ("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_alpha_of_krippendorffs_own_example(metric: str, published: float) -> None:
    assert agreement.krippendorff_alpha(OBSERVERS, metric=metric).value == pytest.approx(published, abs=5e-4)


def test_icc_of_shrout_and_fleiss() -> None:
    found = agreement.icc(TARGETS.T)
    published = {"1,1": 0.17, "2,1": 0.29, "3,1": 0.71, "1,k": 0.44, "2,k": 0.62, "3,k": 0.91}
    # the third single value is 0.7148: printed as .71
    assert {name: round(found[name].value, 2) for name in published} == published
    bounds = {"1,1": (-0.133, 0.723), "2,1": (0.019, 0.761), "3,1": (0.342, 0.946)}
    satterthwaite = icc_satterthwaite(TARGETS.T)
    for name, (low, high) in bounds.items():
        estimate = satterthwaite[1:] if name == "2,1" else (found[name].low, found[name].high)
        assert estimate == pytest.approx((low, high), abs=6e-4)


def test_the_generalized_interval_of_case_two_differs_little_from_the_published_one() -> None:
    found, (value, low, high) = agreement.icc(TARGETS.T)["2,1"], icc_satterthwaite(TARGETS.T)
    assert found.value == pytest.approx(value, **CLOSE)
    assert found.low == pytest.approx(low, abs=0.04)
    assert found.high == pytest.approx(high, abs=0.04)


def test_mean_squares_of_shrout_and_fleiss() -> None:
    m = agreement.mean_squares(TARGETS)
    assert (round(m.between, 2), round(m.within, 2), round(m.readers, 2), round(m.error, 2)) == (
        11.24,
        6.26,
        32.49,
        1.02,
    )


@pytest.mark.parametrize(("successes", "num"), [(0, 12), (7, 12), (12, 12), (41, 60)])
def test_wilson_is_statsmodels(successes: int, num: int) -> None:
    assert wilson(successes, num) == pytest.approx(proportion_confint(successes, num, method="wilson"), **CLOSE)


def test_wilson_with_the_variance_of_independent_answers_is_wilson() -> None:
    low, high = share_interval(0.7, 0.7 * 0.3 / 60, np.inf, 60)
    assert (low, high) == pytest.approx(wilson(42, 60), **CLOSE)
    assert share_interval(1.0, 0.0, np.inf, 20) == pytest.approx(wilson(20, 20), **CLOSE)


def test_kappas_are_those_of_the_libraries(study: SimulatedStudy) -> None:
    first, second = study.ratings[:2]
    for weights in (None, "linear", "quadratic"):
        mine = agreement.cohen_kappa(first, second, study.cases, weights=weights).value
        assert mine == pytest.approx(cohen_kappa_score(first, second, weights=weights), **CLOSE)
    table = agreement.contingency(first, second, np.unique(study.ratings))
    theirs = cohens_kappa(table)
    mine = agreement.cohen_kappa(first, second, study.cases)
    assert mine.value == pytest.approx(theirs.kappa, **CLOSE)
    assert mine.se == pytest.approx(theirs.std_kappa, rel=0.1)  # theirs by the delta method, ours by the jackknife
    counts = np.stack([(study.ratings == k).sum(0) for k in range(1, 6)], axis=1)
    assert agreement.fleiss_kappa(study.ratings, study.cases).value == pytest.approx(fleiss_kappa(counts), **CLOSE)


def test_alpha_with_two_readers_and_no_missing_answer_is_scotts_pi_for_few(study: SimulatedStudy) -> None:
    values = study.says_generated[:2]
    num = values.size
    counts = np.stack([(values == k).sum(0) for k in (0, 1)], axis=1)
    pi = fleiss_kappa(counts)
    assert agreement.krippendorff_alpha(values).value == pytest.approx(1 - (1 - pi) * (num - 1) / num, **CLOSE)


def test_auc_is_sklearns(study: SimulatedStudy) -> None:
    answers = study.as_detection
    mine = detection.auc_statistic(answers.scores, answers.generated)(np.ones((1, 60)))[0]
    for r in range(3):
        assert mine[r] == pytest.approx(roc_auc_score(answers.generated, answers.scores[r]), **CLOSE)
        points = detection.roc_points(answers.scores[r], answers.generated)
        assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(mine[r], **CLOSE)


def test_auc_of_weighted_cases_is_sklearns_with_sample_weights(study: SimulatedStudy) -> None:
    answers = study.as_detection
    weights = study.cases.draws(3, "weights")
    mine = detection.auc_statistic(answers.scores, answers.generated)(weights)
    theirs = [roc_auc_score(answers.generated, answers.scores[1], sample_weight=w) for w in weights]
    assert mine[:, 1] == pytest.approx(theirs, **CLOSE)


def test_dprime_by_hand() -> None:
    says = np.array([[1.0, 1, 1, 0, 0, 0, 1, 0]])  # 3 of 4 hits, 1 of 4 false alarms
    generated = np.repeat([True, False], 4)
    cases = Cases.of(list("abcdefgh"), ["g"] * 4 + ["r"] * 4)
    answers = detection.Detection(
        readers=["r"], says_generated=says, confidence=np.full((1, 8), np.nan), generated=generated, cases=cases
    )
    z = stats.norm.ppf([3.5 / 5, 1.5 / 5])
    found = detection.reader_dprime(answers, 0)
    assert found["d_prime"].value == pytest.approx(z[0] - z[1], **CLOSE)
    assert found["criterion"].value == pytest.approx(-(z[0] + z[1]) / 2, abs=1e-9)
    pooled = detection.dprime_statistic(answers)(np.ones((1, 8)))
    assert pooled[0, 0] == pytest.approx(z[0] - z[1], **CLOSE)


def test_rank_tests_are_scipys(study: SimulatedStudy, paired: SimulatedStudy) -> None:
    name, p = ratings.reader_rank_test(study.as_ratings, 1)
    theirs = stats.mannwhitneyu(study.ratings[1, 30:], study.ratings[1, :30], method="asymptotic")
    assert (name, p) == ("Mann-Whitney", pytest.approx(theirs.pvalue, **CLOSE))
    name, p = ratings.reader_rank_test(paired.as_ratings, 1)
    theirs = stats.wilcoxon(paired.ratings[1, 30:] - paired.ratings[1, :30], method="asymptotic")
    assert (name, p) == ("Wilcoxon signed-rank", pytest.approx(theirs.pvalue, **CLOSE))


def test_superiority_is_the_mann_whitney_effect(study: SimulatedStudy) -> None:
    u = stats.mannwhitneyu(study.ratings[0, 30:], study.ratings[0, :30]).statistic
    assert ratings.superiority(study.as_ratings).values[0] == pytest.approx(u / 900, **CLOSE)


def test_holm_leaves_missing_tests_out() -> None:
    corrected = ratings.holm([0.01, float("nan"), 0.04, 0.03])
    assert corrected[0] == pytest.approx(0.03) and corrected[2] == pytest.approx(0.06)
    assert corrected[3] == pytest.approx(0.06) and np.isnan(corrected[1])


def test_tost_of_one_reader_is_statsmodels(study: SimulatedStudy, paired: SimulatedStudy) -> None:
    for s, theirs in (
        (study, ttost_ind(study.ratings[0, 30:], study.ratings[0, :30], -0.6, 0.6, usevar="unequal")),
        (paired, ttost_paired(paired.ratings[0, 30:], paired.ratings[0, :30], -0.6, 0.6)),
    ):
        alone = ratings.difference(s.as_ratings).single(0)
        mine = equivalence.tost(alone, 0.6, THESE_READERS)
        assert mine.p == pytest.approx(theirs[0], **CLOSE)
        assert sorted([mine.p_lower, mine.p_upper]) == pytest.approx(sorted([theirs[1][1], theirs[2][1]]), **CLOSE)
        welch = stats.ttest_ind(s.ratings[0, 30:], s.ratings[0, :30], equal_var=False)
        same = stats.ttest_rel(s.ratings[0, 30:], s.ratings[0, :30])
        p = detection.t_test(alone, 0.0, THESE_READERS)
        assert p == pytest.approx((same if s is paired else welch).pvalue, **CLOSE)


def test_tost_shows_equivalence_only_inside_the_margin(study: SimulatedStudy) -> None:
    found = ratings.difference(study.as_ratings)
    wide, narrow = equivalence.tost(found, 3.0, THESE_READERS), equivalence.tost(found, 0.01, THESE_READERS)
    assert wide.shown and not narrow.shown
    inside = abs(wide.estimate.low) < 3 and abs(wide.estimate.high) < 3
    assert inside and wide.estimate.level == pytest.approx(0.9)


@pytest.mark.parametrize("margin", [0, -0.5, float("nan"), "wide"])
def test_a_margin_must_be_positive(margin: object, study: SimulatedStudy) -> None:
    with pytest.raises(ConfigError, match="margin"):
        equivalence.tost(ratings.difference(study.as_ratings), margin, THESE_READERS)  # type: ignore[arg-type]


def test_bootstrap_and_jackknife_agree_about_cases(study: SimulatedStudy) -> None:
    statistic = detection.rates(study.as_detection)["accuracy"]
    by_draws = two_way_bootstrap(statistic, study.cases, "agree", num_resamples=20_000)
    left_out = jackknife(statistic, study.cases)
    np.testing.assert_allclose(by_draws.covariance, left_out.covariance, atol=2e-4)
    assert by_draws.mean == pytest.approx(left_out.mean)


def test_new_readers_widen_the_interval_and_need_three(study: SimulatedStudy) -> None:
    far = simulate(ReaderModel(reader_sd=1.0, d_prime_sd=0.8), "far", num_readers=3, num_per_arm=30)
    found = jackknife(detection.rates(far.as_detection)["accuracy"], far.cases)
    these, new = found.share(THESE_READERS), found.share(NEW_READERS)
    assert new.high - new.low > 1.5 * (these.high - these.low)
    two = simulate(ReaderModel(), "two", num_readers=2, num_per_arm=30)
    assert np.isnan(jackknife(detection.rates(two.as_detection)["accuracy"], two.cases).share(NEW_READERS).low)


def test_variance_for_new_readers_by_hand() -> None:
    from medcodi.turing.statistics import Resampled

    covariance = np.array([[0.4, 0.1, 0.1], [0.1, 0.4, 0.1], [0.1, 0.1, 0.4]])
    found = Resampled(
        values=np.array([1.0, 2.0, 3.0]), parts=[(covariance, 50.0)], num_units=60, num=180, how="jackknife"
    )
    variance, df = found.new_readers()
    assert variance == pytest.approx(1 / 3 + 0.1)
    share = (1 / 3) / (1 / 3 + 0.1)
    assert df == pytest.approx(1 / (share / 2 + (1 - share) / 50))
    assert found.these_readers()[0] == pytest.approx((3 * 0.4 + 6 * 0.1) / 9)


def test_missing_answers_are_left_out_not_filled() -> None:
    values = np.array([[1.0, 0, np.nan, 1], [1, np.nan, np.nan, np.nan]])
    means = detection.mean_statistic(values)(np.ones((1, 4)))[0]
    assert means == pytest.approx([2 / 3, 1.0])


def test_one_case_tells_nothing_about_others() -> None:
    with pytest.raises(DataError, match="case"):
        Cases.of(["a", "a"], ["real", "real"])


def test_a_straight_line_of_learning_is_found() -> None:
    order = np.arange(20.0)[None]
    values = 0.3 + 0.4 * order / 19
    cases = Cases.of([str(i) for i in range(20)], ["real"] * 20)
    assert consistency.trend(values, order, cases).mean == pytest.approx(0.4)


def test_blocks_hold_every_answer_once(study: SimulatedStudy) -> None:
    answers = study.as_detection
    found = consistency.blocks(answers.correct, study.seconds, study.order.astype(float), study.cases)
    assert sum(block.accuracy.num for block in found) == answers.correct.size
    assert [block.first for block in found] == [1, 13, 25, 37, 49]


def test_a_reader_who_repeats_himself_has_kappa_one() -> None:
    first = np.tile([1.0, 2, 3, 4, 5], (2, 4))
    pairs = consistency.Repeats(
        readers=["a", "b"], first=first, second=first.copy(), case=[str(i) for i in range(20)], arm=["real"] * 20
    )
    found = consistency.pooled_repeats(pairs, ordered=True)
    assert found["kappa"].value == 1 and found["within_sd"] == 0 and found["same"].value == 1
    assert found["same"].low == pytest.approx(share_interval(1.0, 0.0, 19, 20)[0])


def test_within_reader_standard_deviation_by_hand() -> None:
    pairs = consistency.Repeats(
        readers=["a"], first=np.array([[1.0, 2, 3]]), second=np.array([[2.0, 2, 1]]), case=list("abc"), arm=["real"] * 3
    )
    found = consistency.pooled_repeats(pairs, ordered=True)
    assert found["within_sd"] == pytest.approx(np.sqrt((1 + 0 + 4) / 3 / 2))
    assert np.isnan(found["same"].low)  # three cases give no interval


def test_alpha_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(DataError, match="did you mean 'nominal'"):
        agreement.krippendorff_alpha(OBSERVERS, metric="nominl")
    with pytest.raises(DataError, match="no item has two answers"):
        agreement.krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 2.0]]))
