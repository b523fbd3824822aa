"""Everything an evaluation needs, opened and checked before anything is generated or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medcodi.data.generated_files import Listing, list_generated
from medcodi.data.loading import StudyDataset
from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.annotators.classifier import WEIGHTS_FILE
from medcodi.evaluation.annotators.features import ENCODER, load_extractor
from medcodi.evaluation.annotators.geometry import GEOMETRY_FILE, GeometryAnnotator
from medcodi.evaluation.annotators.image_annotators import load_image_annotator
from medcodi.evaluation.annotators.report_labelers import load_labeler
from medcodi.evaluation.annotators.report_scorers import load_report_scorer
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.evaluation.held_out import HeldOut
from medcodi.evaluation.options import EvaluateConfig
from medcodi.evaluation.ranks import Ranks, device_of_rank
from medcodi.evaluation.reading import Readers
from medcodi.evaluation.systems import ExternalSystem, KeptOnly, ModelSystem, System
from medcodi.generation.pipeline import load
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi, demo_checkpoint
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction

LEAST_STUDIES = 8
Kept = Mapping[str, Mapping[Direction, Sequence[int]]]


@dataclass
class Bench:
    """What an evaluation works with.

    Attributes:
        options: What was asked.
        held: The real studies.
        readers: Of contents.
        systems: What is judged.
        ranks: The processes.
        encoder: Name and hash of the model whose shared latent space coherence is measured in.
    """

    options: EvaluateConfig
    held: HeldOut
    readers: Readers
    systems: list[System]
    ranks: Ranks
    encoder: dict[str, Any] | None = None


def open_bench(options: EvaluateConfig, ranks: Ranks, *, kept: Kept | None = None) -> Bench:
    """Open model, data, readers and systems.

    Args:
        options: What is asked.
        ranks: The processes.
        kept: System -> direction -> rows, from a bundle: nothing is generated or read from elsewhere, and nothing cached.

    Raises:
        ConfigError, DataError, CheckpointError: If model, data, readers and directions do not fit.
        MissingExtraError: If a reader's package is not installed.
    """
    device = device_of_rank(options.device) or ("cuda" if torch.cuda.is_available() else "cpu")
    if kept is None:
        options.execution.check(device)
    model = load(options.model, device) if options.judges_model else None
    listings: dict[str, Listing] = {}
    if kept is None:
        listings = {name: list_generated(source, options.asked_directions) for name, source in options.systems.items()}
    directions = {one for listing in listings.values() for one in listing} | {
        direction for each in (kept or {}).values() for direction in each
    }
    if model is not None and kept is None:
        directions |= set(options.chosen_directions)
    dataset = _open_data(options, model, sorted(directions))
    settings = options.generation.resolved(model) if model is not None else None
    cache = None if kept is not None else Path(options.cache or Path(options.out) / "features")
    readers, encoder = _open_readers(options, model, directions, device, cache)
    held = HeldOut(
        dataset,
        None,
        block_size=options.batch_size,
        ranks=ranks,
        exclude_unreadable=options.exclude_unreadable,
        label=readers.labeler.findings,
        unmentioned=options.unmentioned,
    )
    if not held.are_phantoms:
        readers.geometry = None  # it knows phantoms' bodies only
    systems: list[System] = []
    if kept is not None:
        systems += [KeptOnly(name, held, dict(rows)) for name, rows in kept.items()]
        return Bench(options, held, readers, systems, ranks, encoder)
    if model is not None and settings is not None:
        systems.append(_model_system(options, model, held, settings))
    systems += [ExternalSystem(name, listing, held, options.exclude_unreadable) for name, listing in listings.items()]
    if len({system.name for system in systems}) < len(systems):
        raise ConfigError(f"two systems are named {systems[0].name!r}", fix="name=... names the model otherwise")
    return Bench(options, held, readers, systems, ranks, encoder)


def _open_data(options: EvaluateConfig, model: MedCoDi | None, directions: Sequence[Direction]) -> StudyDataset:
    data = options.data if options.num_studies is None else replace(options.data, num_studies=options.num_studies)
    if model is not None:
        for direction in directions:
            missing = set(direction.prompts + direction.targets) - set(model.config.modalities)
            if missing:
                raise ConfigError(
                    f"direction {direction}: the model has no {', '.join(sorted(missing))}",
                    fix="choose directions among " + ", ".join(model.config.modalities),
                )
    dataset = data.build()
    if model is not None and dataset.image_size != model.config.image_size:
        raise ConfigError(
            f"the data are {dataset.image_size} pixels a side, the model makes {model.config.image_size}",
            fix=f"data.image_size={model.config.image_size}"
            + ("" if data.path is None else ", of data prepared at that size"),
        )
    if len(dataset) < LEAST_STUDIES:
        raise DataError(
            f"{len(dataset)} held-out studies",
            expected=f"at least {LEAST_STUDIES}, and hundreds for figures that mean something",
        )
    return dataset


def classifier_folder(options: EvaluateConfig) -> Path:
    """The folder that is named; else the model's, if a finding classifier lies in it; else the demo's."""
    if options.classifier is not None:
        return Path(options.classifier)
    if options.model is not None and (Path(options.model) / WEIGHTS_FILE).is_file():
        return Path(options.model)
    return demo_checkpoint()


def _open_readers(
    options: EvaluateConfig, model: MedCoDi | None, directions: set[Direction], device: str, cache: Path | None
) -> tuple[Readers, dict[str, Any] | None]:
    folder = classifier_folder(options)
    readers = Readers(
        None,
        similarity="similarity" in options.metrics,
        labeler=load_labeler(options.labeler, device=device, cache=cache if options.labeler != "rules" else None),
        report_scorers={name: load_report_scorer(name) for name in options.report_scorers},
    )
    if any(MODALITIES[target].kind == "image" for direction in directions for target in direction.targets):

        def request(name: str, weights: str | Path | None, batch_size: int | None = None) -> LoadRequest:
            return LoadRequest(
                weights=weights,
                sha256=options.extractor_sha256.get(name),
                device=device,
                download=options.download,
                cache=cache,
                batch_size=batch_size,
            )

        weights = {"demo": str(folder), **options.extractor_weights}
        name = options.image_reader
        readers.images = load_image_annotator(name, request(name, folder if name == "demo" else weights.get(name)))
        if {"frechet", "kernel", "prdc"} & set(options.metrics):
            readers.features = tuple(
                load_extractor(name, request(name, weights.get(name), options.batch_size))
                for name in options.extractors
            )
    if "coherence" not in options.metrics or all(len(direction.targets) < 2 for direction in directions):
        return readers, None
    judge = model if model is not None else load(None, device)
    if (folder / GEOMETRY_FILE).is_file() and readers.images is not None:
        readers.geometry = GeometryAnnotator.load(folder)
    readers.encoder = load_extractor(ENCODER, model=judge, cache=cache, batch_size=options.batch_size)
    return readers, {"model": judge.config.name, "weights_sha256": readers.encoder.network.weights_sha256}


def _model_system(options: EvaluateConfig, model: MedCoDi, held: HeldOut, settings: GenerationConfig) -> ModelSystem:
    for direction in options.chosen_directions:
        held.usable(direction)
    return ModelSystem(
        options.name or model.config.name,
        model,
        options.chosen_directions,
        held,
        settings,
        options.seed,
        model.identity(),
        options.resume,
        options.execution,
    )
