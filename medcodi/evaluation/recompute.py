"""Bundles computed again: verified from their contents, or scored anew from their annotations; and what differs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from medcodi.config import from_dict, to_dict
from medcodi.console import progress_of
from medcodi.data.dataset import read_study
from medcodi.distributed import ALONE
from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.annotations import METADATA, Annotations
from medcodi.evaluation.bundle import INDEX, RESULTS, SCORED, Bundle
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.inputs import open_inputs
from medcodi.evaluation.pipeline import annotate, produce, render
from medcodi.evaluation.provenance import NOT_THE_PROTOCOL, SCHEMA_VERSION, scoring_protocol
from medcodi.evaluation.scoring.score import score
from medcodi.evaluation.studies import HeldOutStudies, Value, as_annotated
from medcodi.storage import atomic
from medcodi.storage.checked_json import foreign, shown
from medcodi.study import Direction

TOLERANCE = 1e-6  # relative: other machines round otherwise
# Settings that change figures and pictures, but no annotation.
RESCORABLE = (
    "bootstrap_samples", "frechet_samples", "permutations", "min_positives", "kernel_subset", "kernel_subsets", "neighbours",
    "meteor", "pictures", "notes", "subgroup_by", "subgroup_studies",
)  # fmt: skip


def _open(folder: Path) -> tuple[Bundle, dict[str, Any]]:
    """A bundle and its index.

    Raises:
        DataError: If there is no bundle, or one of another schema.
    """
    bundle = Bundle(folder)
    index = bundle.read(INDEX)
    if index.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{folder} has schema version {index.get('schema_version')}",
            expected=f"{SCHEMA_VERSION}",
            fix="use the version of medcodi that wrote it, or evaluate again into the same folder: what it generated is used again",
        )
    with _as_written(folder / INDEX):
        for name, digest in index["files"].items():
            if (
                not isinstance(digest, str)
                or not all(part not in ("", "..") for part in name.split("/"))
                or "\0" in name
            ):
                raise ValueError(f"file {shown(name)}")
    return bundle, index


def _as_written(path: Path) -> AbstractContextManager[None]:
    """Around what reads values of a bundle, which anybody may have changed."""
    return foreign(
        str(path), expected="a bundle as medcodi evaluate writes it", fix="fetch it again, or evaluate again"
    )


# ---- rescore ---------------------------------------------------------------------------------------------------------
def rescore_bundle(
    folder: str | Path, changes: Mapping[str, Any] | None = None, *, data: str | None = None
) -> dict[str, Any]:
    """Compute a bundle's figures and page again from its annotations, in seconds; nothing is generated or annotated.

    Args:
        folder: The bundle; its figures and page are replaced.
        changes: Settings of scoring to change, among ``RESCORABLE``.
        data: Where the prepared dataset is stored here, if not where the bundle says; read for the page's pictures only.

    Returns:
        The results.

    Raises:
        ConfigError: If a change needs new annotations, or another process uses the bundle.
        DataError: If there is no bundle, it has another schema, its annotations were changed, or the data cannot be opened.
    """
    folder = Path(folder)
    bundle, index = _open(folder)
    with bundle.opened():
        # Annotations must be what the index lists.
        for name, digest in index["files"].items():
            if name.startswith(f"{bundle.annotations.name}/") and _sha256(folder / name) != digest:
                raise DataError(f"{folder / name} was changed or is missing", fix="evaluate again into the same folder")
        annotations = Annotations(bundle.annotations)
        with _as_written(bundle.annotations / METADATA):
            protocol = annotations.metadata["protocol"]
            config = from_dict(EvaluateConfig, protocol["config"], source=str(folder / RESULTS))
        config = _changed(config, changes or {})
        own = {name: value for name, value in to_dict(config).items() if name not in NOT_THE_PROTOCOL}
        # Changed where it is: score() copies the protocol into the results, and it is stored below.
        protocol |= {"config": own, "scoring": scoring_protocol(config)}
        results = score(annotations, config)

        # Refuse everything that can be refused before the bundle is unsealed: real contents that are shown must be there.
        contents = [folder / name for name in index["files"] if name.startswith(f"{bundle.generated.name}/")]
        real = _real_contents(config, data)
        for name, pictures in results["pictures"].items():
            direction = Direction.parse(name)
            for picture in pictures:
                for modality in (*direction.prompts, *direction.targets):
                    real(modality, picture)

        # Write the results and the page; the index, which seals them, comes last.
        bundle.unseal()
        bundle.write(f"{bundle.annotations.name}/{METADATA}", annotations.metadata)
        bundle.write(RESULTS, results)
        render(bundle, results, real)
        bundle.seal(SCHEMA_VERSION, contents)
    return results


def _changed(config: EvaluateConfig, changes: Mapping[str, Any]) -> EvaluateConfig:
    if fixed := [name for name in changes if name not in RESCORABLE]:
        raise ConfigError(
            f"{', '.join(fixed)} cannot be changed without new annotations",
            expected=f"some of {', '.join(RESCORABLE)}",
            fix="evaluate again into the same folder: what was generated is used again",
        )
    return from_dict(EvaluateConfig, {**to_dict(config), **changes}, source="rescore")


def _real_contents(config: EvaluateConfig, path: str | None) -> Any:
    """Looks up real contents of shown studies in the dataset."""
    source = config.data if path is None else replace(config.data, path=path, source=None)
    source = source if config.num_studies is None else replace(source, num_studies=config.num_studies)
    dataset = cache(source.build)  # opened for the first picture: a page without pictures needs no data

    def real(modality: str, picture: dict[str, Any]) -> Value:
        study = read_study(dataset(), picture["place"])
        if study.study_id != picture["study_id"]:
            raise DataError(
                f"study {picture['place']} of {dataset().name} is {study.study_id!r}",
                expected=f"{picture['study_id']!r}, as in the bundle",
                fix="give the data that were evaluated (--data), or show no pictures: pictures=0",
            )
        return as_annotated(study.contents[modality])

    return real


# ---- verify ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Difference:
    """One place where the bundle differs from what was computed."""

    where: str
    stored: Any
    computed: Any

    def __str__(self) -> str:
        return f"{self.where}: {_short(self.stored)} in the bundle, {_short(self.computed)} found"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass
class Verification:
    """Result of a verification."""

    differences: list[Difference] = field(default_factory=list)  # where the bundle differs; none: it holds
    # what may explain a difference: other versions of packages; and how many files of other runs are in it
    notes: list[str] = field(default_factory=list)
    num_files: int = 0  # number of hashes and figures that were compared
    num_contents: int = 0
    num_figures: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def differ(self, where: str, stored: Any, computed: Any) -> None:
        """Add a difference if there is one."""
        if stored != computed:
            self.differences.append(Difference(where, stored, computed))

    def compare(self, where: str, stored: Any, computed: Any, tolerance: float) -> None:
        """Compare every leaf of two nested values; numbers by relative tolerance, unless both are integers."""
        before, after = dict(_leaves(stored, where)), dict(_leaves(computed, where))
        for key in dict.fromkeys([*before, *after]):
            first, second = before.get(key), after.get(key)
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second)):
                self.num_figures += 1
                tolerated = isinstance(first, float) or isinstance(second, float)
                if tolerated and math.isclose(first, second, rel_tol=tolerance, abs_tol=1e-9):  # type: ignore[arg-type]
                    continue
            self.differ(key, first, second)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{where} / {key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{where} / {index}")
    else:
        yield where, value


def verify_bundle(
    folder: str | Path,
    *,
    data: str | None = None,
    model: str | None = None,
    device: str | None = None,
    tolerance: float = TOLERANCE,
    quiet: bool = False,
) -> Verification:
    """Annotate a bundle's generated contents and the data again, score them, and compare everything with the bundle.

    Nothing is generated, and no annotation is taken from the bundle or from a cache.

    Args:
        folder: The bundle.
        data: Where the prepared dataset is stored here, if not where the bundle says.
        model: Where the model is stored here, in whose latent space coherence is measured, if not where the bundle says.
        device: None: a GPU if there is one.
        tolerance: Relative difference of figures that is accepted.
        quiet: Show no progress.

    Raises:
        DataError: If there is no bundle, or one of another schema; if the data cannot be opened.
    """
    folder = Path(folder)
    bundle, index = _open(folder)
    results, listed = bundle.read(RESULTS), bundle.read(SCORED)
    verification = Verification()
    _check_files(folder, index, verification)
    # Open the same inputs, here.
    with _as_written(folder / RESULTS):
        config = from_dict(EvaluateConfig, results["config"], source=str(folder / RESULTS))
    config = replace(config, out=str(folder), device=device, model=model or config.model)
    if data is not None:
        config = replace(config, data=replace(config.data, path=data, source=None))
    with _as_written(folder / SCORED):
        bundle_rows = {
            name: {Direction.parse(text): _rows(direction["kept"]) for text, direction in system.items()}
            for name, system in listed["systems"].items()
        }
    inputs = open_inputs(config, ALONE, bundle_rows=bundle_rows)
    with _as_written(folder / SCORED):
        _check_studies(inputs.held_out, listed, verification)
    if any(difference.where.startswith("study") for difference in verification.differences):
        return verification  # of other studies, no figure could be the same
    # Annotate and score in another folder.
    with tempfile.TemporaryDirectory() as work, progress_of(disable=quiet) as progress:
        again = Bundle(Path(work))
        again.generated = bundle.generated
        try:
            annotate(inputs, produce(inputs, bundle.generated, progress, {}), again, progress, {})
        except DataError as error:
            verification.differ("generated", "contents that are readable", str(error))
            return verification
        with _as_written(folder / SCORED):
            _check_contents(listed, again.read(SCORED), inputs.held_out, verification)
        computed = score(Annotations(again.annotations), config)
    # Compare the figures, and what they depend on.
    with _as_written(folder / RESULTS):
        for part in ("data", "readers", "scoring", "preprocessing"):
            verification.compare(part, results.get(part), computed[part], tolerance)
        for name, system in computed["systems"].items():
            stored = results["systems"].get(name, {}).get("directions", {})
            verification.compare(name, stored, system["directions"], tolerance)
        verification.compare("comparisons", results["comparisons"], computed["comparisons"], tolerance)
        verification.notes += [
            f"{package}: {results['versions'].get(package)} then, {version} here"
            for package, version in computed["versions"].items()
            if results["versions"].get(package) != version
        ]
    return verification


def _rows(values: Any) -> list[int]:
    """Rows of held-out studies, as a bundle lists them."""
    if not isinstance(values, list) or any(type(row) is not int or row < 0 for row in values):
        raise ValueError(f"rows {shown(values)}")
    return values


def _sha256(path: Path) -> str | None:
    return atomic.sha256_file(path) if path.is_file() else None


def _check_files(folder: Path, index: dict[str, Any], verification: Verification) -> None:
    """Hash of every file that the index lists."""
    for name, stored in index["files"].items():
        verification.num_files += 1
        verification.differ(f"file {name}", stored, _sha256(folder / name) or "no file")
    present = {path.relative_to(folder).as_posix() for path in (folder / "generated").rglob("*") if path.is_file()}
    if others := present - set(index["files"]):
        verification.notes.append(f"{len(others)} files in generated/ are of other runs: the bundle does not list them")


def _check_studies(held_out: HeldOutStudies, listed: dict[str, Any], verification: Verification) -> None:
    """Hash of every real content."""
    stored = {study["study_id"]: study["contents"] for study in listed["studies"]}
    computed = dict(zip(held_out.ids, held_out.hashes, strict=True))
    for study_id in dict.fromkeys([*stored, *computed]):
        if study_id in stored and study_id in computed:
            for modality, digest in stored[study_id].items():
                verification.num_contents += 1
                verification.differ(f"study {study_id}, {modality}", digest, computed[study_id].get(modality))
        else:
            present = ("no such study", "a study") if study_id in computed else ("a study", "no such study")
            verification.differ(f"study {study_id}", *present)


def _check_contents(
    listed: dict[str, Any], again: dict[str, Any], held_out: HeldOutStudies, verification: Verification
) -> None:
    """Hash of every generated content."""
    for name, system in listed["systems"].items():
        for direction, stored in system.items():
            computed = again["systems"].get(name, {}).get(direction, {}).get("generated", {})
            for target, hashes in stored["generated"].items():
                verification.num_contents += len(hashes)
                for row, before, now in zip(stored["kept"], hashes, computed.get(target, []), strict=False):
                    where = f"generated {name}, {direction}, {target}, study {held_out.ids[row]}"
                    verification.differ(where, before, now)
