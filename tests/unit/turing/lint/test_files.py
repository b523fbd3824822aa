"""Rules that need no key: the exporter's files pass, and what is added, renamed or changed is named."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from medcodi.turing.bundle.files import FIXED_TIME, ReaderBundle, open_bundle, read_study_script, study_script
from medcodi.turing.design.blinding import BlindingConfig
from medcodi.turing.lint.features import PayloadFeatures
from medcodi.turing.lint.files import Leak, check_files, embedded_metadata


@pytest.fixture
def one_reader(bundle: Path, tmp_path: Path) -> Path:
    """A copy of one reader's folder, times kept."""
    return Path(shutil.copytree(bundle / "readers" / "reader-01", tmp_path / "reader-01"))


def check(bundle: ReaderBundle) -> list[Leak]:
    return check_files(bundle, PayloadFeatures(BlindingConfig()))[0]


def test_what_the_exporter_wrote_passes_and_every_payload_is_measured(bundle: Path) -> None:
    opened = open_bundle(bundle)
    features, steps = PayloadFeatures(BlindingConfig(crop="none")), []
    leaks, files = check_files(opened, features, lambda done, total: steps.append((done, total)))
    assert leaks == []
    shown = {(reader.name, pid) for reader in opened.readers for pid in reader.payload_ids()}
    assert set(files) == set(features.encoding) == shown and {time for _, time in files.values()} == {float(FIXED_TIME)}
    assert steps == [(done + 1, len(shown)) for done in range(len(shown))]


def test_files_that_are_added_missing_or_of_another_time_are_named(one_reader: Path) -> None:
    (one_reader / "notes.txt").write_text("the real ones are blurred")
    removed = next((one_reader / "payloads").iterdir())
    removed.unlink()
    leaks = check(open_bundle(one_reader))
    assert {leak.probe for leak in leaks} == {"unexpected file", "missing file", "mtime"}
    assert any("notes.txt" in leak.detail for leak in leaks) and any(removed.name in leak.detail for leak in leaks)


def test_permissions_are_alike(one_reader: Path) -> None:
    os.chmod(next((one_reader / "payloads").iterdir()), 0o600)  # noqa: PTH101
    assert [leak.detail for leak in check(open_bundle(one_reader))] == [
        "reader-01: its payloads have 2 different permissions"
    ]


def test_fields_of_a_trial_that_the_exporter_does_not_write_are_named(one_reader: Path) -> None:
    study = read_study_script(one_reader / "study.js")
    study["trials"][0]["arm"] = "real"
    study["trials"][1]["panels"][0]["origin"] = "real"
    (one_reader / "study.js").write_bytes(study_script(study))
    os.utime(one_reader / "study.js", (FIXED_TIME, FIXED_TIME))
    details = [leak.detail for leak in check(open_bundle(one_reader))]
    assert details == [
        "reader-01: study.js has trials with arm unexpected or missing",
        "reader-01: study.js has panels with origin unexpected or missing",
    ]


def test_metadata_of_image_files_is_read() -> None:
    info, exif, file = PngImagePlugin.PngInfo(), Image.Exif(), io.BytesIO()
    info.add_text("Software", "sampler")
    Image.new("L", (4, 4)).save(file, "PNG", pnginfo=info)
    assert list(embedded_metadata(file.getvalue())) == [("png chunk", "a PNG chunk tEXt")]
    exif[0x010F] = "Generator"
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "JPEG", exif=exif)
    assert [probe for probe, _ in embedded_metadata(file.getvalue())] == ["exif"]
    assert list(embedded_metadata(bytes(128) + b"DICM")) == [("metadata", "a DICOM header")]
    assert list(embedded_metadata(b"plain text")) == []
