"""A bundle held to its word: hashes of its files, of the studies and of what was generated, and every figure computed anew."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medcodi.config import from_dict
from medcodi.errors import DataError
from medcodi.evaluation.bundle import INDEX, RESULTS, SCORED, file_sha256, read_json
from medcodi.evaluation.describing import SCHEMA_VERSION, described_bench
from medcodi.evaluation.held_out import HeldOut
from medcodi.evaluation.matrix import score_bench
from medcodi.evaluation.opening import open_bench
from medcodi.evaluation.options import EvaluateConfig
from medcodi.evaluation.ranks import ALONE
from medcodi.study import Direction

TOLERANCE = 1e-6  # relative: other machines round otherwise


@dataclass(frozen=True)
class Difference:
    """One place where the bundle is not what it says."""

    where: str
    stored: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.where}: {_short(self.stored)} in the bundle, {_short(self.found)} found"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass
class Verification:
    """What a verification found.

    Attributes:
        differences: What is not as the bundle says; none: it holds.
        notes: What was not the same, and may explain a difference: versions; and how many files of other runs lie in it.
        num_files, num_contents, num_figures: How many hashes and figures were held against what was found.
    """

    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_files: int = 0
    num_contents: int = 0
    num_figures: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


def verify_bundle(
    folder: str | Path,
    *,
    data: str | None = None,
    model: str | None = None,
    device: str | None = None,
    tolerance: float = TOLERANCE,
    quiet: bool = False,
) -> Verification:
    """Compute a bundle's figures again from its generated contents and the data, and hold everything against it.

    Nothing is generated, and no feature is taken from a cache.

    Args:
        folder: The bundle.
        data: Where the prepared dataset lies here, if not where the bundle says.
        model: Where the model lies here, whose shared latent space coherence is measured in, if not where the bundle says.
        device: None: a GPU where there is one.
        tolerance: Relative difference of figures that is none.
        quiet: Show no progress.

    Raises:
        DataError: If there is no bundle, or of another schema; if the data cannot be opened.
    """
    folder = Path(folder)
    index, results, scored = (read_json(folder / name) for name in (INDEX, RESULTS, SCORED))
    if index.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{folder} has schema version {index.get('schema_version')}",
            expected=f"{SCHEMA_VERSION}",
            fix="verify it with the version that wrote it, or evaluate anew",
        )
    found = Verification()
    _files(folder, index, found)
    options = from_dict(EvaluateConfig, results["config"], source=str(folder / RESULTS))
    options = replace(options, out=str(folder), device=device, model=model or options.model)
    if data is not None:
        options = replace(options, data=replace(options.data, path=data, source=None))
    try:
        kept = {
            name: {Direction.parse(one): listed["kept"] for one, listed in each.items()}
            for name, each in scored["systems"].items()
        }
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{folder / SCORED} is not a list of what was scored", fix="evaluate anew") from None
    bench = open_bench(options, ALONE, kept=kept)
    _studies(bench.held, scored, found)
    if not found.holds and any(one.where.startswith("study") for one in found.differences):
        return found  # other studies: no figure could be the same
    with tempfile.TemporaryDirectory() as work:
        try:
            again = score_bench(bench, folder / "generated", Path(work), quiet=quiet)
        except DataError as error:
            found.differences.append(Difference("generated", "contents that can be read", str(error)))
            return found
    for name, each in scored["systems"].items():
        for direction, listed in each.items():
            seen = again.hashes.get(name, {}).get(Direction.parse(direction), {})
            for target, hashes in listed["generated"].items():
                found.num_contents += len(hashes)
                for row, stored, now in zip(listed["kept"], hashes, seen.get(target, []), strict=False):
                    if stored != now:
                        where = f"generated {name}, {direction}, {target}, study {bench.held.ids[row]}"
                        found.differences.append(Difference(where, stored, now))
    described = described_bench(bench)
    for part in ("data", "readers", "scoring", "preprocessing"):
        _compare(found, part, results.get(part), described[part], tolerance)
    for name, each in again.scores.items():
        stored = results["systems"].get(name, {}).get("directions", {})
        now = {str(direction): scores.to_dict() for direction, scores in each.items()}
        _compare(found, name, stored, now, tolerance)
    _compare(found, "comparisons", results["comparisons"], again.comparisons, tolerance)
    found.notes += [
        f"{package}: {results['versions'].get(package)} then, {now} here"
        for package, now in described["versions"].items()
        if results["versions"].get(package) != now
    ]
    return found


def _files(folder: Path, index: dict[str, Any], found: Verification) -> None:
    for name, stored in index["files"].items():
        found.num_files += 1
        path = folder / name
        seen = file_sha256(path) if path.is_file() else None
        if seen != stored:
            found.differences.append(Difference(f"file {name}", stored, seen or "no file"))
    there = {path.relative_to(folder).as_posix() for path in (folder / "generated").rglob("*") if path.is_file()}
    if others := there - set(index["files"]):
        found.notes.append(f"{len(others)} files in generated/ are of other runs: the bundle does not list them")


def _studies(held: HeldOut, scored: dict[str, Any], found: Verification) -> None:
    stored = {one["study_id"]: one for one in scored["studies"]}
    now = {held.ids[row]: held.hashes[row] for row in range(len(held))}
    for study_id in dict.fromkeys([*stored, *now]):
        if study_id not in now or study_id not in stored:
            there = ("no such study", "a study") if study_id in now else ("a study", "no such study")
            found.differences.append(Difference(f"study {study_id}", *there))
            continue
        for modality, digest in stored[study_id]["contents"].items():
            found.num_contents += 1
            if now[study_id].get(modality) != digest:
                found.differences.append(
                    Difference(f"study {study_id}, {modality}", digest, now[study_id].get(modality))
                )


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _leaves(one, f"{where} / {key}")
    elif isinstance(value, list | tuple):
        for place, one in enumerate(value):
            yield from _leaves(one, f"{where} / {place}")
    else:
        yield where, value


def _compare(found: Verification, where: str, stored: Any, now: Any, tolerance: float) -> None:
    before, after = dict(_leaves(stored, where)), dict(_leaves(now, where))
    for place in dict.fromkeys([*before, *after]):
        one, other = before.get(place), after.get(place)
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
        found.num_figures += numbers
        same = math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-9) if numbers else one == other  # type: ignore[arg-type]
        if not same:
            found.differences.append(Difference(place, one, other))
