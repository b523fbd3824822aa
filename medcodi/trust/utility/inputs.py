"""The inputs of a utility study, opened and checked before any work: data sets, generators, the patients of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcodi.config import to_dict
from medcodi.data.dataset import StudyDataset
from medcodi.data.generated_files import list_generated
from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import FindingClassifier
from medcodi.model import demo_checkpoint
from medcodi.model.identity import index_sha256
from medcodi.model.index import read_index
from medcodi.study import Direction
from medcodi.trust.utility.card import read_audit
from medcodi.trust.utility.config import UtilityConfig
from medcodi.trust.utility.guards import check_patients
from medcodi.trust.utility.pools import identifiers

FORMAT_VERSION = 1
SETS = ("train", "validation", "oracle", "test", "external_test")
NOT_THE_STUDY = ("out",)  # keys that change no figure


@dataclass(frozen=True, kw_only=True)
class UtilityInputs:
    """Everything that a study stands on; no film has been read."""

    config: UtilityConfig
    datasets: Mapping[str, StudyDataset]  # set -> studies
    identifiers: Mapping[str, list[tuple[str, str]]]  # set -> (study, patient) of every row
    generator_patients: Mapping[str, frozenset[str] | None]  # generator -> patients of its training; None: not known
    generator_identity: Mapping[str, Any]  # generator -> the hash of its model, or of the list of its files

    @property
    def held_out(self) -> dict[str, str]:
        """Study id -> the set that judges with it."""
        judging = ("validation", "test", "external_test")
        return {study: name for name in judging for study, _ in self.identifiers.get(name, ())}

    def identity(self) -> dict[str, Any]:
        """Everything that the figures depend on, as JSON; the identity of the job."""
        config = {name: value for name, value in to_dict(self.config).items() if name not in NOT_THE_STUDY}
        return {
            "format": FORMAT_VERSION,
            "config": config,
            "data": {
                name: {
                    "name": dataset.name,
                    "fingerprint": dataset.fingerprint,
                    "image_size": dataset.image_size,
                    "num_studies": len(dataset),
                    "num_patients": len({patient for _, patient in self.identifiers[name]}),
                }
                for name, dataset in self.datasets.items()
            },
            "generators": {
                name: {"identity": self.generator_identity[name], "num_patients": None if seen is None else len(seen)}
                for name, seen in self.generator_patients.items()
            },
        }


def open_inputs(config: UtilityConfig, datasets: Mapping[str, StudyDataset] | None = None) -> UtilityInputs:
    """Open every input, and refuse what would make the study worthless.

    Args:
        config: The study.
        datasets: Set -> studies already open, instead of those that the config names.

    Raises:
        DataError: If data or the named audit cannot be opened, sets share patients, differ in image size, or a generator saw patients that judge it.
        CheckpointError: If there is no such model.
    """
    if config.privacy_audit is not None:
        read_audit(config.privacy_audit)  # refused now, not when the cards are written
    if datasets is None:
        configs = {name: getattr(config, name) for name in SETS}
        datasets = {name: data.build() for name, data in configs.items() if data is not None}
    sizes = {name: dataset.image_size for name, dataset in datasets.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"the sets have films of {', '.join(f'{size} pixels ({name})' for name, size in sizes.items())}",
            expected="one size",
            fix="give every set the same image_size",
        )
    known = {name: identifiers(dataset) for name, dataset in datasets.items()}
    # Patients that a generator was trained on.
    seen: dict[str, frozenset[str] | None] = {}
    for name, generator in config.generators.items():
        trained_on = generator.trained_on
        rows = None if trained_on is None else identifiers(trained_on.build())
        seen[name] = None if rows is None else frozenset(patient for _, patient in rows)
    patients = {name: {patient for _, patient in rows} for name, rows in known.items()}
    check_patients(patients, {name: own for name, own in seen.items() if own is not None})
    identity = {name: _identity(config, name) for name in config.generators}
    return UtilityInputs(
        config=config, datasets=datasets, identifiers=known, generator_patients=seen, generator_identity=identity
    )


def _identity(config: UtilityConfig, name: str) -> Any:
    """The hash of a model, or of the list of files with their sizes, of each sampling seed."""
    generator = config.generators[name]
    if generator.model is not None:
        index = read_index(generator.model)[1]
        return {"model": index["config"].get("name", ""), "sha256": index_sha256(index)}
    direction, digests = Direction.parse(generator.direction), []
    for path in generator.files:
        listing = list_generated(path, [direction])[direction]
        rows = [
            (study, target, file.text or (file.path.stat().st_size if file.path and file.path.is_file() else 0))
            for study, files in sorted(listing.items())
            for target, file in sorted(files.items())
        ]
        digests.append(hashlib.sha256(repr(rows).encode()).hexdigest())
    return {"files": digests}


def load_annotator(config: UtilityConfig) -> FindingClassifier | None:
    """The classifier that reads synthetic films again; None for the task of reports, whose labeler needs no file."""
    if config.task == "reports" or not config.generators:
        return None
    folder = demo_checkpoint() if config.annotator == "demo" else Path(config.annotator)
    return FindingClassifier.load(folder)
