"""Files of a bundle: nothing tells two payloads apart, and what is written is read back."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from medcodi.errors import DataError
from medcodi.turing.bundle.files import (
    new_folder,
    open_bundle,
    read_study_script,
    seal,
    study_script,
    viewer_files,
    zip_folder,
)
from medcodi.turing.bundle.payloads import read_payload


def test_files_have_one_time_one_size_and_stored_entries_in_order(bundle: Path) -> None:
    for folder in (path for path in (bundle / "readers").iterdir() if path.is_dir()):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {path.stat().st_mtime for path in files} == {946684800.0}
        kinds = {path: read_payload(path).fields["kind"] for path in (folder / "payloads").iterdir()}
        for kind in ("image", "text"):
            assert len({path.stat().st_size for path, own in kinds.items() if own == kind}) == 1
        with zipfile.ZipFile(folder.with_name(folder.name + ".zip")) as archive:
            entries = archive.infolist()
            assert {entry.date_time for entry in entries} == {(2000, 1, 1, 0, 0, 0)}
            assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
            assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
            assert len(entries) == len(files)
            study = f"{folder.name}/study.js"
            assert archive.read(study) == (folder / "study.js").read_bytes()


def test_a_study_script_is_plain_ascii_and_comes_back(tmp_path: Path) -> None:
    study = {"title": "Größe </script>", "trials": [], "tasks": []}
    (tmp_path / "study.js").write_bytes(study_script(study))
    assert (tmp_path / "study.js").read_bytes().isascii() and read_study_script(tmp_path / "study.js") == study
    (tmp_path / "study.js").write_text("MEDCODI_STUDY = 1;")
    with pytest.raises(DataError, match="no study in"):
        read_study_script(tmp_path / "study.js")


def test_one_folder_gives_one_archive_whatever_its_history(tmp_path: Path) -> None:
    for name, order in (("a", "xy"), ("b", "yx")):
        for file in order:
            (tmp_path / name / "reader").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "reader" / file).write_text(file)
        seal(tmp_path / name / "reader")
    first, second = (zip_folder(tmp_path / name / "reader").read_bytes() for name in "ab")
    assert first == second


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), new_folder(out) as staging:
        (staging / "half").write_text("")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with new_folder(out) as staging:
        (staging / "all").write_text("")
        assert not any(out.iterdir())
    assert [path.name for path in out.iterdir()] == ["all"] and [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(DataError, match="is not empty"), new_folder(out):
        pass
    with pytest.raises(DataError, match="cannot be written"), new_folder(out / "all" / "below a file"):
        pass


def test_a_bundle_is_opened_whole_or_by_reader(bundle: Path, tmp_path: Path) -> None:
    whole, alone = open_bundle(bundle), open_bundle(bundle / "readers" / "reader-02")
    assert [reader.name for reader in whole.readers] == ["reader-01", "reader-02"] and whole.facts["num_readers"] == 2
    assert [reader.name for reader in alone.readers] == ["reader-02"] and alone.facts == {}
    assert set(viewer_files()) <= {
        path.relative_to(alone.readers[0].path).as_posix() for path in alone.readers[0].files()
    }
    with pytest.raises(DataError, match="is no bundle"):
        open_bundle(tmp_path)
