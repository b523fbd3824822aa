"""A source becomes a dataset: read in parallel, left out with a reason where it must be, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medcodi.config import config, from_dict, to_dict
from medcodi.data.dataset import FORMAT, INFO_FILE, row_from_study
from medcodi.data.ledger import Entry, Ledger
from medcodi.data.sources import SOURCES
from medcodi.data.sources.record import LeftOut, Record
from medcodi.data.splits import PatientSplits
from medcodi.errors import DataError, one_of
from medcodi.study import CHEXPERT_LABELS, Study

CHUNK = 32  # studies in memory for each worker
MIN_STUDIES_FOR_LIMIT = 10  # below it a share of bad studies says little; one good study is enough


@config
class PrepareConfig:
    """What is prepared, and how.

    Attributes:
        source: Kind of source: ``csv``, ``dicom``, ``phantom``.
        out: Folder of the dataset.
        path: Table or folder that the source reads.
        options: Further options of the source (``options.columns.image=file``); its module says which.
        image_size: Pixels a side of the prepared images.
        name: Of the dataset; None: the folder's.
        seed: Of the division into splits.
        val: Share of patients in ``val``, where the source has no official splits.
        test: Share of patients in ``test``, likewise.
        workers: Processes that read.
        max_bad_fraction: Share of studies that may be left out.
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
    workers: int = 1
    max_bad_fraction: float = 0.10
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 16 <= self.image_size <= 4096:
            raise ValueError(f"image_size is {self.image_size}, must be from 16 to 4096")
        if self.val < 0 or self.test < 0 or self.val + self.test >= 1:
            raise ValueError(f"val={self.val} and test={self.test}: shares of patients that leave some for training")
        if self.workers < 1 or not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(
                f"workers={self.workers} must be at least 1, max_bad_fraction={self.max_bad_fraction} in [0, 1]"
            )

    def records(self) -> Iterator[Record]:
        """The studies that the source announces.

        Raises:
            DataError: If there is no such source, or it cannot be read.
            ConfigError: If one of its options is wrong.
        """
        source = SOURCES[one_of("source", self.source, SOURCES, DataError)]
        options = {**self.options, **({} if self.path is None else {"path": self.path})}
        return source.records(from_dict(source.Options, options, source=f"options of source {self.source!r}"))


def prepare(config: PrepareConfig) -> Ledger:
    """Turn a source into a memory-mapped dataset with patient-level splits and a ledger.

    Returns:
        The ledger; it is written beside the data too.

    Raises:
        DataError: If the source cannot be read, too many studies cannot be used, a patient stands in two splits, or the
            folder is there already. Nothing is left behind then.
    """
    out = Path(config.out)
    if out.exists() and not config.overwrite:
        raise DataError(
            f"{out} exists already", expected="a new folder", mend="overwrite=true replaces it, or choose another --out"
        )
    records = list(config.records())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise DataError(f"{out} cannot be made: {error.strerror}", mend="choose a folder that can be written") from None
    try:
        ledger = _write(config, records, staging)
        staging.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ledger


def _write(config: PrepareConfig, records: Sequence[Record], folder: Path) -> Ledger:
    ledger = Ledger(num_studies=len(records))
    splits = PatientSplits(seed=config.seed, val=config.val, test=config.test)
    digest = hashlib.sha256(repr((config.source, config.image_size)).encode())
    with ExitStack() as stack:
        writers = _Writers(folder, stack)
        loaded = stack.enter_context(_loading(records, config))
        for record, study in zip(records, loaded, strict=True):
            split = splits.place(record.patient_id, record.split)
            _enter(ledger, record, study, split)
            if isinstance(study, Study):
                row = row_from_study(study, split)
                digest.update(
                    repr(
                        sorted((key, bytes(str(value), "utf-8")) for key, value in row.items() if key != "labels")
                    ).encode()
                )
                writers.write(split, row)
    _check_share(ledger, config)
    ledger.write(folder)
    info = {
        "format": FORMAT,
        "name": config.name or Path(config.out).name,
        "image_size": config.image_size,
        "fingerprint": digest.hexdigest(),
        "counts": ledger.counts(),
        "config": to_dict(config),
    }
    (folder / INFO_FILE).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    return ledger


def _enter(ledger: Ledger, record: Record, study: Study | LeftOut, split: str) -> None:
    """Write a study's files into the ledger."""
    ids = {"study_id": record.study_id, "patient_id": record.patient_id}
    for spare in record.spare:
        ledger.entries.append(
            Entry(file=spare.file, **ids, modality="", split="", reason=spare.reason, detail=spare.detail)
        )
    if isinstance(study, Study):
        files = record.files()
        for name in study.contents:
            ledger.entries.append(Entry(file=files.get(name, record.study_id), **ids, modality=name, split=split))
        return
    ledger.left_out += 1
    culprit = Entry(file=study.file, **ids, modality="", split="", reason=study.reason, detail=study.detail)
    ledger.entries.append(culprit)
    for name, file in record.files().items():
        if file != study.file:
            ledger.entries.append(
                Entry(file=file, **ids, modality=name, split="", reason="study left out", detail=study.reason)
            )


def _check_share(ledger: Ledger, config: PrepareConfig) -> None:
    reasons = ", ".join(f"{reason} ({count})" for reason, count in ledger.counts()["reason"].items())
    if not ledger.num_kept:
        raise DataError(
            f"no study of {config.source} {config.path or ''} can be used: {reasons}",
            expected="at least one",
            mend="look at the reasons",
        )
    share = ledger.left_out / ledger.num_studies
    if share > config.max_bad_fraction and ledger.num_studies >= MIN_STUDIES_FOR_LIMIT:
        example = next(entry.detail for entry in ledger.entries if entry.detail)
        raise DataError(
            f"{ledger.left_out:,} of {ledger.num_studies:,} studies ({share:.0%}) cannot be used: {reasons}. For one: {example}",
            expected=f"at most {config.max_bad_fraction:.0%}",
            mend=f"mend the source, or allow it: max_bad_fraction={min(1.0, round(share + 0.01, 2))}",
        )


class _Writers:
    """One Arrow file for each split, opened when its first study comes."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack, self._open = folder, stack, {}

    def write(self, split: str, row: dict[str, Any]) -> None:
        """Append a row."""
        if split not in self._open:
            self._open[split] = self._stack.enter_context(_arrow_file(self._folder / split))
        self._open[split].write(row)


@contextmanager
def _arrow_file(folder: Path) -> Iterator[Any]:
    from datasets import Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    from medcodi.modality import MODALITIES

    folder.mkdir()
    features = Features(
        {
            "study_id": Value("string"),
            "patient_id": Value("string"),
            "split": Value("string"),
            **{name: Value("string" if row.kind == "text" else "binary") for name, row in MODALITIES.items()},
            "labels": Sequence(Value("float32"), length=len(CHEXPERT_LABELS)),
            "findings": Value("string"),
            "metadata": Value("string"),
        }
    )
    writer = ArrowWriter(path=str(folder / "data-00000.arrow"), features=features, writer_batch_size=64)
    yield writer
    writer.finalize()
    writer.close()


@contextmanager
def _loading(records: Sequence[Record], config: PrepareConfig) -> Iterator[Iterator[Study | LeftOut]]:
    """Read records in order, in parallel where asked, never more than a few chunks ahead; tells how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns))
        task = progress.add_task(f"preparing {config.source}", total=len(records))
        load = partial(_load, image_size=config.image_size)
        pool = None
        if config.workers > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(config.workers))

        def loaded() -> Iterator[Study | LeftOut]:
            rest = iter(records)
            while chunk := list(islice(rest, CHUNK * config.workers)):
                for study in pool.imap(load, chunk, chunksize=8) if pool else map(load, chunk):
                    yield study
                    progress.advance(task)

        yield loaded()


def _load(record: Record, image_size: int) -> Study | LeftOut:
    return record.load(image_size)
