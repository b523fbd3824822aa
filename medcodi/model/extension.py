"""A trained model with a further modality: it keeps every weight that it has, and what it lacks is fresh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medcodi.config import to_dict
from medcodi.errors import CheckpointError
from medcodi.model.config import ModelConfig
from medcodi.model.medcodi import MedCoDi, fit_records
from medcodi.record import Record

_MAY_DIFFER = (
    "name",
    "modalities",
    "record",
    "vocab_size",
    "generation",
)  # keys of the config that fix no trained weight


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
