"""The bundle: one folder with the figures, the page, what exactly was scored, and the generated contents, all under their hashes.

::

    results.json   every figure; the same bytes for the same options, model and studies (schema in docs/EVALUATION.md)
    scored.json    every study and every generated content that was scored, by SHA-256
    page.html      the same for people; loads nothing
    run.json       when, how long, by how many ranks
    generated/     what was generated: <system>/<direction>/<block>.npz, 8-bit images and texts
    bundle.json    SHA-256 of every file above, as far as this run scored it
    features/      (not part of it) features kept by content; may be deleted

Nothing is deleted but the folder through which ranks exchange readings. What an earlier run generated and this one did not score stays
in ``generated/``, so that it need not be made again; ``bundle.json`` does not list it, and no figure comes from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi.errors import DataError
from medcodi.evaluation.describing import SCHEMA_VERSION, machine
from medcodi.evaluation.held_out import LeftOut
from medcodi.evaluation.kept import KeptSystem
from medcodi.evaluation.placing import WORK, mark
from medcodi.evaluation.ranks import Ranks
from medcodi.study import Direction

if TYPE_CHECKING:
    from medcodi.evaluation.matrix import Scored
    from medcodi.evaluation.opening import Bench

RESULTS, SCORED, PAGE, RUN, INDEX = "results.json", "scored.json", "page.html", "run.json", "bundle.json"


def write_json(path: Path, content: Any) -> None:
    """Write, all or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A folder of results."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, ranks: Ranks) -> Bundle:
        """Make the folder, which :func:`medcodi.evaluation.placing.check_out` has let pass; see that all ranks look into the same one.

        Raises:
            OSError: If it cannot be made.
            DataError: If a rank does not see what the first one wrote.
        """
        bundle = cls(folder)
        token = ""
        if ranks.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            mark(folder)
            shutil.rmtree(bundle.work, ignore_errors=True)
            bundle.work.mkdir()
            token = os.urandom(8).hex()
            (bundle.work / f"token-{token}").touch()
        token = ranks.agree(token)[0]
        if not all(ranks.agree((bundle.work / f"token-{token}").is_file())):
            raise DataError(
                f"not every rank sees {folder}", expected="a folder that all of them share", fix="choose another out"
            )
        return bundle

    @property
    def generated(self) -> Path:
        """Kept contents."""
        return self.folder / "generated"

    @property
    def work(self) -> Path:
        """What ranks exchange; gone at the end."""
        return self.folder / WORK

    def read_results(self) -> dict[str, Any]:
        """The figures."""
        return read_json(self.folder / RESULTS)

    def write(self, described: Mapping[str, Any], bench: Bench, scored: Scored) -> None:
        """Write everything, the index last: a bundle without one is not whole."""
        from medcodi.evaluation.pages.results import write_results_page

        (self.folder / INDEX).unlink(missing_ok=True)
        write_json(self.folder / SCORED, _scored(bench, scored))
        results = {
            **described,
            "systems": _systems(bench, scored),
            "comparisons": scored.comparisons,
            "excluded": _excluded(bench, scored),
            "scored_sha256": file_sha256(self.folder / SCORED),
            "complete": True,
        }
        write_json(self.folder / RESULTS, results)
        write_json(self.folder / RUN, _run(bench, scored))
        write_results_page(self.folder / PAGE, results, bench.held, bench.readers, scored, self.generated)
        files = [self.folder / name for name in (RESULTS, SCORED, PAGE, RUN)]
        files += _scored_files(self.generated, scored)
        write_json(
            self.folder / INDEX,
            {
                "schema_version": SCHEMA_VERSION,
                "files": {path.relative_to(self.folder).as_posix(): file_sha256(path) for path in files},
            },
        )
        shutil.rmtree(self.work, ignore_errors=True)


def read_json(path: Path) -> Any:
    """A JSON file of a bundle.

    Raises:
        DataError: If it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", expected="a file of an evaluation's bundle", fix="run it again"
        ) from None


def _scored_files(generated: Path, scored: Scored) -> list[Path]:
    """Kept contents that this run scored; others may lie beside them."""
    return sorted(
        KeptSystem(generated / name).path(direction, block)
        for name, each in scored.produced.items()
        for direction, produced in each.items()
        for block in produced.blocks
    )


def _systems(bench: Bench, scored: Scored) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for system in bench.systems:
        each = scored.scores[system.name]
        found[system.name] = {
            **system.described(),
            "coverage": {
                str(direction): {
                    "given": len(scored.produced[system.name][direction].rows),
                    "scored": len(scores.rows),
                    "usable": len(bench.held.having(direction.prompts + direction.targets)),
                }
                for direction, scores in each.items()
            },
            "image_sizes": {
                str(direction): produced.sizes
                for direction, produced in scored.produced[system.name].items()
                if produced.sizes
            },
            "directions": {str(direction): scores.to_dict() for direction, scores in each.items()},
        }
    return found


def _excluded(bench: Bench, scored: Scored) -> list[dict[str, str]]:
    def told(one: LeftOut, system: str) -> dict[str, str]:
        return {"system": system, "study_id": one.study_id, "what": one.what, "reason": one.reason}

    return [told(one, "real") for one in bench.held.excluded] + [
        told(one, name)
        for name, each in scored.produced.items()
        for produced in each.values()
        for one in produced.excluded
    ]


def _scored(bench: Bench, scored: Scored) -> dict[str, Any]:
    held = bench.held

    def of_direction(name: str, direction: Direction) -> dict[str, Any]:
        produced = scored.produced[name][direction]
        return {
            "kept": produced.rows,
            "scored": scored.scores[name][direction].rows,
            "generated": scored.hashes[name][direction],
            **({"files": produced.files} if produced.files else {}),
        }

    return {
        "schema_version": SCHEMA_VERSION,
        "hashes": "SHA-256 of a text's UTF-8, or of an image's shape and 8-bit pixels; files: of the file's bytes",
        "studies": [
            {"study_id": held.ids[row], "patient_id": held.patients[row], "contents": dict(held.hashes[row])}
            for row in range(len(held))
        ],
        "systems": {
            name: {str(direction): of_direction(name, direction) for direction in each}
            for name, each in scored.produced.items()
        },
    }


def _run(bench: Bench, scored: Scored) -> dict[str, Any]:
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "ranks": bench.ranks.world,
        "machine": machine(),
        "seconds": scored.seconds,
    }
