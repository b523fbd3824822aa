"""Files of a bundle: nothing tells two payloads apart, and what is written is read back."""

from __future__ import annotations

import zipfile
from pathlib import Path

from medcodi.turing.bundle.files import read_payload


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
