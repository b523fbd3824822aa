"""What is judged: our model, which generates, or another system's files, which are read. Both end as kept blocks of contents."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from medcodi.config import to_dict
from medcodi.data.generated_files import GeneratedFile, Listing, read_generated
from medcodi.data.refusals import Refused
from medcodi.errors import DataError, did_you_mean
from medcodi.evaluation.held_out import HeldOut, LeftOut, Value, eight_bit
from medcodi.evaluation.kept import Block, KeptSystem, blocks_with, generate_direction
from medcodi.evaluation.ranks import Ranks
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction


@dataclass(frozen=True, kw_only=True)
class Produced:
    """What a system gave for one direction.

    Attributes:
        blocks: The studies it gave, in blocks; their contents are kept.
        excluded: What could not be read or has no reference.
        files: Target -> study -> SHA-256 of the file it came from (none for a model).
        sizes: Sizes of the images as they came, counted.
    """

    blocks: list[Block]
    excluded: list[LeftOut] = field(default_factory=list)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> list[int]:
        """All studies, in order."""
        return [row for block in self.blocks for row in block.rows]


class System(Protocol):
    """Something that generates."""

    name: str

    @property
    def directions(self) -> tuple[Direction, ...]:
        """What it gave, or is asked for."""
        ...

    def produce(
        self, direction: Direction, kept: KeptSystem, ranks: Ranks, on_studies: Callable[[int], None]
    ) -> Produced:
        """Fill ``kept`` with this rank's share of a direction; say what all ranks have."""
        ...

    def described(self) -> dict[str, Any]:
        """What names it in the results."""
        ...


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass
class ModelSystem:
    """A model of this repository."""

    name: str
    model: MedCoDi
    directions: tuple[Direction, ...]
    held: HeldOut
    settings: GenerationConfig
    seed: int
    fingerprint: str
    resume: bool = True
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    def key(self, direction: Direction, block: Block) -> str:
        """Of everything that a block's contents depend on."""
        studies = [
            [self.held.ids[row], {name: self.held.hashes[row][name] for name in direction.prompts}]
            for row in block.rows
        ]
        how = [self.execution.arithmetic] if self.execution.arithmetic else []
        return _digest(self.fingerprint, to_dict(self.settings), self.seed, str(direction), studies, *how)

    def produce(
        self, direction: Direction, kept: KeptSystem, ranks: Ranks, on_studies: Callable[[int], None]
    ) -> Produced:
        """Generate what is not there yet; a block is one batch, whatever the number of ranks."""
        blocks = blocks_with(self.held, self.held.usable(direction))
        needed = sorted(self.model.components_for(direction.prompts, direction.targets))
        with self.execution.running(self.model, needed):
            for block in ranks.share(blocks):
                key, size = self.key(direction, block), len(block.rows)
                if not self.resume or kept.read(direction, block, key) is None:
                    made = generate_direction(
                        self.model, direction, self.held, block.rows, self.settings, self.seed, size
                    )
                    kept.write(direction, block, key, made)
                on_studies(size)
        return Produced(blocks=blocks)

    def described(self) -> dict[str, Any]:
        """Name, weights, settings."""
        return {
            "kind": "model",
            "model": self.model.config.name,
            "sha256": self.fingerprint,
            "settings": to_dict(self.settings),
            "execution": self.execution.arithmetic,
            "seed": self.seed,
        }


Row = tuple[int, dict[str, Value], dict[str, str]]  # study, contents, hashes of its files


@dataclass
class ExternalSystem:
    """Images and texts that something else generated."""

    name: str
    listing: Listing
    held: HeldOut
    exclude_unreadable: bool = False

    def __post_init__(self) -> None:
        """Refuse a system that shares no study with the data."""
        self._rows = {study_id: row for row, study_id in enumerate(self.held.ids)}
        self.directions = tuple(self.listing)
        given = {study_id for studies in self.listing.values() for study_id in studies}
        if not given & set(self._rows):
            example = min(given)
            raise DataError(
                f"none of the {len(given)} studies of system {self.name!r} is among the {len(self.held)} of {self.held.name}",
                expected=f"their study ids, such as {self.held.ids[0]!r}",
                fix=f"{example!r}: {did_you_mean(example, self.held.ids[:50])}",
            )

    def produce(
        self, direction: Direction, kept: KeptSystem, ranks: Ranks, on_studies: Callable[[int], None]
    ) -> Produced:
        """Read this rank's share of the files."""
        studies = self.listing[direction]
        usable = set(self.held.having(direction.prompts + direction.targets))
        excluded, rows = [], []
        for study_id in studies:
            row = self._rows.get(study_id)
            if row in usable and row is not None:
                rows.append(row)
            else:
                reason = "the data hold no such study" if row is None else "the real study lacks a modality"
                excluded.append(LeftOut(study_id, str(direction), f"without a reference: {reason}"))
        mine = []
        for block in ranks.share(blocks_with(self.held, sorted(rows))):
            read = self._read(direction, block)
            if read[0].rows:
                contents = {target: [one[1][target] for one in read[1]] for target in direction.targets}
                kept.write(direction, read[0], _digest(self.name, [one[2] for one in read[1]]), contents)
            on_studies(len(block.rows))
            mine.append((read[0], {self.held.ids[one[0]]: one[2] for one in read[1]}, read[2], read[3]))
        everyone = ranks.gathered(mine)
        return Produced(
            blocks=[block for block, _, _, _ in everyone if block.rows],
            excluded=excluded + [one for _, _, lost, _ in everyone for one in lost],
            files={
                target: {study: hashes[target] for _, files, _, _ in everyone for study, hashes in files.items()}
                for target in direction.targets
            },
            sizes=dict(sorted(sum((Counter(sizes) for _, _, _, sizes in everyone), Counter()).items())),
        )

    def _read(self, direction: Direction, block: Block) -> tuple[Block, list[Row], list[LeftOut], Counter[str]]:
        sizes: Counter[str] = Counter()
        rows, lost = [], []
        for row in block.rows:
            study_id = self.held.ids[row]
            try:
                rows.append((row, *self._contents(self.listing[direction][study_id], sizes)))
            except Refused as error:
                if not self.exclude_unreadable:
                    raise DataError(
                        f"system {self.name!r}, study {study_id}, {direction}: {error.failed}",
                        expected=error.expected or "a readable file",
                        fix="fix the file, or leave such studies out and have them listed: --exclude-unreadable",
                    ) from None
                lost.append(LeftOut(study_id, str(direction), f"{error.reason}: {error.failed}"))
        return Block(block.number, tuple(one[0] for one in rows)), rows, lost, sizes

    def _contents(
        self, files: dict[str, GeneratedFile], sizes: Counter[str]
    ) -> tuple[dict[str, Value], dict[str, str]]:
        read = {target: read_generated(file, target, self.held.image_size) for target, file in files.items()}
        sizes.update(content.size for content in read.values() if content.size)
        values = {
            target: value if isinstance(value := content.value, str) else eight_bit(value)
            for target, content in read.items()
        }
        return values, {target: content.sha256 for target, content in read.items()}

    def described(self) -> dict[str, Any]:
        """Name, and how many studies it gave."""
        return {"kind": "files", "studies": {str(one): len(studies) for one, studies in self.listing.items()}}


@dataclass
class KeptOnly:
    """A system as a bundle keeps it; nothing is generated or read from elsewhere."""

    name: str
    held: HeldOut
    rows: dict[Direction, Sequence[int]]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Those that are kept."""
        return tuple(self.rows)

    def produce(
        self, direction: Direction, kept: KeptSystem, ranks: Ranks, on_studies: Callable[[int], None]
    ) -> Produced:
        """The studies that the bundle lists."""
        blocks = blocks_with(self.held, self.rows[direction])
        on_studies(sum(len(block.rows) for block in blocks))
        return Produced(blocks=blocks)

    def described(self) -> dict[str, Any]:
        """Nothing of its own: a verification takes the description from the bundle."""
        return {}
