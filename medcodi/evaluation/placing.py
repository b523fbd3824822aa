"""Where a bundle may be written: an empty folder or a bundle of ours, never a folder of somebody's own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from medcodi.errors import ConfigError

MARK = ".medcodi-evaluation"  # lies in every folder that an evaluation may write into
WORK = ".medcodi-work"
_MADE_BY = "made by medcodi evaluate, which may overwrite the bundle in this folder\n"
_BEFORE_THE_MARK = "features"  # a cache, filled while readers are opened


def check_out(out: Path, systems: Mapping[str, str]) -> None:
    """See that nothing of anybody's could be overwritten.

    Args:
        out: Folder of the bundle.
        systems: Name -> folder or CSV of what other systems generated.

    Raises:
        ConfigError: If ``out`` holds files and no bundle, or if it and a system's files lie within each other.
    """
    here = out.resolve()
    for name, source in systems.items():
        there = Path(source).resolve()
        if there == here or here in there.parents:
            raise ConfigError(
                f"system {name!r} lies in the results' own folder: {source} in {out}",
                expected="its files outside of out, which is written into",
                fix="choose another --out",
            )
        if there in here.parents:
            raise ConfigError(
                f"the results would lie among the files of system {name!r}: {out} in {source}",
                expected="an out outside of the folder that is judged",
                fix="choose another --out",
            )
    if out.is_dir() and not _is_ours(out):
        raise ConfigError(
            f"{out} is not empty, and holds no bundle of an evaluation",
            expected="a folder that is empty or not there, or the bundle of an earlier run",
            fix=f"choose another --out; if an earlier version's unfinished run is in it, make an empty file {MARK} there",
        )


def mark(out: Path) -> None:
    """Mark a folder as one that evaluations may write into."""
    (out / MARK).write_text(_MADE_BY, encoding="utf-8")


def _is_ours(folder: Path) -> bool:
    if (folder / MARK).is_file() or all(path.name == _BEFORE_THE_MARK for path in folder.iterdir()):
        return True
    try:  # bundles from before the mark
        index = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        return "results.json" in index["files"] and "schema_version" in index
    except (OSError, ValueError, KeyError, TypeError):
        return False
