"""``medcodi turing analyze`` and ``power``: analyse the answers, and plan how many are needed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from medcodi.app.arguments import refuse_full_folder
from medcodi.app.terminal import err, out, progress_bar, show, turing_app
from medcodi.errors import ConfigError, DataError, did_you_mean


@turing_app.command()
def analyze(
    table: Annotated[Path, typer.Argument(help="The folder that import wrote, or its answers.csv.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for report, tables and iMRMC files, new or empty.")],
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; may be given again.", show_default="all")
    ] = None,
    resamples: Annotated[int, typer.Option(min=200, help="Bootstrap samples of the cases.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Write report.html, results.json, CSV tables, a methods paragraph and iMRMC files.

    Margins and alpha are those that the study file declared before the export; they cannot be given here.

    [bold]Examples[/bold]

        medcodi turing analyze table/ --out report/

        medcodi turing analyze table/answers.csv --task realism-frontal --out report/
    """
    refuse_full_folder(out_dir)
    from medcodi.turing import analyze as analyze_answers
    from medcodi.turing import read_answers, write_report
    from medcodi.turing.analysis.wording import verdicts

    answers = read_answers(table)
    # Everything is computed before the folder is written, so a failure leaves none.
    results = analyze_answers(answers, tasks=task or None, num_resamples=resamples, seed=seed)
    page = write_report(results, answers, out_dir)
    for problem in results["problems"]:
        err.print(f"not analysed: {problem['what']}", markup=False)
    for reader in results["completeness"]["readers"]:
        if not reader["finished"]:
            err.print(
                f"not finished: {reader['reader']}, {reader['answers']} of {reader['of']} answers; all are analysed",
                markup=False,
            )
    for verdict in verdicts(results):
        out.print(f"{verdict['task']}: {verdict['text']}", markup=False)
    out.print(f"{page}", markup=False)


@turing_app.command()
def power(
    study: Annotated[Path | None, typer.Option(help="Study file: its margins, alpha and tasks.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of the study.", show_default="every one with a margin")] = None,
    kind: Annotated[
        str | None, typer.Option(help="Without a study: rating, real_or_generated, forced_choice ...")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="Without a study: the margin to show.")] = None,
    items: Annotated[str, typer.Option(help="Numbers of items per arm to try.")] = "20,30,40,60,80,120",
    readers: Annotated[str, typer.Option(help="Numbers of readers to try.")] = "2,3,4,6,8",
    true_value: Annotated[float, typer.Option(help="The true effect: difference in rating, or accuracy - 0.5.")] = 0.0,
    target: Annotated[float, typer.Option(min=0.5, max=0.99, help="Required power.")] = 0.8,
    pilot: Annotated[
        Path | None, typer.Option(help="Table of a pilot: its spread of cases and readers (rating tasks).")
    ] = None,
    pilot_task: Annotated[str | None, typer.Option(help="Task of the pilot.", show_default="the task itself")] = None,
    studies: Annotated[int, typer.Option(min=50, help="Simulated studies per cell.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the table as JSON.")] = None,
) -> None:
    """Estimate how many items and readers a margin needs, from simulated studies that are analysed like real ones.

    Ratings are simulated on a scale from 1 to 5; a margin on another scale is converted.

    [bold]Examples[/bold]

        medcodi turing power --study medcodi-m

        medcodi turing power --kind real_or_generated --margin 0.1 --readers 3,5 --items 40,80,160
    """
    from medcodi.storage.atomic import write_json
    from medcodi.turing.answers.table import read_answers
    from medcodi.turing.power.power import PowerCell, model_from_pilot, needed
    from medcodi.turing.power.power import power as simulate_power

    sizes, counts = _numbers("--items", items), _numbers("--readers", readers)
    written = []
    for name, task_type, declared, alpha, paired in _planned_tests(study, task, kind, margin):
        model = model_from_pilot(read_answers(pilot), pilot_task or name) if pilot else None
        with progress_bar(err) as bar:
            job = bar.add_task(name, total=None)
            cells: list[PowerCell] = simulate_power(
                task_type,
                declared,
                items=sizes,
                readers=counts,
                model=model,
                true_value=true_value,
                paired=paired,
                alpha=alpha,
                num_studies=studies,
                seed=seed,
                on_cell=lambda done, total, job=job: bar.update(job, completed=done, total=total),
            )
        # The table of all sizes, then the smallest ones that reach the required power.
        show(_table(name, declared, true_value, cells))
        for words, new in (("these readers", False), ("new readers", True)):
            enough = needed(cells, target, new_readers=new)
            sizes_found = "; ".join(f"{cell.readers} readers and {cell.items} items an arm" for cell in enough)
            out.print(f"{words}, power {target:g}: {sizes_found or 'none of the sizes tried'}", markup=False)
        written.append(
            {"task": name, "kind": task_type, "margin": declared, "alpha": alpha, "true_value": true_value}
            | {"studies": studies, "seed": seed, "paired": paired, "cells": [asdict(cell) for cell in cells]}
        )
    if out_file:
        write_json(out_file, written, indent=1, error=DataError)


def _planned_tests(
    study: Path | None, task: str | None, kind: str | None, margin: float | None
) -> list[tuple[str, str, float, float, bool]]:
    """(task, kind, margin, alpha, paired) of each test to simulate."""
    # Without a study file, the options describe a single test.
    if study is None:
        if kind is None or margin is None:
            raise ConfigError(
                "no study and no margin to simulate",
                expected="--study, or --kind and --margin",
                fix="see medcodi turing power --help",
            )
        return [(task or kind, kind, margin, 0.05, True)]
    if kind is not None or margin is not None:
        raise ConfigError(
            "--study together with --kind or --margin",
            expected="one of them",
            fix="drop --kind and --margin: the study declares them",
        )
    from medcodi.turing.design.config import read_reader_study
    from medcodi.turing.design.tasks import task_kind
    from medcodi.turing.power.simulation import SCALE

    # The tasks of the study that declare a margin, or the named one.
    config = read_reader_study(study)
    tasks = {config_of_task.id: config_of_task for config_of_task in config.tasks}
    if task is not None and task not in tasks:
        raise ConfigError(f"no task {task!r} in {study}", expected="a task of the study", fix=did_you_mean(task, tasks))
    chosen = [task] if task else [name for name in tasks if name in config.margins]
    missing = [name for name in chosen if name not in config.margins]
    if missing or not chosen:
        raise ConfigError(
            f"{study} declares no margin" + (f" for {missing[0]!r}" if missing else ""),
            expected="margins: {task: margin}",
            fix="declare it in the study file, before the export",
        )
    # Ratings are simulated on a scale from 1 to SCALE, so the margin is converted to it.
    tests = []
    for name in chosen:
        config_of_task, declared = tasks[name], config.margins[name]
        if task_kind(config_of_task.kind).answer == "rating":
            declared *= (SCALE - 1) / (config_of_task.scale.max - config_of_task.scale.min)
        tests.append((name, config_of_task.kind, declared, config.alpha, config_of_task.paired))
    return tests


def _numbers(option: str, text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise DataError(
            f"{option} {text!r}",
            expected="whole numbers with commas, such as 20,40,80",
            fix="write numbers and commas only",
        ) from None


def _table(name: str, margin: float, true_value: float, cells: list) -> Table:
    """Power for these readers / new readers, one row per number of readers."""
    sizes = sorted({cell.items for cell in cells})
    by_size = {(cell.readers, cell.items): cell for cell in cells}
    title = f"{name}: power to show ±{margin} if {true_value:g} is true; these readers / new readers"
    table = Table(title=Text(title, style="table.title"))
    table.add_column("readers", justify="right")
    for size in sizes:
        table.add_column(f"{size} items an arm", justify="right")
    for count in sorted({cell.readers for cell in cells}):
        row = []
        for size in sizes:
            cell = by_size[(count, size)]
            new = "–" if cell.new_readers is None else f"{cell.new_readers:.2f}"
            row.append(f"{cell.these_readers:.2f} / {new}")
        table.add_row(str(count), *row)
    return table
