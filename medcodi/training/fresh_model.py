"""The model that a run makes to start from: fresh by its recipe and fitted to the studies, or a trained one with a further modality.

An extended model keeps every weight that it has, and what it lacks is fresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcodi.config import load as load_config
from medcodi.config import to_dict
from medcodi.data.dataset import StudyDataset, read_study
from medcodi.data.loading import collate
from medcodi.errors import CheckpointError, DataError, TrainingError
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi, ModelConfig
from medcodi.model.fresh import build_model
from medcodi.networks.records import fit_records
from medcodi.randomness import seed_from_keys
from medcodi.record import Record
from medcodi.training.config import TrainConfig

_IMAGE_STUDIES = 400  # whose films give the principal components of patches


def fresh_model_config(config: TrainConfig, dataset: StudyDataset) -> ModelConfig:
    """The model recipe, at the studies' image size and with the modalities that they hold.

    Where the stage names the kinds that it trains, or the dataset counts no modalities, the recipe's modalities stay.

    Raises:
        TrainingError: If the studies hold fewer than two modalities: nothing could prompt anything.
    """
    recipe = load_config(ModelConfig, str(config.model))
    counts = getattr(dataset, "modality_counts", None)
    if counts is None or "kinds" in config.stage.options:
        return replace(recipe, image_size=dataset.image_size)
    counted: dict[str, int] = counts()
    present = tuple(name for name in recipe.modalities if counted.get(name))
    if len(present) < 2:
        raise TrainingError(
            f"the {len(dataset):,} studies of {dataset.name} hold {' and '.join(present) or 'nothing'} only",
            expected=f"at least two of {', '.join(recipe.modalities)}: one that prompts, one that is generated",
            fix="prepare studies that hold a second modality, such as the reports of the images",
        )
    has_record = any(MODALITIES[name].kind == "table" for name in present)
    return replace(
        recipe, image_size=dataset.image_size, modalities=present, record=recipe.record if has_record else None
    )


def new_model(config: TrainConfig, dataset: StudyDataset) -> MedCoDi:
    """A fresh model of the recipe ``model``, or ``init`` extended to the recipe ``extend``.

    Raises:
        DataError: If a tokenizer has to be trained and the data hold no report.
    """
    seed = seed_from_keys("weights", config.seed)
    if config.extend is not None:
        records = records_of(dataset, config.tokenizer_studies)
        return extended_model(str(config.init), load_config(ModelConfig, config.extend), records, seed=seed)
    fresh = fresh_model_config(config, dataset)
    texts = [report for report in reports(dataset, config.tokenizer_studies) if report]
    if not texts and any(MODALITIES[name].kind == "text" for name in fresh.modalities):
        raise DataError(
            f"no reports in {dataset.name}",
            expected="reports to train the tokenizer on",
            fix="start from a model with init=…",
        )
    records = records_of(dataset, config.tokenizer_studies) if fresh.record is not None else []
    images = images_of(dataset) if fresh.image_autoencoder.linear else None
    return build_model(fresh, texts, records, images, seed=seed)


def changes_for_data(config: TrainConfig, dataset: StudyDataset) -> list[str]:
    """Differences of a fresh model from its recipe that the data require, a line each."""
    if config.model is None:
        return []
    recipe, fresh = load_config(ModelConfig, str(config.model)), fresh_model_config(config, dataset)
    absent = [name for name in recipe.modalities if name not in fresh.modalities]
    lines = [f"model without {name}: no study of {dataset.name} has it" for name in absent]
    if fresh.image_size != recipe.image_size:
        lines.append(f"model of {fresh.image_size} pixels a side, as the data are; its recipe has {recipe.image_size}")
    return lines


def reports(dataset: StudyDataset, num_studies: int) -> list[str]:
    """Reports of the first studies; without their images where the dataset can."""
    indices = range(min(num_studies, len(dataset)))
    read_report = getattr(dataset, "report", None) or (lambda index: dataset[index].report)
    return [read_report(index) or "" for index in indices]


def records_of(dataset: StudyDataset, num_studies: int) -> list[Record]:
    """Records of the first studies; without their images where the dataset can."""
    indices = range(min(num_studies, len(dataset)))
    read_tables, read_record = getattr(dataset, "tables", None), getattr(dataset, "record", None)
    if read_tables is not None:
        return [record for index in indices for record in read_tables(index).values()]
    if read_record is not None:
        return [record for record in map(read_record, indices) if record]
    return [value for index in indices for value in dataset[index].contents.values() if isinstance(value, Mapping)]


def images_of(dataset: StudyDataset) -> Tensor:
    """Images ``[N, 1, H, W]`` of every view of the first studies."""
    indices = range(min(_IMAGE_STUDIES, len(dataset)))
    batch = collate([read_study(dataset, index) for index in indices], indices, dataset.image_size)
    images = {name: each for name, each in batch.contents.items() if isinstance(each, Tensor)}
    return torch.cat([values[batch.present[name]] for name, values in images.items()])


# ---- a trained model with a further modality -------------------------------------------------------------------------
# Keys of the config that fix no trained weight.
_MAY_DIFFER = ("name", "modalities", "record", "vocab_size", "generation")


def extended_model(source: str | Path, config: ModelConfig, records: Sequence[Record], *, seed: int = 0) -> MedCoDi:
    """The model of ``source`` with the modalities of ``config``.

    The parts of a new modality, and what the others need to hear it, have random weights, the same for the same seed; all other
    weights and the tokenizers are those of ``source``.

    Args:
        source: A model folder, or ``demo``.
        config: Like the model's own but for its modalities, ``record``, ``name`` and ``generation``.
        records: Of the training split, by which the numbers of a new record are normalised.
        seed: Of the fresh weights.

    Raises:
        CheckpointError: If the model cannot be loaded, or the config describes another one.
    """
    trained = MedCoDi.from_pretrained(source)
    _check(trained.config, config, source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MedCoDi(config, trained.tokenizers)
    # Fresh records are normalised; the weights of the trained model take the place of fresh ones.
    fit_records(model, records)
    weights = model.state_dict()
    for name, value in trained.state_dict().items():
        assert weights[name].shape == value.shape, name  # the configs agree
    model.load_state_dict(trained.state_dict(), strict=False)
    model.trained_stages, model.provenance = trained.trained_stages, dict(trained.provenance)
    return model.eval()


def _check(trained: ModelConfig, config: ModelConfig, source: str | Path) -> None:
    """Refuse a config that does not describe the trained model and more."""
    if missing := [name for name in trained.modalities if name not in config.modalities]:
        raise CheckpointError(
            f"{source} has the modality {missing[0]}, and the model that extends it does not",
            expected=f"at least {', '.join(trained.modalities)}",
            fix="add it to modalities",
        )
    if trained.record is not None and trained.record != config.record:
        raise CheckpointError(
            f"{source} has a record already, with other fields or sizes",
            expected="the same record",
            fix="take them from its model_index.json",
        )
    ours, theirs = (_flat(to_dict(each)) for each in (config, trained))
    if different := [key for key in theirs if ours.get(key) != theirs[key] and key.split(".")[0] not in _MAY_DIFFER]:
        key = different[0]
        raise CheckpointError(
            f"{key} is {ours.get(key)!r}, and {theirs[key]!r} in {source}",
            expected="the sizes of the model that is extended",
            fix=f"set {key}: {theirs[key]}",
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
