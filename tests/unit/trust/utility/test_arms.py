"""The studies of an arm: nested subsets, cuts, filters, labels, and what is refused with numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medcodi.errors import ConfigError, DataError
from medcodi.trust.utility.arms import agrees, select
from medcodi.trust.utility.config import ArmConfig
from medcodi.trust.utility.pools import Pool, PoolBuilder
from tests.unit.trust.utility.toy import FINDINGS, SIZE, ToyStudies


def pool_of(num: int, seed: int) -> Pool:
    builder = PoolBuilder(("frontal", "report"), ("frontal", "lateral"), FINDINGS, SIZE)
    for study in map(ToyStudies(num, seed).__getitem__, range(num)):
        builder.add(study)
    return builder.build("toys")


@pytest.fixture(scope="module")
def pools() -> dict[str, Pool]:
    train, synthetic = pool_of(60, 0), pool_of(60, 5)
    # Each synthetic study was prompted by the training study of the same row; the annotator misses every second large heart.
    reread = synthetic.truth.clone()
    reread[::2, 0] = 0
    return {
        "train": train,
        "oracle": pool_of(40, 2),
        "g-0": replace(synthetic, sources=torch.arange(60), truth=synthetic.truth, reread=reread),
    }


def chosen(pools: dict[str, Pool], sampling: int = 0, **arm):
    return select("arm", ArmConfig(**arm), sampling, pools, FINDINGS, "g-0" if arm.get("add") == "synthetic" else "")


def test_smaller_shares_are_part_of_larger_ones_and_patients_stay_together(pools: dict[str, Pool]) -> None:
    small, large = chosen(pools, real=0.2), chosen(pools, real=0.5)
    assert set(small.pool.ids) < set(large.pool.ids) and len(small.pool) == 12  # 6 of 30 patients, two studies each
    assert all(small.pool.patients.count(patient) == 2 for patient in small.patients)
    assert set(chosen(pools, sampling=1, real=0.2).pool.ids) != set(small.pool.ids)
    assert chosen(pools).pool.ids == pools["train"].ids


def test_what_is_added_is_counted_from_the_arms_real_studies(pools: dict[str, Pool]) -> None:
    oracle = chosen(pools, real=0.2, add="oracle", times=2)
    assert oracle.num_real == 12 and oracle.num_added == 24 and all("toy-2" in name for name in oracle.pool.ids[12:])
    duplicates = chosen(pools, real=0.2, add="duplicates", times=2.5)
    counts = [duplicates.pool.ids.count(name) for name in set(duplicates.pool.ids)]
    assert duplicates.num_added == 30 and set(counts) == {3, 4}
    only = chosen(pools, real=0, add="synthetic", times=0.5)
    assert only.num_real == 0 and only.num_added == 30 and only.prompt_patients > 0
    # Without an oracle set, new real studies are those of the other training patients.
    rest = select("arm", ArmConfig(real=0.5, add="oracle"), 0, {"train": pools["train"]}, FINDINGS)
    assert not set(rest.pool.ids[:30]) & set(rest.pool.ids[30:])


def test_prompts_of_its_own_patients_alone(pools: dict[str, Pool]) -> None:
    own = chosen(pools, real=0.2, add="synthetic", times=1, prompts="own")
    rows = {pools["train"].ids[source] for source in own.pool.sources[12:].tolist()}
    assert own.prompt_patients == 0 and rows == set(own.pool.ids[:12])
    with pytest.raises(DataError, match="adds 24 studies, and g-0 has 12"):
        chosen(pools, real=0.2, add="synthetic", times=2, prompts="own")


def test_a_cut_finding_is_restored_by_cases_of_it(pools: dict[str, Pool]) -> None:
    cut = {"cut": "Cardiomegaly", "cut_to": 0.25}
    base = chosen(pools, **cut)
    before, left = int((pools["train"].truth[:, 0] == 1).sum()), int((base.pool.truth[:, 0] == 1).sum())
    assert left == round(before / 4) and base.num_cut == before - left and len(base.pool) == 60 - base.num_cut
    for add in ("duplicates", "oracle", "synthetic"):
        if add == "synthetic" or add == "duplicates":
            restored = chosen(pools, add=add, times=0.5, **cut)
            added = restored.pool.truth[restored.num_real :, 0]
            assert len(added) == round(base.num_cut / 2 + 1e-9) and (added == 1).all()
    with pytest.raises(DataError, match="leaves 0.01 of .* cases of Cardiomegaly: none"):
        chosen(pools, cut="Cardiomegaly", cut_to=0.01)
    with pytest.raises(DataError, match="oracle has .* of Cardiomegaly"):
        chosen(pools, add="oracle", times=5, **cut)


def test_filter_labels_and_shuffling(pools: dict[str, Pool]) -> None:
    synthetic = pools["g-0"]
    passes = agrees(synthetic, FINDINGS)
    assert passes.sum() == 60 - int((synthetic.truth[::2, 0] == 1).sum())
    filtered = chosen(pools, real=0, add="synthetic", filter=True)
    assert filtered.num_added == passes.sum()  # fewer than wanted: what is left
    assert {name for name, good in zip(synthetic.ids, passes, strict=True) if good} == set(filtered.pool.ids)
    prompt, annotator = (
        chosen(pools, real=0, add="synthetic", labels=labels).pool for labels in ("prompt", "annotator")
    )
    assert prompt.ids == annotator.ids and not torch.equal(prompt.truth, annotator.truth)
    shuffled = chosen(pools, real=0, add="synthetic", shuffle_labels=True).pool
    assert not torch.equal(shuffled.truth, prompt.truth) and torch.equal(shuffled.truth.sum(0), prompt.truth.sum(0))
    assert shuffled.ids == prompt.ids


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"real": 0.001}, "0.001 of 30 training patients: none"),
        ({"real": 0.5, "add": "oracle", "times": 9}, "adds 270 studies, and oracle has 40"),
        ({"add": "synthetic", "times": 3}, "adds 180 studies, and g-0 has 60"),
    ],
)
def test_a_set_smaller_than_an_arm_needs_is_refused(pools: dict[str, Pool], arm: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        chosen(pools, **arm)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"real": 1.5}, "real = 1.5"),
        ({"real": 0}, "the arm has no study"),
        ({"real": 0, "add": "duplicates"}, "nothing to duplicate"),
        ({"add": "oracle", "filter": True}, "filter: only of arms with add: synthetic"),
        ({"add": "oracle", "times": 0}, "nothing would be added"),
        ({"pretrain": 0.5}, "nothing is"),
        ({"add": "oracle", "pretrain": 1}, "pretrain below 1"),
        ({"cut": "Cardiomegaly"}, "give both"),
        ({"cut": "Cardiomegali", "cut_to": 0.1}, "did you mean 'Cardiomegaly'"),
    ],
)
def test_arms_that_mean_nothing_are_refused(arm: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArmConfig(**arm)


def test_a_pool_survives_the_disk_and_leaves_out_what_the_task_cannot_read(tmp_path, pools: dict[str, Pool]) -> None:
    pools["train"].write(tmp_path)
    again = Pool.read(tmp_path)
    assert again.ids == pools["train"].ids and torch.equal(again.images, pools["train"].images)
    assert again.has_image.tolist() == [[True, False]] * 60  # the toys have no lateral
    builder = PoolBuilder(("lateral",), ("lateral",), FINDINGS, SIZE)
    builder.add(ToyStudies(1)[0])
    assert builder.num_left_out == 1
    with pytest.raises(DataError, match="no study with lateral"):
        builder.build("the set")
    small = PoolBuilder(("frontal",), ("frontal",), FINDINGS, 64)
    with pytest.raises(DataError, match="its frontal is 32×32"):
        small.add(ToyStudies(1)[0])
    assert np.isclose(again.images[0, 0].float().mean() / 255, ToyStudies(1)[0].images["frontal"].mean(), atol=2e-3)
