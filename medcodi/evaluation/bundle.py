"""The bundle: one folder with the figures, the page, hashes of all contents, the annotations and the generated contents, with hashes.

::

    results.json   every figure; the same bytes for the same configuration, model and studies (schema in docs/EVALUATION.md)
    scored.json    every study and every content that the systems gave, by SHA-256; and which studies count
    page.html      the same for people; loads nothing
    run.json       when, how long, by how many ranks
    annotations/   what annotators found in every content (``annotations.py``); figures are computed from nothing else
    generated/     what was generated: <system>/<direction>/<shard>.npz, 8-bit images and texts
    bundle.json    SHA-256 of every file above, as far as this run scored it
    features/      (not part of it) cached annotations; may be deleted

What an earlier run generated and this one did not score stays in ``generated/``, so that it need not be generated again; ``bundle.json``
does not list it, and no figure comes from it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medcodi.distributed import ALONE, Ranks
from medcodi.errors import ConfigError, DataError
from medcodi.storage import atomic
from medcodi.storage.checked_json import parse_json
from medcodi.storage.job_folder import JobFolder, JobKind

RESULTS, SCORED, PAGE, RUN, INDEX = "results.json", "scored.json", "page.html", "run.json", "bundle.json"
MARK = ".medcodi-evaluation"  # in every folder that an evaluation may write into
KIND = JobKind(
    name="the bundle of an evaluation",
    index_file="",  # a folder is recognised by its mark, see check_out
    own_patterns=("*.json", "*.html", "*.npz", ".medcodi*"),
    error=ConfigError,
    fix="choose another --out",
)
_WORK = ".medcodi-work"
_MARK_TEXT = "made by medcodi evaluate, which may overwrite the bundle in this folder\n"
_CACHE = "features"  # filled while annotators are opened, before the mark


class Bundle:
    """A folder of results.

    Attributes:
        folder: Where it is.
        generated: Folder of generated contents.
        annotations: Folder of annotations.
        work: Folder through which ranks exchange shards; removed at the end.
    """

    def __init__(self, folder: Path, ranks: Ranks = ALONE) -> None:
        self.folder, self.ranks = folder, ranks
        self.generated, self.annotations, self.work = folder / "generated", folder / "annotations", folder / _WORK

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Lock the folder, which :func:`check_out` has accepted, and check that all ranks see the same one. Every rank calls this.

        Raises:
            ConfigError: On every rank: another process writes into the folder, or it cannot be written.
            DataError: If a rank does not see what the first one wrote.
        """
        with JobFolder(self.folder, KIND, ranks=self.ranks).opened():
            token = self.ranks.by_first(self._prepare)
            self.ranks.by_each(lambda: self._check_shared(token))
            yield
            self.ranks.barrier()
            if self.ranks.is_first:
                shutil.rmtree(self.work, ignore_errors=True)

    def _prepare(self) -> str:
        """Mark the folder, and empty the work folder; the name of a file that every rank must see."""
        atomic.write_text(self.folder / MARK, _MARK_TEXT, error=ConfigError)
        with atomic.refusing(self.work, error=ConfigError):
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir()
            token = f"token-{os.urandom(8).hex()}"
            (self.work / token).touch()
        return token

    def _check_shared(self, token: str) -> None:
        if not (self.work / token).is_file():
            raise DataError(
                f"not every rank sees {self.folder}",
                expected="a folder that all of them share",
                fix="choose another out",
            )

    def unseal(self) -> None:
        """Remove the index: until a new one is written, the bundle is incomplete."""
        (self.folder / INDEX).unlink(missing_ok=True)

    def clear_annotations(self) -> None:
        """Remove the tables of an earlier run."""
        for path in self.annotations.rglob("*.npz"):
            path.unlink()

    def seal(self, schema_version: int, contents: Iterable[Path]) -> None:
        """Write the index, last of all.

        Args:
            schema_version: Of the results.
            contents: Generated files of this run; others may be beside them.
        """
        files = [self.folder / name for name in (RESULTS, SCORED, PAGE, RUN)]
        files += [path for path in self.annotations.rglob("*") if path.is_file()]
        hashes = {
            path.relative_to(self.folder).as_posix(): atomic.sha256_file(path)
            for path in [*files[:4], *sorted(files[4:]), *sorted(contents)]
        }
        self.write(INDEX, {"schema_version": schema_version, "files": hashes})

    def write(self, name: str, content: Any) -> None:
        """Write a JSON file of the bundle, atomically."""
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        atomic.write_text(self.folder / name, text, error=ConfigError)

    def read(self, name: str) -> Any:
        """Read a JSON file of the bundle.

        Raises:
            DataError: If it is missing or damaged.
        """
        path = self.folder / name
        try:
            content = parse_json(path.read_bytes(), str(path))
        except OSError as error:
            raise DataError(
                f"{path} is unreadable: {error}", expected="a file of an evaluation's bundle", fix="run it again"
            ) from None
        if not isinstance(content, dict):
            raise DataError(
                f"{path} holds a {type(content).__name__}",
                expected="a file of an evaluation's bundle",
                fix="run it again",
            )
        return content


# ---- where a bundle may be written -----------------------------------------------------------------------------------
def check_out(out: Path, systems: Mapping[str, str]) -> None:
    """Refuse a folder in which something of somebody else could be overwritten.

    Args:
        out: Folder of the bundle.
        systems: Name -> folder or CSV of what other systems generated.

    Raises:
        ConfigError: If ``out`` holds files and no bundle, or if it and a system's files contain each other.
    """
    folder = out.resolve()
    for name, source in systems.items():
        files = Path(source).resolve()
        if files == folder or folder in files.parents:
            raise ConfigError(
                f"system {name!r} is stored in the results' own folder: {source} in {out}",
                expected="its files outside of out, which is written into",
                fix="choose another --out",
            )
        if files in folder.parents:
            raise ConfigError(
                f"the results would be stored among the files of system {name!r}: {out} in {source}",
                expected="an out outside of the folder that is judged",
                fix="choose another --out",
            )
    if out.is_dir() and not _is_ours(out):
        raise ConfigError(
            f"{out} is not empty, and holds no bundle of an evaluation",
            expected="a folder that is empty or absent, or the bundle of an earlier run",
            fix=f"choose another --out; if an earlier version's unfinished run is in it, make an empty file {MARK} there",
        )


def _is_ours(folder: Path) -> bool:
    if (folder / MARK).is_file() or all(path.name == _CACHE for path in folder.iterdir()):
        return True
    try:  # bundles older than the mark
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return "results.json" in index["files"] and "schema_version" in index
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
