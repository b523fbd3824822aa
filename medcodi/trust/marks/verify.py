"""Verification of marks: what says that a file is generated, what is missing, and what was changed since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcodi.data.dicom.reading import read_dicom
from medcodi.data.generated_files import SUFFIXES
from medcodi.data.image_files import is_dicom, read_image
from medcodi.data.images import ORIGIN, grey_levels, pixels_sha256
from medcodi.errors import DataError, MedCoDiError
from medcodi.generation.result import PROVENANCE
from medcodi.generation.watermark import detect
from medcodi.modality import MODALITIES
from medcodi.storage import atomic
from medcodi.storage.checked_json import foreign, parse_json
from medcodi.trust.marks import credentials
from medcodi.xmp import EDITED, GENERATED, PNG_KEYWORD, Mark, read_mark

RESULT = "result.json"  # of one study of `medcodi synthesize`
IMAGE_SUFFIXES = (*SUFFIXES["image"], ".webp")
_BESIDE = (*SUFFIXES["text"], *SUFFIXES["table"])  # files with no place for a mark
# Outcomes, the worst first; a file is the worst of what was seen.
OUTCOMES = ("broken", "changed", "unmarked", "foreign", "incomplete", "marked")
BROKEN, CHANGED, UNMARKED, FOREIGN, INCOMPLETE, MARKED = OUTCOMES
_AS_WRITTEN = "take the file as it was generated"
_IMAGE_TAGS = {"ConversionType": "SYN", "ImageType": "DERIVED", "DerivationDescription": "MedCoDi"}


@dataclass
class FileCheck:
    """The marks of one file."""

    path: Path
    outcome: str = MARKED
    facts: list[str] = field(default_factory=list)  # in the order of reading: what is there, missing, changed
    fix: str = ""

    def add(self, fact: str, outcome: str = MARKED, fix: str = "") -> None:
        """Note a fact; a worse outcome than the one so far replaces it, with its fix."""
        self.facts.append(fact)
        if OUTCOMES.index(outcome) < OUTCOMES.index(self.outcome):
            self.outcome, self.fix = outcome, fix


def verify_marks(path: str | Path, on_progress: Callable[[int, int], None] | None = None) -> list[FileCheck]:
    """Check one file, or every generated content of a folder, in the order of their names.

    Args:
        path: A film (PNG, DICOM, JPEG …), a report or record; or a folder: films, and texts and records named after a modality.
        on_progress: Called with (files done, files in all).

    Raises:
        DataError: If there is nothing to check.
        MissingExtraError: If a DICOM file is to be read, and pydicom is not installed.
    """
    root = Path(path)
    files = content_files(root)
    checks = []
    for number, file in enumerate(files, start=1):
        checks.append(check_file(file))
        if on_progress:
            on_progress(number, len(files))
    return checks


def content_files(root: Path) -> list[Path]:
    """The files that :func:`verify_marks` checks; raises a DataError where there is none."""
    if root.is_file():
        return [root]
    files = sorted(file for file in root.rglob("*") if file.is_file() and _is_content(file.relative_to(root)))
    if not files:
        raise DataError(
            f"no generated content at {root}",
            expected="a film, report or record, or a folder of them",
            fix="check the path",
        )
    return files


def _is_content(file: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.parts)  # a folder that is being written
    suffix = file.suffix.lower()
    return not hidden and (suffix in IMAGE_SUFFIXES or (suffix in _BESIDE and file.stem in MODALITIES))


def check_file(path: Path) -> FileCheck:
    """Check one file."""
    check = FileCheck(path)
    try:
        record = _record_of(path)
        if path.suffix.lower() in _BESIDE:
            _check_beside(check, record)
        elif is_dicom(path):
            _check_dicom(check, record)
        else:
            _check_image(check, record)
    except ImportError:  # a missing extra is the machine's, not the file's
        raise
    except MedCoDiError as error:
        check.add(error.failed, BROKEN, error.fix or _AS_WRITTEN)
    return check


# ---- provenance beside a file ----------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class _Record:
    """The entry of a file in ``provenance.json`` or ``result.json``."""

    path: Path
    system: str  # "demo 0123456789ab"
    sha256: str  # of the file as it was written; "" where it is not known

    def matches(self, file: Path) -> bool:
        return self.sha256 == atomic.sha256_file(file)


def _record_of(path: Path) -> _Record | None:
    """The nearest record: beside a file, or, of one of several samples, above it."""
    for record in (path.parent / RESULT, path.parent / PROVENANCE, path.parent.parent / PROVENANCE):
        if not record.is_file():
            continue
        where, expected = str(record), f"{record.name} as MedCoDi writes it"
        content = parse_json(record.read_bytes(), where)
        with foreign(where, expected=expected, fix="copy it again from the folder that was generated"):
            provenance = content["provenance"] if record.name == RESULT else content
            model = provenance["model"]
            system = f"{model['name']} {model['sha256'][:12]}"
            sha256 = _stored_sha256(content, record, path)
        if sha256 is not None:
            return _Record(path=record, system=system, sha256=sha256)
    return None


def _stored_sha256(content: Mapping[str, Any], record: Path, path: Path) -> str | None:
    """The hash of a file in a record; "" where the record has none at all (version 0.1), None where it is of other files."""
    if "files" not in content:
        return ""
    files = content["files"]
    if record.name == RESULT:
        return next((entry["sha256"] for entry in files.values() if entry["file"] == path.name), None)
    return files.get(path.relative_to(record.parent).as_posix())


def _check_beside(check: FileCheck, record: _Record | None) -> None:
    """A file that has no place for a mark: the record beside it is the mark."""
    if record is None:
        check.add(
            f"nothing says that it is generated: there is no {PROVENANCE} or {RESULT} beside it",
            UNMARKED,
            "keep it in the folder that was generated",
        )
        return
    check.add(f"{record.path.name}: generated by MedCoDi model {record.system}")
    _check_hash(check, record)


def _check_hash(check: FileCheck, record: _Record) -> None:
    if not record.sha256:
        check.add(f"{record.path.name} has no hash of it: a change is not seen", INCOMPLETE, "generate it again")
    elif not record.matches(check.path):
        check.add(f"changed: {record.path.name} has another hash of it", CHANGED, _AS_WRITTEN)


# ---- films -----------------------------------------------------------------------------------------------------------
def _check_image(check: FileCheck, record: _Record | None) -> None:
    image = read_image(check.path, allow_constant=True)  # refuses what is no image, or broken
    with Image.open(check.path) as picture:
        info, levels = dict(picture.info), grey_levels(picture)
    packet = info.get(PNG_KEYWORD) or info.get("xmp")
    mark = read_mark(packet, str(check.path)) if packet else Mark()
    has_watermark = _check_watermark(check, image, mark)
    if mark == Mark():
        _check_without_packet(check, str(info.get(ORIGIN, "")), has_watermark, record)
    elif not mark.is_ours:
        check.add(
            f"marked by another system{f', {mark.system}' if mark.system else ''}: {_words(mark.source_type)}",
            FOREIGN,
            "ask that system how to verify it",
        )
    else:
        _check_packet(check, mark, levels)
    if record is not None and mark.is_ours and record.sha256 and not record.matches(check.path):
        check.add(f"saved again: {record.path.name} has another hash of the file")
    _check_credentials(check)


def _check_packet(check: FileCheck, mark: Mark, levels: np.ndarray) -> None:
    made = ", ".join(filter(None, (mark.direction, f"seed {mark.seed}" if mark.seed else "")))
    check.add(f"XMP: {_words(mark.source_type)}, {mark.system} {mark.version[:12]}{f', {made}' if made else ''}")
    missing = {"source type": mark.source_type, "model": mark.system, "model's hash": mark.version}
    for name in [name for name, value in missing.items() if not value]:
        check.add(f"missing in its XMP: the {name}", INCOMPLETE, _AS_WRITTEN)
    if mark.source_type and mark.source_type not in (GENERATED, EDITED):
        check.add(f"changed: its source type is {mark.source_type}", CHANGED, _AS_WRITTEN)
    if not mark.pixels_sha256:
        check.add("missing in its XMP: the hash of its pixels, so that a change is not seen", INCOMPLETE, _AS_WRITTEN)
    elif pixels_sha256(levels) != mark.pixels_sha256:
        check.add("changed: its pixels are not those that the mark was written for", CHANGED, _AS_WRITTEN)


def _check_without_packet(check: FileCheck, origin: str, has_watermark: bool, record: _Record | None) -> None:
    """A film whose metadata say nothing, or were removed: what is left of its marks."""
    left = [
        *(["the watermark"] if has_watermark else []),
        *(["a text chunk, as of version 0.1"] if origin == "synthetic" else []),
        *([f"{record.path.name} beside it"] if record is not None else []),
    ]
    if left:
        check.add(f"missing: its metadata; {' and '.join(left)} say that it is generated", INCOMPLETE, _AS_WRITTEN)
    else:
        of = f", and it calls itself a {origin}" if origin else ""
        check.add(
            f"nothing in it says that it is generated{of}", UNMARKED, f"metadata may have been removed: {_AS_WRITTEN}"
        )
    if record is not None:
        _check_hash(check, record)


def _check_watermark(check: FileCheck, image: np.ndarray, mark: Mark) -> bool:
    detection = detect(image)
    if detection.is_marked:
        check.add(f"watermark: there (p = {detection.p_value:.0e})")
    elif mark.watermark:
        check.add(f"watermark: not found (p = {detection.p_value:.2g}), though the XMP says that there is one")
    return detection.is_marked


def _words(source_type: str) -> str:
    known = {GENERATED: "generated by a trained model", EDITED: "edited by a trained model", "": "no source type"}
    return known.get(source_type, source_type.rpartition("/")[2])


def _check_dicom(check: FileCheck, record: _Record | None) -> None:
    """DICOM has tags of its own for all of it but the hash of the pixels."""
    from pydicom import dcmread

    tags = dcmread(check.path, force=True, stop_before_pixels=True)
    is_image, is_ours = "Rows" in tags, str(tags.get("Manufacturer", "")) == "MedCoDi"
    is_synthetic = str(tags.get("SyntheticData", "")).upper() == "YES"
    has_watermark = is_image and _check_watermark(check, read_dicom(check.path).image, Mark())
    if not is_ours:
        if is_synthetic:
            check.add("DICOM: Synthetic Data YES, by another system", FOREIGN, "ask that system how to verify it")
        else:
            _check_without_packet(check, "", has_watermark, record)
        return
    made_by = f"made by MedCoDi model {tags.get('ManufacturerModelName', '')}"  # as of a report, which is not derived
    check.add(f"DICOM: {tags.get('DerivationDescription') or made_by}")
    expected = {"SyntheticData": "YES", **(_IMAGE_TAGS if is_image else {})}
    for keyword in [name for name, value in expected.items() if value not in str(tags.get(name, ""))]:
        check.add(f"missing in its tags: {keyword}", INCOMPLETE, _AS_WRITTEN)
    if record is not None:
        _check_hash(check, record)
    else:
        check.add(f"without {PROVENANCE} beside it, a change of its content is not seen")


def films_to_sign(path: str | Path) -> list[tuple[Path, Mark]]:
    """The PNG files at a path with their marks, to be signed.

    Raises:
        DataError: If there is none, or one is not marked, or was changed.
    """
    films = [file for file in content_files(Path(path)) if file.suffix.lower() == ".png"]
    if not films:
        raise DataError(f"no PNG at {path}", expected="generated films", fix="medcodi generate --format png")
    result = []
    for film in films:
        check = check_file(film)
        if check.outcome != MARKED:
            raise DataError(f"{film} is not signed: {check.facts[-1]}", expected="a film as generated", fix=check.fix)
        with Image.open(film) as picture:
            result.append((film, read_mark(picture.info[PNG_KEYWORD], str(film))))
    return result


def _check_credentials(check: FileCheck) -> None:
    manifest = credentials.read(check.path)
    if manifest is not None:
        fine = manifest.state in ("Valid", "Trusted")
        check.add(f"C2PA: {manifest.description}", MARKED if fine or not manifest.state else CHANGED, _AS_WRITTEN)
