"""The model that a run without ``init`` starts from: its recipe, fitted to the studies; the reports of its tokenizer, its records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from medcodi.config import load as load_config
from medcodi.data.dataset import StudyDataset
from medcodi.errors import TrainingError
from medcodi.modality import MODALITIES
from medcodi.model import ModelConfig
from medcodi.record import Record
from medcodi.training.config import TrainConfig


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
