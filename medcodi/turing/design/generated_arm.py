"""The generated arm: a folder of generated studies, or a model that generates from the real studies' prompts.

A folder holds either a table ``results.csv`` with the columns ``study_id`` and ``frontal``, ``lateral``, ``report`` (those there are;
images are paths relative to the table, a report is its text or the path of a ``.txt`` file), or a folder for each study, named by its
study id, as ``medcodi generate --out`` writes it: ``frontal.png``, ``lateral.png``, ``report.txt`` (or ``0/frontal.png`` ... for several
samples, of which the first is taken). A study id that the real arm has too pairs the two.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medcodi.config import to_dict
from medcodi.data.images import fit_square, read_image
from medcodi.data.refusals import Refused
from medcodi.errors import DataError, PromptError
from medcodi.modality import MODALITIES, in_table_order
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction, Study
from medcodi.turing.design.config import SamplingConfig, TaskConfig
from medcodi.turing.design.real_arm import RealArm

if TYPE_CHECKING:
    from medcodi.model import MedCoDi

MANIFEST = "results.csv"
Value = np.ndarray | str
Request = tuple[str, Direction]  # case, and what is made of what


class GeneratedArm(Protocol):
    """Where generated contents come from."""

    @property
    def name(self) -> str:
        """For messages and the key."""
        ...

    def able(self, task: TaskConfig, real: RealArm) -> list[str] | None:
        """Study ids of which it has what the task generates; None: it makes them from any real case."""
        ...

    def direction(self, task: TaskConfig, case: str, real: RealArm) -> Direction:
        """What is generated from what for one case of a task."""
        ...

    def contents(
        self, requests: Sequence[Request], real: RealArm, on_step: Callable[[int, int], None] | None = None
    ) -> dict[Request, dict[str, Value]]:
        """The targets of each request."""
        ...

    def provenance(self) -> dict[str, Any]:
        """For the key."""
        ...


@dataclass(frozen=True)
class GeneratedFolder:
    """Generated studies that lie in files; satisfies :class:`GeneratedArm`."""

    name: str  # of the folder
    files: Mapping[str, Mapping[str, Path | str]]  # study id -> modality -> image file, or text

    def able(self, task: TaskConfig, real: RealArm) -> list[str] | None:
        """Study ids with everything that the task generates, and the rest either here or in the real arm."""
        given = set(task.modalities) - set(task.shown_generated)
        found = []
        for name, files in self.files.items():
            case = real.named(name) if given else None
            if set(task.shown_generated) <= set(files) and (not given or (case and given <= case.modalities)):
                found.append(name)
        return found

    def direction(self, task: TaskConfig, case: str, real: RealArm) -> Direction:
        """What the files hold; how they were made is not known here."""
        return Direction((), task.shown_generated)

    def contents(
        self, requests: Sequence[Request], real: RealArm, on_step: Callable[[int, int], None] | None = None
    ) -> dict[Request, dict[str, Value]]:
        """Read the files.

        Raises:
            DataError: If one is missing or cannot be read.
        """
        return {
            (case, direction): {name: self._read(case, name) for name in direction.targets}
            for case, direction in requests
        }

    def _read(self, case: str, name: str) -> Value:
        value = self.files[case][name]
        if isinstance(value, str):
            return value
        try:
            return read_image(value)
        except Refused as error:
            raise DataError(
                f"the generated study {case!r}: {error.failed}",
                expected=error.expected or "an image",
                fix="generate it again, or take the study out of the folder",
            ) from None

    def provenance(self) -> dict[str, Any]:
        """How many there are."""
        return {"folder": self.name, "num_studies": len(self.files)}


@dataclass(frozen=True)
class GeneratedByModel:
    """A model that generates from the real studies' prompts; satisfies :class:`GeneratedArm`."""

    name: str
    model: MedCoDi
    sampling: SamplingConfig
    seed: int

    def able(self, task: TaskConfig, real: RealArm) -> list[str] | None:
        """Any real case will do.

        Raises:
            PromptError: If the model does not know a modality of the task.
        """
        missing = set(task.modalities) - set(self.model.config.modalities)
        if missing:
            raise PromptError(
                f"task {task.id!r} shows {', '.join(sorted(missing))}, which the model {self.name!r} does not have",
                expected=", ".join(self.model.config.modalities),
            )
        return None

    def direction(self, task: TaskConfig, case: str, real: RealArm) -> Direction:
        """From the task's prompts, or from all that the real study has and is not generated; from nothing only where the task says so.

        Raises:
            DataError: If the real study has none of it.
        """
        held = set(real.study(case).contents) & set(self.model.config.modalities)
        prompts = held - set(task.shown_generated) if task.prompts is None else set(task.prompts) & held
        if not prompts and task.prompts != ():
            raise DataError(
                f"task {task.id!r} generates {', '.join(task.shown_generated)}, but study {case!r} has no prompt for it",
                expected="a real study with another modality, such as its report",
                fix="real studies with reports, a --generated folder, or prompts: [] in the task for unconditional samples",
            )
        return Direction(in_table_order(prompts), task.shown_generated)

    def contents(
        self, requests: Sequence[Request], real: RealArm, on_step: Callable[[int, int], None] | None = None
    ) -> dict[Request, dict[str, Value]]:
        """Generate, in batches of one direction; a sample depends on its case and the seed only."""
        from medcodi.generation.pipeline import generate_batch
        from medcodi.randomness import seed_from_keys

        settings = GenerationConfig.from_fields(self.sampling)
        found: dict[Request, dict[str, Value]] = {}
        for direction in sorted({direction for _, direction in requests}):
            cases = [case for case, asked in requests if asked == direction]
            for start in range(0, len(cases), self.sampling.batch_size):
                batch = cases[start : start + self.sampling.batch_size]
                prompts = [self._prompts(real.study(case), direction.prompts) for case in batch]
                seeds = [seed_from_keys("turing-sample", self.seed, case, str(direction)) for case in batch]
                for case, contents in zip(
                    batch, generate_batch(self.model, prompts, direction.targets, seeds, settings), strict=True
                ):
                    found[case, direction] = contents
                if on_step:
                    on_step(len(found), len(requests))
        return found

    def _prompts(self, study: Study, names: Collection[str]) -> dict[str, Value]:
        size = self.model.config.image_size
        return {
            name: value if isinstance(value := study.contents[name], str) else fit_square(value, size) for name in names
        }

    def provenance(self) -> dict[str, Any]:
        """Which model, how, from what seed."""
        return {
            "model": {"name": self.model.config.name, "sha256": self.model.fingerprint()},
            "sampling": to_dict(GenerationConfig.from_fields(self.sampling).resolved(self.model)),
            "seed": self.seed,
        }


def open_generated(source: str, sampling: SamplingConfig, seed: int, device: str | None = None) -> GeneratedArm:
    """Open the generated arm.

    Args:
        source: ``"demo"``, a model folder, or a folder of generated studies.
        sampling: How a model samples.
        seed: Of generation.
        device: Of a model; None: a GPU where there is one.

    Raises:
        DataError: If there is nothing there, or a file that is named is missing.
        CheckpointError: If the model cannot be loaded.
    """
    path = Path(source)
    if source == "demo" or (path / "model_index.json").is_file():
        from medcodi.generation.pipeline import load

        return GeneratedByModel(source, load(None if source == "demo" else source, device), sampling, seed)
    if not path.is_dir():
        raise DataError(
            f"nothing generated at {source!r}",
            expected="'demo', a model folder, or a folder of generated studies",
            fix="check --generated",
        )
    manifest = path / MANIFEST
    files = _from_manifest(manifest) if manifest.is_file() else _from_subfolders(path)
    if not files:
        raise DataError(
            f"{path} holds no generated studies",
            expected=f"{MANIFEST} with study_id, {', '.join(MODALITIES)}, or a folder for each study",
        )
    return GeneratedFolder(path.name, files)


def _from_manifest(manifest: Path) -> dict[str, dict[str, Path | str]]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and "study_id" not in rows[0]:
        raise DataError(f"{manifest} has no column study_id", expected="study_id, " + ", ".join(MODALITIES))
    found: dict[str, dict[str, Path | str]] = {}
    for number, row in enumerate(rows, start=2):
        study_id = (row["study_id"] or "").strip()
        if not study_id or study_id in found:
            raise DataError(
                f"{manifest}, line {number}: study_id {study_id!r} is empty or there already",
                expected="one row a study",
            )
        cells = {name: (row.get(name) or "").strip() for name in MODALITIES}
        found[study_id] = {name: _cell(manifest, number, name, cell) for name, cell in cells.items() if cell}
    return found


def _cell(manifest: Path, number: int, name: str, cell: str) -> Path | str:
    text = MODALITIES[name].kind == "text"
    if text and not cell.endswith(".txt"):
        return cell
    file = manifest.parent / cell
    if not file.is_file():
        raise DataError(
            f"{manifest}, line {number}: there is no {name} at {cell!r}",
            expected="a file beside the table",
            fix="generate it, or take the row out",
        )
    return file.read_text(encoding="utf-8") if text else file


def _from_subfolders(folder: Path) -> dict[str, dict[str, Path | str]]:
    found = {}
    for study in sorted(child for child in folder.iterdir() if child.is_dir()):
        place = study if any(study.glob("*.*")) and not (study / "0").is_dir() else study / "0"
        files: dict[str, Path | str] = {}
        for name, row in MODALITIES.items():
            if row.kind == "text" and (place / f"{name}.txt").is_file():
                files[name] = (place / f"{name}.txt").read_text(encoding="utf-8")
            elif row.kind == "image":
                image = next((file for file in sorted(place.glob(f"{name}.*"))), None)
                if image is not None:
                    files[name] = image
        if files:
            found[study.name] = files
    return found
