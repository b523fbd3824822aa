"""A sample folder is a table that every command reads, and never replaces anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sample import write_sample
from medcodi.data.sources.phantom import phantom_study
from medcodi.errors import DataError


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "sample"
    write_sample(folder, 24, image_size=32)
    return folder


def test_it_prepares_into_the_phantoms_it_was_written_from(sample: Path, tmp_path: Path) -> None:
    from medcodi.data.dataset import open_dataset

    out = tmp_path / "data"
    ledger = prepare(PrepareConfig(source="csv", path=str(sample), out=str(out), image_size=32))
    counts = ledger.counts()
    assert counts["split"] == {"train": 12, "val": 4, "test": 8} and not counts["reason"]
    study, phantom = open_dataset(out, "train")[0], phantom_study(0, 0, 32)
    assert study.report is not None and phantom.report is not None
    assert study.report.split() == phantom.report.split() and study.labels == phantom.labels
    for name, image in phantom.images.items():
        assert abs(study.images[name] - image).max() <= 0.51 / 255


def test_a_folder_that_exists_is_refused_and_stays(sample: Path) -> None:
    before = sorted(path.name for path in sample.rglob("*"))
    with pytest.raises(DataError, match="exists already"):
        write_sample(sample, 24)
    assert sorted(path.name for path in sample.rglob("*")) == before


def test_a_sample_too_small_to_hold_studies_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="12 studies.*at least 24"):
        write_sample(tmp_path / "sample", 12)
    assert not list(tmp_path.iterdir())
