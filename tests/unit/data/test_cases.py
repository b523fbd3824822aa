"""Small inputs that came out wrong in tools of this kind, each with the right value (tests/cases)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medcodi.config import from_dict
from medcodi.data.dataset import open_dataset
from medcodi.data.image_files import read_image
from medcodi.data.images import fit_square
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.refusals import Refused
from medcodi.data.reports import read_text
from medcodi.data.tables import MAX_CELL, read_rows
from medcodi.errors import DataError

CASES = Path(__file__).parents[2] / "cases"
DICOM, TABLES = CASES / "dicom", CASES / "csv"


def prepared(out: Path, source: str, path: Path, **more):
    values = {"source": source, "path": str(path), "out": str(out), "image_size": 32, "val": 0.0, "test": 0.0}
    return prepare(from_dict(PrepareConfig, {**values, "max_bad_fraction": 1.0, **more}))


def folder_of(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "dicom"
    folder.mkdir()
    for name in names:
        shutil.copy(DICOM / name, folder)
    return folder


# ---- DICOM -----------------------------------------------------------------------------------------------------------
def test_big_endian_pixels_are_those_of_the_little_endian_twin() -> None:
    big, little = (read_image(DICOM / f"ramp_{order}_16_u.dcm") for order in ("be", "le"))
    np.testing.assert_allclose(big, little, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "v_rescale_empty",
        "v_rescale_empty_intercept",
        "v_voi_lut_item_without_data",
        "v_comma_slope",
        "v_highbit_15_of_12",
        "v_nopreamble",
    ],
)
def test_a_ramp_is_a_ramp(name: str) -> None:
    image = read_image(DICOM / f"{name}.dcm")
    rows = image.mean(axis=1)
    steps = np.diff(rows)
    assert image.min() < 0.01 and image.max() > 0.99
    assert (steps >= -1e-6).all() or (steps <= 1e-6).all()  # no saw-tooth


def test_a_disc_stays_a_disc() -> None:
    disc = fit_square(read_image(DICOM / "v_circle_aspect.dcm"), 128) > 0.5
    across, down = disc.any(axis=0).sum(), disc.any(axis=1).sum()
    assert across > 60 and abs(int(across) - int(down)) <= 2


def test_a_range_of_padding_is_black_and_does_not_stretch_the_picture() -> None:
    import pydicom

    for name in ("v_padding_ge_range", "v_padding_range_mono1"):
        stored = pydicom.dcmread(DICOM / f"{name}.dcm")
        low, high = sorted((stored.PixelPaddingValue, stored.PixelPaddingRangeLimit))
        padding = (stored.pixel_array >= low) & (stored.pixel_array <= high)
        image = read_image(DICOM / f"{name}.dcm")
        assert padding.any() and (image[padding] == 0).all()
        assert image[~padding].min() == 0 and image[~padding].max() == 1  # the whole range is the anatomy's


def test_a_file_with_an_invalid_tag_is_left_out_by_name_and_the_others_stay(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "frames_1A.dcm", "ramp_le_16_u.dcm", "v_circle_aspect.dcm")
    ledger = prepared(tmp_path / "out", "dicom", folder)
    assert ledger.num_kept == 2 and ledger.counts()["reason"] == {"invalid tag": 1}
    assert any("frames_1A.dcm: its tag NumberOfFrames" in entry.detail for entry in ledger.entries)


def test_other_body_parts_and_other_views_are_no_chest_views(tmp_path: Path) -> None:
    names = ["body_part_0.dcm", "body_part_1.dcm", "decubitus_0.dcm", "decubitus_1.dcm", "named_view_0.dcm"]
    folder = folder_of(tmp_path, *names, "named_view_1.dcm")
    ledger = prepared(tmp_path / "out", "dicom", folder, options={"default_view": "frontal"})
    assert ledger.counts()["reason"] == {"not a chest": 2, "unknown view": 3}
    assert ledger.counts()["modality"] == {"lateral": 1}  # PERFIL


def test_a_lateral_given_as_the_frontal_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="given as frontal, but its View Position is 'PERFIL'.*give it as lateral"):
        read_image(DICOM / "named_view_1.dcm", modality="frontal")
    assert read_image(DICOM / "named_view_1.dcm", modality="lateral").shape == (96, 64)


def test_dicom_without_patients_is_refused_with_the_option(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "ramp_be_16_u.dcm", "ramp_le_16_u.dcm")  # neither has a Patient ID
    with pytest.raises(DataError, match="2 of 2 studies .* have no Patient ID.*study_is_patient=true"):
        prepared(tmp_path / "out", "dicom", folder)
    assert prepared(tmp_path / "out", "dicom", folder, options={"study_is_patient": True}).num_kept == 2


# ---- tables ----------------------------------------------------------------------------------------------------------
def table(tmp_path: Path, name: str) -> Path:
    """A table of tests/cases with its images: each one the file i0.png."""
    for index in range(30):
        shutil.copy(TABLES / "i0.png", tmp_path / f"i{index}.png")
    return Path(shutil.copy(TABLES / f"{name}.csv", tmp_path))


def test_the_patient_column_is_found_by_any_spelling(tmp_path: Path) -> None:
    ledger = prepared(tmp_path / "out", "csv", table(tmp_path, "pat_case"), val=0.5)
    splits: dict[str, set[str]] = {}
    for entry in ledger.entries:
        splits.setdefault(entry.patient_id, set()).add(entry.split)
    assert set(splits) == {f"p{index}" for index in range(5)} and all(len(names) == 1 for names in splits.values())
    with pytest.raises(DataError, match="pat_empty.csv, line 7: no patient .the cell is empty"):
        prepared(tmp_path / "other", "csv", table(tmp_path, "pat_empty"))


def test_a_table_without_patients_is_refused_with_the_options(tmp_path: Path) -> None:
    path = tmp_path / "chexpert.csv"
    folders = [f"train/patient0000{number}/study1/view1_frontal.jpg" for number in (1, 1, 2)]
    rows = [f"{folder},Frontal,{index}.,s{index}" for index, folder in enumerate(folders)]
    path.write_text("Path,view,report,study_id\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"no column of patients.*patient_pattern.*study_is_patient"):
        prepared(tmp_path / "out", "csv", path)
    from medcodi.data.sources.csv_table import CsvConfig, studies

    found = list(studies(CsvConfig(path=str(path), patient_pattern=r"(patient\d+)")))
    assert [study.patient_id for study in found] == ["patient00001", "patient00001", "patient00002"]
    with pytest.raises(DataError, match="line 2: no patient .none matches"):
        list(studies(CsvConfig(path=str(path), patient_pattern=r"(pat_\d+)")))


@pytest.mark.parametrize("name", ["sep_ls", "sep_vt"])
def test_only_line_ends_end_a_row(tmp_path: Path, name: str) -> None:
    ledger = prepared(tmp_path / "out", "csv", table(tmp_path, name))
    assert ledger.num_studies == ledger.num_kept == 20
    dataset = open_dataset(tmp_path / "out", "train")
    report = next(study.report for study in (dataset[i] for i in range(20)) if study.study_id == "s3")
    assert report is not None and "heart is large" in report and "right pleural effusion" in report


def test_torn_rows_and_doubled_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unquoted_comma.csv, line 4: \d+ cells, and the header has 4 columns"):
        prepared(tmp_path / "out", "csv", table(tmp_path, "unquoted_comma"))
    with pytest.raises(DataError, match="the column 'report' twice"):
        prepared(tmp_path / "out", "csv", table(tmp_path, "dupcol"))


def test_long_cells_are_read_and_one_without_an_end_is_refused_at_its_first_line(tmp_path: Path) -> None:
    path, text = tmp_path / "a.csv", "word " * 40_000
    path.write_text(f'study_id,report\ns0,Clear.\ns1,"{text}"\ns2,Clear.\n')
    assert [(row.line, len(row.cells["report"])) for row in read_rows(path)] == [(2, 6), (3, 199_999), (4, 6)]
    path.write_text('study_id,report\ns0,Clear.\ns1,"' + "word\n" * (MAX_CELL // 5 + 1) + "s2,Clear.\n")
    with pytest.raises(DataError, match="a.csv, line 3: field larger than field limit.*a quote may not be closed"):
        list(read_rows(path))


def test_cells_that_say_nothing_are_absent_and_counted(tmp_path: Path) -> None:
    ledger = prepared(tmp_path / "out", "csv", table(tmp_path, "nan_report"))
    counts = ledger.counts()
    assert counts["modality"] == {"frontal": 20, "report": 14} and counts["reason"] == {"report: absent": 6}


def test_projections_of_tables_are_understood(tmp_path: Path) -> None:
    ledger = prepared(tmp_path / "out", "csv", table(tmp_path, "padchest"))
    views = {entry.view: entry.modality for entry in ledger.entries if entry.modality in ("frontal", "lateral")}
    assert {"PA": "frontal", "L": "lateral", "AP": "frontal", "AP_horizontal": "frontal"}.items() <= views.items()


# ---- pictures and texts ----------------------------------------------------------------------------------------------
def test_white_is_zero_of_16_bits_is_inverted_as_8_bits_are() -> None:
    eight, sixteen = (read_image(CASES / "image" / f"img_miniswhite{bits}.tif") for bits in ("", "16"))
    np.testing.assert_allclose(sixteen, eight, atol=1 / 255)


def test_text_files_are_utf8_or_refused() -> None:
    assert not read_text(CASES / "text" / "bom.txt").startswith("\ufeff")
    for name in ("latin1.txt", "utf16.txt"):
        with pytest.raises(Refused, match=f"{name} is not UTF-8 text"):
            read_text(CASES / "text" / name)


def test_a_report_that_is_not_utf8_is_left_out_and_the_image_stays(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "v_circle_aspect.dcm")
    shutil.copy(CASES / "text" / "latin1.txt", folder / "v_circle_aspect.txt")
    ledger = prepared(tmp_path / "out", "dicom", folder)
    assert ledger.counts()["modality"] == {"frontal": 1}
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["reason"] == {"report: not UTF-8": 1}
