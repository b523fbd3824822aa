"""The generated arm: a folder of generated studies, or a model that generates from the prompts of real studies.

A folder holds a table ``results.csv`` with ``study_id`` and columns named after modalities (paths relative to the table; a report is a
text or the path of a ``.txt`` file), or one folder per study as ``medcodi generate --out`` writes it: ``frontal.png``, ``report.txt``, or
``0/frontal.png`` for several samples, of which the first is used. A study id that the real arm also has pairs the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medcodi.config import to_dict
from medcodi.data.generated_files import (
    SYNTHESIS_TABLE,
    GeneratedFile,
    cell_file,
    files_of_study,
    read_generated,
    subfolders,
    table_rows,
)
from medcodi.data.images import fit_square
from medcodi.data.refusals import Refused
from medcodi.errors import DataError, PromptError
from medcodi.generation.watermark import detect
from medcodi.modality import MODALITIES, in_table_order
from medcodi.model.generation_config import GenerationConfig
from medcodi.randomness import seed_from_keys
from medcodi.study import Content, Direction, Study
from medcodi.turing.design.config import SamplingConfig, TaskConfig
from medcodi.turing.design.real_arm import RealArm

if TYPE_CHECKING:
    from medcodi.model import MedCoDi

_WATERMARKS = 0.05  # more of the films are no false alarms, of which there are fewer than 1 in 10,000
GenerationRequest = tuple[str, Direction]  # study id, prompts and targets
GeneratedContents = dict[GenerationRequest, dict[str, Content]]  # target -> image [H, W] in [0, 1], or text
# Gives the contents stored under a name; where there are none, makes and stores them.
Stored = Callable[[str, Callable[[], GeneratedContents]], GeneratedContents]


class GeneratedArm(Protocol):
    """Source of generated contents."""

    @property
    def name(self) -> str:
        """For messages and the key."""
        ...

    def available(self, task: TaskConfig, real: RealArm) -> list[str] | None:
        """Study ids that have every target of the task; None: any real case serves."""
        ...

    def direction(self, task: TaskConfig, case: str, real: RealArm) -> Direction:
        """Prompts and targets of one case of a task."""
        ...

    def contents(self, requests: Sequence[GenerationRequest], real: RealArm, stored: Stored) -> GeneratedContents:
        """The targets of each request; what takes long is made through ``stored``."""
        ...

    def provenance(self) -> dict[str, Any]:
        """For the key."""
        ...


# ---- files -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class GeneratedFolder:
    """Generated studies in files; satisfies :class:`GeneratedArm`."""

    name: str  # name of the folder
    files: Mapping[str, Mapping[str, GeneratedFile]]  # study id -> modality -> file or text

    def available(self, task: TaskConfig, real: RealArm) -> list[str] | None:
        """Study ids with every target of the task, whose other modalities the real arm has."""
        shown_real = set(task.modalities) - set(task.shown_generated)
        study_ids = []
        for study_id, files in self.files.items():
            case = real.find(study_id) if shown_real else None
            has_real = not shown_real or (case is not None and shown_real <= case.modalities)
            if set(task.shown_generated) <= set(files) and has_real:
                study_ids.append(study_id)
        return study_ids

    def direction(self, task: TaskConfig, case: str, real: RealArm) -> Direction:
        """The targets; the prompts of files are unknown."""
        return Direction((), task.shown_generated)

    def contents(self, requests: Sequence[GenerationRequest], real: RealArm, stored: Stored) -> GeneratedContents:
        """Read the files.

        Raises:
            DataError: If one is missing or unreadable, or the films carry the watermark.
        """
        contents: GeneratedContents = {
            (case, direction): {name: self._read(case, name) for name in direction.targets}
            for case, direction in requests
        }
        self._refuse_watermarks([value for values in contents.values() for value in values.values()])
        return contents

    def _refuse_watermarks(self, values: Sequence[Content]) -> None:
        """Files are read for their pixels alone, so that no metadata reach a reader; a watermark is in the pixels."""
        films = [value for value in values if isinstance(value, np.ndarray)]
        num_marked = sum(detect(film).is_marked for film in films)
        if num_marked > len(films) * _WATERMARKS:
            raise DataError(
                f"{num_marked} of {len(films)} generated films in {self.name} carry the watermark, which real films do not",
                expected="films that nothing but their content tells from real ones",
                fix="generate them again without --watermark",
            )

    def _read(self, case: str, modality: str) -> Content:
        try:
            return read_generated(self.files[case][modality], modality, allow_constant=False).value
        except Refused as error:
            raise DataError(
                f"the generated study {case!r}: {error.failed}",
                expected=error.expected or "an image",
                fix="generate it again, or remove the study from the folder",
            ) from None

    def provenance(self) -> dict[str, Any]:
        """Name of the folder and number of studies."""
        return {"folder": self.name, "num_studies": len(self.files)}


def _from_table(table: Path) -> dict[str, dict[str, GeneratedFile]]:
    studies: dict[str, dict[str, GeneratedFile]] = {}
    for number, row in table_rows(table, (("study_id",), tuple(MODALITIES)), {"study_id", *MODALITIES}):
        where, study_id = f"{table}, line {number}", row["study_id"]
        if not study_id or study_id in studies:
            raise DataError(f"{where}: study_id {study_id!r} is empty or repeated", expected="one row per study")
        cells = {name: row[name] for name in MODALITIES if row.get(name)}
        studies[study_id] = {name: cell_file(table.parent, cell, name, where) for name, cell in cells.items()}
        # A missing file is refused now, not after the export has run for minutes.
        for name, file in studies[study_id].items():
            if file.path is not None and not file.path.is_file():
                raise DataError(
                    f"{where}: there is no {name} at {cells[name]!r}",
                    expected="a path relative to the table",
                    fix="generate it, or remove the row",
                )
    return studies


def _from_subfolders(folder: Path) -> dict[str, dict[str, GeneratedFile]]:
    studies = {}
    for study in subfolders(folder):
        # Several samples of a study are in folders 0, 1, ...: the first is used.
        sample = study if any(study.glob("*.*")) and not (study / "0").is_dir() else study / "0"
        files = files_of_study(sample, MODALITIES)
        if files:
            studies[study.name] = files
    return studies


# ---- a model ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class GeneratedByModel:
    """A model that generates from the prompts of real studies; satisfies :class:`GeneratedArm`."""

    name: str
    model: MedCoDi
    sampling: SamplingConfig
    seed: int

    def available(self, task: TaskConfig, real: RealArm) -> list[str] | None:
        """None: any real case serves.

        Raises:
            PromptError: If the model lacks a modality of the task.
        """
        missing = set(task.modalities) - set(self.model.config.modalities)
        if missing:
            raise PromptError(
                f"task {task.id!r} shows {', '.join(sorted(missing))}, which the model {self.name!r} does not have",
                expected=", ".join(self.model.config.modalities),
            )
        return None

    def direction(self, task: TaskConfig, case: str, real: RealArm) -> Direction:
        """Prompts of the task, or every modality of the real study that is not generated; no prompt only if the task says so.

        Raises:
            DataError: If the real study has no prompt.
        """
        known = set(real.study(case).contents) & set(self.model.config.modalities)
        prompts = known - set(task.shown_generated) if task.prompts is None else set(task.prompts) & known
        if not prompts and task.prompts != ():
            raise DataError(
                f"task {task.id!r} generates {', '.join(task.shown_generated)}, but study {case!r} has no prompt for it",
                expected="a real study with another modality, such as its report",
                fix="real studies with reports, a --generated folder, or prompts: [] in the task for unconditional samples",
            )
        return Direction(in_table_order(prompts), task.shown_generated)

    def contents(self, requests: Sequence[GenerationRequest], real: RealArm, stored: Stored) -> GeneratedContents:
        """Generate in batches of one direction; a sample depends on its case and the seed only."""
        samples: GeneratedContents = {}
        for direction in sorted({direction for _, direction in requests}):
            cases = [case for case, wanted in requests if wanted == direction]
            for start in range(0, len(cases), self.sampling.batch_size):
                batch = cases[start : start + self.sampling.batch_size]
                prompts = [self._prompts(real.study(case), direction.prompts) for case in batch]
                make = partial(self._generate, batch, direction, prompts)
                samples |= stored(f"samples-{_digest(batch, direction, prompts)}", make)
        return samples

    def _generate(
        self, cases: Sequence[str], direction: Direction, prompts: Sequence[dict[str, Content]]
    ) -> GeneratedContents:
        from medcodi.generation.pipeline import generate_batch

        seeds = [seed_from_keys("turing-sample", self.seed, case, str(direction)) for case in cases]
        config = GenerationConfig.from_fields(self.sampling)
        generated = generate_batch(self.model, prompts, direction.targets, seeds, config)
        return {(case, direction): contents for case, contents in zip(cases, generated, strict=True)}

    def _prompts(self, study: Study, modalities: Collection[str]) -> dict[str, Content]:
        """The prompts, images at the model's size."""
        values = {name: study.contents[name] for name in modalities}
        size = self.model.config.image_size
        return {
            name: fit_square(value, size) if isinstance(value, np.ndarray) else value for name, value in values.items()
        }

    def provenance(self) -> dict[str, Any]:
        """Identity of the model, sampling and seed."""
        return {
            "model": {"name": self.model.config.name, "sha256": self.model.identity()},
            "sampling": to_dict(GenerationConfig.from_fields(self.sampling).resolved(self.model)),
            "seed": self.seed,
        }


def _digest(cases: Sequence[str], direction: Direction, prompts: Sequence[dict[str, Content]]) -> str:
    """16 digits that a batch's cases, direction and prompts decide."""
    from medcodi.generation.request import value_hash

    hashes = [{name: value_hash(value) for name, value in values.items()} for values in prompts]
    return hashlib.sha256(json.dumps([list(cases), str(direction), hashes]).encode()).hexdigest()[:16]


def open_generated(source: str, sampling: SamplingConfig, seed: int, device: str | None = None) -> GeneratedArm:
    """Open the generated arm.

    Args:
        source: ``"demo"``, a model folder, or a folder of generated studies.
        sampling: How a model samples.
        seed: Seed of generation.
        device: Device of a model; None: a GPU if there is one.

    Raises:
        DataError: If the source or a file that it names is missing.
        CheckpointError: If the model cannot be loaded.
    """
    path = Path(source)
    if sampling.watermark:
        raise PromptError(
            "the sampling of a reader study has a watermark, which real films do not have",
            expected="films that nothing but their content tells from real ones",
            fix="leave sampling.watermark out",
        )
    if source == "demo" or (path / "model_index.json").is_file():
        from medcodi.generation.pipeline import load

        return GeneratedByModel(source, load(source, device), sampling, seed)
    if not path.is_dir():
        raise DataError(
            f"nothing generated at {source!r}",
            expected="'demo', a model folder, or a folder of generated studies",
            fix="check --generated",
        )
    table = path / SYNTHESIS_TABLE
    studies = _from_table(table) if table.is_file() else _from_subfolders(path)
    if not studies:
        raise DataError(
            f"{path} holds no generated studies",
            expected=f"{SYNTHESIS_TABLE} with study_id, {', '.join(MODALITIES)}, or one folder per study",
        )
    return GeneratedFolder(path.name, studies)
