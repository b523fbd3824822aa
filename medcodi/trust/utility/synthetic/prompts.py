"""Prompts of training studies for a model: policies, the manifest of ``medcodi synthesize``, and carrying it out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from medcodi.data.dataset import StudyDataset
from medcodi.data.images import save_png16
from medcodi.distributed import Ranks
from medcodi.errors import DataError
from medcodi.generation.statements import merged_report
from medcodi.metrics.labeler import mentions
from medcodi.metrics.labeler_rules import sentences
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator, seed_from_keys
from medcodi.storage import atomic
from medcodi.study import Direction
from medcodi.trust.utility.config import GeneratorConfig
from medcodi.trust.utility.pools import Pool, read_studies

MANIFEST, PROMPTS, STUDIES = "manifest.csv", "prompts", "studies"


@dataclass(frozen=True)
class Prompt:
    """One synthetic study that a model is asked for."""

    id: str  # of the row of the manifest
    row: int  # of the training study whose contents prompt
    report: str  # its report, or the mixed one
    is_mixed: bool  # whether the labels follow from the report, not from the training study


# ---- policies -----------------------------------------------------------------------------------------------
def prompts_of(generator: GeneratorConfig, train: Pool, findings: Sequence[str], *keys: int | str) -> list[Prompt]:
    """The prompts of ``num_studies`` synthetic studies, by the generator's policy; a function of the training pool and the keys."""
    # Training studies that can prompt: those with a report, where one prompts, and with the finding.
    by_report = any(MODALITIES[name].kind == "text" for name in Direction.parse(generator.direction).prompts)
    rows = [row for row in range(len(train)) if train.reports[row] or not by_report]
    if generator.finding:
        column = findings.index(generator.finding)
        rows = [row for row in rows if train.truth[row, column] == 1]
    if not rows:
        raise DataError(
            f"no training study has {generator.finding or 'a report'}",
            expected="contents that can prompt",
            fix="another finding or direction",
        )
    rng = numpy_generator("utility prompts", *keys)
    order = _balanced(rows, train, rng) if generator.prompts == "rebalance" else cycle(rng.permutation(rows).tolist())
    prompts = []
    for number, row in zip(range(generator.num_studies), order, strict=False):
        report, is_mixed = train.reports[row], False
        if generator.prompts == "mix":
            report, is_mixed = _mixed(report, train, rng)
        prompts.append(Prompt(f"s{number:07d}", row, report, is_mixed))
    return prompts


def _balanced(rows: Sequence[int], train: Pool, rng: np.random.Generator) -> Iterator[int]:
    """Rows such that every finding with a case comes equally often."""
    cases = [[row for row in rows if train.truth[row, k] == 1] for k in range(train.truth.shape[1])]
    queues = [cycle(rng.permutation(own).tolist()) for own in cases if own] or [cycle(rows)]
    for queue in cycle(queues):
        yield next(queue)


def _mixed(report: str, train: Pool, rng: np.random.Generator) -> tuple[str, bool]:
    """A report with a sentence of another one that affirms a finding; unchanged where ten others affirm none."""
    for other in rng.integers(0, len(train), size=10):
        affirming = [
            s for s in sentences(train.reports[other]) if any(m.label and m.state == "positive" for m in mentions(s))
        ]
        if affirming and report:
            return merged_report(report, affirming[int(rng.integers(len(affirming)))] + "."), True
    return report, False


def write_manifest(
    folder: Path, generator: GeneratorConfig, prompts: Sequence[Prompt], dataset: StudyDataset, train: Pool
) -> Path:
    """Write the manifest of ``medcodi synthesize``, and the films that prompt; returns its path."""
    direction = Direction.parse(generator.direction)
    films = [name for name in direction.prompts if MODALITIES[name].kind == "image"]
    if unfit := [name for name in direction.prompts if MODALITIES[name].kind == "table"]:
        raise DataError(
            f"{direction} has a {unfit[0]} as prompt",
            expected="films and reports",
            fix="generate with it elsewhere, and give files",
        )
    # Films are prompts by file, at the size of the dataset.
    wanted = {train.ids[prompt.row] for prompt in prompts} if films else set()
    for study in read_studies(dataset) if films else ():
        for name in films if study.study_id in wanted else ():
            if name not in study.images:
                raise DataError(
                    f"study {study.study_id!r} has no {name}, which is to prompt",
                    fix="another direction, or other studies",
                )
            (folder / PROMPTS).mkdir(parents=True, exist_ok=True)
            origin = "phantom" if study.metadata.get("source") == "phantom" else None
            save_png16(study.images[name], folder / PROMPTS / _film(study.study_id, name), origin=origin)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    texts = [name for name in direction.prompts if MODALITIES[name].kind == "text"]
    writer.writerow(["id", "targets", "training_study", *texts, *films])
    for prompt in prompts:
        study_id = train.ids[prompt.row]
        paths = [f"{PROMPTS}/{_film(study_id, name)}" for name in films]
        writer.writerow([prompt.id, "+".join(direction.targets), study_id, *(prompt.report for _ in texts), *paths])
    atomic.write_text(folder / MANIFEST, text.getvalue(), error=DataError)
    return folder / MANIFEST


def _film(study_id: str, modality: str) -> str:
    return f"{seed_from_keys(study_id):016x}-{modality}.png"  # an id may not be a file name


def generate(
    folder: Path,
    generator: GeneratorConfig,
    sampling: int,
    ranks: Ranks,
    on_progress: Callable[[int, int], None],
) -> None:
    """Carry out the manifest of a folder: this rank's share; ``studies`` is a folder of ``medcodi synthesize``, which resumes."""
    from medcodi.generation.bulk.job import SynthesisConfig, synthesize
    from medcodi.generation.bulk.manifest import RowDefaults
    from medcodi.model.generation_config import GenerationConfig

    config = SynthesisConfig(
        generation=GenerationConfig(preset=generator.preset),
        defaults=RowDefaults(seed=seed_from_keys("utility sampling", sampling) % 2**31),
        keep=("training_study",),
        batch_size=generator.batch_size,
        image_format="png16",
    )
    outcome = synthesize(
        folder / MANIFEST,
        folder / STUDIES,
        model=generator.model,
        config=config,
        rank=ranks.rank,
        world=ranks.world_size,
        on_progress=on_progress,
    )
    if outcome.failed:
        bad = outcome.failed[0]
        raise DataError(
            f"{len(outcome.failed):,} synthetic studies failed, such as {bad.id}: {bad.message}",
            expected="a model that can carry out every prompt",
            fix=f"look at failed.csv in {folder / STUDIES}",
        )
