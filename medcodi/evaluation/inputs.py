"""Everything an evaluation depends on: data, model, annotators, systems; opened and checked before anything is generated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medcodi.data.generated_files import Listing, list_generated
from medcodi.data.loading import StudyDataset
from medcodi.distributed import Ranks, rank_device
from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.annotate import Annotators
from medcodi.evaluation.annotators.classifier import WEIGHTS_FILE
from medcodi.evaluation.annotators.features import ENCODER, load_extractor
from medcodi.evaluation.annotators.geometry import GEOMETRY_FILE, GeometryAnnotator
from medcodi.evaluation.annotators.image_annotators import load_image_annotator
from medcodi.evaluation.annotators.report_annotators import load_labeler, load_report_scorer
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.studies import LEAST_USABLE, HeldOutStudies, LeftOutDirection
from medcodi.evaluation.systems.systems import BundleSystem, ExternalSystem, ModelSystem, System
from medcodi.generation.pipeline import load
from medcodi.metrics.text import check_scorer
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi, demo_checkpoint, named_model
from medcodi.record import CLINICAL_RECORD, RecordConfig
from medcodi.storage.names import collision_key, plain_name, stays_inside
from medcodi.study import Direction

LEAST_STUDIES = 8
BundleRows = Mapping[str, Mapping[Direction, Sequence[int]]]  # system -> direction -> the studies that a bundle holds


@dataclass
class Inputs:
    """The inputs of an evaluation, opened and checked."""

    config: EvaluateConfig
    held_out: HeldOutStudies
    annotators: Annotators
    systems: list[System]
    ranks: Ranks
    left_out: list[LeftOutDirection] = field(default_factory=list)  # directions of the model that too few studies hold


def open_inputs(config: EvaluateConfig, ranks: Ranks, *, bundle_rows: BundleRows | None = None) -> Inputs:
    """Open model, data, annotators and systems.

    Args:
        config: The evaluation.
        ranks: The processes.
        bundle_rows: What a bundle holds: nothing is generated or read from elsewhere, and nothing is cached.

    Raises:
        ConfigError, DataError, CheckpointError: If model, data, annotators and directions do not fit.
        MissingExtraError: If an annotator's package is not installed.
    """
    device = rank_device(config.device)
    if bundle_rows is None:
        config.execution.check(device)
    model = load(config.model, device) if config.evaluates_model else None
    # Directions: of the bundle, or of the model and of every system's files.
    listings: dict[str, Listing] = {}
    own_directions: tuple[Direction, ...] = ()
    if bundle_rows is not None:
        directions = {direction for system in bundle_rows.values() for direction in system}
    else:
        requested = config.requested_directions
        listings = {name: list_generated(source, requested) for name, source in config.systems.items()}
        directions = {direction for listing in listings.values() for direction in listing}
        own_directions = () if model is None else config.model_directions(model.config.modalities)
        directions |= set(own_directions)
    dataset = _open_data(config, model, sorted(directions))
    generations = {} if model is None else {order: own.resolved(model) for order, own in config.generations.items()}
    # Annotators, and the real studies, whose truth may come from the labeler.
    cache = None if bundle_rows is not None else Path(config.cache or Path(config.out) / "features")
    annotators = open_annotators(config, model, directions, device, cache)
    schema = None if model is None else model.config.record
    held_out = HeldOutStudies(
        dataset,
        shard_size=config.batch_size,
        ranks=ranks,
        exclude_unreadable=config.exclude_unreadable,
        label=annotators.labeler.findings,
        unmentioned=config.unmentioned,
        fields={**CLINICAL_RECORD.fields, **({} if schema is None else schema.fields)},
    )
    annotators.fields = held_out.fields
    _check_fields(schema, held_out, directions)
    if not held_out.are_phantoms:
        annotators.geometry = None  # it was fitted on phantoms' bodies
    # Systems.
    systems: list[System] = []
    left_out: list[LeftOutDirection] = []
    if bundle_rows is not None:
        if outside := next((name for name in bundle_rows if not stays_inside(name)), None):
            raise DataError(f"the bundle has a system {outside!r}, which names no folder in it", fix="do not use it")
        systems += [BundleSystem(name, held_out, dict(rows)) for name, rows in bundle_rows.items()]
        return Inputs(config, held_out, annotators, systems, ranks)
    if model is not None:
        name = config.name or model.config.name
        system_names = {order: f"{name}-{order}" if order else name for order in generations}
        first = next(iter(system_names.values()))
        with_studies, left_out = enough_studies(first, own_directions, held_out)
        fingerprint = model.fingerprint()
        for order, generation in generations.items():
            # One target is the same in every order, so it is generated in the first alone.
            own = [
                direction for direction in with_studies if system_names[order] == first or len(direction.targets) > 1
            ]
            systems.append(
                ModelSystem(
                    name=system_names[order],
                    model=model,
                    directions=tuple(own),
                    held_out=held_out,
                    generation=generation,
                    seed=config.seed,
                    fingerprint=fingerprint,
                    resume=config.resume,
                    execution=config.execution,
                    draws=config.record_draws if "records" in config.metrics else 1,
                )
            )
    systems += [
        ExternalSystem(name, listing, held_out, config.exclude_unreadable) for name, listing in listings.items()
    ]
    _check_names(systems)
    return Inputs(config, held_out, annotators, systems, ranks, left_out)


def _check_names(systems: Sequence[System]) -> None:
    """Refuse names that cannot name folders, the model's out of its own index too, or two that name one folder."""
    seen: dict[str, str] = {}
    for system in systems:
        plain_name(system.name, "the system", ConfigError, fix="give the model another name: name=...")
        other = seen.setdefault(collision_key(system.name), system.name)
        if len(seen) < systems.index(system) + 1:
            raise ConfigError(
                f"two systems are named {system.name!r}" + (f" and {other!r}" if other != system.name else ""),
                expected="names that differ, whatever their case: they name folders",
                fix="give the model another name: name=...",
            )


def classifier_folder(config: EvaluateConfig) -> Path:
    """The folder that is named; else the model's, if it has a finding classifier; else the demo's."""
    if config.classifier is not None:
        return Path(named_model(config.classifier))
    if config.model is not None and (Path(named_model(config.model)) / WEIGHTS_FILE).is_file():
        return Path(named_model(config.model))
    return demo_checkpoint()


def open_annotators(
    config: EvaluateConfig, model: MedCoDi | None, directions: set[Direction], device: str, cache: Path | None
) -> Annotators:
    """Load what the metrics of these directions need.

    ``cache``: folder of cached annotations; None: nothing is cached.

    Raises:
        CheckpointError, ConfigError, MissingExtraError: If weights, a row of a table, or a package is missing.
    """
    folder = classifier_folder(config)
    metrics = set(config.metrics)
    if "text" in metrics:
        check_scorer()
    annotators = Annotators(
        load_labeler(config.labeler, device=device, cache=cache if config.labeler != "rules" else None),
        report_scorers={name: load_report_scorer(name) for name in config.report_scorers},
        similarity="similarity" in metrics,
    )
    weights = {"demo": str(folder), **config.extractor_weights}

    def request(name: str, source: str | None, batch_size: int | None = None) -> LoadRequest:
        return LoadRequest(
            weights=source,
            sha256=config.extractor_sha256.get(name),
            device=device,
            download=config.download,
            cache=cache,
            batch_size=batch_size,
        )

    # Images: findings, fields of records, and features of sets of images. A film that prompts a record gives its ceiling.
    annotated = {target for direction in directions for target in direction.targets}
    if "records" in metrics:
        to_records = [own for own in directions if any(MODALITIES[target].kind == "table" for target in own.targets)]
        annotated |= {prompt for direction in to_records for prompt in direction.prompts}
    if any(MODALITIES[target].kind == "image" for target in annotated):
        name = config.image_reader
        annotators.images = load_image_annotator(
            name, request(name, str(folder) if name == "demo" else weights.get(name))
        )
        if {"frechet", "kernel", "prdc"} & metrics:
            annotators.features = [
                load_extractor(name, request(name, weights.get(name), config.batch_size)) for name in config.extractors
            ]
    # Targets generated together: the shared latent space, and bodies. An image beside its prompt: the latent space.
    joint = "coherence" in metrics and any(len(direction.targets) > 1 for direction in directions)
    annotators.aligned = "alignment" in metrics
    if joint and (folder / GEOMETRY_FILE).is_file() and annotators.images is not None:
        annotators.geometry = GeometryAnnotator.load(folder)
    if joint or annotators.aligned:
        judge = model if model is not None else load(None, device)
        annotators.encoder = load_extractor(ENCODER, model=judge, cache=cache, batch_size=config.batch_size)
        weights_sha256 = annotators.encoder.network.weights_sha256
        annotators.encoder_model = {"model": judge.config.name, "weights_sha256": weights_sha256}
    return annotators


def _open_data(config: EvaluateConfig, model: MedCoDi | None, directions: Sequence[Direction]) -> StudyDataset:
    data = config.data if config.num_studies is None else replace(config.data, num_studies=config.num_studies)
    # The model must know every modality.
    if model is not None:
        for direction in directions:
            missing = set(direction.prompts + direction.targets) - set(model.config.modalities)
            if missing:
                raise ConfigError(
                    f"direction {direction}: the model has no {', '.join(sorted(missing))}",
                    fix="choose directions among " + ", ".join(model.config.modalities),
                )
    dataset = data.build()
    # … and make images of the data's size.
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
            fix="raise num_studies, or prepare more studies, or a larger share of them for testing (medcodi data prepare ... test=0.3)",
        )
    return dataset


def _check_fields(schema: RecordConfig | None, held_out: HeldOutStudies, directions: Iterable[Direction]) -> None:
    """Refuse records that prompt a model which does not know all of their fields."""
    prompts = {name for direction in directions for name in direction.prompts if MODALITIES[name].kind == "table"}
    unknown = [] if schema is None else [name for name in held_out.fields if name not in schema.fields]
    if prompts and unknown:
        raise ConfigError(
            f"the records of {held_out.name} have {', '.join(unknown)}, which the model does not know",
            expected=", ".join(schema.fields) if schema else "",
            fix="prepare the data without these fields, or choose directions without the record as prompt",
        )


def enough_studies(
    system: str, directions: Sequence[Direction], held_out: HeldOutStudies
) -> tuple[tuple[Direction, ...], list[LeftOutDirection]]:
    """The directions that enough studies hold, and the others.

    Raises:
        DataError: If no direction is left.
    """
    available = {direction: len(held_out.usable(direction)) for direction in directions}
    left_out = [
        LeftOutDirection(system, str(direction), f"{num} of {len(held_out)} studies hold all of it", num)
        for direction, num in available.items()
        if num < LEAST_USABLE
    ]
    if len(left_out) == len(available):
        raise left_out[0].refusal()
    return tuple(direction for direction, num in available.items() if num >= LEAST_USABLE), left_out
