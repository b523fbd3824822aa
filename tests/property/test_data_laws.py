from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcodi.data.batches import GlobalBatches
from medcodi.data.dataset import StudyDataset
from medcodi.data.image_files import read_image
from medcodi.data.images import fit_square, from_uint16, to_uint16
from medcodi.data.refusals import Refused
from medcodi.data.reports import compose_report, normalise_report, sections
from medcodi.study import Study

PIECES = st.sampled_from(
    [
        "FINDINGS:",
        "Impression :",
        "history:",
        "\n",
        " ",
        ".",
        ",",
        ";",
        "(",
        ")",
        "[**",
        "**]",
        "___",
        "XXXX",
        "x-",
        "-",
    ]
    + ["The lungs are clear", "No effusion", "3.5 cm", "\x00", "\u00a0", "é", "X", "x", "_", ":", "/"]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=25).map("".join), st.text(max_size=80))
SENTENCES = st.lists(st.sampled_from(["Clear lungs.", "No effusion.", "Heart is 3.5 cm."]), max_size=4).map(" ".join)


class Numbers:
    """Empty studies by number."""

    name, image_size, fingerprint = "numbers", 1, "numbers"

    def __init__(self, num_studies: int) -> None:
        self.num_studies = num_studies

    def __len__(self) -> int:
        return self.num_studies

    def __getitem__(self, index: int) -> Study:
        return Study(study_id=str(index), patient_id=str(index))


@given(text=TEXTS)
def test_the_normal_form_of_a_report_is_its_own_normal_form(text: str) -> None:
    try:
        once = normalise_report(text)
    except Refused:
        return
    assert normalise_report(once) == once
    assert once == once.strip()
    assert not any(mark in once for mark in ("__", "XXX", "[**", "**]", "\x00", "  "))


@given(findings=SENTENCES, impression=SENTENCES)
def test_composed_reports_are_in_normal_form_and_can_be_taken_apart(findings: str, impression: str) -> None:
    text = compose_report(findings, impression)
    if not text:
        assert not findings and not impression
        return
    assert normalise_report(text) == text
    given_sections = {"findings": findings, "impression": impression}
    assert sections(text) == {name: body for name, body in given_sections.items() if body}


@given(height=st.integers(32, 90), width=st.integers(32, 90), size=st.integers(16, 80), seed=st.integers(0, 99))
def test_a_fitted_image_is_square_and_in_range(height: int, width: int, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    square = fit_square(image, size)
    assert square.shape == (size, size)
    assert square.dtype == np.float32
    assert square.min() >= 0 and square.max() <= 1
    assert np.array_equal(fit_square(square, size), square)
    mirrored = fit_square(np.ascontiguousarray(image.T), size)
    assert np.abs(mirrored - square.T).max() < 1e-3  # rows and columns are treated alike


@given(values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_sixteen_bits_are_read_back_within_half_a_step(values: list[float]) -> None:
    image = np.array(values, np.float32)
    stored = to_uint16(image)
    assert np.abs(from_uint16(stored) - image).max() <= 0.5 / 65535 + 1e-6
    assert np.array_equal(to_uint16(from_uint16(stored)), stored)


@given(
    shape=st.lists(st.integers(0, 40), max_size=4).map(tuple),
    dtype=st.sampled_from(["u1", "u2", "i4", "f2", "f4", "f8", "c8", "?"]),
    scale=st.sampled_from([0.0, 1.0, 300.0, -1.0, float("nan")]),
)
def test_any_array_is_an_image_or_a_refusal(shape: tuple[int, ...], dtype: str, scale: float) -> None:
    with np.errstate(all="ignore"):
        value = (np.random.default_rng(0).random(shape) * scale).astype(dtype)
    try:
        image = read_image(np.asarray(value))
    except Refused as refusal:
        assert refusal.reason
        assert refusal.expected
        return
    assert image.ndim == 2
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1


@given(
    size=st.integers(1, 40),
    share=st.integers(1, 4),
    world_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    start=st.integers(0, 30),
    seed=st.integers(0, 5),
)
def test_ranks_together_see_the_global_batch(
    size: int, share: int, world_size: int, accumulation: int, start: int, seed: int
) -> None:
    dataset = Numbers(size)
    assert isinstance(dataset, StudyDataset)
    batch_size = share * world_size * accumulation
    whole = GlobalBatches(dataset, batch_size=batch_size, seed=seed)
    ranks = [
        GlobalBatches(
            dataset, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size, accumulation=accumulation
        )
        for rank in range(world_size)
    ]
    seen = [sample for rank in ranks for batch in rank.batches(start).micro for sample in batch.samples]
    assert tuple(seen) == whole.samples(start)
    assert {len(batch) for rank in ranks for batch in rank.batches(start).micro} == {share}
    first = [sample for step in range(-(-size // batch_size)) for sample in whole.samples(step)]
    assert sorted(first[:size]) == list(range(size))


@pytest.mark.parametrize("mark", ["___", "XXXX", "[** name **]"])
def test_a_mark_between_words_leaves_only_the_words(mark: str) -> None:
    assert normalise_report(f"one {mark} two") == "one two"
