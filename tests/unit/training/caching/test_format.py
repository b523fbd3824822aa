"""A cache is used for the weights, data and settings of its key only; records that are damaged are noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medcodi.config import load
from medcodi.errors import DataError
from medcodi.model import MedCoDi, ModelConfig, build_model, tiny_model
from medcodi.training.caching import CacheKey, cache_key, make_cache
from medcodi.training.caching.format import CRC, damaged, plan_shards, sealed
from tests.unit.training.caching.studies import Noise, contents, made


def test_keys_survive_their_file(model: MedCoDi) -> None:
    key = cache_key(model, Noise())
    assert CacheKey.from_json(json.loads(json.dumps(key.to_json()))) == key


def test_the_size_of_the_denoiser_of_records_is_no_part_of_the_key() -> None:
    recipe = load(ModelConfig, "models/tiny-record")
    assert recipe.record is not None
    denoiser = replace(recipe.record.denoiser, base_channels=2 * recipe.record.denoiser.base_channels)
    autoencoder = replace(recipe.record.autoencoder, latent_dim=2 * recipe.record.autoencoder.latent_dim)
    keys = [
        cache_key(build_model(replace(recipe, record=record), ["No effusion."]), Noise()).weights
        for record in (
            recipe.record,
            replace(recipe.record, denoiser=denoiser),
            replace(recipe.record, autoencoder=autoencoder),
        )
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_cache_of_other_weights_is_refused_with_both_hashes(model: MedCoDi, cache: Path) -> None:
    other = tiny_model(seed=1)
    with pytest.raises(DataError) as refusal:
        made(other, cache)
    said = str(refusal.value)
    assert "encoded studies with other settings: weights was" in said and "--overwrite" in said
    assert all(cache_key(one, Noise()).weights[:16] in said for one in (model, other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "f" * 64}, "data was 'noise 0 40', is 'ffff"),
        ({"split": "val"}, "split was 'train', is 'val'"),
        ({"precision": "bf16"}, "precision was 'fp32', is 'bf16'"),
        ({"context": "pooled"}, "context was 'tokens', is 'pooled'"),
    ],
)
def test_another_key_is_refused(model: MedCoDi, cache: Path, change: dict, message: str) -> None:
    wanted = replace(cache_key(model, Noise()), **change)
    before = contents(cache)
    with pytest.raises(DataError, match=message):
        make_cache(model, Noise(), cache, wanted)
    assert contents(cache) == before


@pytest.mark.parametrize(("num", "sizes"), [(1, [1]), (32, [32]), (33, [32, 1]), (70, [32, 32, 6])])
def test_shards_hold_every_study_once(num: int, sizes: list[int]) -> None:
    shards = plan_shards(num)
    assert [len(studies) for studies in shards.values()] == sizes
    assert [study for studies in shards.values() for study in studies] == list(range(num))
    assert next(iter(shards)) == "part-00000"


def test_a_large_dataset_has_at_most_256_shards() -> None:
    shards = plan_shards(100_000)
    assert len(shards) == 256 and {len(studies) for studies in list(shards.values())[:-1]} == {391}


def test_a_changed_row_is_found_by_its_crc() -> None:
    records = np.zeros(3, dtype=[("x", "<f2", (4,)), ("present", "?"), (CRC, "<u4")])
    records["x"] = np.arange(12).reshape(3, 4)
    assert damaged(sealed(records)) == []
    records["x"][1, 2] = 0.5
    assert damaged(records) == [1]
