"""Bulk generation: a manifest in, a folder of studies out; resumable, in any number of ranks, with the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medcodi.config import config, to_dict
from medcodi.distributed import Ranks
from medcodi.errors import DataError, MedCoDiError, PromptError
from medcodi.generation.bulk.folder import SynthesisFolder
from medcodi.generation.bulk.manifest import BadRow, Row, RowDefaults, read_manifest
from medcodi.generation.bulk.plan import Item, all_items, blocks
from medcodi.generation.contexts import PromptContexts
from medcodi.generation.pipeline import generate_batch, load
from medcodi.generation.request import Value, check_modalities, check_prompt_files, read_prompt_files
from medcodi.generation.result import image_format, provenance, write_contents
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.model.identity import model_identity

FORMAT_VERSION = 1


@config
class SynthesisConfig:
    """How a manifest is carried out. All of it is part of the identity that a resumed run must have.

    Attributes:
        generation: How to sample.
        defaults: For cells that rows leave empty.
        keep: Columns carried from the manifest into the results.
        batch_size: Samples denoised together; short batches are filled up, so that every batch has the same shape.
        shard_size: Studies in a folder.
        image_format: ``png``, ``png16`` or ``dicom``.
        threads: CPU threads of a rank, where the CPU computes: rounding depends on it.
        execution: How the model runs: precision, layout, compilation, attention kernels, offload.
    """

    generation: GenerationConfig = GenerationConfig()
    defaults: RowDefaults = RowDefaults()
    keep: tuple[str, ...] = ()
    batch_size: int = 8
    shard_size: int = 1000
    image_format: str = "png"
    threads: int = 1
    execution: ExecutionConfig = ExecutionConfig()

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_size", "threads"):
            if getattr(self, name) < 1:
                raise PromptError(f"{name} is {getattr(self, name)}", expected="at least 1", fix=f"correct {name}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one rank did, and the state of the folder when it ended.

    Attributes:
        made: Studies made now.
        found: Studies of this rank that were finished already.
        failed: Rows that this rank could not carry out.
        num_there: Studies finished, of all ranks.
        num_failed: Rows failed, of all ranks.
        num_pending: Studies still to be made, by other ranks; 0: ``results.csv`` is complete.
    """

    made: int = 0
    found: int = 0
    failed: tuple[BadRow, ...] = ()
    num_there: int = 0
    num_failed: int = 0
    num_pending: int = 0


def synthesize(
    manifest: str | Path,
    out: str | Path,
    *,
    model: MedCoDi | str | Path | None = None,
    config: SynthesisConfig = SynthesisConfig(),
    rank: int = 0,
    world: int = 1,
    device: str | None = None,
    collect_only: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    on_failure: Callable[[BadRow], None] | None = None,
) -> Outcome:
    """Carry out a manifest: one folder of files for each study, ``results.csv`` with one row for each.

    Whenever it is stopped, the same call resumes: a study appears in one piece and is not made again. Ranks share the work
    without talking to each other. A file has the same bytes whatever the number of ranks, because batches are cut from the
    manifest alone, all have one shape, and each is made whole by one rank.

    Args:
        manifest: See ``docs/SYNTHESIS.md``.
        out: A new folder, or one to resume.
        model: A model, its folder, or a hub repository; None: the shipped demo.
        config: How.
        rank: Of this process, from 0.
        world: Number of processes that share the work.
        device: ``"cpu"``, ``"cuda"`` …; None: a GPU where there is one.
        collect_only: Make nothing; write ``results.csv`` from the studies that are finished. Otherwise the rank that ends last writes it.
        on_progress: Called with (studies finished, studies in all) of this rank, at the start and after every batch.
        on_failure: Called for each row that cannot be carried out.

    Raises:
        DataError: If the manifest or the folder cannot be used, or the folder holds something else.
        PromptError: If the settings are invalid.
        CheckpointError: If the model cannot be loaded.
    """
    if not 0 <= rank < world:
        raise PromptError(f"rank {rank} of {world}", expected="a rank from 0 to the number of ranks less 1")
    # Read everything that may be refused, and open the folder.
    rows = read_manifest(Path(manifest), config.defaults, config.keep)
    image_format(config.image_format)
    config.execution.check(device)
    chosen = load(model, device)
    settings = config.generation.resolved(chosen)
    identity = model_identity(chosen)
    run = _identity(Path(manifest), len(rows), identity, settings, config, chosen.device)
    folder = SynthesisFolder(Path(out), config.shard_size, run)
    folder.open()
    bad = [row for row in rows if isinstance(row, BadRow)]
    items = all_items(row for row in rows if isinstance(row, Row))

    # Make this rank's share of the batches.
    made = found = 0
    failed: dict[int, BadRow] = {}
    if not collect_only:
        share = Ranks(rank, world).share(blocks(items, config.batch_size))
        work = _Work(chosen, settings, identity, config, folder, on_progress, on_failure)
        for row in bad if rank == 0 else ():
            work.fail(row)
        directions = {item.row.direction for block in share for item in block}
        needed = {name for each in directions for name in chosen.components_for(each.prompts, each.targets)}
        with _same_arithmetic(chosen.device, config.threads), config.execution.running(chosen, sorted(needed)):
            made, found = work.run(share, lambda: folder.write_failures(rank, world, work.failed.values()))
        failed = work.failed

    # The rank that ends last writes the tables.
    there, num_failed, pending = folder.collect(items, bad, partly=collect_only)
    return Outcome(
        made=made,
        found=found,
        failed=tuple(failed[number] for number in sorted(failed)),
        num_there=there,
        num_failed=num_failed,
        num_pending=pending,
    )


def _identity(
    manifest: Path,
    num_rows: int,
    model: Mapping[str, Any],
    settings: GenerationConfig,
    config: SynthesisConfig,
    device: torch.device,
) -> dict[str, Any]:
    """Everything that the bytes of a study depend on."""
    values = to_dict(config)
    return {
        "format": FORMAT_VERSION,
        "manifest": {"sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(), "num_rows": num_rows},
        "model": dict(model),
        "settings": to_dict(settings),
        "device": device.type,
        **{key: value for key, value in values.items() if key not in ("generation", "threads", "execution")},
        "execution": config.execution.arithmetic,
        "threads": config.threads if device.type == "cpu" else None,
    }


@contextmanager
def _same_arithmetic(device: torch.device, threads: int) -> Iterator[None]:
    """Set everything that rounding depends on, apart from the shapes, and restore it at the end."""
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    if device.type == "cpu":
        torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]


Loaded = dict[int, dict[str, Value] | DataError]  # row number -> prompts, or why there are none


class _Work:
    """One rank at work: prompts of the next block are read while this one is denoised."""

    def __init__(
        self,
        model: MedCoDi,
        settings: GenerationConfig,
        identity: Mapping[str, Any],
        config: SynthesisConfig,
        folder: SynthesisFolder,
        on_progress: Callable[[int, int], None] | None,
        on_failure: Callable[[BadRow], None] | None,
    ) -> None:
        self.model, self.settings, self.identity, self.config, self.folder = model, settings, identity, config, folder
        self.on_progress, self.on_failure = on_progress, on_failure
        self.failed: dict[int, BadRow] = {}  # by row number
        self._contexts = PromptContexts(model, exact=True)
        self._format = image_format(config.image_format)

    def run(self, share: Sequence[list[Item]], write_failures: Callable[[], None]) -> tuple[int, int]:
        """Check every row, then make what is missing; returns the numbers of studies made and found."""
        # Find the rows that cannot be carried out, before any is.
        self._check({item.row.number: item.row for block in share for item in block if self._wanted(item)})
        write_failures()
        total = sum(item.row.number not in self.failed for block in share for item in block)
        todo = [block for block in share if any(self._wanted(item) for item in block)]
        found = done = total - sum(self._wanted(item) for block in todo for item in block)
        self._progress(done, total)
        # Generate one block while the prompts of the next are read.
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead: Future[Loaded] | None = None
            for number, block in enumerate(todo):
                loaded = (ahead or reader.submit(self._load, block)).result()
                ahead = reader.submit(self._load, todo[number + 1]) if number + 1 < len(todo) else None
                num_failed = len(self.failed)
                done += self._make(block, loaded)
                if len(self.failed) > num_failed:
                    write_failures()
                    total = sum(item.row.number not in self.failed for block in share for item in block)
                self._progress(done, total)
        return done - found, found

    def fail(self, bad: BadRow) -> None:
        """Remember a row that cannot be carried out, and report it."""
        self.failed[bad.number] = bad
        if self.on_failure is not None:
            self.on_failure(bad)

    def _wanted(self, item: Item) -> bool:
        return item.row.number not in self.failed and not self.folder.has(item)

    def _check(self, rows: Mapping[int, Row]) -> None:
        for row in rows.values():
            try:
                check_modalities(self.model, row.direction)
                check_prompt_files(row.prompts)
            except (DataError, PromptError) as error:
                self.fail(BadRow(number=row.number, id=row.id, message=str(error)))

    def _load(self, block: Sequence[Item]) -> Loaded:
        loaded: Loaded = {}
        for row in {item.row.number: item.row for item in block}.values():
            if row.number in self.failed:
                continue
            try:
                loaded[row.number] = read_prompt_files(row.prompts, self.model.config.image_size)
            except DataError as error:
                loaded[row.number] = error
        return loaded

    def _make(self, block: Sequence[Item], loaded: Loaded) -> int:
        """Generate one whole block, write the studies of it that are missing; returns their number."""
        for item in block:
            error = loaded.get(item.row.number)
            if isinstance(error, DataError) and self._wanted(item):
                self.fail(BadRow(number=item.row.number, id=item.row.id, message=str(error)))
        ready = {item: prompts for item in block if isinstance(prompts := loaded.get(item.row.number), dict)}
        if not any(self._wanted(item) for item in ready):
            return 0
        # Every study keeps its slot in a batch of full size; the first one fills the empty slots.
        slots = [item if item in ready else next(iter(ready)) for item in block]
        slots += slots[:1] * (self.config.batch_size - len(slots))
        try:
            made = generate_batch(
                self.model,
                [ready[item] for item in slots],
                block[0].row.direction.targets,
                [item.seed for item in slots],
                self.settings,
                weights=[item.row.weights for item in slots],
                contexts=self._contexts,
            )
        except torch.OutOfMemoryError:
            raise MedCoDiError(
                f"a batch of {self.config.batch_size} does not fit into the memory of {self.model.device}",
                fix="a smaller --batch-size, into a new folder",
            ) from None
        return sum(
            self._write(item, ready[item], contents)
            for item, contents in zip(block, made, strict=False)
            if item in ready
        )

    def _write(self, item: Item, prompts: Mapping[str, Value], contents: Mapping[str, Value]) -> bool:
        if self.folder.has(item):
            return False
        row = item.row
        arithmetic = self.config.execution.arithmetic
        made = provenance(self.identity, row.direction, prompts, row.weights, self.settings, [item.seed], arithmetic)
        texts = {name: value for name, value in contents.items() if isinstance(value, str)}
        self.folder.write(item, lambda place: write_contents(contents, place, self._format, made), made, texts)
        return True

    def _progress(self, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done, total)
