"""The scores of an audit: arrays by study, stored in the shards of its folder. Every figure is computed from them, and from nothing else."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from medcodi.errors import ConfigError, DataError
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder, JobKind
from medcodi.trust.privacy.attacks.attributes import attribute_figures
from medcodi.trust.privacy.attacks.extraction import extraction_figures
from medcodi.trust.privacy.attacks.membership import Losses, membership_figures
from medcodi.trust.privacy.attacks.memorisation import memorisation_figures
from medcodi.trust.privacy.attacks.reidentification import reidentification_figures

AUDIT = JobKind(
    name="an audit",
    index_file="audit.json",
    record_file="shards/{shard}.json",
    own_patterns=("shards", "generated", "control", "*.json", "*.html", "*.md"),
    error=ConfigError,
    fix="choose another --out",
    resume="run the same command again: it resumes",
)
STUDIES, CANARIES, RULER, LOSSES, DIRECTION = "studies", "canaries", "ruler", "losses-", "direction-"
Measured = dict[tuple[str, ...], dict[str, np.ndarray]]


# ---- shards ----------------------------------------------------------------------------------------------------------
def write_shard(job: JobFolder, shard: str, arrays: Mapping[str, np.ndarray], **metadata: Any) -> None:
    """Write arrays, and JSON under the key ``metadata``, as one shard: whole or not at all."""
    name = f"shards/{shard}.npz"
    path = job.content / name
    with atomic.writing(path, error=AUDIT.error, then=AUDIT.resume) as file:
        np.savez_compressed(file, metadata=np.array(json.dumps(metadata)), **dict(arrays))  # pyright: ignore
    job.finish(shard, {name: {"bytes": path.stat().st_size, "sha256": atomic.sha256_file(path)}})


def read_shard(job: JobFolder, shard: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a shard.

    Raises:
        DataError: If it is missing or damaged.
    """
    path = job.content / f"shards/{shard}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            metadata = json.loads(str(arrays["metadata"]))
            return {name: arrays[name] for name in arrays.files if name != "metadata"}, metadata
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is unreadable: {error}", expected="a shard of an audit", fix="run it again") from None


def shards_in(folder: Path) -> list[str]:
    """Names of the shards that a folder has, sorted."""
    return sorted(path.stem for path in (folder / "shards").glob("*.json"))


# ---- scores ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scores:
    """Everything that was measured, by row of the studies."""

    ids: list[str]
    patients: list[str]
    labels: np.ndarray  # int8 [N]: 1 member, 0 non-member, -1 left out by matching
    facts: dict[str, Any]  # of the populations
    alarms: list[str]
    losses: Losses
    memorisation: Measured = field(default_factory=dict)  # (direction, target, space) -> arrays
    extraction: Measured = field(default_factory=dict)  # (direction, target) -> arrays
    attributes: Measured = field(default_factory=dict)  # (direction, attribute) -> arrays
    canaries: dict[str, np.ndarray] | None = None
    ruler: dict[str, Any] | None = None

    @classmethod
    def load(cls, job: JobFolder) -> Scores:
        """Read the shards of a folder; a DataError if one that every audit has is missing."""
        studies, metadata = read_shard(job, STUDIES)
        names = shards_in(job.root)
        num = len(studies["ids"])
        # Losses, from the shards of studies.
        of: dict[str, np.ndarray] = {}
        for shard in (name for name in names if name.startswith(LOSSES)):
            arrays, _ = read_shard(job, shard)
            for model in (name for name in arrays if name != "rows"):
                table = of.setdefault(model, np.full((num, *arrays[model].shape[1:]), np.nan, np.float32))
                table[arrays["rows"]] = arrays[model]
        losses = Losses(metadata["targets"], metadata["timesteps"], of)
        # Scores of generations, from the shards of directions.
        measured: dict[str, Measured] = defaultdict(lambda: defaultdict(dict))
        for shard in (name for name in names if name.startswith(DIRECTION)):
            arrays, about = read_shard(job, shard)
            for key, array in arrays.items():
                attack, *parts, name = key.split("/")
                measured[attack][(about["direction"], *parts)][name] = array
        return cls(
            ids=studies["ids"].tolist(),
            patients=studies["patients"].tolist(),
            labels=studies["labels"],
            facts=metadata["facts"],
            alarms=metadata["alarms"],
            losses=losses,
            **{attack: dict(measured[attack]) for attack in ("memorisation", "extraction", "attributes")},
            canaries=read_shard(job, CANARIES)[0] if CANARIES in names else None,
            ruler=read_shard(job, RULER)[1] if RULER in names else None,
        )

    def families(self, labels: np.ndarray, resamples: int, seed: int, *, canaries: bool = True) -> dict[str, Any]:
        """The figures of every family of attacks, for these labels of the studies: the audit's own, or those of a redraw."""
        patients: Sequence[str] = self.patients
        memorisation: Any = self.memorisation
        extraction: Any = self.extraction
        attributes: Any = self.attributes
        return {
            "membership": membership_figures(self.losses, labels, patients, resamples, seed),
            "memorisation": memorisation_figures(memorisation, labels, patients, resamples, seed),
            "extraction": extraction_figures(
                extraction, self.canaries if canaries else None, labels, patients, resamples, seed
            ),
            "reidentification": reidentification_figures(memorisation, self.ruler, labels, patients, resamples, seed),
            "attributes": attribute_figures(attributes, labels, patients, resamples, seed),
        }
