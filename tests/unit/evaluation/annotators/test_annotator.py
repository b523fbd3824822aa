"""Batches and streams: order, each content once, batches ahead, bounded memory, files and arrays alike, errors by name."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcodi.errors import DataError
from medcodi.evaluation.annotators.annotator import eight_bit_pixels, read_content
from medcodi.evaluation.annotators.features import FeatureExtractor, load_extractor
from medcodi.evaluation.annotators.geometry import GeometryAnnotator
from medcodi.evaluation.annotators.image_annotators import load_image_annotator
from medcodi.evaluation.annotators.report_annotators import load_labeler
from medcodi.metrics.distances import Moments
from medcodi.model import demo_checkpoint, tiny_model

IMAGES = [np.random.default_rng(index).integers(0, 256, (48, 48), dtype=np.uint8) for index in range(23)]


class Counting(FeatureExtractor):
    """The demo's extractor, which counts the images that its network sees."""

    seen = 0

    def annotate_batch(self, prepared, modality: str) -> np.ndarray:
        self.seen += len(prepared)
        return super().annotate_batch(prepared, modality)


@pytest.fixture(scope="module")
def demo() -> FeatureExtractor:
    return load_extractor("demo")


def counting(demo: FeatureExtractor, cache: Path | None = None, batch_size: int = 32) -> Counting:
    extractor = Counting(demo.row, demo.network)
    extractor.cache, extractor.batch_size = cache, batch_size
    return extractor


def test_order_and_values_do_not_depend_on_batches_threads_or_cache(demo: FeatureExtractor, tmp_path: Path) -> None:
    plain = demo.annotate(IMAGES, "frontal")
    for batch_size, num_threads, prefetch in ((1, 2, 2), (5, 3, 4), (64, 0, 2)):
        extractor = counting(demo, tmp_path / str(batch_size), batch_size)
        extractor.num_threads, extractor.prefetch = num_threads, prefetch
        for _ in range(2):
            np.testing.assert_allclose(extractor.annotate(IMAGES, "frontal"), plain, rtol=1e-4, atol=1e-5)
            assert extractor.seen == len(IMAGES)  # the second time nothing is computed


def test_second_run_computes_nothing_and_gives_the_same_bytes(demo: FeatureExtractor, tmp_path: Path) -> None:
    features = counting(demo, tmp_path).annotate(IMAGES, "frontal")
    again = counting(demo, tmp_path)
    np.testing.assert_array_equal(again.annotate(IMAGES, "frontal"), features)
    assert again.seen == 0
    other_view = again.row_cache("lateral")
    assert other_view is not None and len(other_view) == 0  # another head, another identity


def test_the_same_content_is_computed_once(demo: FeatureExtractor) -> None:
    extractor = counting(demo)
    features = extractor.annotate([IMAGES[0], IMAGES[1], IMAGES[0].copy()], "frontal")
    assert extractor.seen == 2
    np.testing.assert_array_equal(features[0], features[2])


def test_files_arrays_and_generators_are_alike(demo: FeatureExtractor, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path, image in zip(paths, IMAGES, strict=False):
        Image.fromarray(image).save(path)
    np.testing.assert_array_equal(demo.annotate(iter(paths), "frontal"), demo.annotate(IMAGES[:4], "frontal"))
    assert demo.annotate([], "frontal").shape == (0, demo.dim)
    np.testing.assert_array_equal(read_content(paths[0]), IMAGES[0])


def test_an_unreadable_file_stops_the_run_by_name(demo: FeatureExtractor, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(DataError, match="broken.png"):
        demo.annotate([IMAGES[0], tmp_path / "broken.png"], "frontal")
    with pytest.raises(DataError, match="nowhere.png"):
        demo.annotate([tmp_path / "nowhere.png"], "frontal")


def test_no_more_is_read_than_a_few_batches_ahead(demo: FeatureExtractor) -> None:
    """The stream is pulled as the network goes: what makes memory constant in N."""
    pulled = 0

    def stream():
        nonlocal pulled
        for image in IMAGES:
            pulled += 1
            yield image

    extractor = counting(demo, batch_size=2)
    extractor.prefetch, extractor.num_threads = 2, 2
    for done, _ in enumerate(extractor.blocks(stream(), "frontal"), 1):
        assert pulled <= 2 * (done + 1 + extractor.prefetch)


def test_moments_of_a_stream_are_those_of_the_whole_and_merge_across_ranks(demo: FeatureExtractor) -> None:
    whole = Moments.of(demo.annotate(IMAGES, "frontal"))
    streamed = [Moments.of(block) for block in counting(demo, batch_size=4).blocks(iter(IMAGES), "frontal")]
    ranks = [Moments.of(demo.annotate(IMAGES[rank::3], "frontal")) for rank in range(3)]
    for ours in (reduce(Moments.merge, streamed), reduce(Moments.merge, ranks)):
        assert ours.count == len(IMAGES)
        np.testing.assert_allclose(ours.mean, whole.mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(ours.scatter, whole.scatter, rtol=1e-3, atol=1e-5)  # float32 of other batches


def test_float_and_8_bit_images_are_alike(demo: FeatureExtractor) -> None:
    rounded = [image.astype(np.float32) / 255 for image in IMAGES[:3]]
    np.testing.assert_array_equal(demo.annotate(IMAGES[:3], "frontal"), demo.annotate(rounded, "frontal"))
    assert eight_bit_pixels(np.array([[0.0, 0.5, 1.0]])).tolist() == [[0, 128, 255]]


def test_what_is_no_image_is_refused(demo: FeatureExtractor) -> None:
    for bad, says in (
        (np.full((4, 4), np.nan), "values from nan"),
        (np.zeros((4, 4, 3)), "shape"),
        (np.zeros((4, 4), int), "int64"),
    ):
        with pytest.raises(DataError, match=says):
            demo.annotate([bad], "frontal")


def test_the_batch_size_is_checked() -> None:
    with pytest.raises(DataError, match="batch_size is 0"):
        load_extractor("demo", batch_size=0)


def test_every_annotator_keeps_the_protocol(demo: FeatureExtractor) -> None:
    """Rows in order, none for modalities of another kind, an identity that is a hash and depends on what it annotates."""
    annotators: list[Any] = [
        demo,
        load_extractor("prompt-encoder", model=tiny_model(seed=0)),
        load_image_annotator("demo"),
        load_labeler("rules"),
        GeometryAnnotator.load(demo_checkpoint()),
    ]
    contents = {
        "frontal": [image.astype(np.float32) / 255 for image in IMAGES[:3]],
        "report": ["No effusion.", "Edema.", ""],
    }
    identities = set()
    for annotator in annotators:
        read = [modality for modality in contents if annotator.reads(modality)]
        assert read, annotator.name
        for modality in read:
            rows = annotator.annotate(contents[modality], modality)
            assert rows.ndim == 2 and len(rows) == 3
            swapped = annotator.annotate(contents[modality][::-1], modality)
            np.testing.assert_allclose(swapped[::-1], rows, rtol=1e-4, atol=1e-5)
            identities.add(annotator.identity(modality))
            assert len(annotator.identity(modality)) == 64 and annotator.identity(modality) in identities
    assert len(identities) == 6 and len({annotator.name for annotator in annotators}) == 4  # two are named "demo"
