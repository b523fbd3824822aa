"""Encode parts of a dataset: batches through the frozen networks, records to the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from medcodi.data.dataset import StudyDataset, read_study
from medcodi.data.loading import Batch, collate
from medcodi.errors import DataError
from medcodi.model import MedCoDi
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.stages.encoded import EncodedBatch, encode_batch, encode_nulls
from medcodi.training.caching import files
from medcodi.training.caching.files import Part
from medcodi.training.caching.key import CacheKey

HALF = np.dtype("<f2")


class Encoder:
    """Encodes parts of a dataset into a folder."""

    def __init__(
        self, model: MedCoDi, dataset: StudyDataset, folder: Path, key: CacheKey, batch_size: int, num_workers: int
    ) -> None:
        self.model, self.dataset, self.folder, self.key = model, dataset, folder, key
        self.batch_size, self.num_workers = batch_size, num_workers

    def encode(self, parts: Sequence[Part], tell: Callable[[Part, int], None] | None = None) -> None:
        """Write these parts, one after the other.

        Args:
            parts: Of the dataset.
            tell: Told the part in work and how many of its studies are encoded.

        Raises:
            DataError: If a study cannot be read or encoded, or a part cannot be written.
        """
        held: list[EncodedBatch] = []
        slices = [
            (part, range(start, min(start + self.batch_size, part.stop)))
            for part in parts
            for start in range(part.start, part.stop, self.batch_size)
        ]
        for (part, samples), batch in zip(slices, self._batches([samples for _, samples in slices]), strict=True):
            rows = self._encoded(batch)
            held.append(rows)
            if samples.stop == part.stop:
                self._write(part, held)
                held = []
            if tell is not None:
                tell(part, samples.stop - part.start)

    def _batches(self, slices: list[range]) -> Iterator[Batch]:
        if not slices:
            return
        loader = DataLoader(
            slices,  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=partial(_read, self.dataset),  # type: ignore[arg-type]
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(0),  # or it would draw from the global one
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def _encoded(self, batch: Batch) -> EncodedBatch:
        device, dtype = self.model.device, torch.bfloat16 if self.key.precision == "bf16" else torch.float32
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return encode_batch(self.model, batch.to(device)).to("cpu")

    def _write(self, part: Part, held: list[EncodedBatch]) -> None:
        columns: dict[str, np.ndarray] = {}
        for name in self.key.modalities:
            prompts = PromptEncoding.concatenate([rows.prompts[name] for rows in held])
            columns |= _prompt_columns(name, prompts, self.key.context)
            for what in ("means", "stds", "present"):
                columns[f"{name}.{what}"] = torch.cat([getattr(rows, what)[name] for rows in held]).numpy()
        ids = [list(pair) for rows in held for pair in zip(rows.study_ids, rows.patient_ids, strict=True)]
        records = _records(columns)
        _refuse_overflow(records, [study for study, _ in ids])
        present = {name: int(records[f"{name}.present"].sum()) for name in self.key.modalities}
        files.write_part(self.folder, part, records, ids, present)


def _read(dataset: StudyDataset, samples: range) -> Batch | DataError:
    try:
        return collate([read_study(dataset, sample) for sample in samples], samples, dataset.image_size)
    except DataError as error:  # handed over as it is: torch would make a page of it
        return error


def _prompt_columns(name: str, prompts: PromptEncoding, context: str) -> dict[str, np.ndarray]:
    """Tokens only where denoisers attend to them, and no more than the longest prompt has."""
    columns = {f"{name}.pooled": prompts.pooled.numpy()}
    if context == "tokens":
        length = int(prompts.mask.any(dim=0).nonzero().max()) + 1
        columns[f"{name}.tokens"] = prompts.tokens[:, :length].numpy()
        columns[f"{name}.mask"] = prompts.mask[:, :length].numpy()
    return columns


def _records(columns: dict[str, np.ndarray]) -> np.ndarray:
    """One record for each row: numbers in half precision, masks as they are, room for the CRC."""
    fields = [(name, value.dtype if value.dtype == bool else HALF, value.shape[1:]) for name, value in columns.items()]
    records = np.zeros(len(next(iter(columns.values()))), dtype=[*fields, (files.CRC, "<u4")])
    with np.errstate(over="ignore"):  # looked for, study by study, in a moment
        for name, value in columns.items():
            records[name] = value
    return records


def _refuse_overflow(records: np.ndarray, studies: Sequence[str]) -> None:
    for name in records.dtype.names or ():
        values = records[name]
        if values.dtype != HALF:
            continue
        finite = np.isfinite(values).reshape(len(records), -1).all(axis=1)
        if not finite.all():
            raise DataError(
                f"study {studies[int(np.argmin(finite))]!r}: its {name} is not a finite number in float16",
                expected="encodings within ±65,504",
                fix="look at the study, and at the model's autoencoders: is their scale set?",
            )


@torch.no_grad()
def null_record(model: MedCoDi, key: CacheKey) -> np.ndarray:
    """The null prompts of all modalities as one record, sealed."""
    dtype = torch.bfloat16 if key.precision == "bf16" else torch.float32
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
        nulls = encode_nulls(model, key.modalities)
    columns: dict[str, np.ndarray] = {}
    for name, null in nulls.items():
        columns |= _prompt_columns(name, null.to("cpu"), key.context)
    return files.sealed(_records(columns))
