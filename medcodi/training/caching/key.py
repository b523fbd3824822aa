"""The identity of a cache: the weights, data and settings that it was made from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from medcodi.config import to_dict
from medcodi.data.dataset import StudyDataset
from medcodi.model import MedCoDi
from medcodi.model.identity import tokenizer_hashes

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """Everything that decides the bytes of a cache."""

    weights: str  # hash of the autoencoders and prompt encoders: files, tokenizers, configuration
    data: str  # fingerprint of the dataset
    dataset: str  # its name
    split: str  # ``train``, ``val`` or ``test``
    studies: int  # number of studies
    image_size: int  # pixels a side
    precision: str  # autocast precision of the encoders
    context: str  # what the denoisers attend to; ``pooled`` stores no tokens
    modalities: tuple[str, ...]  # of the model

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "modalities": list(self.modalities)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CacheKey:
        """Read it back."""
        return cls(**{**values, "modalities": tuple(values["modalities"])})


def cache_key(model: MedCoDi, dataset: StudyDataset, *, split: str = "train", precision: str = "fp32") -> CacheKey:
    """The key of a dataset's cache by a model, by its files where it has any; no weights are loaded then.

    ``precision`` is the encoders' autocast precision: ``fp32`` or ``bf16``.
    """
    return CacheKey(
        weights=encoder_hash(model),
        data=dataset.fingerprint,
        dataset=dataset.name,
        split=split,
        studies=len(dataset),
        image_size=dataset.image_size,
        precision=precision,
        context=model.config.context,
        modalities=tuple(model.config.modalities),
    )


def encoder_names(model: MedCoDi) -> list[str]:
    """The components whose outputs a cache stores."""
    return [name for name in model.components() if name.startswith("autoencoder_") or name == "prompt_encoders"]


def encoder_hash(model: MedCoDi) -> str:
    """SHA-256 over files, tokenizers and configuration of the autoencoders and prompt encoders, as hexadecimal."""
    names = encoder_names(model)
    if model.files is None:
        weights: Any = model.fingerprint(names)
    else:
        index = model.files.index
        weights = [{name: index["components"][name]["sha256"] for name in names}, tokenizer_hashes(index)]
    settings = to_dict(model.config)
    names = ("image_size", "prompt_encoders", "image_autoencoder", "report_autoencoder", "record")
    parts = {name: settings[name] for name in names if name in settings}
    return hashlib.sha256(json.dumps([weights, parts], sort_keys=True).encode()).hexdigest()
