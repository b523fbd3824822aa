"""Tables of annotations: read back exactly, restricted by row, joined; damaged ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.evaluation.annotations import (
    METADATA,
    STUDIES,
    Annotations,
    AnnotationTable,
    PairSimilarities,
    StudyTable,
    real_path,
    side_codes,
    table_path,
)
from medcodi.study import CHEXPERT_LABELS, Direction, Finding

DIRECTION = Direction.parse("report->frontal")


def table(rows: list[int], **more) -> AnnotationTable:
    arrays = {
        "features/demo": np.array(rows)[:, None] * np.ones(3, np.float32),
        "probabilities": np.zeros((len(rows), 2)),
    }
    hashes = [f"hash {row}" for row in rows]
    return AnnotationTable("frontal", rows, hashes, arrays=arrays, targets=("a", "a/left"), judged=("a",), **more)


def test_a_table_is_read_back_exactly(tmp_path: Path) -> None:
    pairs = PairSimilarities(np.array([[0, 1]]), np.array([0.5]), np.array([0.25]), 3)
    before = table([4, 2], pairs=pairs)
    before.save(tmp_path / "new/frontal.npz")
    after = AnnotationTable.load(tmp_path / "new/frontal.npz")
    assert (after.modality, after.rows, after.hashes, after.texts) == ("frontal", [4, 2], ["hash 4", "hash 2"], [])
    assert (after.targets, after.judged) == (("a", "a/left"), ("a",)) and list(after.arrays) == list(before.arrays)
    assert after.arrays["features/demo"].dtype == before.arrays["features/demo"].dtype
    np.testing.assert_array_equal(after.arrays["features/demo"], before.arrays["features/demo"])
    assert after.pairs is not None and after.pairs.num_scales == 3
    np.testing.assert_array_equal(after.pairs.pairs, pairs.pairs)
    texts = AnnotationTable("report", [0], ["h"], ["Größe normal."])
    texts.save(tmp_path / "report.npz")
    assert AnnotationTable.load(tmp_path / "report.npz").texts == ["Größe normal."]


def test_shards_join_and_rows_are_chosen_by_study() -> None:
    whole = AnnotationTable.concatenate([table([0, 2]), table([5])])
    assert whole.rows == [0, 2, 5] and len(whole) == 3
    chosen = whole.at([5, 0])
    assert chosen.hashes == ["hash 5", "hash 0"] and chosen.arrays["features/demo"][:, 0].tolist() == [5, 0]
    without = table([7])
    del without.arrays["probabilities"]
    assert set(AnnotationTable.concatenate([table([0]), without]).arrays) == {"features/demo"}


def test_sides_are_bits_of_each_label() -> None:
    studies = [
        (Finding(label="Edema"), Finding(label="Pneumothorax", side="left")),
        (Finding(label="Pneumothorax", side="bilateral"), Finding(label="Fracture", side="right", state="negative")),
        (),
    ]
    column = CHEXPERT_LABELS.index("Pneumothorax")
    codes = side_codes(studies)
    assert codes[:, column].tolist() == [1, 3, 0] and codes.sum() == 4
    assert side_codes([]).shape == (0, 14)


def test_a_folder_of_annotations(tmp_path: Path) -> None:
    studies = StudyTable(
        ["a", "b"], ["p", "q"], [3, 9], [frozenset({"frontal"}), frozenset({"frontal", "report"})],
        np.array([[1, np.nan], [0, 1]], np.float32), np.zeros((2, 14), np.int8),
    )  # fmt: skip
    studies.save(tmp_path / STUDIES)
    metadata = {"systems": {"tiny": {"directions": {str(DIRECTION): {"given": [0, 1], "scored": [1]}}}}}
    (tmp_path / METADATA).write_text(json.dumps(metadata))
    table([0, 1]).save(table_path(tmp_path, "tiny", DIRECTION, "frontal"))
    table([0, 1]).save(real_path(tmp_path, "frontal"))
    annotations = Annotations(tmp_path)
    assert annotations.directions("tiny") == {DIRECTION: {"given": [0, 1], "scored": [1]}}
    assert annotations.studies.having(["report"]) == [1] and annotations.studies.places == [3, 9]
    np.testing.assert_array_equal(annotations.studies.truth, studies.truth)
    assert annotations.generated("tiny", DIRECTION, "frontal").rows == [0, 1]
    assert annotations.real("frontal") is not None and annotations.real("report") is None


def test_a_missing_or_damaged_table_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz is missing or damaged"):
        AnnotationTable.load(tmp_path / "none.npz")
    table([1]).save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"cut\.npz is missing or damaged"):
        AnnotationTable.load(tmp_path / "cut.npz")
    with pytest.raises(DataError, match="annotations.json is missing or damaged"):
        Annotations(tmp_path)


def test_the_name_of_a_system_is_no_path(tmp_path: Path) -> None:
    (tmp_path / METADATA).write_text(json.dumps({"systems": {"../../elsewhere": {}}}))
    with pytest.raises(DataError, match="names no folder in it"):
        Annotations(tmp_path)
