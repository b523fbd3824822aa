"""The measuring of an audit: losses of every study, generations from every prompt, and what the attacks score in them; resumable, by ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medcodi.data.generated_files import direction_folder
from medcodi.evaluation.studies import StudyShard
from medcodi.evaluation.systems.contents import ContentFolder
from medcodi.evaluation.systems.systems import ModelSystem, Output
from medcodi.model import MedCoDi
from medcodi.storage.job_folder import JobFolder
from medcodi.study import Direction
from medcodi.trust.privacy.attacks import attributes, extraction, memorisation
from medcodi.trust.privacy.attacks.canaries import canary_ranks
from medcodi.trust.privacy.attacks.membership import MODEL, REFERENCE, denoising_losses
from medcodi.trust.privacy.attacks.reidentification import FilmEncoder
from medcodi.trust.privacy.attacks.spaces import Space, spaces_of
from medcodi.trust.privacy.config import AuditConfig
from medcodi.trust.privacy.populations import LEAST_STUDIES, AuditedStudies
from medcodi.trust.privacy.scores import CANARIES, DIRECTION, LOSSES, RULER, STUDIES, write_shard

GENERATED = "generated"
OnStudies = Callable[[str, int, int], None]  # what is measured, studies done by this rank, in all


def ignore(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The subject of an audit: a model, the studies, and what the attacks need beside them."""

    config: AuditConfig
    model: MedCoDi
    studies: AuditedStudies
    reference: MedCoDi | None = None
    network: FilmEncoder | None = None  # of re-identification
    ruler: dict[str, Any] | None = None  # of that network
    left_out: list[dict[str, str]] = field(default_factory=list)  # directions that cannot be audited

    @property
    def targets(self) -> tuple[str, ...]:
        """The modalities of the model that some study has."""
        present = self.studies.modality_names()
        return tuple(name for name in self.model.config.modalities if name in present)

    @property
    def directions(self) -> list[Direction]:
        """The directions that model and studies have."""
        left_out = {entry["figure"] for entry in self.left_out}
        return [Direction.parse(text) for text in self.config.directions if text not in left_out]

    def spaces(self) -> list[Space]:
        """The spaces of memorisation."""
        return spaces_of(self.model, [self.network.space()] if self.network is not None else [])


def directions_left_out(config: AuditConfig, model: MedCoDi, studies: AuditedStudies) -> list[dict[str, str]]:
    """The directions that the model or enough studies lack, with the reason."""
    left_out = []
    for text in config.directions:
        direction = Direction.parse(text)
        missing = set(direction.prompts + direction.targets) - set(model.config.modalities)
        usable = len(studies.usable(direction)) if not missing else 0
        if missing:
            left_out.append({"figure": text, "reason": f"the model has no {', '.join(sorted(missing))}"})
        elif usable < LEAST_STUDIES:
            left_out.append({"figure": text, "reason": f"{usable} studies have all of it, {LEAST_STUDIES} are needed"})
    return left_out


def measure(subject: Subject, job: JobFolder, report: OnStudies = ignore) -> None:
    """Fill the folder of an audit, which is open; finished shards stay. Every rank calls this."""
    ranks, config, studies = job.ranks, subject.config, subject.studies
    ranks.by_first(lambda: _write_studies(subject, job))

    # Losses: a shard of studies at a time.
    shards = studies.shards(studies.having(()))

    def score_losses() -> None:
        own = ranks.share(shards)
        for done, shard in enumerate(own):
            report("losses", done, len(own))
            _score_losses(subject, job, shard)
        report("losses", len(own), len(own))

    ranks.by_each(score_losses)

    # Generations, from members' and from non-members' prompts.
    system = ModelSystem(
        name="model",
        model=subject.model,
        directions=tuple(subject.directions),
        held_out=studies,
        generation=config.generation.resolved(subject.model),
        seed=config.seed,
        fingerprint=subject.model.fingerprint(),
        execution=config.execution,
    )
    contents = ContentFolder(job.content / GENERATED)
    outputs: dict[Direction, Output] = {}
    for direction in subject.directions:
        shares = ranks.share(studies.shards(studies.usable(direction)))
        total, done = sum(len(shard.rows) for shard in shares), [0]

        def advance(num: int, name: str = str(direction), total: int = total, done: list[int] = done) -> None:
            done[0] += num
            report(name, done[0], total)

        outputs[direction] = system.produce(direction, contents, ranks, advance)

    # What the attacks score in the generations: a direction at a time.
    def compare() -> None:
        for direction in ranks.share(subject.directions):
            shard = f"{DIRECTION}{direction_folder(direction)}"
            if job.record(shard) is None:
                report(f"comparing {direction}", 0, 1)
                arrays = _compare(subject, direction, generated_values(contents, direction, outputs[direction]))
                write_shard(job, shard, arrays, direction=str(direction))

    ranks.by_each(compare)
    ranks.by_first(lambda: _score_the_rest(subject, job))


def generated_values(contents: ContentFolder, direction: Direction, output: Output) -> dict[str, list[Any]]:
    """Target -> what was generated, in the order of the output's rows."""
    values: dict[str, list[Any]] = {target: [] for target in direction.targets}
    for _, shard in contents.read_shards(direction, output.shards):
        for target, own in shard.items():
            values[target].extend(own)
    return values


def _write_studies(subject: Subject, job: JobFolder) -> None:
    studies = subject.studies
    if job.record(STUDIES) is None:
        arrays = {"ids": np.array(studies.ids), "patients": np.array(studies.patients), "labels": studies.labels}
        metadata = {
            "facts": {**studies.facts, "left_out": subject.left_out},
            "alarms": studies.alarms,
            "targets": list(subject.targets),
            "timesteps": list(subject.config.timesteps),
        }
        write_shard(job, STUDIES, arrays, **metadata)


def _score_losses(subject: Subject, job: JobFolder, shard: StudyShard) -> None:
    name, config = f"{LOSSES}{shard.number:05d}", subject.config
    if job.record(name) is not None:
        return
    models = {MODEL: subject.model, **({} if subject.reference is None else {REFERENCE: subject.reference})}
    arrays = {
        kind: denoising_losses(
            model, subject.studies, shard.rows, subject.targets, config.timesteps, config.noises, config.seed
        )
        for kind, model in models.items()
    }
    write_shard(job, name, {"rows": np.array(shard.rows), **arrays})


def _compare(subject: Subject, direction: Direction, contents: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """The scores of one direction, as ``"<attack>/.../<array>"``."""
    config, studies, spaces = subject.config, subject.studies, subject.spaces()
    rows: Sequence[int] = studies.usable(direction)
    encoder = next(space for space in spaces if space.name == "prompt encoder")
    parts = {
        "memorisation": memorisation.measure(studies, contents, rows, spaces, config.neighbours),
        "extraction": extraction.measure(studies, contents, rows, config.phrase_words, presidio=config.presidio),
        "attributes": attributes.measure(studies, direction, contents, rows, encoder, config.seed),
    }
    return {f"{attack}/{name}": array for attack, arrays in parts.items() for name, array in arrays.items()}


def _score_the_rest(subject: Subject, job: JobFolder) -> None:
    """Canaries and the ruler of re-identification."""
    config = subject.config
    if config.canaries is not None and job.record(CANARIES) is None:
        models = subject.model, subject.reference
        arrays = canary_ranks(*models, config.canaries, config.timesteps, config.noises, config.seed)
        write_shard(job, CANARIES, arrays)
    if subject.ruler is not None and job.record(RULER) is None:
        write_shard(job, RULER, {}, **subject.ruler)
