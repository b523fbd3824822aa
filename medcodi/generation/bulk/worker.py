"""One rank of a synthesis at work: its rows are checked, their prompts read ahead, their batches generated and written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from medcodi.distributed import Ranks
from medcodi.errors import DataError, MedCoDiError, PromptError
from medcodi.generation.bulk.folder import SynthesisFolder
from medcodi.generation.bulk.manifest import BadRow, Row
from medcodi.generation.bulk.plan import StudyShard, SynthesisConfig
from medcodi.generation.contexts import PromptContexts
from medcodi.generation.domain import warn_outside_domain
from medcodi.generation.pipeline import generate_batch
from medcodi.generation.request import check_modalities, check_prompt_files, read_prompt_files, truncations
from medcodi.generation.result import image_format, provenance, write_contents
from medcodi.model import MedCoDi
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Content, content_text

Prompts = dict[int, dict[str, Content] | DataError]  # row number -> prompts, or the reason why there are none


class SynthesisWorker:
    """The work of one rank: checks its rows, generates the studies that are missing, remembers the rows that fail."""

    def __init__(
        self,
        model: MedCoDi,
        identity: Mapping[str, Any],
        config: SynthesisConfig,
        folder: SynthesisFolder,
        manifest: Path,
        ranks: Ranks,
        on_progress: Callable[[int, int], None] | None,
        on_failure: Callable[[BadRow], None] | None,
    ) -> None:
        self.model, self.identity, self.config, self.folder = model, identity, config, folder
        self.manifest, self.ranks = manifest, ranks
        self._report = on_progress or (lambda done, total: None)
        self._report_failure = on_failure or (lambda bad: None)
        self.failed: dict[int, BadRow] = {}  # by row number
        self.truncated: set[int] = set()  # numbers of the rows of which a text was not read to its end
        self._contexts = PromptContexts(model, exact=True)
        self._format = image_format(config.image_format)

    def run(self, share: Sequence[list[StudyShard]]) -> tuple[int, int]:
        """Check every row, then generate what is missing; returns how many studies were made, and were finished before."""
        # Report the rows that cannot be carried out, before any is.
        self._check({shard.row.number: shard.row for batch in share for shard in batch if self._is_todo(shard)})
        self._write_failures()
        total = self._num_possible(share)
        todo = [batch for batch in share if any(self._is_todo(shard) for shard in batch)]
        found = done = total - sum(self._is_todo(shard) for batch in todo for shard in batch)
        self._report(done, total)

        # Generate one batch while the prompts of the next are read.
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead: Future[Prompts] | None = None
            for number, batch in enumerate(todo):
                prompts = (ahead or reader.submit(self._read_prompts, batch)).result()
                ahead = reader.submit(self._read_prompts, todo[number + 1]) if number + 1 < len(todo) else None
                num_failed = len(self.failed)
                done += self._generate(batch, prompts)
                if len(self.failed) > num_failed:
                    self._write_failures()
                    total = self._num_possible(share)
                self._report(done, total)
        return done - found, found

    def fail(self, bad: BadRow) -> None:
        """Remember a row that cannot be carried out, and report it."""
        self.failed[bad.number] = bad
        self._report_failure(bad)

    def _write_failures(self) -> None:
        self.folder.write_failures(self.ranks.rank, self.ranks.world_size, self.failed.values())

    def _is_todo(self, shard: StudyShard) -> bool:
        return shard.row.number not in self.failed and not self.folder.has(shard)

    def _num_possible(self, share: Sequence[list[StudyShard]]) -> int:
        return sum(shard.row.number not in self.failed for batch in share for shard in batch)

    def _check(self, rows: Mapping[int, Row]) -> None:
        for row in rows.values():
            try:
                check_modalities(self.model, row.direction)
                check_prompt_files(row.prompts, self.model.config)
            except (DataError, PromptError) as error:
                self.fail(BadRow(number=row.number, id=row.id, message=str(error)))

    def _read_prompts(self, batch: Sequence[StudyShard]) -> Prompts:
        prompts: Prompts = {}
        for row in {shard.row.number: shard.row for shard in batch}.values():
            if row.number in self.failed:
                continue
            try:
                prompts[row.number] = read_prompt_files(row.prompts, self.model.config)
            except DataError as error:
                prompts[row.number] = error
        return prompts

    def _generate(self, batch: Sequence[StudyShard], prompts: Prompts) -> int:
        """Generate a whole batch, and write the studies of it that are missing; returns their number."""
        # Rows whose prompts could not be read.
        for shard in batch:
            error = prompts.get(shard.row.number)
            if isinstance(error, DataError) and self._is_todo(shard):
                self.fail(BadRow(number=shard.row.number, id=shard.row.id, message=str(error)))
        ready = {shard: values for shard in batch if isinstance(values := prompts.get(shard.row.number), dict)}
        if not any(self._is_todo(shard) for shard in ready):
            return 0

        # Every study has its own row in a batch of full size, so that its bytes do not depend on the others that are
        # missing; the first study fills the empty rows.
        rows = [shard if shard in ready else next(iter(ready)) for shard in batch]
        rows += rows[:1] * (self.config.batch_size - len(rows))
        try:
            results = generate_batch(
                self.model,
                [ready[shard] for shard in rows],
                batch[0].row.direction.targets,
                [shard.seed for shard in rows],
                self._sampling_of(batch[0]),
                weights=[shard.row.weights for shard in rows],
                contexts=self._contexts,
            )
        except torch.OutOfMemoryError:
            raise MedCoDiError(
                f"a batch of {self.config.batch_size} does not fit into the memory of {self.model.device}",
                fix="a smaller --batch-size, into a new folder",
            ) from None
        written = zip(batch, results, strict=False)  # without the rows that fill the batch up
        return sum(self._write(shard, ready[shard], contents) for shard, contents in written if shard in ready)

    def _sampling_of(self, shard: StudyShard) -> GenerationConfig:
        """How a study is sampled: as the run says, in the order of its row."""
        return self.config.generation.ordered(shard.row.order).resolved(self.model)

    def _write(self, shard: StudyShard, prompts: Mapping[str, Content], contents: Mapping[str, Content]) -> bool:
        """Write a study, unless it is there."""
        if self.folder.has(shard):
            return False
        row, arithmetic = shard.row, self.config.execution.arithmetic
        cut = truncations(self.model, prompts)
        if cut:
            self.truncated.add(row.number)
        origin = provenance(
            self.identity, row.direction, prompts, row.weights, self._sampling_of(shard), [shard.seed], arithmetic, cut
        )
        texts = {name: text for name, value in contents.items() if (text := content_text(value)) is not None}
        # Prompts as they were given: texts as the model read them, images by their paths.
        given = {name: content_text(value) or row.prompts[name] for name, value in prompts.items()}
        origin |= warn_outside_domain(self.model, row.direction, given)
        root = self.manifest.parent  # where the manifest's own paths start
        shown = {
            name: os.path.relpath(value, root) if isinstance(value, Path) else value for name, value in given.items()
        }
        self.folder.write(shard, lambda to: write_contents(contents, to, self._format, origin), origin, texts, shown)
        return True
