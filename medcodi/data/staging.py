"""Where a dataset is made: a hidden folder beside its place, which a second run with the same settings goes on from."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medcodi.data.shards import Shard, WrittenShard
from medcodi.errors import DataError, MedCoDiError


class Interrupted(DataError):  # noqa: N818 -- not the data's fault: what is finished stays
    """Preparation stopped for a cause outside the data; run again, it goes on."""


class Staging:
    """Shards finished so far, of one plan."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset = folder / "dataset"
        self._notes = folder / "shards"

    def begin(self, key: str, *, resume: bool) -> str:
        """Keep what there is of this plan; drop what there is of another, or everything unless ``resume``.

        Returns:
            What to tell the user, or "".
        """
        plan = self.folder / "plan.json"
        try:
            known = json.loads(plan.read_text(encoding="utf-8"))["key"]
        except (OSError, ValueError, KeyError, TypeError):
            known = None
        told = ""
        if known != key or not resume:
            if known is not None:
                told = f"what an earlier run left in {self.folder} is dropped: " + (
                    "its settings, its source or its version were others" if known != key else "resume=false"
                )
            for part in (self.dataset, self._notes):
                shutil.rmtree(part, ignore_errors=True)
            plan.write_text(json.dumps({"key": key}), encoding="utf-8")
        self.dataset.mkdir(exist_ok=True)
        self._notes.mkdir(exist_ok=True)
        return told

    def finished(self, shards: Sequence[Shard]) -> dict[str, WrittenShard]:
        """Name -> what was written, of the shards that are whole."""
        found = {}
        for shard in shards:
            try:
                written = WrittenShard.from_json((self._notes / f"{shard.name}.json").read_text(encoding="utf-8"))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if written.is_whole(self.dataset):
                found[shard.name] = written
        return found

    def keep(self, shard: Shard, written: WrittenShard) -> None:
        """Note that a shard is finished."""
        note = self._notes / f"{shard.name}.json"
        temporary = note.with_suffix(".tmp")
        temporary.write_text(written.to_json(), encoding="utf-8")
        temporary.replace(note)

    def publish(self, out: Path) -> None:
        """Put the finished dataset in its place, instead of what is there."""
        for stray in self.dataset.glob("*/.*"):  # a killed worker's
            stray.unlink()
        old = self.folder / "replaced"
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        self.dataset.rename(out)


@contextmanager
def staging_for(out: Path) -> Iterator[Staging]:
    """The staging folder of ``out``, locked; removed at the end, unless the run was killed or :class:`Interrupted`.

    Raises:
        DataError: If the folder cannot be made, or another process prepares the same dataset.
    """
    folder = out.parent / f".{out.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(f"{out} cannot be made: {error.strerror}", fix="choose a folder that can be written") from None
    with lock:
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # let go by the system when the process ends, killed or not
        except BlockingIOError:
            raise DataError(
                f"{out} is being prepared by another process", fix="wait for it, or choose another --out"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield Staging(folder)
        except Interrupted:
            raise
        except MedCoDiError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
