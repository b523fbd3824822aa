"""The folder of a synthesis: whole studies only, what they were made with, and the table of results."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcodi.errors import DataError
from medcodi.generation.bulk.manifest import RESULT_COLUMNS, BadRow
from medcodi.generation.bulk.plan import Item

IDENTITY, RESULT = "run.json", "result.json"
RESULTS, FAILED = "results.csv", "failed.csv"


class SynthesisFolder:
    """What lies in ``out``.

    ``run.json`` (what every part of the run has in common), ``studies/00000/<study>/`` (files and ``result.json``; it
    appears in one piece when it is finished), ``failures/`` (the rows each rank could not carry out), ``results.csv`` and
    ``failed.csv`` (written at the end, in the order of the manifest). Ranks share nothing else.
    """

    def __init__(self, out: Path, shard_size: int) -> None:
        self.out, self.shard_size = out, shard_size

    def open(self, identity: Mapping[str, Any]) -> None:
        """Begin, or go on with what was begun with the same identity.

        Raises:
            DataError: If the folder holds something else, a run of another identity, or cannot be written.
        """
        mark = self.out / IDENTITY
        try:
            # Hidden files may be those of a rank that starts beside this one.
            strange = [path for path in self.out.glob("[!.]*")] if self.out.is_dir() and not mark.is_file() else []
            if strange and not mark.is_file():
                raise DataError(
                    f"{self.out} is not empty, and holds no synthesis",
                    expected="a new or empty folder, or one to go on with",
                    fix="choose another --out",
                )
            self.out.mkdir(parents=True, exist_ok=True)
            new = self._written(json.dumps(identity, indent=2) + "\n")
            try:
                os.link(new, mark)
                new.unlink()
            except FileExistsError:  # another rank, or the run before
                new.unlink()
            except OSError:  # no links on this file system
                new.unlink() if mark.is_file() else new.replace(mark)
            before = json.loads(mark.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{self.out} cannot be written: {error.strerror}", fix="choose a folder that can be written"
            ) from None
        except json.JSONDecodeError:
            raise DataError(f"{mark} cannot be read", fix="choose another --out") from None
        changed = _differences(before, json.loads(json.dumps(identity)))
        if changed:
            raise DataError(
                f"{self.out} was begun with other settings: " + "; ".join(changed),
                expected="the same manifest, model and settings when a run is taken up again",
                fix="give the earlier ones, or choose another --out",
            )

    def place(self, item: Item) -> Path:
        """The folder of a study."""
        return self.out / "studies" / f"{item.index // self.shard_size:05d}" / item.study_id

    def has(self, item: Item) -> bool:
        """Whether a study is finished: a folder appears in one piece, so being there is being whole."""
        return (self.place(item) / RESULT).is_file()

    def write(
        self,
        item: Item,
        write_files: Callable[[Path], Mapping[str, Path]],
        told: Mapping[str, Any],
        texts: Mapping[str, str],
    ) -> None:
        """Write a study, whole or not at all.

        Args:
            item: Which.
            write_files: Writes its files into a folder, and says target -> file.
            told: Its provenance.
            texts: Its generated texts, by modality; they stand in the table of results too.

        Raises:
            DataError: If the disk is full or fails; nothing half-written is left.
        """
        place = self.place(item)
        staging = None
        try:
            (self.out / ".staging").mkdir(exist_ok=True)
            staging = Path(tempfile.mkdtemp(dir=self.out / ".staging"))
            files = write_files(staging)
            result = {
                "study_id": item.study_id,
                "id": item.row.id,
                "row": item.row.number,
                "sample": item.sample,
                "seed": item.seed,
                "files": {name: {"file": file.name, "sha256": _file_hash(file)} for name, file in files.items()},
                "texts": dict(texts),
                "kept": dict(item.row.kept),
                "provenance": told,
            }
            (staging / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            staging.chmod(0o755)
            place.parent.mkdir(parents=True, exist_ok=True)
            staging.rename(place)
        except OSError as error:
            if self.has(item):  # another process of the same rank was faster
                return
            raise DataError(
                f"{place} cannot be written: {error.strerror}",
                fix="make room, then run the same command again: it goes on where it stopped",
            ) from None
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)

    def write_failures(self, rank: int, world: int, failures: Iterable[BadRow]) -> None:
        """Leave word of the rows that this rank could not carry out."""
        listed = [{"number": bad.number, "id": bad.id, "message": bad.message} for bad in failures]
        (self.out / "failures").mkdir(exist_ok=True)
        file = self.out / "failures" / f"rank-{rank:05d}-of-{world:05d}.json"
        self._written(json.dumps(listed, indent=1) + "\n").replace(file)

    def failures(self) -> list[BadRow]:
        """The rows that ranks left word of, this run's and earlier ones'."""
        found = {}
        for file in sorted((self.out / "failures").glob("rank-*.json")):
            for one in json.loads(file.read_text(encoding="utf-8")):
                found[one["number"]] = BadRow(**one)
        return [found[number] for number in sorted(found)]

    def collect(self, items: Sequence[Item], bad: Sequence[BadRow], *, partly: bool = False) -> tuple[int, int, int]:
        """Write ``results.csv`` and ``failed.csv`` once everything is accounted for: made, or known not to be possible.

        Args:
            items: Everything that was asked for, in the order of the manifest.
            bad: Rows of the manifest that could not be read.
            partly: Write them from what is there, even if studies are still to be made.

        Returns:
            Numbers of studies there, of rows failed, and of studies still to be made.
        """
        while True:
            done = [item for item in items if self.has(item)]
            there = set(done)
            missing = [item for item in items if item not in there]
            wanting = {item.row.number for item in missing}
            failed = {one.number: one for one in self.failures() if one.number in wanting}
            failed.update({one.number: one for one in bad})
            pending = sum(item.row.number not in failed for item in missing)
            if pending and not partly:
                break
            self._tables(done, [failed[number] for number in sorted(failed)], items[0].row.kept if items else ())
            # A rank that fixed a row which had failed before may have written its table meanwhile: ours is older then.
            if pending or not any(self.has(item) for item in missing):
                break
        if not pending:  # nobody is writing any more; what lies here was being written when a run was killed
            shutil.rmtree(self.out / ".staging", ignore_errors=True)
        return len(done), len(failed), pending

    def _tables(self, done: Sequence[Item], failed: Sequence[BadRow], kept: Iterable[str]) -> None:
        self._table(RESULTS, [*RESULT_COLUMNS, *kept], (self._result(item) for item in done))
        if failed:
            rows = ({"row": one.number, "id": one.id, "reason": one.message} for one in failed)
            self._table(FAILED, ["row", "id", "reason"], rows)
        else:
            (self.out / FAILED).unlink(missing_ok=True)

    def _result(self, item: Item) -> dict[str, Any]:
        place = self.place(item)
        told = json.loads((place / RESULT).read_text(encoding="utf-8"))
        made = told["provenance"]
        row = {
            **{key: told[key] for key in ("study_id", "id", "row", "sample", "seed")},
            "direction": made["direction"],
            "model": made["model"]["name"],
            "model_sha256": made["model"]["sha256"],
            "settings": json.dumps(made["settings"]),
            **told["kept"],
        }
        for name, file in told["files"].items():
            row[name] = (place / file["file"]).relative_to(self.out).as_posix()
            row[f"{name}_sha256"] = file["sha256"]
        row.update({f"{name}_text": text for name, text in told["texts"].items()})
        row.update({f"{name}_prompt_sha256": prompt["sha256"] for name, prompt in made["prompts"].items()})
        return row

    def _table(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._written(text.getvalue()).replace(self.out / name)

    def _written(self, text: str) -> Path:
        """A hidden file with that text, to be renamed into its place.

        Raises:
            DataError: If it cannot be written; nothing is left of it.
        """
        path = None
        try:
            handle, name = tempfile.mkstemp(prefix=".", dir=self.out)
            path = Path(name)
            with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
                file.write(text)
            path.chmod(0o644)
        except OSError as error:
            if path is not None:
                path.unlink(missing_ok=True)
            raise DataError(
                f"{self.out} cannot be written: {error.strerror}", fix="make room, then run the same command again"
            ) from None
        return path


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Every value that changed, by its dotted name."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [one for key in keys for one in _differences(before.get(key), now.get(key), f"{name}.{key}".strip("."))]
    return [] if before == now else [f"{name} was {before!r}, is {now!r}"]


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
