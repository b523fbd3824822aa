"""An evaluation in four steps: produce contents, annotate them, score the annotations, render the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.progress import Progress

from medcodi.console import progress_of
from medcodi.distributed import join_ranks
from medcodi.errors import ConfigError
from medcodi.evaluation.annotate import annotate_shards, write_tables
from medcodi.evaluation.annotations import METADATA, STUDIES, Annotations, StudyTable, side_codes
from medcodi.evaluation.bundle import PAGE, RESULTS, RUN, SCORED, Bundle, check_out
from medcodi.evaluation.config import EvaluateConfig
from medcodi.evaluation.inputs import Inputs, open_inputs
from medcodi.evaluation.provenance import SCHEMA_VERSION, machine, protocol
from medcodi.evaluation.report.page import write_results_page
from medcodi.evaluation.scoring.comparisons import common_rows
from medcodi.evaluation.scoring.score import score
from medcodi.evaluation.studies import LEAST_USABLE, HeldOutStudies, LeftOutDirection, Value, shards_of
from medcodi.evaluation.systems.contents import ContentFolder
from medcodi.evaluation.systems.systems import Output, Outputs
from medcodi.storage import atomic
from medcodi.study import Direction

LONGEST_WAIT = timedelta(hours=12)  # the first rank scores while the others wait


def evaluate(config: EvaluateConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Generate (or read) and score every chosen direction of every system; write the bundle into ``config.out``.

    The same configuration, model and studies give the same ``results.json``, interrupted or not, by any number of ranks.

    Args:
        config: What is evaluated, on which studies, by which annotators.
        quiet: Show no progress.

    Returns:
        The results, as in ``results.json`` (schema in docs/EVALUATION.md).

    Raises:
        ConfigError, DataError, CheckpointError: Before anything is generated, if model, data, annotators and directions do not fit, or
            ``out`` holds something else or is in use; later if a file of another system is unreadable or the disk is full.
    """
    ranks = join_ranks(timeout=LONGEST_WAIT, computing=False, error=ConfigError)
    bundle = Bundle(Path(config.out), ranks)
    ranks.by_first(lambda: check_out(bundle.folder, config.systems))
    inputs = open_inputs(config, ranks)
    seconds: dict[str, Any] = {}
    with bundle.opened(), progress_of(disable=quiet or not ranks.is_first) as progress:
        # 1. Produce: our model generates, other systems' files are read; both end as shards of contents.
        outputs, left_out = with_enough_studies(produce(inputs, bundle.generated, progress, seconds))
        inputs.left_out += left_out
        # 2. Annotate: every rank its shards; the first one joins them into tables.
        annotate(inputs, outputs, bundle, progress, seconds)
        # 3. Score: figures from annotations alone. 4. Render: a page from results and contents.
        ranks.by_first(lambda: _score_and_render(bundle, inputs, outputs, progress, seconds))
        return bundle.read(RESULTS)


# ---- 1. produce ------------------------------------------------------------------------------------------------------
def produce(inputs: Inputs, generated: Path, progress: Progress, seconds: dict[str, Any]) -> Outputs:
    """Fill the folder of contents of every system; every rank calls it."""
    outputs: dict[str, dict[Direction, Output]] = {}
    for system in inputs.systems:
        contents = ContentFolder(generated / system.name)
        for direction in system.directions:
            started = time.monotonic()
            contents.sweep(direction)
            bar = progress.add_task(f"{system.name}: {direction!s:36}", total=None)
            output = system.produce(direction, contents, inputs.ranks, lambda num, bar=bar: progress.advance(bar, num))
            progress.update(bar, total=len(output.rows), completed=len(output.rows))
            outputs.setdefault(system.name, {})[direction] = output
            own = seconds.setdefault("produce", {}).setdefault(system.name, {})
            own[str(direction)] = round(time.monotonic() - started, 2)
    return outputs


def scored_rows(outputs: Outputs) -> tuple[dict[Direction, list[int]], list[LeftOutDirection]]:
    """Direction -> the studies that all systems with this direction gave; and the directions that have too few of them.

    Raises:
        DataError: If no direction has enough.
    """
    scored, left_out = {}, []
    for direction in dict.fromkeys(direction for system in outputs.values() for direction in system):
        names = [name for name, system in outputs.items() if direction in system]
        rows = common_rows([outputs[name][direction].rows for name in names])
        if len(rows) >= LEAST_USABLE:
            scored[direction] = rows
            continue
        reason = f"{len(rows)} studies are common to {', '.join(names)}"
        left_out += [LeftOutDirection(name, str(direction), reason, len(rows)) for name in names]
    if left_out and not scored:
        raise left_out[0].refusal()
    return scored, left_out


def with_enough_studies(outputs: Outputs) -> tuple[Outputs, list[LeftOutDirection]]:
    """The outputs without the directions that have too few studies; and those."""
    scored, left_out = scored_rows(outputs)
    remaining = {
        name: {direction: output for direction, output in system.items() if direction in scored}
        for name, system in outputs.items()
    }
    return remaining, left_out


# ---- 2. annotate -----------------------------------------------------------------------------------------------------
def annotate(inputs: Inputs, outputs: Outputs, bundle: Bundle, progress: Progress, seconds: dict[str, Any]) -> None:
    """Annotate all contents, and write the tables and ``scored.json``; every rank calls it, the first one writes."""
    started = time.monotonic()
    bar = progress.add_task("annotating", total=None)
    # A refusal on one rank is a refusal on all.
    inputs.ranks.by_each(
        lambda: annotate_shards(
            inputs.annotators,
            inputs.held_out,
            outputs,
            bundle.generated,
            bundle.work,
            inputs.ranks,
            lambda num: progress.advance(bar, num),
        )
    )
    inputs.ranks.by_first(lambda: _write_annotations(inputs, outputs, bundle))
    seconds["annotate"] = round(time.monotonic() - started, 2)


def _write_annotations(inputs: Inputs, outputs: Outputs, bundle: Bundle) -> None:
    held_out, (scored, _) = inputs.held_out, scored_rows(outputs)
    bundle.unseal()
    bundle.clear_annotations()
    hashes = write_tables(
        inputs.annotators,
        held_out,
        outputs,
        scored,
        bundle.generated,
        bundle.work,
        bundle.annotations,
        inputs.config,
    )
    StudyTable(
        held_out.ids,
        held_out.patients,
        held_out.studies.places,
        held_out.modalities,
        held_out.truth,
        side_codes(held_out.findings),
        held_out.fields,
        held_out.records,
    ).save(bundle.annotations / STUDIES)
    # Exactly what was scored, by hash.
    bundle.write(SCORED, _scored(held_out, outputs, scored, hashes))
    # What is not per study.
    excluded = [("real", exclusion) for exclusion in held_out.excluded]
    for name, system in outputs.items():
        excluded += [(name, exclusion) for output in system.values() for exclusion in output.excluded]
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "protocol": protocol(inputs),
        "systems": {
            system.name: {
                "description": system.describe(),
                "directions": {
                    str(direction): {"given": output.rows, "scored": scored[direction]}
                    for direction, output in outputs[system.name].items()
                },
                "image_sizes": {
                    str(direction): output.sizes for direction, output in outputs[system.name].items() if output.sizes
                },
            }
            for system in inputs.systems
        },
        "geometry": inputs.annotators.geometry_attributes(),
        "excluded": [
            {"system": name, "study_id": exclusion.study_id, "what": exclusion.what, "reason": exclusion.reason}
            for name, exclusion in excluded
        ],
        "directions_left_out": [asdict(entry) for entry in inputs.left_out],
        "scored_sha256": atomic.sha256_file(bundle.folder / SCORED),
    }
    bundle.write(f"{bundle.annotations.name}/{METADATA}", metadata)


def _scored(
    held_out: HeldOutStudies,
    outputs: Outputs,
    scored: Mapping[Direction, list[int]],
    hashes: Mapping[str, Mapping[Direction, dict[str, list[str]]]],
) -> dict[str, Any]:
    """The content of ``scored.json``."""
    studies = zip(held_out.ids, held_out.patients, held_out.hashes, strict=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "hashes": "SHA-256 of a text's UTF-8, of an image's shape and 8-bit pixels, of a record's draws as JSON; files: of the file's bytes",
        "studies": [
            {"study_id": study_id, "patient_id": patient_id, "contents": dict(contents)}
            for study_id, patient_id, contents in studies
        ],
        "systems": {
            name: {
                str(direction): {
                    "kept": output.rows,
                    "scored": scored[direction],
                    "generated": hashes[name][direction],
                    **({"files": output.files} if output.files else {}),
                }
                for direction, output in system.items()
            }
            for name, system in outputs.items()
        },
    }


def _output_files(generated: Path, outputs: Outputs) -> list[Path]:
    """The files of contents that the systems gave in this run; others may be beside them."""
    return [
        ContentFolder(generated / name).path(direction, shard)
        for name, system in outputs.items()
        for direction, output in system.items()
        for shard in output.shards
    ]


# ---- 3. score, 4. render -----------------------------------------------------------------------------------------------
def _score_and_render(
    bundle: Bundle, inputs: Inputs, outputs: Outputs, progress: Progress, seconds: dict[str, Any]
) -> None:
    """Write figures, page and the record of the run, and seal the bundle."""
    started, annotations = time.monotonic(), Annotations(bundle.annotations)
    bar = progress.add_task("scoring", total=sum(map(len, outputs.values())))
    results = score(annotations, inputs.config, lambda: progress.advance(bar))
    seconds["score"] = round(time.monotonic() - started, 2)
    bundle.write(RESULTS, results)
    render(bundle, results, lambda modality, picture: inputs.held_out.values(modality, [picture["row"]])[0])
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    run = {"finished": finished, "ranks": inputs.ranks.world_size, "machine": machine(), "seconds": seconds}
    bundle.write(RUN, run)
    bundle.seal(SCHEMA_VERSION, _output_files(bundle.generated, outputs))


def render(bundle: Bundle, results: dict[str, Any], real: Callable[[str, dict[str, Any]], Value]) -> None:
    """Write the page from results and contents.

    ``real``: modality and shown study -> its real content.
    """
    size = results["config"]["batch_size"]
    annotations = Annotations(bundle.annotations)

    def generated(system: str, direction: Direction, picture: dict[str, Any]) -> dict[str, Value]:
        shards = shards_of(annotations.directions(system)[direction]["given"], size)
        return ContentFolder(bundle.generated / system).read_rows(direction, shards, [picture["row"]])[picture["row"]]

    write_results_page(bundle.folder / PAGE, results, real, generated)
