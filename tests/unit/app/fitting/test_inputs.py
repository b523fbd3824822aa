"""``medcodi fit`` looks at its input before anything is written: what it can use, and what it refuses with the fix."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.app.cli import REFUSED
from medcodi.app.fitting.inputs import LEAST_TESTED, open_data
from medcodi.data.sample import write_sample
from medcodi.errors import DataError

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample") / "sample", 24, image_size=32).parent


@pytest.fixture
def table(sample: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write some columns of the sample's table beside its files."""

    def written(*columns: str, num: int = 24, name: str = "mine.csv", folder: Path | None = None) -> Path:
        with (sample / "studies.csv").open(encoding="utf-8", newline="") as file:
            rows: Rows = [{key: row[key] for key in columns} for row in csv.DictReader(file)][:num]
        path = (folder or tmp_path) / name
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
        if not (path.parent / "images").exists():
            (path.parent / "images").symlink_to(sample / "images")
        return path

    return written


def test_the_sample_is_read_as_it_divides_itself(sample: Path) -> None:
    data = open_data(str(sample))
    assert data.source == "csv" and data.counts == {"train": 12, "val": 4, "test": 8}
    assert data.modalities == {"frontal": 24, "lateral": 24, "report": 24} and data.num_labelled == 12


def test_a_table_without_splits_is_divided_so_that_it_can_be_evaluated(table: Callable[..., Path]) -> None:
    data = open_data(str(table("study_id", "patient_id", "frontal", "report", name="mine.tsv")))
    assert data.counts["test"] >= LEAST_TESTED and data.counts["val"] >= 2 and sum(data.counts.values()) == 24
    assert data.modalities == {"frontal": 24, "report": 24} and data.num_labelled == 0


def test_counts_are_those_of_the_prepared_dataset(table: Callable[..., Path], tmp_path: Path) -> None:
    from medcodi.data.preparation.prepare import prepare

    data = open_data(str(table("study_id", "patient_id", "frontal", "report")))
    prepare(data.preparation(tmp_path / "data", 32))
    prepared = open_data(str(tmp_path / "data"))
    assert (
        prepared.joined == data.joined
        and prepared.counts == data.counts
        and prepared.image_size == 32
        and prepared.source is None
    )
    with pytest.raises(DataError, match="prepared already"):
        open_data(str(tmp_path / "data"), ["val=0.2"])


IDS = ("study_id", "patient_id")


@pytest.mark.parametrize(
    ("columns", "num", "expected"),
    [
        ((*IDS, "lateral"), 24, ["hold lateral only", "at least two", "add frontal or report"]),
        ((*IDS, "report"), 24, ["hold report only", "at least two", "add frontal or lateral"]),
        ((*IDS, "frontal", "report"), 3, ["has 3 studies", "at least 8 for training", "data sample"]),
        (("study_id", "frontal", "report"), 24, ["no column of patients", "options.study_is_patient=true"]),
    ],
)
def test_studies_that_cannot_train_a_model(
    columns: tuple[str, ...],
    num: int,
    expected: list[str],
    table: Callable[..., Path],
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("fit", str(table(*columns, num=num)), "--out", str(tmp_path / "run")) == REFUSED
    printed = " ".join(capsys.readouterr().err.split())
    assert all(text in printed for text in expected), printed
    assert not (tmp_path / "run").exists()


def test_folders_that_do_not_say_what_they_hold(table: Callable[..., Path], sample: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(sample / "images")
    with pytest.raises(DataError, match="48 images and no table.*data sample sample"):
        open_data(str(sample / "images"))
    table(*IDS, "frontal", "report", name="a.csv")
    table(*IDS, "frontal", "report", name="b.csv")
    with pytest.raises(DataError, match=r"2 tables: a.csv, b.csv.*a\.csv"):
        open_data(str(tmp_path))
    (tmp_path / "alone").mkdir()
    with pytest.raises(DataError, match="neither a table nor images"):
        open_data(str(tmp_path / "alone"))
    with pytest.raises(DataError, match="nothing at"):
        open_data(str(tmp_path / "nowhere"))


def test_rows_of_images_that_no_column_joins(sample: Path, tmp_path: Path) -> None:
    with (sample / "studies.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [
        f"{row['study_id']},{row['patient_id']},{row[view]},{view}" for row in rows for view in ("frontal", "lateral")
    ]
    table, root = tmp_path / "films.csv", f"options.root={sample}"
    table.write_text("\n".join(["Visit,patient,file,view", *lines]))
    refusal = r"0 of the 48 studies .* hold two modalities.*columns are Visit, patient, file, view.*study_id=COLUMN"
    with pytest.raises(DataError, match=refusal):
        open_data(str(table), [root])
    data = open_data(str(table), [root, "options.columns.study_id=Visit"])
    assert sum(data.joined.values()) == 24 and data.columns == ("Visit", "patient", "file", "view")


def test_a_table_without_its_images(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "studies.csv").write_bytes((sample / "studies.csv").read_bytes())
    with pytest.raises(DataError, match=r"48 of 48 image files .* do not exist.*options\.root=FOLDER"):
        open_data(str(tmp_path))
    assert open_data(str(tmp_path), [f"options.root={sample}"]).counts["train"] == 12
