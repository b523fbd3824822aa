"""A source becomes a dataset: read in parallel, left out with a reason where it must be, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medcodi import __version__
from medcodi.config import config, from_dict, to_dict
from medcodi.data.files import FORMAT, INFO_FILE
from medcodi.data.ledger import Ledger
from medcodi.data.shards import FILE_FORMATS, Shard, WrittenShard, plan_shards
from medcodi.data.sources import SOURCES, Each, Source
from medcodi.data.sources.record import Record
from medcodi.data.splits import PatientSplits
from medcodi.data.staging import Staging, staging_for
from medcodi.data.workers import Workers
from medcodi.errors import DataError, one_of

_NOT_TOLD = ("out", "num_workers", "overwrite", "resume")  # of the run, not of the dataset
MIN_STUDIES_FOR_LIMIT = 10  # below it a share of bad studies says little; one good study is enough


@config
class PrepareConfig:
    """What is prepared, and how.

    Attributes:
        source: Kind of source: ``csv``, ``dicom``, ``mimic-cxr``, ``mimic-cxr-jpg``, ``openi``, ``phantom``.
        out: Folder of the dataset.
        path: Table or folder that the source reads.
        options: Further options of the source (``options.columns.image=file``); its module says which.
        image_size: Pixels a side of the prepared images.
        name: Of the dataset; None: the folder's.
        seed: Of the division into splits.
        val: Share of patients in ``val``, where the source has no official splits.
        test: Share of patients in ``test``, likewise.
        num_workers: Ranks that read and write; the result is the same for any number.
        file_format: Of the shards: ``arrow`` (memory-mapped as it is) or ``parquet`` (smaller, for sending).
        max_bad_fraction: Share of studies that may be left out.
        resume: Go on from what a killed run of the same settings left; false starts from nothing.
        overwrite: Replace a dataset that is there.
    """

    source: str
    out: str
    path: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    image_size: int = 128
    name: str | None = None
    seed: int = 0
    val: float = 0.1
    test: float = 0.1
    num_workers: int = 1
    file_format: str = "arrow"
    max_bad_fraction: float = 0.10
    resume: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 16 <= self.image_size <= 4096:
            raise ValueError(f"image_size is {self.image_size}, must be from 16 to 4096")
        if self.val < 0 or self.test < 0 or self.val + self.test >= 1:
            raise ValueError(f"val={self.val} and test={self.test}: shares of patients that leave some for training")
        one_of("file_format", self.file_format, FILE_FORMATS, DataError)
        if self.num_workers < 1 or not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(
                f"num_workers={self.num_workers} must be at least 1, max_bad_fraction={self.max_bad_fraction} in [0, 1]"
            )

    def kind(self) -> Source:
        """The row of the source.

        Raises:
            DataError: If there is no such source.
        """
        return SOURCES[one_of("source", self.source, SOURCES, DataError)]

    def records(self, each: Each = map) -> Iterator[Record]:
        """The studies that the source announces.

        Args:
            each: Applies a function to many files, in their order.

        Raises:
            DataError: If there is no such source, or it cannot be read.
            ConfigError: If one of its options is wrong.
        """
        source = self.kind()
        options = {**self.options, **({} if self.path is None else {"path": self.path})}
        return source.announce(from_dict(source.Options, options, source=f"options of source {self.source!r}"), each)


def prepare(config: PrepareConfig) -> Ledger:
    """Turn a source into a memory-mapped dataset with patient-level splits and a ledger.

    A run that is killed leaves its finished shards in a hidden folder beside ``out``; the next one with the same
    settings goes on from them. The bytes of the dataset do not depend on the number of workers or of interruptions.

    Returns:
        The ledger; it is written beside the data too.

    Raises:
        DataError: If the source cannot be read, too many studies cannot be used, a patient stands in two splits, or the
            folder is there already. Nothing is left behind then.
        Interrupted: If the disk is full or a worker was killed: what is finished stays.
    """
    out = Path(config.out)
    if out.exists() and not config.overwrite:
        raise DataError(
            f"{out} exists already", expected="a new folder", fix="overwrite=true replaces it, or choose another --out"
        )
    with Workers(config.num_workers, config.source) as workers:
        records = list(config.records(workers.map))
        splits = PatientSplits(seed=config.seed, val=config.val, test=config.test)
        for record in records:
            if record.split:  # before any is drawn for a patient who has studies without one
                splits.place(record.patient_id, record.split)
        shards = plan_shards(records, [splits.place(record.patient_id, record.split) for record in records])
        with staging_for(out) as staging:
            if told := staging.begin(_plan_key(config, records), resume=config.resume):
                Console(stderr=True).print(told)
            written = _write(config, shards, staging, workers, num_studies=len(records))
            ledger = _finish(config, shards, written, staging.dataset)
            staging.publish(out)
    return ledger


def _plan_key(config: PrepareConfig, records: Sequence[Record]) -> str:
    """What a finished shard depends on: another source, another setting or another version starts from nothing."""
    digest = hashlib.sha256()
    settings = {"source", "image_size", "seed", "val", "test", "file_format"}
    values = {key: value for key, value in to_dict(config).items() if key in settings}
    digest.update(json.dumps([FORMAT, __version__, values], sort_keys=True).encode())
    for record in records:
        digest.update(repr(record).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _write(
    config: PrepareConfig, shards: Sequence[Shard], staging: Staging, workers: Workers, *, num_studies: int
) -> dict[str, WrittenShard]:
    """Write what is not there yet; stops as soon as too many studies are bad for any end."""
    written = staging.finished(shards)
    todo = [shard for shard in shards if shard.name not in written]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        if written:
            progress.console.print(
                f"going on: {len(written):,} of {len(shards):,} shards are there from an earlier run"
            )
        task = progress.add_task(
            f"preparing {config.source}", total=num_studies, completed=num_studies - sum(len(s.records) for s in todo)
        )
        for shard, one in workers.written_shards(todo, staging.dataset, config):
            staging.keep(shard, one)
            written[shard.name] = one
            progress.advance(task, len(shard.records))
            _check_share(config, written.values(), num_studies, partly=len(written) < len(shards))
    _check_share(config, written.values(), num_studies, partly=False)
    return written


def _finish(
    config: PrepareConfig, shards: Sequence[Shard], written: Mapping[str, WrittenShard], folder: Path
) -> Ledger:
    """The ledger and the dataset's description, in the order of the source whoever wrote what when."""
    done = [written[shard.name] for shard in shards]
    entries = sorted((pair for one in done for pair in one.entries), key=lambda pair: pair[0])
    ledger = Ledger(
        source=config.source,
        entries=[entry for _, entry in entries],
        num_studies=sum(len(shard.records) for shard in shards),
        left_out=sum(one.left_out for one in done),
    )
    ledger.write(folder)
    digest = hashlib.sha256(repr((config.source, config.image_size)).encode())
    for _, one in sorted(pair for each in done for pair in each.digests.items()):
        digest.update(one.encode())
    files: dict[str, list[dict[str, Any]]] = {}
    for shard, one in zip(shards, done, strict=True):
        if one.file:
            row = {"file": one.file, "rows": one.rows, "bytes": one.bytes, "sha256": one.sha256}
            files.setdefault(shard.split, []).append(row)
    told = {key: value for key, value in to_dict(config).items() if key not in _NOT_TOLD}
    info = {
        "format": FORMAT,
        "name": config.name or Path(config.out).name,
        "image_size": config.image_size,
        "credentialed": config.kind().credentialed,
        "fingerprint": digest.hexdigest(),
        "counts": ledger.counts(),
        "shards": files,
        "config": told,
    }
    (folder / INFO_FILE).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    return ledger


def _check_share(config: PrepareConfig, written: Iterable[WrittenShard], num_studies: int, *, partly: bool) -> None:
    """Refuse when too many studies are bad.

    Args:
        config: Says how many are too many.
        written: The shards so far.
        num_studies: Of the source.
        partly: Some are still to come.
    """
    done = list(written)
    left_out = sum(one.left_out for one in done)
    share = left_out / num_studies if num_studies else 1.0
    bad = share > config.max_bad_fraction and num_studies >= MIN_STUDIES_FOR_LIMIT
    if not bad and (partly or left_out < num_studies):
        return
    out = [entry for one in done for _, entry in one.entries if entry.reason]
    reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(entry.reason for entry in out).most_common())
    if not partly and left_out == num_studies:
        raise DataError(
            f"no study of {config.source} {config.path or ''} can be used: {reasons}",
            expected="at least one",
            fix="look at the reasons",
        )
    example = next((entry.detail for entry in out if entry.detail), "")
    raise DataError(
        f"{'at least ' if partly else ''}{left_out:,} of {num_studies:,} studies ({share:.0%}) cannot be used: {reasons}. "
        f"For one: {example}",
        expected=f"at most {config.max_bad_fraction:.0%}",
        fix=f"fix the source, or allow it: max_bad_fraction={min(1.0, round(share + 0.01, 2))}",
    )
