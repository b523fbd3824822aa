"""What a stage asks of its data, checked before the first step."""

from __future__ import annotations

from medcodi.data.dataset import StudyDataset
from medcodi.errors import TrainingError
from medcodi.stages.stage import Stage


def check_data(stage: Stage, dataset: StudyDataset, role: str = "data") -> None:
    """Refuse studies that the stage could not be trained on.

    Args:
        stage: Around its model.
        dataset: Its studies; one that cannot count its modalities is taken to hold all.
        role: The key of the config that names it.

    Raises:
        TrainingError: If it was prepared at another size than the model's, or a modality that the stage needs is in no study.
    """
    size = stage.model.config.image_size
    if dataset.image_size != size:
        raise TrainingError(
            f"{role}: {dataset.name} was prepared at {dataset.image_size} pixels, the model takes {size}",
            expected="the same size",
            mend=f"prepare the studies with image_size={size} and set {role}.image_size={size}, or take another model",
        )
    counted = getattr(dataset, "modality_counts", None)
    if counted is None:
        return
    counts: dict[str, int] = counted()
    missing = [name for name in stage.needs() if not counts.get(name)]
    if missing:
        held = ", ".join(f"{name} in {count:,}" for name, count in counts.items() if count) or "nothing"
        raise TrainingError(
            f"{role}: of the {len(dataset):,} studies of {dataset.name}, none has {' or '.join(missing)} (they hold {held})",
            expected=f"{', '.join(stage.needs())}: what stage {stage.name!r} trains here",
            mend=f"prepare them with {missing[0]}, or train a model, or stage.options, without it",
        )
