"""Rules that need no key: names, times, sizes, order and metadata of the files that readers get, as the exporter writes them."""

from __future__ import annotations

import io
import json
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medcodi.errors import DataError
from medcodi.turing.bundle.files import (
    FIXED_DATE,
    PAYLOADS,
    READER_STUDY,
    ReaderBundle,
    ReaderFolder,
    viewer_files,
)
from medcodi.turing.bundle.payloads import Payload, read_payload
from medcodi.turing.bundle.trials import ID_DIGITS
from medcodi.turing.lint.features import PayloadFeatures

_ID = re.compile(rf"[0-9a-f]{{{ID_DIGITS}}}")
_FIELDS = {"image": ["kind", "width", "height", "bits"], "text": ["kind"]}
_PLAIN_CHUNKS = {"IHDR", "PLTE", "IDAT", "IEND"}
_PNG_END = b"IEND\xaeB`\x82"
_TRIAL_FIELDS = {"position", "trial", "task", "practice", "panels"}
_PANEL_FIELDS = {"slot", "title", "kind", "payload"}


@dataclass(frozen=True)
class Leak:
    """Something that discloses the arms, or could."""

    probe: str  # kind of leak
    detail: str  # what was found, and where
    fix: str = "export again; let nothing else write into the folder"


Files = dict[tuple[str, str], tuple[int, float]]  # (reader, payload id) -> size in bytes, time


def check_files(
    bundle: ReaderBundle, features: PayloadFeatures, on_step: Callable[[int, int], None] | None = None
) -> tuple[list[Leak], Files]:
    """Check every file of every reader, and measure each payload on the way, so that each is read once.

    ``on_step`` is called with (payloads read, total).
    """
    leaks: list[Leak] = []
    files: Files = {}
    total = sum(len(reader.payload_files()) for reader in bundle.readers)

    def measure(reader: str, payload: Payload) -> None:
        features.add(reader, payload)
        if on_step:
            on_step(len(features.encoding), total)

    for reader in bundle.readers:
        leaks += _unexpected_files(reader)
        leaks += _names(reader)
        leaks += _times(reader)
        leaks += _order(reader)
        leaks += _payloads(reader, files, measure)
        if reader.archive is not None:
            leaks += _archive(reader, reader.archive)
    return leaks + list(_between_readers(bundle)), files


# ---- files and names -------------------------------------------------------------------------------------------------
def _unexpected_files(reader: ReaderFolder) -> Iterator[Leak]:
    expected = {READER_STUDY, *viewer_files()}
    for path in reader.files():
        name = path.relative_to(reader.path).as_posix()
        if name in expected or (path.parent.name == PAYLOADS and path.suffix == ".js"):
            continue
        for probe, what in embedded_metadata(path.read_bytes()):
            yield Leak(probe, f"{reader.name}/{name} holds {what}")
        yield Leak("unexpected file", f"{reader.name}/{name} was not written by the exporter", "remove it")


def embedded_metadata(data: bytes) -> Iterator[tuple[str, str]]:
    """EXIF, PNG chunks and DICOM headers of bytes that are an image file: (probe, what)."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        names = list(_png_chunks(data))
        for name in names:
            if name not in _PLAIN_CHUNKS:
                yield ("exif" if name == "eXIf" else "png chunk"), f"a PNG chunk {name}"
        if "IEND" in names[:-1] or not data.endswith(_PNG_END):
            yield "png chunk", "bytes after the end of a PNG"
    if data[128:132] == b"DICM":
        yield "metadata", "a DICOM header"
    if data[:2] == b"\xff\xd8" or data[:4] in (b"II*\x00", b"MM\x00*") or data[:8] == b"\x89PNG\r\n\x1a\n":
        try:
            with Image.open(io.BytesIO(data)) as picture:
                exif = picture.getexif()
        except (OSError, SyntaxError, ValueError):
            return
        if exif:
            yield "exif", f"EXIF with {len(exif)} entries ({', '.join(str(tag) for tag in list(exif)[:3])} ...)"


def _png_chunks(data: bytes) -> Iterator[str]:
    offset = 8  # after the signature
    while offset + 8 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        yield data[offset + 4 : offset + 8].decode("latin-1")
        offset += 12 + length  # length, type and checksum take 12 bytes


def _names(reader: ReaderFolder) -> Iterator[Leak]:
    # Ids are random.
    shown = set(reader.payload_ids())
    wrong = [path.name for path in reader.payload_files() if not _ID.fullmatch(path.stem)]
    if wrong:
        yield Leak("name", f"{reader.name}: {len(wrong)} payloads are not named by a random id, such as {wrong[0]}")
    odd = [trial["trial"] for trial in reader.study["trials"] if not _ID.fullmatch(str(trial.get("trial")))]
    if odd:
        yield Leak("name", f"{reader.name}: {len(odd)} trials are not named by a random id, such as {odd[0]}")
    # Payloads are shown, and there.
    files = {path.stem for path in reader.payload_files()}
    if shown - files:
        yield Leak(
            "missing file", f"{reader.name}: {len(shown - files)} payloads are missing, such as {min(shown - files)}.js"
        )
    if files - shown:
        yield Leak(
            "unexpected file",
            f"{reader.name}: {len(files - shown)} payloads are never shown, such as {min(files - shown)}.js",
        )


def _times(reader: ReaderFolder) -> Iterator[Leak]:
    times = {path.stat().st_mtime for path in reader.files()}
    if len(times) > 1:
        yield Leak(
            "mtime",
            f"{reader.name}: its files have {len(times)} different times",
            "hand out the zip, or copy with times kept (cp -a)",
        )
    modes = {stat.S_IMODE(path.stat().st_mode) for path in reader.payload_files()}
    if len(modes) > 1:
        yield Leak("metadata", f"{reader.name}: its payloads have {len(modes)} different permissions")


def _order(reader: ReaderFolder) -> Iterator[Leak]:
    positions = [trial.get("position") for trial in reader.study["trials"]]
    if positions != list(range(len(positions))):
        yield Leak("order", f"{reader.name}: the trials' positions are not 0 to {len(positions) - 1} in a row")
    panels = [panel for trial in reader.study["trials"] for panel in trial["panels"]]
    for what, entries, fields in (("trials", reader.study["trials"], _TRIAL_FIELDS), ("panels", panels, _PANEL_FIELDS)):
        odd = next((set(entry) ^ fields for entry in entries if set(entry) != fields), None)
        if odd:
            yield Leak(
                "metadata", f"{reader.name}: study.js has {what} with {', '.join(sorted(odd))} unexpected or missing"
            )


# ---- payloads --------------------------------------------------------------------------------------------------------
def _payloads(reader: ReaderFolder, files: Files, measure: Callable[[str, Payload], None]) -> Iterator[Leak]:
    sizes: dict[str, Counter[int]] = {}  # kind -> file sizes
    sides: set[tuple[int, int]] = set()  # width and height of the images
    narrow = 0  # images that do not use the whole grey range
    for path in reader.payload_files():
        info = path.stat()
        files[reader.name, path.stem] = info.st_size, info.st_mtime
        try:
            payload = read_payload(path)
            kind = str(payload.fields.get("kind"))
            image = payload.image if kind == "image" else None
        except DataError as error:
            yield Leak("payload", f"{reader.name}/{path.name}: {error.failed}")
            continue
        sizes.setdefault(kind, Counter())[info.st_size] += 1
        yield from _payload_metadata(reader.name, path, payload)
        if image is not None:
            sides.add((image.shape[1], image.shape[0]))
            narrow += int(image.min() != 0 or image.max() != 65535)
        measure(reader.name, payload)
    # All images are alike, and all texts.
    for kind, counts in sizes.items():
        if len(counts) > 1:
            yield Leak(
                "payload size",
                f"{reader.name}: {kind}s have {len(counts)} different sizes, {min(counts):,} to {max(counts):,} bytes",
            )
    if len(sides) > 1:
        yield Leak("resolution", f"{reader.name}: images of " + ", ".join(f"{w}x{h}" for w, h in sorted(sides)))
    if narrow:
        yield Leak("grey offset", f"{reader.name}: {narrow} images do not reach from 0 to 65535")


def _payload_metadata(reader: str, path: Path, payload: Payload) -> Iterator[Leak]:
    if payload.pid != path.stem:
        yield Leak("name", f"{reader}/{path.name} names itself {payload.pid}")
    expected = _FIELDS.get(str(payload.fields.get("kind")), [])
    for name, value in payload.fields.items():
        if name not in expected:
            probe = "exif" if "exif" in name.lower() else "metadata"
            yield Leak(probe, f"{reader}/{path.name} carries {name} = {json.dumps(value)[:60]}")
    if list(payload.fields)[: len(expected)] != expected:
        yield Leak(
            "metadata", f"{reader}/{path.name}: fields {', '.join(payload.fields)} are not {', '.join(expected)}"
        )
    for probe, what in embedded_metadata(payload.data):
        yield Leak(probe, f"{reader}/{path.name} holds {what}")


# ---- archives and readers ----------------------------------------------------------------------------------------------
def _archive(reader: ReaderFolder, archive: Path) -> Iterator[Leak]:
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        if opened.comment or any(entry.comment or entry.extra for entry in entries):
            yield Leak("metadata", f"{archive.name}: comments or extra fields")
    names = [entry.filename for entry in entries]
    if names != sorted(names):
        yield Leak("order", f"{archive.name}: its entries are not in the order of their names")
    if any(entry.date_time != FIXED_DATE for entry in entries):
        yield Leak(
            "mtime",
            f"{archive.name}: {sum(entry.date_time != FIXED_DATE for entry in entries)} entries with another time",
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        yield Leak(
            "payload size",
            f"{archive.name}: compressed entries, whose sizes differ",
            "export again: entries are not compressed",
        )
    contents = {
        f"{reader.name}/{path.relative_to(reader.path).as_posix()}": path.stat().st_size for path in reader.files()
    }
    if {entry.filename: entry.file_size for entry in entries} != contents:
        yield Leak("archive", f"{archive.name} does not match the folder {reader.name}")


def _between_readers(bundle: ReaderBundle) -> Iterator[Leak]:
    # Ids of one reader tell nothing about another's.
    ids = [
        random_id
        for reader in bundle.readers
        for random_id in {*reader.payload_ids(), *(str(trial["trial"]) for trial in reader.study["trials"])}
    ]
    shared = len(ids) - len(set(ids))
    if shared:
        yield Leak("name", f"{shared} ids are shared by several readers, who could compare them")
    # Every reader has the same viewer.
    viewers: dict[str, set[bytes]] = {}
    for reader in bundle.readers:
        for name in viewer_files():
            path = reader.path / name
            if path.is_file():
                viewers.setdefault(name, set()).add(path.read_bytes())
    for name, contents in viewers.items():
        if len(contents) > 1:
            yield Leak("unexpected file", f"{name} differs between readers")
