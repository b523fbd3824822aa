"""The work folder of an export: its samples come back bit for bit, are made once, and belong to one study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.study import Direction
from medcodi.turing.bundle.contents import opened, stored_samples

REQUEST = ("case-1", Direction(("report",), ("frontal",)))
IMAGE = np.random.default_rng(0).random((4, 5), dtype=np.float32)


def interrupted(out: Path, identity: dict) -> list[str]:
    """Store one batch and stop; the names of the batches that had to be made."""
    made: list[str] = []

    def make(name: str) -> dict:
        made.append(name)
        return {REQUEST: {"frontal": IMAGE}, ("case-2", Direction((), ("report",))): {"report": "Größe normal."}}

    with pytest.raises(KeyboardInterrupt), opened(out, identity) as job:
        samples = stored_samples(job, "samples-a", lambda: make("a"))
        assert list(samples) == [REQUEST, ("case-2", Direction((), ("report",)))]
        assert samples[REQUEST]["frontal"].tobytes() == IMAGE.tobytes()
        assert samples["case-2", Direction((), ("report",))] == {"report": "Größe normal."}
        raise KeyboardInterrupt
    return made


def test_samples_are_made_once_and_come_back_bit_for_bit(tmp_path: Path) -> None:
    assert interrupted(tmp_path / "out", {"seed": 0}) == ["a"]
    assert interrupted(tmp_path / "out", {"seed": 0}) == []
    assert interrupted(tmp_path / "out", {"seed": 1}) == ["a"]  # another study: the others' samples are removed
    assert not (tmp_path / "out").exists()


def test_a_refusal_leaves_nothing_and_a_second_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refused"), opened(tmp_path / "out", {}) as job:
        with pytest.raises(DataError, match="in use by another process"), opened(tmp_path / "out", {}):
            pass
        (job.content / "file").write_text("x")
        raise DataError("refused")
    assert list(tmp_path.iterdir()) == []
    with opened(tmp_path / "out", {}) as job:
        (job.content / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out/file").read_text() == "x"
    with pytest.raises(DataError, match="not empty"), opened(tmp_path / "out", {}):
        pass
