"""The files of a prepared dataset: located, checked, copied from a URL, unpacked where they are parquet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from medcodi.console import SafeConsole
from medcodi.errors import DataError
from medcodi.storage import atomic
from medcodi.storage.checked_json import foreign, parse_json, shown
from medcodi.storage.locks import locked
from medcodi.storage.names import plain_name

INFO_FILE = "dataset_info.json"
FORMAT = "medcodi-studies/1"
FIX = "make one with 'medcodi data prepare', and give its output folder"
CACHE_VARIABLE = "MEDCODI_CACHE"
_BLOCK = 1 << 22  # bytes copied at once


def cache_folder() -> Path:
    """Folder of copies: ``$MEDCODI_CACHE``, or ``~/.cache/medcodi``."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "medcodi")


def is_url(path: str | Path) -> bool:
    """Whether a dataset's path names another place than this machine's file system."""
    return "://" in str(path)


def info_from_text(text: str, where: str) -> dict[str, Any]:
    """A dataset's description.

    Raises:
        DataError: If it is none.
    """
    source = f"{where}/{INFO_FILE}"
    try:
        info = parse_json(text.encode("utf-8", "surrogatepass"), source)
    except DataError:
        info = {}
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise DataError(f"{where} is not a prepared dataset", expected=f"{INFO_FILE} of format {FORMAT} in it", fix=FIX)
    # A description must not name a file outside the folder; name and fingerprint name the folder of a copy.
    plain_name(str(info.get("name", "dataset")), source)
    plain_name(str(info.get("fingerprint", "none")), source)
    with foreign(source, expected="the description as 'data prepare' wrote it", fix=FIX):
        for row in (row for rows in (info.get("shards") or {}).values() for row in rows):
            for part in str(row["file"]).split("/"):
                plain_name(part, source)
            _check_sizes({key: row.get(key, 0) for key in ("rows", "bytes")})
        for group in ("split", "modality"):
            _check_sizes(info["counts"].get(group, {}))
        info["counts"]["split"]  # needed by everybody
        _check_sizes({"image_size": info["image_size"]})
    return info


def _check_sizes(sizes: Mapping[str, Any]) -> None:
    for name, size in sizes.items():
        if type(size) is not int or not 0 <= size < 2**48:
            raise ValueError(f"{name} is {shown(size)}, no number of studies, bytes or pixels")


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a prepared dataset and nothing else; errors of what is none pass through."""
    info = info_from_text((folder / INFO_FILE).read_text(encoding="utf-8"), str(folder))
    shards = info.get("shards")
    # Of the first format, which listed no shards, the splits' Arrow files.
    listed = (
        {row["file"] for rows in shards.values() for row in rows}
        if shards is not None
        else {f"{split}/{file.name}" for split in info["counts"]["split"] for file in (folder / split).glob("*.arrow")}
    )
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}
    return files <= {INFO_FILE, "ledger.csv", "ledger.json", *listed}


def remote_info(url: str) -> dict[str, Any]:
    """The description of a dataset behind a URL.

    Raises:
        DataError: If there is none, or it cannot be reached.
    """
    system, root = _system(url)
    with _reaching(f"{url}/{INFO_FILE}"):
        try:
            text = system.cat_file(f"{root}/{INFO_FILE}").decode("utf-8")
        except FileNotFoundError:
            text = ""
    return info_from_text(text, url)


def fetched(url: str, info: dict[str, Any], split: str) -> Path:
    """A folder of this machine that holds a split: behind ``file://`` the folder itself, else a checked copy.

    Raises:
        DataError: If a file cannot be reached or differs from the description.
    """
    system, root = _system(url)
    if _is_local(system):
        return Path(root)
    folder = cache_folder() / "datasets" / f"{info['name']}-{info['fingerprint'][:16]}"
    # The ledger is always copied anew; shards only where they are missing or of another size.
    wanted = [{"file": "ledger.json"}, *info.get("shards", {}).get(split, [])]
    with _lock(folder):
        missing = [row for row in wanted if not _is_there(folder / row["file"], row) or row["file"] == "ledger.json"]
        # Say what takes the time, and where the copies go.
        if len(missing) > 1:
            size = sum(row.get("bytes", 0) for row in missing)
            SafeConsole(stderr=True).print(
                f"copying {len(missing):,} files ({size / 2**20:,.1f} MiB) of {url}, split {split}, to {folder}; "
                f"{CACHE_VARIABLE} names another place"
            )
        for row in missing:
            _copy(system, f"{root}/{row['file']}", folder / row["file"], row, url)
    return folder


def arrow_files(folder: Path, split: str, info: dict[str, Any]) -> list[Path]:
    """The Arrow files of a split, in order; parquet ones are unpacked into the cache folder first.

    Raises:
        DataError: If a file is missing, has another size, or does not belong there.
    """
    # Datasets of the first format listed no shards: take what is there.
    known = info.get("shards")
    there = [file for suffix in ("arrow", "parquet") for file in sorted((folder / split).glob(f"*.{suffix}"))]
    rows = (
        {folder / row["file"]: row for row in known.get(split, [])}
        if known is not None
        else {file: {} for file in there}
    )
    wrong = next((file for file in rows if not _is_there(file, rows[file])), None)
    if wrong is not None:
        size = f"{wrong.stat().st_size:,} bytes" if wrong.is_file() else "no file"
        raise DataError(
            f"{wrong}: {size}",
            expected=f"{rows[wrong].get('bytes', 0):,} bytes, as written",
            fix="copy the whole folder again, or prepare it again",
        )
    if stray := next((file for file in there if file not in rows), None):
        raise DataError(
            f"{stray} is not a file of this dataset", expected=f"those that {INFO_FILE} names", fix="take it away"
        )
    return [file if file.suffix == ".arrow" else _unpacked(file, rows[file]) for file in rows]


def _is_there(file: Path, row: dict[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == row.get("bytes", file.stat().st_size)


def _unpacked(file: Path, row: dict[str, Any]) -> Path:
    """The Arrow form of a parquet file, made once: parquet cannot be mapped."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The same parquet file is unpacked once, whatever its path.
    key = row.get("sha256") or hashlib.sha256(f"{file.absolute()}:{file.stat().st_mtime_ns}".encode()).hexdigest()
    target = cache_folder() / "unpacked" / f"{key[:32]}.arrow"
    with _lock(target.parent):
        if not target.is_file():
            with atomic.staging_folder(target) as staging:
                partial = staging / target.name
                with (
                    pq.ParquetFile(file) as source,
                    pa.OSFile(str(partial), "wb") as sink,
                    pa.ipc.new_stream(sink, source.schema_arrow) as writer,
                ):
                    for batch in source.iter_batches(batch_size=16):
                        writer.write_batch(batch)
                partial.replace(target)
    return target


def _copy(system: Any, remote: str, target: Path, row: dict[str, Any], url: str) -> None:
    # Copy and hash in one pass: what cannot be read is the URL's fault, what cannot be written the cache folder's.
    digest = hashlib.sha256()
    with atomic.writing(target, error=DataError, then=f"run it again; {CACHE_VARIABLE} names another folder") as copy:
        for block in _blocks(system, remote, f"{url}/{row['file']}"):
            digest.update(block)
            copy.write(block)
        if row.get("sha256", digest.hexdigest()) != digest.hexdigest():
            raise DataError(
                f"{url}/{row['file']} has SHA-256 {digest.hexdigest()[:16]} ...",
                expected=f"{row['sha256'][:16]} ..., as {INFO_FILE} says",
                fix="put the dataset there again",
            )


def _blocks(system: Any, remote: str, url: str) -> Iterator[bytes]:
    with _reaching(url), system.open(remote, "rb") as source:
        while block := source.read(_BLOCK):
            yield block


def _system(url: str) -> tuple[Any, str]:
    """(fsspec file system, path in it)."""
    import fsspec

    # fsspec knows the protocol, or says which package is missing.
    protocol = url.partition("://")[0]
    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DataError(
            f"{url} cannot be opened: {error}",
            expected="the package for this protocol",
            fix=f"pip install 'fsspec[{protocol}]'",
        ) from None
    except ValueError:
        raise DataError(
            f"{url} is of the unknown protocol {protocol!r}",
            expected="a local path, or a URL that fsspec reads",
            fix="such as s3://, gs://, https://, file://",
        ) from None
    return system, root.rstrip("/")


def _is_local(system: Any) -> bool:
    protocols = system.protocol if isinstance(system.protocol, tuple | list) else (system.protocol,)
    return "file" in protocols


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn what file systems raise, each its own, into a refusal that names the URL."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{url} cannot be read ({type(error).__name__}: {error})",
            expected="a file that can be reached from here",
            fix="check the URL and your access; or copy the folder and give its path",
        ) from error


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait and then find the work done."""
    # Only what the lock itself fails at is about the cache folder, not what the body of the with does.
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", wait=True))
        except OSError as error:
            raise DataError(
                f"the cache folder {folder} cannot be written ({error.strerror})",
                fix=f"set {CACHE_VARIABLE} to one that can",
            ) from None
        yield
