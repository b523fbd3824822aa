"""Tasks and their training: functions of the seed, the same steps for any number of studies, sides, duplicates, estimates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.annotators.classifier_training import learning_rate
from medcodi.model import MedCoDi
from medcodi.randomness import torch_generator
from medcodi.trust.utility.arms import Selection
from medcodi.trust.utility.config import ArmConfig, GeneratorConfig, UtilityConfig
from medcodi.trust.utility.cost import estimate, random_pool
from medcodi.trust.utility.tasks import RetrievalTask, Tokens, augmented, task_of
from medcodi.trust.utility.training import Batches, positive_weights, predict, train

PLAIN = ArmConfig()
FINDINGS = ("Cardiomegaly", "Edema")


def selection_of(num: int, num_real: int | None = None) -> Selection:
    pool = random_pool(num, 1, 32, 2)
    return Selection(
        pool=pool,
        num_real=num if num_real is None else num_real,
        num_cut=0,
        prompt_patients=0,
        patients=frozenset(pool.ids),
    )


@pytest.mark.parametrize("task", ["films", "reports", "retrieval"])
def test_a_training_is_a_function_of_its_seed(study: Callable[..., UtilityConfig], task: str) -> None:
    config = study({"a": {}}, task=task)
    built, selection = task_of(config, 32, FINDINGS), selection_of(12)

    def predictions(seed: int) -> np.ndarray:
        torch.rand(1)  # of the global generator, on which nothing depends
        trained = train(built, PLAIN, selection, selection.pool, config, seed)
        assert trained.record["num_steps"] == 4 and [step for _, step in trained.record["validation_losses"]] == [2, 4]
        return predict(built, trained.network, selection.pool)

    first = predictions(0)
    assert np.array_equal(first, predictions(0)) and (task == "retrieval" or not np.array_equal(first, predictions(1)))
    assert first.shape == ((12, 1) if task == "retrieval" else (12, 2))


def test_every_arm_sees_the_same_number_of_studies() -> None:
    for num in (3, 40):
        batches = Batches(PLAIN, selection_of(num), 10, 8, seed=0)
        seen = torch.cat([batches.rows(step) for step in range(10)])
        assert len(seen) == 80 and np.ptp(np.bincount(seen, minlength=num)) <= 1  # every study equally often
    # Pretraining sees what is added, then the real studies alone.
    batches = Batches(ArmConfig(add="oracle", pretrain=0.5), selection_of(30, 10), 10, 8, seed=0)
    assert all(batches.rows(step).min() >= 10 for step in range(5)) and all(
        batches.rows(step).max() < 10 for step in range(5, 10)
    )


def test_the_schedule_warms_up_and_ends_at_0(study: Callable[..., UtilityConfig]) -> None:
    config = study({"a": {}}, training={"num_steps": 100, "warmup_steps": 10, "learning_rate": 1.0})
    rates = [learning_rate(step, config.training) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) < 1 and rates[99] < 0.001 and rates[50] == pytest.approx(0.5)


def test_loss_weights_are_the_odds() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, float("nan")], [0.0, 1.0]])
    assert positive_weights(ArmConfig(loss_weights=True), truth).tolist() == pytest.approx([3, 2])
    assert positive_weights(PLAIN, truth).tolist() == [1, 1]


def test_augmentation_never_mirrors_and_strong_is_stronger() -> None:
    films = torch.zeros(64, 1, 32, 32)
    films[..., :8] = 1.0  # bright at the left
    for augmentation in ("none", "standard", "strong"):
        moved = augmented(films, augmentation, torch_generator("a"))
        assert (moved[..., :16].mean((1, 2, 3)) > moved[..., 16:].mean((1, 2, 3))).all()
    change = [
        (augmented(films, kind, torch_generator("a")) - films).abs().mean() for kind in ("none", "standard", "strong")
    ]
    assert change[0] == 0 < change[1] < change[2]


def test_dropped_words_never_empty_a_report() -> None:
    tokens = Tokens(64)
    everything, starts = tokens(["left lung", "heart", "a b c"], 0.0, torch.Generator())
    assert starts.tolist() == [0, 3, 4] and len(everything) == 9
    few, starts = tokens(["left lung", "heart", "a b c"], 1.0, torch.Generator())
    assert starts.tolist() == [0, 1, 2] and few.tolist() == everything[[0, 3, 4]].tolist()


def test_duplicates_are_no_negatives_of_retrieval(study: Callable[..., UtilityConfig]) -> None:
    config = study({"a": {}}, task="retrieval")
    task, pool = RetrievalTask(config.network, 32, ("frontal",)), random_pool(4, 1, 32, 2)
    network, rng = task.build().eval(), torch.Generator()
    four, same = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    assert task.loss(network, pool, four, torch.ones(2), "none", rng).item() > 0.5
    assert task.loss(network, pool, same, torch.ones(2), "none", rng).item() == pytest.approx(0, abs=1e-5)


def test_an_estimate_counts_trainings_generations_and_readings(
    study: Callable[..., UtilityConfig], tmp_path: Path, tiny_model: MedCoDi
) -> None:
    arms = {"a": {}, "b": {"real": 0.5}, "c": {"add": "synthetic"}}
    model = str(tiny_model.save_pretrained(tmp_path / "tiny"))
    generators = {"g": {"model": model, "num_studies": 7, "batch_size": 2}}
    config = study(arms, generators=generators, seeds=3, sampling_seeds=2, task="films")
    cost = estimate(config)
    assert cost["trainings"] == 3 + 6 + 6 and cost["synthetic"] == 14 and cost["real"] == 3
    assert cost["training_minutes"] == pytest.approx(15 * 4 / cost["steps_per_second"] / 60)
    parts = [cost[f"{what}_minutes"] for what in ("training", "generation", "reading")]
    assert min(parts) > 0 and cost["minutes"] == pytest.approx(sum(parts))
    # Prompts that no training study has are refused, as in the study itself.
    lacking = {"g": {"model": model, "direction": "record->frontal", "num_studies": 2}}
    with pytest.raises(DataError, match="none of the first 1 studies of phantom.* has record"):
        estimate(study(arms, generators=lacking))


def test_configs_that_mean_nothing_are_refused(study: Callable[..., UtilityConfig]) -> None:
    generator = {"g": {"model": "demo", "direction": "report->frontal"}}
    for values, message in (
        ({"arms": {}}, "arms is empty"),
        ({"arms": {"a": {"add": "synthetic"}}}, "there are 0 generators"),
        (
            {"arms": {"a": {}}, "task": "reports", "generators": generator},
            "gives report->frontal, and the task reports reads report",
        ),
        ({"arms": {"a": {"loss_weights": True}}, "task": "retrieval"}, "the task is retrieval"),
        ({"arms": {"a": {}}, "findings": ["Cardiomegalie"]}, "did you mean 'Cardiomegaly'"),
        ({"arms": {"a": {}}, "generators": {"g": {"files": ["a", "b", "c"]}}}, "has 3 files"),
        ({"arms": {"a": {"cut": "Edema", "cut_to": 0.1}}}, "not among findings"),
        ({"arms": {"a/b": {}}}, "cannot name a folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            study(**values)
    with pytest.raises(ConfigError, match="give one of them"):
        GeneratorConfig()
    assert replace(GeneratorConfig(model="demo"), num_studies=3).num_studies == 3
