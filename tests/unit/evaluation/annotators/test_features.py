"""Extraction and its cache: order, once per content, batches ahead, constant memory, ranks, damage, several writers."""

from __future__ import annotations

import threading
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcodi.errors import DataError
from medcodi.evaluation.annotators.extractors import Extractor, load_extractor
from medcodi.evaluation.annotators.feature_cache import FeatureCache, LabelCache, content_key
from medcodi.evaluation.annotators.features import (
    Extraction,
    MomentsAccumulator,
    extract,
    feature_blocks,
    open_cache,
    stream_moments,
)
from medcodi.metrics.frechet import Moments

IMAGES = [np.random.default_rng(index).integers(0, 256, (48, 48), dtype=np.uint8) for index in range(23)]


@pytest.fixture(scope="module")
def demo() -> Extractor:
    return load_extractor("demo")


def test_order_and_values_do_not_depend_on_batches_threads_or_cache(demo: Extractor, tmp_path: Path) -> None:
    plain = demo(IMAGES, "frontal")
    for options in (
        Extraction(batch_size=1),
        Extraction(batch_size=5, num_threads=3, prefetch=4),
        Extraction(batch_size=64),
    ):
        cache = open_cache(tmp_path / str(options.batch_size), demo, "frontal")
        for turn in range(2):
            found = extract(demo, IMAGES, "frontal", cache=cache, options=options)
            np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)
            assert (cache.hits, cache.misses) == (turn * len(IMAGES), len(IMAGES))


def test_second_run_computes_nothing_and_gives_the_same_bytes(demo: Extractor, tmp_path: Path) -> None:
    first = extract(demo, IMAGES, "frontal", cache=open_cache(tmp_path, demo, "frontal"))
    again = open_cache(tmp_path, demo, "frontal")
    assert len(again) == len(IMAGES)
    np.testing.assert_array_equal(extract(demo, IMAGES, "frontal", cache=again), first)
    assert (again.hits, again.misses) == (len(IMAGES), 0)
    other_view = open_cache(tmp_path, demo, "lateral")
    assert len(other_view) == 0  # another head, another identity


def test_the_same_content_is_computed_once(demo: Extractor, tmp_path: Path) -> None:
    cache = open_cache(tmp_path, demo, "frontal")
    found = extract(demo, [IMAGES[0], IMAGES[1], IMAGES[0].copy()], "frontal", cache=cache)
    assert len(cache) == 2
    np.testing.assert_array_equal(found[0], found[2])


def test_files_arrays_and_generators_are_alike(demo: Extractor, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path, image in zip(paths, IMAGES, strict=False):
        Image.fromarray(image).save(path)
    np.testing.assert_array_equal(extract(demo, iter(paths), "frontal"), extract(demo, IMAGES[:4], "frontal"))
    assert extract(demo, [], "frontal").shape == (0, demo.dim)


def test_an_unreadable_file_stops_the_run_by_name(demo: Extractor, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(DataError, match="broken.png"):
        extract(demo, [IMAGES[0], tmp_path / "broken.png"], "frontal")
    with pytest.raises(DataError, match="nowhere.png"):
        extract(demo, [tmp_path / "nowhere.png"], "frontal")


def test_no_more_is_read_than_a_few_batches_ahead(demo: Extractor) -> None:
    """The stream is pulled as the network goes: what makes memory constant in N."""
    pulled = 0

    def stream():
        nonlocal pulled
        for image in IMAGES:
            pulled += 1
            yield image

    options = Extraction(batch_size=2, prefetch=2, num_threads=2)
    for done, _ in enumerate(feature_blocks(demo, stream(), "frontal", options=options), 1):
        assert pulled <= 2 * (done + 1 + options.prefetch)


def test_moments_of_a_stream_are_those_of_the_whole_and_merge_across_ranks(demo: Extractor) -> None:
    features = demo(IMAGES, "frontal")
    whole = Moments.of(features)
    streamed = stream_moments(demo, iter(IMAGES), "frontal", options=Extraction(batch_size=4))
    ranks = [stream_moments(demo, IMAGES[rank::3], "frontal") for rank in range(3)]
    for ours in (streamed, reduce(Moments.merge, ranks)):
        assert ours.count == len(IMAGES)
        np.testing.assert_allclose(ours.mean, whole.mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(ours.scatter, whole.scatter, rtol=1e-3, atol=1e-5)  # float32 of other batches


def test_moments_do_not_depend_on_how_they_are_cut() -> None:
    features = np.random.default_rng(0).normal(size=(3000, 5)) + 100
    accumulator = MomentsAccumulator(5)
    for block in np.array_split(features, 700):
        accumulator.add(block)
    whole, ours = Moments.of(features), accumulator.result()
    np.testing.assert_allclose(ours.scatter, whole.scatter, rtol=1e-10)
    np.testing.assert_allclose(ours.mean, whole.mean, rtol=1e-13)


# ---- the cache --------------------------------------------------------------------------------------------------------
def filled(root: Path, keys: range, dim: int = 3) -> FeatureCache:
    cache = FeatureCache(root, "a" * 64, dim)
    cache.put([content_key(str(key)) for key in keys], np.array([[key] * dim for key in keys], np.float32))
    cache.flush()
    return cache


def test_keys_tell_pixels_shapes_types_and_texts_apart() -> None:
    values = [
        np.zeros((2, 3), np.uint8),
        np.zeros((3, 2), np.uint8),
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3)),
        "",
        "a",
    ]
    assert len({content_key(value) for value in values}) == len(values)
    assert content_key(np.ones((4, 4), np.uint8)[::2]) == content_key(np.ones((2, 4), np.uint8))


def test_many_writers_at_once(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=filled, args=(tmp_path, range(start, start + 30))) for start in range(0, 100, 10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache = FeatureCache(tmp_path, "a" * 64, 3)
    assert len(cache) == 120
    assert all((cache.get(content_key(str(key))) == key).all() for key in range(120))
    assert not list(tmp_path.rglob("*.partial"))


def test_others_work_is_seen_after_a_refresh(tmp_path: Path) -> None:
    cache = filled(tmp_path, range(2))
    filled(tmp_path, range(5, 8))
    assert cache.get(content_key("6")) is None
    cache.refresh()
    assert cache.get(content_key("6")) is not None and len(cache) == 5


def test_a_damaged_shard_is_noticed_and_computed_again(tmp_path: Path) -> None:
    filled(tmp_path, range(4))
    shard = next(tmp_path.rglob("*.npy"))
    content = bytearray(shard.read_bytes())
    content[-2] ^= 0xFF
    shard.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        cache = FeatureCache(tmp_path, "a" * 64, 3)
    assert cache.get(content_key("1")) is None
    with pytest.warns(UserWarning, match="is damaged"):
        again = filled(tmp_path, range(4))
    assert (again.get(content_key("3")) == 3).all()
    assert len(FeatureCache(tmp_path, "a" * 64, 3)) == 4  # the same shard, whole again


def test_other_identities_do_not_mix(tmp_path: Path) -> None:
    filled(tmp_path, range(2))
    assert len(FeatureCache(tmp_path, "b" * 64, 3)) == 0
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="cannot be used"):
        FeatureCache(blocked, "a" * 64, 3)


def test_labels_are_kept_by_text(tmp_path: Path) -> None:
    with LabelCache(tmp_path, "c" * 64) as cache:
        cache.put("No effusion.", {"Pleural Effusion": 0.0})
        cache.put("", [])
    again = LabelCache(tmp_path, "c" * 64)
    assert again.get("No effusion.") == {"Pleural Effusion": 0.0} and again.get("") == [] and again.get("other") is None


def test_options_are_checked() -> None:
    with pytest.raises(DataError, match="batch_size is 0"):
        Extraction(batch_size=0)
