"""A study as a job: killed and resumed, or over two ranks, it gives the same results; what is invalid is refused before any work."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from medcodi.distributed import Ranks
from medcodi.errors import ConfigError, DataError
from medcodi.trust.utility.config import UtilityConfig
from medcodi.trust.utility.job import run
from medcodi.trust.utility.results import verify
from tests.unit.trust.utility.toy import ToyStudies, toy_datasets, write_generated

ARMS = {
    "base": {"real": 0.5},
    "synthetic": {"real": 0.5, "add": "synthetic", "against": "base"},
    "first": {"real": 0.5, "add": "synthetic", "pretrain": 0.5, "augmentation": "strong"},
}


@pytest.fixture
def films(study: Callable[..., UtilityConfig], tmp_path: Path) -> UtilityConfig:
    """A study of films whose generator gives films as files."""
    folder = tmp_path / "films"
    from medcodi.data.images import save_png8
    from tests.unit.trust.utility.toy import toy_film, toy_truth

    for index in range(24):
        path = folder / "report_to_frontal" / f"toy-0-{index}" / "frontal.png"
        path.parent.mkdir(parents=True)
        save_png8(toy_film(toy_truth(index, 0), 9, index), path)
    generators = {"g": {"files": [str(folder)], "direction": "report->frontal"}}
    return study(ARMS, generators=generators, sampling_seeds=2)


def small() -> dict[str, ToyStudies]:
    return toy_datasets(24, 24)


def content(config: UtilityConfig) -> bytes:
    return (Path(config.out) / "results.json").read_bytes()


def moved(config: UtilityConfig, name: str) -> UtilityConfig:
    from dataclasses import replace

    return replace(config, out=str(Path(config.out).with_name(name)))


def test_killed_and_resumed_or_over_two_ranks_the_results_are_the_same(films: UtilityConfig, tmp_path: Path) -> None:
    datasets = small()
    results = run(films, datasets=datasets)
    assert datasets["test"].num_read == 48  # each test study once
    assert results["arms"]["base"]["num_trainings"] == 2 and results["generators"]["g"]["pools"][0]["sizes"] == {
        "32×32": 24
    }
    assert verify(Path(films.out)) == []

    # Killed in the middle of training, and while it tests.
    again, kills = moved(films, "again"), iter([("training", 2), ("testing on test", 1)])
    kill_at = next(kills)

    def killed(what: str, done: int, total: int) -> None:
        if (what, done) == kill_at:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(again, datasets=small(), on_progress=killed)
        kill_at = next(kills, None)
    untouched = small()
    run(again, datasets=untouched)
    assert content(again) == content(films)
    assert untouched["train"].num_read == 0  # its pool was there

    # Two ranks.
    shared = moved(films, "shared")
    forks = multiprocessing.get_context("fork")
    processes = [forks.Process(target=_rank, args=(rank, shared, tmp_path / "meeting")) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert content(shared) == content(films)

    # A finished study trains and reads nothing again; one with other settings is refused in its folder.
    idle = small()
    run(films, datasets=idle)
    assert idle["test"].num_read == 0
    from dataclasses import replace

    with pytest.raises(DataError, match=r"config.seeds was 1, is 2"):
        run(replace(films, seeds=2), datasets=small())
    # A test split may not be read again for other classifiers.
    record = Path(films.out) / "classifiers/base/0-0/record.json"
    changed = json.loads(record.read_text())
    changed["num_steps"] = 999
    record.write_text(json.dumps(changed))
    (Path(films.out) / "tests/test/record.json").unlink()
    with pytest.raises(DataError, match="trained with num_steps"):
        run(films, datasets=small())
    changed["num_steps"], changed["files"]["classifier.safetensors"]["sha256"] = 4, "another"
    record.write_text(json.dumps(changed))
    with pytest.raises(DataError, match="for other classifiers"):
        run(films, datasets=small())


def _rank(rank: int, config: UtilityConfig, meeting: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    run(config, datasets=small(), ranks=Ranks(rank, 2))
    dist.destroy_process_group()


def test_retrieval_and_an_external_test_set(study: Callable[..., UtilityConfig]) -> None:
    config = study({"a": {}, "b": {"add": "oracle", "against": "a"}}, task="retrieval", findings=[], seeds=2)
    datasets = {**small(), "external_test": ToyStudies(30, 11)}
    results = run(config, datasets=datasets)
    assert results["measure"] == "reciprocal_rank"
    for test in results["tests"].values():
        figures = test["arms"]["a"]["macro"]
        assert 0 < figures["reciprocal_rank"]["value"] <= 1
        assert figures["recall_at_1"]["value"] <= figures["recall_at_5"]["value"] <= figures["recall_at_10"]["value"]
    assert results["tests"]["external_test"]["num_studies"] == 30 and datasets["external_test"].num_read == 30


def test_invalid_inputs_are_refused_before_anything_is_trained(
    study: Callable[..., UtilityConfig], tmp_path: Path
) -> None:
    arms = {"a": {}, "b": {"real": 0, "add": "synthetic"}}
    generators = {"g": {"files": [str(write_generated(tmp_path / "g", 8, kind="new"))], "direction": "frontal->report"}}

    def refused(message: str, *, error: type = DataError, datasets: dict | None = None, **values) -> None:
        with pytest.raises(error, match=message):
            run(
                study(values.pop("arms", arms), task="reports", generators=generators, **values),
                datasets=datasets or small(),
            )
        assert not (tmp_path / "study/classifiers").exists()

    refused("adds 24 studies, and g-0 has 8")
    refused("train and test share 12 of 24 patients", datasets={**small(), "test": ToyStudies(48, 0)})
    refused(r"Cardiomegaly has \d+ cases among 24 training studies", min_positives=20, out=str(tmp_path / "other"))
    refused("did you mean 'a'", error=ConfigError, arms={"a": {}, "b": {"real": 0.5, "against": "aa"}})
    # Files whose prompts were of the test, and studies without labels.
    stranger = tmp_path / "g/frontal_to_report/toy-3-1"
    (tmp_path / "g/frontal_to_report/toy-0-1").rename(stranger)
    refused("1 of 8 synthetic studies were prompted by test studies", out=str(tmp_path / "third"))
    stranger.rename(stranger.with_name("nobody"))
    refused("1 of 8 synthetic studies have no labels, such as 'nobody'", out=str(tmp_path / "fourth"))
