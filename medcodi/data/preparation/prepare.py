"""Turn a source into a dataset: read in parallel, bad studies left out with a reason, written whole or not at all."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, ClassVar

from medcodi import __version__
from medcodi.config import config, to_dict
from medcodi.console import SafeConsole, progress_of
from medcodi.data.files import FORMAT, INFO_FILE, is_dataset
from medcodi.data.preparation.ledger import Ledger
from medcodi.data.preparation.shards import (
    FILE_FORMATS,
    PREPARATION,
    Interrupted,
    PatientSplits,
    Shard,
    WrittenShard,
    plan_shards,
)
from medcodi.data.preparation.workers import Workers
from medcodi.data.sources import SOURCES, Each, Source
from medcodi.data.sources.announced import AnnouncedStudy
from medcodi.errors import DataError, MedCoDiError, one_of
from medcodi.storage.atomic import refusing, write_json
from medcodi.storage.job_folder import JobFolder
from medcodi.storage.names import plain_name
from medcodi.storage.ownership import refuse_foreign

_RUN_KEYS = ("out", "num_workers", "overwrite", "resume")  # keys that are not of the dataset
MIN_STUDIES_FOR_LIMIT = 10  # below it a share of bad studies says little; one good study is enough


@config
class PrepareConfig:
    """Source and settings of a preparation."""

    recipes: ClassVar[str] = "data"  # folder of configs/ with recipes for this config

    source: str  # kind of source: ``csv``, ``dicom``, ``mimic-cxr``, ``mimic-cxr-jpg``, ``openi``, ``phantom``
    out: str  # folder of the dataset
    path: str | None = None  # table or folder that the source reads
    # further options of the source (``options.columns.image=file``); its module says which
    options: dict[str, Any] = field(default_factory=dict)
    image_size: int = 128  # pixels a side of the prepared images
    name: str | None = None  # of the dataset; None: the folder's
    seed: int = 0  # of the division into splits
    val: float = 0.1  # share of patients in ``val``, where the source has no official splits
    test: float = 0.1  # share of patients in ``test``, likewise
    num_workers: int = 1  # processes that read and write; the result is the same for any number
    # format of the shards: ``arrow`` (memory-mapped as it is) or ``parquet`` (smaller, for sending)
    file_format: str = "arrow"
    max_bad_fraction: float = 0.10  # share of studies that may be left out
    resume: bool = True  # resume a killed run of the same settings; false starts from nothing
    overwrite: bool = False  # replace an existing dataset

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

    @property
    def dataset_name(self) -> str:
        """The name that is given, or the folder's."""
        return self.name or Path(self.out).absolute().name

    def studies(self, each: Each = map) -> Iterator[AnnouncedStudy]:
        """The studies that the source announces.

        Args:
            each: Applies a function to many files, in their order.

        Raises:
            DataError: If there is no such source, or it cannot be read.
            ConfigError: If one of its options is wrong.
        """
        source = self.kind()
        options = {**self.options, **({} if self.path is None else {"path": self.path})}
        return source.announce(self.source, options, each)


def prepare(config: PrepareConfig) -> Ledger:
    """Turn a source into a memory-mapped dataset with patient-level splits and a ledger.

    A run that is killed leaves its finished shards in a hidden folder beside ``out``; the next one with the same
    settings resumes there. The bytes of the dataset do not depend on the number of workers or of interruptions.

    Returns:
        The ledger; it is written beside the data too.

    Raises:
        DataError: If the source cannot be read, too many studies are bad, a patient is in two splits, or the folder
            exists already. Nothing is left behind.
        Interrupted: If the disk is full or a worker was killed: finished shards stay.
    """
    out = Path(config.out)
    plain_name(config.dataset_name, "name=" if config.name else "--out", fix="give the data set another one: name=...")
    if out.exists() and not config.overwrite:
        JobFolder.sweep_published(out, PREPARATION)
        raise DataError(
            f"{out} exists already", expected="a new folder", fix="overwrite=true replaces it, or choose another --out"
        )
    _refuse_other_folder(out)
    with Workers(config.num_workers, config.source) as workers:
        # Read the source, and divide its patients into splits: official ones first, then drawn ones.
        studies = list(config.studies(workers.map))
        splits = PatientSplits(seed=config.seed, val=config.val, test=config.test)
        for study in studies:
            if study.split:
                splits.place(study.patient_id, study.split)
        shards = plan_shards(studies, [splits.place(study.patient_id, study.split) for study in studies])

        # Write the shards in a hidden folder, and publish it.
        job = JobFolder.beside(out, PREPARATION, _identity(config, studies))
        with job.opened(restart=True) as changed:
            if not config.resume:
                changed = [*changed, "resume=false"]
                job.clear_shards()
            if changed:
                SafeConsole(stderr=True).print(
                    f"removed the shards of an earlier run in {job.root}: {'; '.join(changed)}"
                )
            try:
                written = _write(config, shards, job, workers, num_studies=len(studies))
                ledger = _finish(config, shards, written, job.content)
                _refuse_other_folder(out)
                job.publish(replace=config.overwrite)
            except Interrupted:
                raise
            except MedCoDiError:
                job.clear()
                raise
    return ledger


def _refuse_other_folder(out: Path) -> None:
    """Refuse to replace anything but a data set, and a data set that holds anything else."""
    refuse_foreign(out, is_dataset, what="a data set alone, as data prepare writes it", fix="choose another --out")


def _identity(config: PrepareConfig, studies: Sequence[AnnouncedStudy]) -> dict[str, Any]:
    """Everything that a finished shard depends on."""
    digest = hashlib.sha256()
    for study in studies:
        digest.update(repr(study).encode("utf-8", "surrogatepass"))
    settings = {"source", "image_size", "seed", "val", "test", "file_format"}
    values = {key: value for key, value in to_dict(config).items() if key in settings}
    return {"format": FORMAT, "version": __version__, "studies": digest.hexdigest(), **values}


def _write(
    config: PrepareConfig, shards: Sequence[Shard], job: JobFolder, workers: Workers, *, num_studies: int
) -> dict[str, WrittenShard]:
    """Write the shards that are not there yet; stops as soon as too many studies are bad, whatever comes later."""
    records = {shard.name: job.record(shard.name) for shard in shards}
    written = {name: WrittenShard.from_record(record) for name, record in records.items() if record is not None}
    todo = [shard for shard in shards if shard.name not in written]
    with progress_of() as progress:
        if written:
            progress.console.print(f"resuming: {len(written):,} of {len(shards):,} shards are written")
        num_done = num_studies - sum(len(shard.studies) for shard in todo)
        task = progress.add_task(f"preparing {config.source}", total=num_studies, completed=num_done)
        for shard, result in workers.written_shards(todo, job.content, config):
            job.finish(shard.name, **asdict(result))
            written[shard.name] = result
            progress.advance(task, len(shard.studies))
            _check_share(config, written.values(), num_studies, partly=len(written) < len(shards))
    _check_share(config, written.values(), num_studies, partly=False)
    return written


def _finish(
    config: PrepareConfig, shards: Sequence[Shard], written: Mapping[str, WrittenShard], folder: Path
) -> Ledger:
    """Write the ledger and the dataset's description, in the order of the source, no matter when each was written."""
    results = [written[shard.name] for shard in shards]
    # The ledger: a row a file.
    entries = sorted((pair for result in results for pair in result.entries), key=lambda pair: pair[0])
    ledger = Ledger(
        source=config.source,
        entries=[entry for _, entry in entries],
        num_studies=sum(len(shard.studies) for shard in shards),
        left_out=sum(result.left_out for result in results),
    )
    with refusing(folder, error=Interrupted, then=PREPARATION.resume):
        ledger.write(folder)
    # The fingerprint: a hash over all rows.
    digest = hashlib.sha256(repr((config.source, config.image_size)).encode())
    for _, of_row in sorted(pair for result in results for pair in result.digests.items()):
        digest.update(of_row.encode())
    # The description, with every file's size and hash.
    files: dict[str, list[dict[str, Any]]] = {}
    for shard, result in zip(shards, results, strict=True):
        for file, row in result.files.items():
            files.setdefault(shard.split, []).append({"file": file, "rows": result.rows, **row})
    info = {
        "format": FORMAT,
        "name": config.dataset_name,
        "image_size": config.image_size,
        "credentialed": config.kind().credentialed,
        "fingerprint": digest.hexdigest(),
        "counts": ledger.counts(),
        "shards": files,
        "config": {key: value for key, value in to_dict(config).items() if key not in _RUN_KEYS},
    }
    write_json(folder / INFO_FILE, info, error=Interrupted, then=PREPARATION.resume)
    return ledger


def _check_share(config: PrepareConfig, written: Iterable[WrittenShard], num_studies: int, *, partly: bool) -> None:
    """Refuse when too many studies are bad; ``partly``: some shards are still to come."""
    results = list(written)
    left_out = sum(result.left_out for result in results)
    share = left_out / num_studies if num_studies else 1.0
    bad = share > config.max_bad_fraction and num_studies >= MIN_STUDIES_FOR_LIMIT
    if not bad and (partly or left_out < num_studies):
        return
    refused = [entry for result in results for _, entry in result.entries if entry.reason]
    counts = Counter(entry.reason for entry in refused)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())
    if not partly and left_out == num_studies:
        raise DataError(
            f"no study of {config.source} {config.path or ''} can be used: {reasons}",
            expected="at least one",
            fix="look at the reasons",
        )
    example = next((entry.detail for entry in refused if entry.detail), "")
    raise DataError(
        f"{'at least ' if partly else ''}{left_out:,} of {num_studies:,} studies ({share:.0%}) cannot be used: {reasons}. "
        f"For one: {example}",
        expected=f"at most {config.max_bad_fraction:.0%}",
        fix=f"fix the source, or allow it: max_bad_fraction={min(1.0, round(share + 0.01, 2))}",
    )
