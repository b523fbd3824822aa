"""One durable, resumable, verified work folder for every job that runs for hours and may be killed.

A job cuts its work into *shards*. A shard is written whole or not at all, and a *record* beside its files, written last, vouches for
them by size and SHA-256. An *index* holds the job's identity: everything that its bytes depend on. A second run of the same
identity skips the shards that are there; a run of another identity, or into a folder of other files, is refused: what is not
proved to be the job's own is never deleted. A kind without an index is locked and swept of its own names only, and checks itself
whose folder it is. The on-disk names are those of a :class:`JobKind`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcodi.distributed import ALONE, Ranks
from medcodi.errors import MedCoDiError
from medcodi.storage import atomic
from medcodi.storage.locks import LockedError, locked
from medcodi.storage.names import stays_inside

LOCK = ".lock"
CONTENT = "content"


@dataclass(frozen=True, kw_only=True)
class JobKind:
    """Names of one kind of job: in its folder, and in its refusals."""

    name: str  # for refusals: ``"a synthesis"``
    index_file: str = "job.json"  # file with the identity; "": the job checks its identity itself
    identity_key: str = "identity"  # key of the identity within the index; "": the index is the identity
    # further values of the index, such as its format; one that differs makes the folder another's
    index_header: Mapping[str, Any] = field(default_factory=dict)
    # the record of a shard. A shard whose record is ``{shard}/…`` is a folder, and appears in one piece.
    record_file: str = "shards/{shard}.json"
    # a shard's only file, where old records hold that file's ``bytes`` and ``sha256`` themselves
    old_shard_file: str = ""
    # patterns of everything that the job writes in its folder: a restart removes these, and rewrites the index last. Without an
    # index, only their partial files are swept
    own_patterns: tuple[str, ...] = ()
    # name of a folder beside the target, wholly the job's own, whose ``content`` becomes the target when the job ends:
    # ``".{target}.partial"``; "": the job works in the folder that it was given
    staging_name: str = ""
    exclusive: bool = True  # one process (or group of ranks) at a time; otherwise only the opening is locked
    upgrade: Callable[[Any], Any] | None = None  # identity as an older version wrote it -> as of today
    error: type[MedCoDiError] = MedCoDiError  # class of the refusals
    fix: str = "choose another folder"  # what the user does about a folder that cannot be used
    resume: str = "run it again: it resumes"  # what the user does once a full disk has room


class JobFolder:
    """The folder of one job."""

    def __init__(self, root: Path, kind: JobKind, identity: Any = None, ranks: Ranks = ALONE) -> None:
        self.root, self.kind, self.ranks = root, kind, ranks
        self.identity = json.loads(json.dumps(identity))  # everything that the job's bytes depend on, as JSON holds it
        self.content = root / CONTENT if kind.staging_name else root  # where the shards' files are
        self.target = root  # what a staged job makes
        self._refusal = atomic.Refusal(error=kind.error, then=kind.resume)

    @classmethod
    def beside(cls, target: Path, kind: JobKind, identity: Any) -> JobFolder:
        """The folder in which a staged job makes ``target``."""
        job = cls(target.with_name(kind.staging_name.format(target=target.name)), kind, identity)
        job.target = target
        return job

    @classmethod
    def sweep_published(cls, target: Path, kind: JobKind) -> None:
        """Remove what a process that was killed within :meth:`publish` left beside a target that is there."""
        job = cls.beside(target, kind, {})
        if target.exists() and job.root.is_dir() and not job.content.exists():
            # A job that runs, or a folder of somebody else, is refused and stays.
            with suppress(MedCoDiError), job.opened(restart=True):
                job.clear()

    # ---- opening -----------------------------------------------------------------------------------------------------
    @contextmanager
    def opened(self, *, restart: bool = False) -> Iterator[list[str]]:
        """Begin the job, or resume it, under the lock of the first rank. Every rank calls this.

        With ``restart``, the shards of another identity are removed, and the differences are yielded: ``"key was a, is b"`` for each.

        Raises:
            MedCoDiError: On every rank: another process works here, the folder holds something else, or a job of another
                identity, or cannot be written. A folder that is refused stays as it was.
        """
        fresh = not self.root.exists()
        with ExitStack() as stack:
            try:
                yield self.ranks.by_first(lambda: self._open(stack, restart))
            finally:
                stack.close()
                if self.ranks.is_first and (fresh or self.kind.staging_name):
                    with suppress(OSError):
                        self.root.rmdir()  # nothing was written, or all of it is published

    def _open(self, stack: ExitStack, restart: bool) -> list[str]:
        self.read_index()  # refuses before the lock is made
        with atomic.refusing(self.root, **self._refusal):
            try:
                stack.enter_context(locked(self.root / LOCK, wait=not self.kind.exclusive))
            except LockedError as holder:
                raise self.kind.error(
                    f"{self.root} is in use by another process" + (f": {holder}" if str(holder) else ""),
                    expected="one run in a folder",
                    fix=f"wait for it, or {self.kind.fix}",
                ) from None
            changed = self._begin(restart)
        if not self.kind.exclusive:
            stack.close()
        return changed

    def _begin(self, restart: bool) -> list[str]:
        """Check the index, or write it; remove what killed processes left half written."""
        # Compare identities.
        index, changed = self.read_index(), []
        if restart and index is not None and (changed := differences(self._identity_in(index), self.identity)):
            self.clear_shards()
        else:
            self.check()
        if self.kind.index_file and (index is None or changed):
            self.write_index()
        # Undo what a kill left half done.
        if self.kind.exclusive:
            self.sweep()
        if self.kind.staging_name:
            atomic.recover(self.target)
        return changed

    def check(self) -> None:
        """Refuse a folder of another job; names what differs, dotted: ``"optimizer.lr was 0.1, is 0.2"``."""
        index = self.read_index()
        if index is not None and (changed := differences(self._identity_in(index), self.identity)):
            raise self.kind.error(
                f"{self.root} holds {self.kind.name} with other settings: {'; '.join(changed[:5])}",
                expected="the same inputs and settings when a job is resumed",
                fix=f"undo the change, or {self.kind.fix}",
            )

    def read_index(self) -> dict[str, Any] | None:
        """The index; None where the folder is absent or holds only hidden files; refused where it holds something else."""
        if not self.kind.index_file:
            return None
        path = self.root / self.kind.index_file
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if not self.root.is_dir() or all(file.name.startswith(".") for file in self.root.iterdir()):
                return None
            index = None
        except (ValueError, RecursionError):
            index = None
        except OSError as error:
            raise self.kind.error(f"{path} cannot be read: {error.strerror}", fix=self.kind.fix) from error
        if not isinstance(index, dict) or any(index.get(key) != value for key, value in self.kind.index_header.items()):
            raise self.kind.error(
                f"{self.root} is not empty, and does not hold {self.kind.name}",
                expected=f"a new or empty folder, or one with a readable {self.kind.index_file}",
                fix=self.kind.fix,
            )
        return index

    def _identity_in(self, index: Mapping[str, Any]) -> Any:
        identity = index.get(self.kind.identity_key) if self.kind.identity_key else index
        return identity if self.kind.upgrade is None else self.kind.upgrade(identity)

    def write_index(self, **more: Any) -> None:
        """Write the identity, and further values, into the index."""
        identity = {self.kind.identity_key: self.identity} if self.kind.identity_key else self.identity
        self.write_json(self.root / self.kind.index_file, {**self.kind.index_header, **identity, **more})

    # ---- shards ------------------------------------------------------------------------------------------------------
    def record_path(self, shard: str) -> Path:
        """The record of a shard."""
        return self.root / self.kind.record_file.format(shard=shard)

    def record(self, shard: str) -> dict[str, Any] | None:
        """The record of a shard whose files are there in their sizes; else None."""
        try:
            record = json.loads(self.record_path(shard).read_text(encoding="utf-8"))
            files = self._files(shard, record)
            whole = all(path.stat().st_size == row.get("bytes", path.stat().st_size) for path, row in files.items())
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return None
        return record if whole else None

    def _files(self, shard: str, record: Mapping[str, Any]) -> dict[Path, Mapping[str, Any]]:
        """File -> what the record says of it."""
        folder = self.record_path(shard).parent if self.kind.record_file.startswith("{shard}/") else self.content
        if "files" not in record and self.kind.old_shard_file:
            return {folder / self.kind.old_shard_file.format(shard=shard): record}
        paths = {row.get("file", name): row for name, row in record["files"].items()}
        if not all(map(stays_inside, (part for path in paths for part in path.split("/")))):
            raise self.kind.error(f"{self.record_path(shard)} names files outside of its folder", fix=self.kind.fix)
        return {folder / path: row for path, row in paths.items()}

    def todo(self, shards: Iterable[str]) -> list[str]:
        """The shards that are not whole yet."""
        return [shard for shard in shards if self.record(shard) is None]

    def verify(self, shards: Iterable[str]) -> list[str]:
        """The shards that are missing, cut or changed, by the SHA-256 of every file."""
        return [shard for shard in shards if (record := self.record(shard)) is None or self.damage(shard, record)]

    def damage(self, shard: str, record: Mapping[str, Any]) -> str:
        """The first problem with the files of a shard; empty: none."""
        problems = ((path, damage(path, row)) for path, row in self._files(shard, record).items())
        return next((f"{path} is damaged: {problem}" for path, problem in problems if problem), "")

    def write(self, shard: str, fill: Callable[[Path], Mapping[str, Any]], *, replace: bool = False) -> None:
        """Write a shard that is a folder; without ``replace``, the one that another process finished first stays.

        ``fill`` writes its files into a folder, and returns its record: ``files`` (name -> ``sha256`` and perhaps ``bytes`` and
        ``file``) and anything else.
        """
        target = self.record_path(shard).parent
        if not replace and self.record(shard) is not None:
            return
        try:
            with atomic.filling(target, within=self.root, replace=replace, **self._refusal) as staging:
                record = fill(staging)
                self.write_json(staging / self.record_path(shard).name, record, indent=1)
        except self.kind.error:
            if replace or self.record(shard) is None:
                raise  # otherwise another process was faster

    def finish(self, shard: str, files: Mapping[str, Mapping[str, Any]], **metadata: Any) -> None:
        """Write the record of a shard whose files are there: name -> ``bytes`` and ``sha256``."""
        self.write_json(self.record_path(shard), {"files": dict(files), **metadata}, indent=None)

    def write_json(self, path: Path, value: Any, *, indent: int | None = 2) -> None:
        """Write a JSON file of the job."""
        atomic.write_json(path, value, indent=indent, **self._refusal)

    # ---- the end -----------------------------------------------------------------------------------------------------
    def publish(self, *, replace: bool = False) -> None:
        """Move the content of a staged job to its target, and remove the rest."""
        self.sweep()
        atomic.publish_folder(self.content, self.target, replace=replace, **self._refusal)
        self.clear()

    def sweep(self) -> None:
        """Remove the partial files that killed processes left; nobody may be writing."""
        below = [path for path in self.root.rglob("*") if path.is_dir()] if self.kind.staging_name else []
        names = ("*",) if self.kind.index_file else self.kind.own_patterns
        for folder in (self.root, *below):
            atomic.sweep(folder, names)

    def clear(self) -> None:
        """Remove what the job has written, and nothing else; the index last, because it proves whose folder this is."""
        if self.read_index() is not None:
            self.clear_shards()
            atomic.remove(self.root / self.kind.index_file)

    def clear_shards(self) -> None:
        """The same, but for the index: the job begins anew."""
        patterns = ("[!.]*",) if self.kind.staging_name else self.kind.own_patterns
        with atomic.refusing(self.root, **self._refusal):
            for path in [path for pattern in patterns for path in self.root.glob(pattern)]:
                if path.name != self.kind.index_file:
                    atomic.remove(path)


def damage(path: Path, row: Mapping[str, Any]) -> str:
    """How a file differs from the ``bytes`` and ``sha256`` of its row; empty: not at all."""
    try:
        size = path.stat().st_size
        if size != row.get("bytes", size):
            return f"{size:,} bytes instead of {row['bytes']:,}"
        return "" if atomic.sha256_file(path) == row["sha256"] else f"{size:,} bytes, some of them changed"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:  # a sector that the disk does not give back
        return f"it cannot be read, {error.strerror or error}"


def file_row(path: Path) -> dict[str, Any]:
    """``bytes`` and ``sha256`` of a file: what a record says of it."""
    return {"bytes": path.stat().st_size, "sha256": atomic.sha256_file(path)}


def differences(before: Any, after: Any, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, each as ``"key was a, is b"``."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after})
        pairs = ((before.get(key), after.get(key), f"{prefix}{key}.") for key in keys)
        return [text for pair in pairs for text in differences(*pair)]
    return [] if before == after else [f"{prefix.rstrip('.') or 'it'} was {before!r}, is {after!r}"]
