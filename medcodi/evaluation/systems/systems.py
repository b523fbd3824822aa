"""The systems that are evaluated: our model, other systems' files, and what a bundle holds. Each fills a folder of contents."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from medcodi.config import to_dict
from medcodi.data.generated_files import GeneratedFile, Listing, read_generated
from medcodi.data.refusals import Refused
from medcodi.distributed import Ranks
from medcodi.errors import DataError, did_you_mean
from medcodi.evaluation.studies import Exclusion, HeldOutStudies, StudyShard, Value, as_annotated
from medcodi.evaluation.systems.contents import ContentFolder, Contents
from medcodi.generation.pipeline import generate_batch
from medcodi.generation.request import truncations
from medcodi.modality import MODALITIES, names
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.randomness import seed_from_keys
from medcodi.record import RecordConfig
from medcodi.study import Content, Direction


@dataclass(frozen=True, kw_only=True)
class Output:
    """The output of a system for one direction."""

    shards: list[StudyShard]  # the studies that it gave; their contents are in its folder
    excluded: list[Exclusion] = field(default_factory=list)  # contents that are unreadable or have no reference
    # target -> study -> SHA-256 of the file it came from (none for a model)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # sizes of the images as stored (`"512×512"`), counted

    @property
    def rows(self) -> list[int]:
        """All studies that it gave, in order."""
        return [row for shard in self.shards for row in shard.rows]


Outputs = Mapping[str, Mapping[Direction, Output]]  # system -> direction -> its output


class System(Protocol):
    """Something that generates."""

    name: str  # in tables, and of its folder
    directions: tuple[Direction, ...]  # those that it gave, or is asked for

    def produce(
        self, direction: Direction, contents: ContentFolder, ranks: Ranks, on_studies: Callable[[int], None]
    ) -> Output:
        """Write this rank's share of a direction into ``contents``; returns what all ranks have."""
        ...

    def describe(self) -> dict[str, Any]:
        """The system's identity in the results."""
        ...


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(kw_only=True)
class ModelSystem:
    """A model of this repository, which generates from the prompts of the held-out studies."""

    name: str
    model: MedCoDi
    directions: tuple[Direction, ...]
    held_out: HeldOutStudies
    generation: GenerationConfig  # how it samples, without a preset
    seed: int
    fingerprint: str  # hash of the model's weights
    resume: bool = True  # whether shards that are there, with the same key, are not generated again
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    draws: int = 1  # of each study, where nothing but records is generated

    def num_draws(self, direction: Direction) -> int:
        """How often each study is generated: a film takes too long to be drawn for the spread of the record beside it."""
        return self.draws if all(MODALITIES[target].kind == "table" for target in direction.targets) else 1

    def key(self, direction: Direction, shard: StudyShard) -> str:
        """Hash of everything that a shard's contents depend on."""
        studies = [
            [self.held_out.ids[row], {name: self.held_out.hashes[row][name] for name in direction.prompts}]
            for row in shard.rows
        ]
        more: list[Any] = [self.execution.arithmetic] if self.execution.arithmetic else []
        more += [{"draws": num}] if (num := self.num_draws(direction)) > 1 else []
        return _digest(self.fingerprint, to_dict(self.generation), self.seed, str(direction), studies, *more)

    def produce(
        self, direction: Direction, contents: ContentFolder, ranks: Ranks, on_studies: Callable[[int], None]
    ) -> Output:
        """Generate the shards that are missing; a shard is one batch, whatever the number of ranks."""
        shards = self.held_out.shards(self.held_out.usable(direction))
        student = self.generation.resolved(self.model).student
        needed = sorted(self.model.components_for(direction.prompts, direction.targets, student=student))

        def generate() -> None:
            with self.execution.running(self.model, needed):
                for shard in ranks.share(shards):
                    key = self.key(direction, shard)
                    if not self.resume or contents.read(direction, shard, key) is None:
                        generated = generate_studies(
                            self.model,
                            direction,
                            self.held_out,
                            shard.rows,
                            self.generation,
                            self.seed,
                            self.num_draws(direction),
                        )
                        contents.write(direction, shard, key, generated)
                    on_studies(len(shard.rows))

        ranks.by_each(generate)
        return Output(shards=shards)

    def describe(self) -> dict[str, Any]:
        """Name, weights, settings, the order of several targets, and text prompts that are longer than the model reads."""
        cut = self.truncated_prompts()
        return {
            "kind": "model",
            "model": self.model.config.name,
            "sha256": self.model.identity(),
            "settings": to_dict(self.generation),
            "orders": {
                str(direction): self.generation.order for direction in self.directions if len(direction.targets) > 1
            },
            "execution": self.execution.arithmetic,
            "seed": self.seed,
            **({"truncated_prompts": cut} if cut else {}),
        }

    def truncated_prompts(self) -> dict[str, dict[str, int]]:
        """Modality -> number of studies with such a prompt, and how many of them are longer than the model reads."""
        counts: dict[str, dict[str, int]] = {}
        prompts = {name for direction in self.directions for name in direction.prompts}
        for name in sorted(prompts & set(names("text"))):
            texts = [str(text) for text in self.held_out.values(name, self.held_out.having([name]))]
            if cut := sum(bool(truncations(self.model, {name: text})) for text in texts):
                counts[name] = {"studies": len(texts), "truncated": cut}
        return counts


def generate_studies(
    model: MedCoDi,
    direction: Direction,
    held_out: HeldOutStudies,
    rows: Sequence[int],
    generation: GenerationConfig,
    seed: int,
    num_draws: int = 1,
) -> Contents:
    """Generate the targets of a direction for some studies, each draw as one batch.

    Each study has its own seed, a function of (seed, study), and of the number of the draw after the first. Images are rounded to 8 bits,
    as files would hold them.
    """
    prompts = [{name: held_out.studies[row].contents[name] for name in direction.prompts} for row in rows]
    ids = [held_out.ids[row] for row in rows]
    draws: list[list[dict[str, Content]]] = []
    for draw in range(num_draws):
        seeds = [seed_from_keys("evaluate", seed, study_id, *([draw] if draw else [])) for study_id in ids]
        draws.append(generate_batch(model, prompts, direction.targets, seeds, generation))
    # Of a record every draw, of all else the first.
    contents: Contents = {}
    for target in direction.targets:
        values = [[as_annotated(sample[target]) for sample in samples] for samples in draws]
        is_record = MODALITIES[target].kind == "table"
        contents[target] = [sum(own, ()) if is_record else own[0] for own in zip(*values, strict=True)]  # type: ignore[misc]
    return contents


@dataclass
class _ReadShard:
    """One shard of another system's files, as read."""

    shard: StudyShard
    contents: Contents
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)  # study id -> target -> SHA-256 of its file
    excluded: list[Exclusion] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)


class ExternalSystem:
    """Images and texts that another system generated."""

    def __init__(self, name: str, listing: Listing, held_out: HeldOutStudies, exclude_unreadable: bool = False) -> None:
        """Match the files with the held-out studies.

        Args:
            name: In tables.
            listing: Direction -> study id -> target -> file.
            held_out: The real studies.
            exclude_unreadable: List unreadable files as excluded; else one stops the run.

        Raises:
            DataError: If the system has no study of the data.
        """
        self.name, self.listing, self.held_out, self.exclude_unreadable = name, listing, held_out, exclude_unreadable
        self.directions = tuple(listing)
        self._rows = {study_id: row for row, study_id in enumerate(held_out.ids)}
        study_ids = {study_id for studies in listing.values() for study_id in studies}
        if not study_ids:
            raise DataError(
                f"system {name!r} holds no generated study",
                expected="folders such as report_to_frontal/STUDY_ID/, or a table (a .csv file)",
                fix="check its path",
            )
        if not study_ids & set(self._rows):
            example = min(study_ids)
            raise DataError(
                f"none of the {len(study_ids)} studies of system {name!r} is among the {len(held_out)} of {held_out.name}",
                expected=f"their study ids, such as {held_out.ids[0]!r}",
                fix=f"{example!r}: {did_you_mean(example, held_out.ids[:50])}",
            )

    def produce(
        self, direction: Direction, contents: ContentFolder, ranks: Ranks, on_studies: Callable[[int], None]
    ) -> Output:
        """Read this rank's share of the files."""
        # Studies without a reference are excluded.
        usable = set(self.held_out.having(direction.prompts + direction.targets))
        excluded, rows = [], []
        for study_id in self.listing[direction]:
            row = self._rows.get(study_id)
            if row is not None and row in usable:
                rows.append(row)
            else:
                reason = "the data hold no such study" if row is None else "the real study lacks a modality"
                excluded.append(Exclusion(study_id, str(direction), f"without a reference: {reason}"))
        # Read this rank's shards; a shard is written without its unreadable studies.
        own: list[_ReadShard] = []

        def read() -> None:
            for shard in ranks.share(self.held_out.shards(rows)):
                result = self._read(direction, shard)
                if result.shard.rows:
                    hashes = [result.hashes[self.held_out.ids[row]] for row in result.shard.rows]
                    contents.write(direction, result.shard, _digest(self.name, hashes), result.contents)
                result.contents = {}  # the other ranks read them from the folder
                own.append(result)
                on_studies(len(shard.rows))

        ranks.by_each(read)
        # Every rank learns what the others read.
        everything = ranks.unshare(own)
        files = {study: hashes for result in everything for study, hashes in result.hashes.items()}
        return Output(
            shards=[result.shard for result in everything if result.shard.rows],
            excluded=excluded + [exclusion for result in everything for exclusion in result.excluded],
            files={target: {study: files[study][target] for study in files} for target in direction.targets},
            sizes=dict(sorted(sum((result.sizes for result in everything), Counter()).items())),
        )

    def _read(self, direction: Direction, shard: StudyShard) -> _ReadShard:
        result = _ReadShard(shard, {target: [] for target in direction.targets})
        rows = []
        for row in shard.rows:
            study_id = self.held_out.ids[row]
            try:
                values, hashes = self._read_study(self.listing[direction][study_id], result.sizes)
            except Refused as error:
                if not self.exclude_unreadable:
                    raise DataError(
                        f"system {self.name!r}, study {study_id}, {direction}: {error.failed}",
                        expected=error.expected or "a readable file",
                        fix="fix the file, or leave such studies out and have them listed: --exclude-unreadable",
                    ) from None
                result.excluded.append(Exclusion(study_id, str(direction), f"{error.reason}: {error.failed}"))
                continue
            rows.append(row)
            result.hashes[study_id] = hashes
            for target, value in values.items():
                result.contents[target].append(value)
        result.shard = StudyShard(shard.number, tuple(rows))
        return result

    def _read_study(
        self, files: dict[str, GeneratedFile], sizes: Counter[str]
    ) -> tuple[dict[str, Value], dict[str, str]]:
        values: dict[str, Value] = {}
        hashes: dict[str, str] = {}
        for target, file in files.items():
            content = read_generated(file, target, self.held_out.image_size)
            sizes.update([content.size] if content.size else [])
            value = content.value
            if not isinstance(value, np.ndarray | str):  # a record: fields that the data lack are not scored
                schema = RecordConfig(fields=dict(self.held_out.fields))
                value = schema.parse({name: entry for name, entry in value.items() if name in schema.fields}, Refused)
            values[target] = as_annotated(value)
            hashes[target] = content.sha256
        return values, hashes

    def describe(self) -> dict[str, Any]:
        """Kind, and the number of studies in each direction."""
        studies = {str(direction): len(listed) for direction, listed in self.listing.items()}
        return {"kind": "files", "studies": studies}


@dataclass
class BundleSystem:
    """A system as a bundle holds it; nothing is generated or read from elsewhere."""

    name: str  # in the bundle
    held_out: HeldOutStudies  # the real studies
    rows: dict[Direction, Sequence[int]]  # direction -> the studies that the bundle holds

    def __post_init__(self) -> None:
        self.directions = tuple(self.rows)

    def produce(
        self, direction: Direction, contents: ContentFolder, ranks: Ranks, on_studies: Callable[[int], None]
    ) -> Output:
        """The studies that the bundle lists."""
        on_studies(len(self.rows[direction]))
        return Output(shards=self.held_out.shards(self.rows[direction]))

    def describe(self) -> dict[str, Any]:
        """Nothing: a verification takes the description from the bundle."""
        return {}
