"""Encode a dataset once: ``diffuse`` and ``join`` then train without running autoencoders or prompt encoders again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from medcodi.data.dataset import StudyDataset
from medcodi.data.loading import collate
from medcodi.errors import TrainingError
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.networks.prompt_encoders import PromptEncoding
from medcodi.randomness import seed_from_keys
from medcodi.stages.encoded import EncodedBatch, encode_batch

INFO = "cache.json"


class EncodedStudies:
    """A dataset of encoded studies, memory-mapped, as float16.

    Attributes:
        name: The dataset's, marked as encoded.
        image_size: Of the dataset that was encoded.
        fingerprint: Of the dataset that was encoded.
    """

    def __init__(self, folder: Path) -> None:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        self.name, self.image_size, self.fingerprint = (
            f"{info['dataset']} (encoded)",
            info["image_size"],
            info["fingerprint"],
        )
        self._modalities: list[str] = info["modalities"]
        self._ids: list[list[str]] = info["ids"]  # [study, patient] of each row
        self._arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Any:
        raise TypeError("an encoded study has no pixels and no words; read batches of it")

    def read_batch(self, samples: Sequence[int]) -> EncodedBatch:
        """The rows with these indices."""
        rows = np.asarray(samples)

        def part(what: str, name: str) -> torch.Tensor:
            found = torch.from_numpy(self._arrays[f"{name}.{what}"][rows])
            return found if found.dtype == torch.bool else found.float()

        def prompts(name: str) -> PromptEncoding:
            mask = part("mask", name)
            length = int(mask.any(dim=0).nonzero().max()) + 1  # no row of this batch has more tokens
            return PromptEncoding(part("pooled", name), part("tokens", name)[:, :length], mask[:, :length])

        return EncodedBatch(
            means={name: part("mean", name) for name in self._modalities},
            stds={name: part("std", name) for name in self._modalities},
            prompts={name: prompts(name) for name in self._modalities},
            present={name: part("present", name) for name in self._modalities},
            study_ids=[self._ids[row][0] for row in rows],
            patient_ids=[self._ids[row][1] for row in rows],
            samples=tuple(samples),
        )


def encoder_fingerprint(model: MedCoDi) -> str:
    """Hash of the weights that a cache depends on."""
    return model.fingerprint(name for name in model.components() if name.startswith(("autoencoder", "prompt")))


def encoded(
    model: MedCoDi,
    dataset: StudyDataset,
    folder: str | Path,
    *,
    batch_size: int = 64,
    precision: torch.dtype = torch.float32,
) -> EncodedStudies:
    """Open the cache of a dataset, and make it first where it is missing.

    Args:
        model: Whose autoencoders and prompt encoders are used, on its device.
        dataset: What is encoded, whole.
        folder: Where caches lie; each dataset and model has a folder of its own in it, named by their hashes.
        batch_size: Studies encoded at a time.
        precision: Autocast precision of the encoders.

    Raises:
        TrainingError: If what lies there is not a cache.
    """
    key = f"{seed_from_keys(encoder_fingerprint(model), dataset.fingerprint, dataset.name, len(dataset)):016x}"
    place = Path(folder) / key
    if not place.exists():
        _encode(model, dataset, place, batch_size, precision)
    if not (place / INFO).is_file():
        raise TrainingError(
            f"{place} is not a cache of encoded studies", mend="remove it, or name another cache folder"
        )
    return EncodedStudies(place)


def _encode(model: MedCoDi, dataset: StudyDataset, place: Path, batch_size: int, precision: torch.dtype) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    ids: list[list[str]] = []
    arrays: dict[str, np.ndarray] = {}
    try:
        for start in track(range(0, len(dataset), batch_size), description=f"encoding {len(dataset):,} studies"):
            samples = list(range(start, min(start + batch_size, len(dataset))))
            batch = collate([dataset[sample] for sample in samples], samples, dataset.image_size).to(model.device)
            with torch.autocast(model.device.type, precision, enabled=precision != torch.float32):
                rows = encode_batch(model, batch)
            ids += [list(pair) for pair in zip(rows.study_ids, rows.patient_ids, strict=True)]
            for name, value in _columns(model, rows).items():
                if name not in arrays:
                    shape = (len(dataset), *value.shape[1:])
                    arrays[name] = np.lib.format.open_memmap(
                        staging / f"{name}.npy", mode="w+", dtype=value.dtype, shape=shape
                    )
                arrays[name][start : start + len(samples)] = value
        for array in arrays.values():
            array.flush()  # pyright: ignore[reportAttributeAccessIssue]
        info = {
            "dataset": dataset.name,
            "fingerprint": dataset.fingerprint,
            "image_size": dataset.image_size,
            "modalities": sorted({name.partition(".")[0] for name in arrays}),
            "ids": ids,
        }
        (staging / INFO).write_text(json.dumps(info), encoding="utf-8")
        staging.rename(place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _columns(model: MedCoDi, rows: EncodedBatch) -> dict[str, np.ndarray]:
    columns: dict[str, torch.Tensor] = {}
    for name in rows.means:
        prompt = rows.prompts[name].padded(model.prompt_encoders.max_tokens(MODALITIES[name].kind))
        columns[f"{name}.mean"], columns[f"{name}.std"] = rows.means[name], rows.stds[name]
        columns[f"{name}.pooled"], columns[f"{name}.tokens"], columns[f"{name}.mask"] = (
            prompt.pooled,
            prompt.tokens,
            prompt.mask,
        )
        columns[f"{name}.present"] = rows.present[name]
    return {name: _plain(value) for name, value in columns.items()}


def _plain(value: torch.Tensor) -> np.ndarray:
    value = value.cpu()
    return value.numpy() if value.dtype == torch.bool else value.to(torch.float16).numpy()
