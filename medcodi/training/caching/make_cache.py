"""Make a cache: every rank encodes its shards, and a shard that is finished is never encoded again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from medcodi.data.dataset import StudyDataset, read_study
from medcodi.data.loading import Batch, collate
from medcodi.distributed import ALONE, Ranks
from medcodi.errors import DataError, MedCoDiError, one_of
from medcodi.model import MedCoDi
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.stages.encoded import EncodedBatch, encode_batch, encode_nulls
from medcodi.storage.job_folder import JobFolder, damage
from medcodi.training.caching.encoded_studies import EncodedStudies, open_cache
from medcodi.training.caching.format import (
    CACHE,
    CRC,
    NULLS,
    PRECISIONS,
    CacheKey,
    file_row_of,
    plan_shards,
    sealed,
    write_array,
)

HALF = np.dtype("<f2")

OnProgress = Callable[[int, int], None]  # studies encoded by all ranks, studies in all


def make_cache(
    model: MedCoDi,
    dataset: StudyDataset,
    folder: Path,
    key: CacheKey,
    *,
    ranks: Ranks = ALONE,
    batch_size: int = 64,
    num_workers: int = 0,
    overwrite: bool = False,
    verify: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> EncodedStudies:
    """Encode a dataset, or what is missing of it. Every rank calls this; the bytes do not depend on the number of ranks.

    Args:
        model: Whose autoencoders and prompt encoders are used; they are loaded only if there is something to encode.
        dataset: What is encoded, whole.
        folder: New, empty, or with an earlier cache of the same key.
        key: Of this model and dataset.
        ranks: The processes that share the work.
        batch_size: Studies encoded at a time.
        num_workers: Processes of each rank that read ahead.
        overwrite: Replace a cache of another key, or damaged shards.
        verify: Check every byte of what is there; else only the sizes of files, and each row when it is read.
        on_progress: Called on the first rank.

    Returns:
        The cache, opened.

    Raises:
        DataError: On every rank: another cache or something else is in the folder, a study cannot be read or encoded, or
            the folder cannot be written. Finished shards stay.
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}", expected="at least 1")
    one_of("precision", key.precision, PRECISIONS, DataError)
    job = JobFolder(folder, CACHE, key.to_json(), ranks)
    shards = plan_shards(key.studies)

    # A complete cache is opened without a lock; one that lacks shards is locked, and looked at again.
    def missing() -> list[str] | None:
        return _missing(job, shards, overwrite=overwrite, verify=verify)

    if ranks.by_first(missing) is not None:
        with job.opened(restart=overwrite):
            todo = ranks.by_first(missing) or []
            encoder = _Encoder(model, dataset, job, key, batch_size, num_workers)
            report = partial(_report, on_progress, job, shards, todo) if ranks.is_first else None
            try:
                ranks.by_each(lambda: encoder.encode({shard: shards[shard] for shard in ranks.share(todo)}, report))
                ranks.by_first(lambda: _finish(model, job, key, shards))
            except MedCoDiError:
                if ranks.is_first and len(job.todo(shards)) == len(shards):
                    job.clear()  # nothing is finished: leave nothing behind
                raise
    return open_cache(folder, key, dataset)


def _missing(job: JobFolder, shards: Mapping[str, range], *, overwrite: bool, verify: bool) -> list[str] | None:
    """The shards that are still to be encoded; None if the cache is complete. Nothing is written."""
    index = job.read_index()
    if index is None or (overwrite and index["key"] != job.identity):
        return list(shards)
    job.check()
    todo = job.verify(shards) if verify or overwrite else job.todo(shards)
    if not index.get("complete"):
        return todo

    # A finished cache: what is missing was damaged later.
    broken = [f"{shard}.npy" for shard in todo]
    if (verify or overwrite) and damage(job.root / NULLS, index["nulls"]):
        broken.append(NULLS)
    if broken and not overwrite:
        raise DataError(
            f"{job.root / broken[0]} is missing, cut or damaged ({len(broken)} of {len(shards) + 1} files are)",
            expected="the bytes that were written",
            fix="medcodi data cache … --overwrite encodes it again",
        )
    return todo if broken else None


def _finish(model: MedCoDi, job: JobFolder, key: CacheKey, shards: Mapping[str, range]) -> None:
    """Encode the null prompts, and write the index that vouches for everything."""
    records = {shard: job.record(shard) or {} for shard in shards}
    rows = {shard: file_row_of(shard, record) for shard, record in records.items()}
    parts = [
        {"file": f"{shard}.npy", "rows": records[shard]["rows"], "bytes": row["bytes"], "sha256": row["sha256"]}
        for shard, row in rows.items()
    ]
    present = {name: sum(record["present"][name] for record in records.values()) for name in key.modalities}
    nulls = {"file": NULLS, **write_array(job.root / NULLS, null_record(model, key))}
    job.write_index(complete=True, present=present, nulls=nulls, parts=parts)


def _report(
    on_progress: OnProgress, job: JobFolder, shards: Mapping[str, range], todo: Sequence[str], shard: str, done: int
) -> None:
    # Count the studies of all ranks: by their records, and this rank's own unfinished shard.
    total = sum(map(len, shards.values()))
    left = sum(len(shards[other]) for other in todo if other != shard and not job.record_path(other).exists())
    on_progress(total - left - len(shards[shard]) + done, total)


# ---- encoding --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Encoder:
    """Encodes shards of a dataset into a folder."""

    model: MedCoDi
    dataset: StudyDataset
    job: JobFolder
    key: CacheKey
    batch_size: int
    num_workers: int

    def encode(self, shards: Mapping[str, range], report: Callable[[str, int], None] | None = None) -> None:
        """Write these shards; ``report`` is called after every batch with the shard and how many of its studies are encoded."""
        # Batches never cross the border of a shard, so that its bytes depend on it alone.
        batches: list[EncodedBatch] = []
        slices = [
            (shard, range(start, min(start + self.batch_size, studies.stop)))
            for shard, studies in shards.items()
            for start in range(studies.start, studies.stop, self.batch_size)
        ]
        for (shard, samples), batch in zip(slices, self._batches([samples for _, samples in slices]), strict=True):
            batches.append(self._encoded(batch))
            if samples.stop == shards[shard].stop:
                self._write(shard, batches)
                batches = []
            if report is not None:
                report(shard, samples.stop - shards[shard].start)

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
        device, dtype = self.model.device, _dtype(self.key)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return encode_batch(self.model, batch.to(device)).to("cpu")

    def _write(self, shard: str, batches: Sequence[EncodedBatch]) -> None:
        # One column for each quantity of each modality, over all rows of the shard.
        columns: dict[str, np.ndarray] = {}
        for name in self.key.modalities:
            prompts = PromptEncoding.concatenate([rows.prompts[name] for rows in batches])
            columns |= _prompt_columns(name, prompts, self.key.context)
            for quantity in ("means", "stds", "present"):
                columns[f"{name}.{quantity}"] = torch.cat([getattr(rows, quantity)[name] for rows in batches]).numpy()
        ids = [list(pair) for rows in batches for pair in zip(rows.study_ids, rows.patient_ids, strict=True)]

        # One record for each study; the file first, then what vouches for it.
        records = _records(columns)
        _refuse_overflow(records, [study for study, _ in ids])
        present = {name: int(records[f"{name}.present"].sum()) for name in self.key.modalities}
        file = f"{shard}.npy"
        row = write_array(self.job.root / file, sealed(records))
        self.job.finish(shard, {file: row}, rows=len(records), ids=ids, present=present)


def _dtype(key: CacheKey) -> torch.dtype:
    return torch.bfloat16 if key.precision == "bf16" else torch.float32


def _read(dataset: StudyDataset, samples: range) -> Batch | DataError:
    try:
        return collate([read_study(dataset, sample) for sample in samples], samples, dataset.image_size)
    except DataError as error:  # raised by the caller: torch would add its own traceback
        return error


def _prompt_columns(name: str, prompts: PromptEncoding, context: str) -> dict[str, np.ndarray]:
    """Tokens only where denoisers attend to them, cut to the longest prompt: ``[B, L, D]``, mask ``[B, L]``."""
    columns = {f"{name}.pooled": prompts.pooled.numpy()}
    if context == "tokens":
        length = int(prompts.mask.any(dim=0).nonzero().max()) + 1
        columns[f"{name}.tokens"] = prompts.tokens[:, :length].numpy()
        columns[f"{name}.mask"] = prompts.mask[:, :length].numpy()
    return columns


def _records(columns: dict[str, np.ndarray]) -> np.ndarray:
    """One record for each row: numbers in half precision, masks as bool, and the field of the CRC."""
    fields = [(name, value.dtype if value.dtype == bool else HALF, value.shape[1:]) for name, value in columns.items()]
    records = np.zeros(len(next(iter(columns.values()))), dtype=[*fields, (CRC, "<u4")])
    with np.errstate(over="ignore"):  # refused below, by study
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
    dtype = _dtype(key)
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
        nulls = encode_nulls(model, key.modalities)
    columns: dict[str, np.ndarray] = {}
    for name, null in nulls.items():
        columns |= _prompt_columns(name, null.to("cpu"), key.context)
    return sealed(_records(columns))
