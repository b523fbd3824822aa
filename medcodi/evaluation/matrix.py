"""The matrix: every direction of every system, generated or read, and scored; one folder holds everything (``bundle.py``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medcodi.errors import CheckpointError, ConfigError, DataError
from medcodi.evaluation.bundle import Bundle
from medcodi.evaluation.comparisons import common_rows, multi_prompt_tests, system_tests
from medcodi.evaluation.describing import described_bench
from medcodi.evaluation.held_out import Value
from medcodi.evaluation.kept import Block, KeptSystem, blocks_with
from medcodi.evaluation.opening import Bench, open_bench
from medcodi.evaluation.options import UNCONDITIONAL, EvaluateConfig
from medcodi.evaluation.placing import check_out
from medcodi.evaluation.ranks import Ranks, join_ranks
from medcodi.evaluation.reading import ContentReading
from medcodi.evaluation.scoring import DirectionScores, score_direction
from medcodi.evaluation.systems import Produced
from medcodi.metrics.text import TextScorer
from medcodi.modality import MODALITIES
from medcodi.study import Direction

__all__ = ["UNCONDITIONAL", "EvaluateConfig", "Scored", "evaluate", "score_bench"]


@dataclass
class Scored:
    """What came out.

    Attributes:
        scores: System -> direction -> scores.
        produced: System -> direction -> what the system gave.
        hashes: System -> direction -> target -> SHA-256 of each kept content.
        seconds: System -> direction -> how long.
    """

    scores: dict[str, dict[Direction, DirectionScores]] = field(default_factory=dict)
    produced: dict[str, dict[Direction, Produced]] = field(default_factory=dict)
    hashes: dict[str, dict[Direction, dict[str, list[str]]]] = field(default_factory=dict)
    seconds: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    comparisons: dict[str, Any] = field(default_factory=dict)


def score_bench(bench: Bench, generated: Path, work: Path, *, quiet: bool = False) -> Scored:
    """Produce, read and score everything; every rank calls it, the first one gets the scores.

    Args:
        bench: What is judged.
        generated: Folder of kept contents.
        work: Folder through which ranks exchange readings.
        quiet: Show no progress.
    """
    found, ranks = Scored(), bench.ranks
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=quiet or not ranks.is_first) as progress:
        for system in bench.systems:
            kept = KeptSystem(generated / system.name)
            for direction in system.directions:
                started = time.monotonic()
                bar = progress.add_task(f"{system.name}: {direction!s:36}", total=None)
                produced = system.produce(direction, kept, ranks, lambda done, bar=bar: progress.advance(bar, done))
                progress.update(bar, total=len(produced.rows), completed=len(produced.rows))
                _read_direction(bench, kept, direction, produced.blocks, work / system.name / str(direction))
                found.produced.setdefault(system.name, {})[direction] = produced
                seconds = {"generate and read": round(time.monotonic() - started, 2)}
                found.seconds.setdefault(system.name, {})[str(direction)] = seconds
        for name, paired in sorted(_real_modalities(bench, found).items()):
            _read_real(bench, name, paired, work / "real" / name)
        ranks.wait()
        if ranks.is_first:
            _score(bench, found, generated, work, progress)
    return found


def _read_direction(bench: Bench, kept: KeptSystem, direction: Direction, blocks: list[Block], work: Path) -> None:
    held = bench.held
    for block, contents in kept.contents(direction, bench.ranks.share(blocks)):
        patients = [held.patients[row] for row in block.rows]
        for target in direction.targets:
            is_image = MODALITIES[target].kind == "image"
            truth = held.values(target, block.rows) if is_image and bench.readers.similarity else None
            paired = len(direction.targets) > 1
            reading = bench.readers.read(target, contents[target], truth, patients, paired=paired)
            reading.save(work / target / f"{block.number:05d}.npz")


def _real_modalities(bench: Bench, found: Scored) -> dict[str, bool]:
    """Real contents that are read: every target's (ceilings), and every prompt's that can be; and whether beside another target."""
    asked = [one for each in found.produced.values() for one in each]
    targets = {target for one in asked for target in one.targets}
    prompts = {name for one in asked for name in one.prompts if bench.readers.can_read(name)}
    joint = {target for one in asked if len(one.targets) > 1 for target in one.targets}
    return {name: name in joint for name in targets | prompts}


def _read_real(bench: Bench, name: str, paired: bool, work: Path) -> None:
    for block in bench.ranks.share(blocks_with(bench.held, bench.held.having([name]))):
        reading = bench.readers.read(name, bench.held.values(name, block.rows), paired=paired)
        reading.save(work / f"{block.number:05d}.npz")


def _loaded(work: Path, target: str, blocks: list[Block]) -> tuple[dict[int, int], ContentReading]:
    """Row -> place, and the readings of all blocks."""
    parts = [ContentReading.load(work / f"{block.number:05d}.npz", target) for block in blocks]
    rows = [row for block in blocks for row in block.rows]
    return {row: place for place, row in enumerate(rows)}, ContentReading.together(target, parts)


def _score(bench: Bench, found: Scored, generated: Path, work: Path, progress: Progress) -> None:
    held, options = bench.held, bench.options.scoring
    real = {
        name: _loaded(work / "real" / name, name, blocks_with(held, held.having([name])))
        for name in _real_modalities(bench, found)
    }
    bar = progress.add_task("scoring", total=sum(map(len, found.produced.values())))
    with TextScorer(meteor=bench.options.meteor) as scorer:
        for name, each in found.produced.items():
            kept = KeptSystem(generated / name)
            for direction, produced in each.items():
                started = time.monotonic()
                others = [one[direction].rows for one in found.produced.values() if direction in one]
                rows = common_rows(others)
                if len(rows) < 4:
                    raise DataError(
                        f"{len(rows)} studies of {direction} are common to {', '.join(found.produced)}",
                        expected="at least 4",
                        fix="leave a system out, or complete its files",
                    )
                readings = {}
                for target in direction.targets:
                    place, reading = _loaded(work / name / str(direction) / target, target, produced.blocks)
                    found.hashes.setdefault(name, {}).setdefault(direction, {})[target] = reading.hashes
                    readings[target] = reading.rows([place[row] for row in rows])
                truths = {
                    one: real[one][1].rows([real[one][0][row] for row in rows])
                    for one in direction.prompts + direction.targets
                    if one in real
                }
                values = {target: _values_of(kept, direction, produced.blocks, target) for target in direction.targets}
                scores = score_direction(
                    direction, readings, truths, held, rows, bench.readers, scorer, options, values
                )
                found.scores.setdefault(name, {})[direction] = scores
                found.seconds[name][str(direction)]["score"] = round(time.monotonic() - started, 2)
                progress.advance(bar)
        prompts, systems = (tests(found.scores, held, options) for tests in (multi_prompt_tests, system_tests))
        left_out = prompts.left_out + systems.left_out
        found.comparisons = {"multi_prompt": prompts.tests, "systems": systems.tests, "left_out": left_out}


def _values_of(
    kept: KeptSystem, direction: Direction, blocks: list[Block], target: str
) -> Callable[[Sequence[int]], list[Value]]:
    def values(rows: Sequence[int]) -> list[Value]:
        found = kept.of_rows(direction, blocks, rows)
        return [found[row][target] for row in rows]

    return values


def _check_out(options: EvaluateConfig, ranks: Ranks) -> None:
    """The first rank looks, before any writes; all refuse alike."""
    refusal = None
    if ranks.is_first:
        try:
            check_out(Path(options.out), options.systems)
        except ConfigError as error:
            refusal = error
    if (refusal := ranks.agree(refusal)[0]) is not None:
        raise refusal


def evaluate(options: EvaluateConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Generate (or read) and score every chosen direction of every system; write the bundle into ``options.out``.

    The same options, model and studies give the same ``results.json``, interrupted or not, by any number of ranks.

    Returns:
        The results, as in ``results.json`` (schema in docs/EVALUATION.md).

    Raises:
        ConfigError, DataError, CheckpointError: Before anything is generated, if model, data, readers and directions do not fit; later
            if a file of another system cannot be read.
    """
    ranks = join_ranks()
    _check_out(options, ranks)
    bench = open_bench(options, ranks)
    try:
        bundle = Bundle.open(Path(options.out), ranks)
    except OSError as error:
        raise CheckpointError(f"{options.out} cannot be made: {error.strerror}", fix="choose another out") from None
    scored = score_bench(bench, bundle.generated, bundle.work, quiet=quiet)
    if ranks.is_first:
        bundle.write(described_bench(bench), bench, scored)
    ranks.wait()
    return bundle.read_results()
