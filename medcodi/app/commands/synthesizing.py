"""``medcodi synthesize``: a manifest of requests, carried out into a folder of studies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcodi.app.progress import counting_bar
from medcodi.app.requests import read_device, read_execution, read_targets
from medcodi.app.root import Device, Execution, Model, app, err, out
from medcodi.errors import PromptError

if TYPE_CHECKING:
    from medcodi.generation.bulk import Outcome

INCOMPLETE = 3  # exit code where rows could not be carried out, and all others were


@app.command()
def synthesize(
    manifest: Annotated[Path, typer.Option(help="Requests, one a row: .csv or .jsonl.", show_default=False)],
    out_dir: Annotated[
        Path,
        typer.Option("--out", help="A new folder, or the one of the same command to go on with.", show_default=False),
    ],
    model: Model = None,
    batch_size: Annotated[int, typer.Option(help="Samples denoised together.")] = 8,
    image_format: Annotated[str, typer.Option("--format", help="Of images: png (8 bits), png16 or dicom.")] = "png",
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY",
            help="What rows without targets get; repeat for several.",
            show_default="all that is no prompt",
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option(help="Samples of rows that do not say.")] = 1,
    seed: Annotated[int, typer.Option(help="Rows without a seed get one made of this and their id.")] = 0,
    preset: Annotated[
        str | None, typer.Option(help="Sampler and steps under one name: fast, faster, reference.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale; 1 is none.", show_default="the model's")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampler steps.", show_default="the model's")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, dpm++, unipc ...", show_default="the model's")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="A further column of the manifest to carry into results.csv. Repeatable."),
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Studies in one folder.")] = 1000,
    rank: Annotated[
        int | None, typer.Option(help="Which part of the work is this process's.", show_default="RANK, else 0")
    ] = None,
    world: Annotated[
        int | None, typer.Option(help="How many processes share the work.", show_default="WORLD_SIZE, else 1")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of each rank, where the CPU computes.")] = 1,
    device: Device = None,
    execution: Execution = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Write results.csv from what is there; make nothing.")
    ] = False,
) -> None:
    """Carry out a long list of requests, from a manifest into a folder. Stop it whenever you like; the same command goes on.

    Columns of the manifest, all optional: [bold]id[/bold], one column for each prompt ([bold]frontal[/bold] and
    [bold]lateral[/bold]: paths; [bold]report[/bold]: text, or [bold]report_file[/bold]: a path), [bold]targets[/bold]
    (frontal+lateral), [bold]seed[/bold], [bold]num_samples[/bold], [bold]weights[/bold] (frontal=0.5 report=1). Paths are
    relative to the manifest.

    Each study lies in a folder of its own; results.csv has a row for each. Rows that cannot be carried out are told, listed in
    failed.csv, and left out: the exit code is then 3. Files have the same bytes however many ranks share the work.

    [bold]Examples[/bold]

        medcodi synthesize --manifest prompts.csv --out synthetic/

        medcodi synthesize --manifest prompts.csv --out synthetic/ --target frontal --preset fast --batch-size 32 --format dicom

        torchrun --nproc-per-node 8 -m medcodi.app.cli synthesize --manifest prompts.csv --out synthetic/

        medcodi synthesize --manifest prompts.jsonl --out synthetic/ --rank $SLURM_PROCID --world $SLURM_NTASKS
    """
    rank, world = _place(rank, world, os.environ)
    targets = read_targets(target or [])
    from medcodi.generation.bulk import SynthesisConfig
    from medcodi.generation.bulk import synthesize as run
    from medcodi.generation.bulk.manifest import RowDefaults
    from medcodi.model.generation_config import GenerationConfig

    config = SynthesisConfig(
        generation=GenerationConfig(preset=preset, sampler=sampler, num_inference_steps=steps, guidance_scale=guidance),
        defaults=RowDefaults(targets=targets, seed=seed, num_samples=num_samples),
        keep=tuple(keep or ()),
        batch_size=batch_size,
        shard_size=shard_size,
        image_format=image_format,
        threads=threads,
        execution=read_execution(execution or []),
    )
    chosen = read_device(device) or _device_of_rank(os.environ)
    with counting_bar(err) as bar:
        bar.disable = rank > 0  # one bar is enough
        task = bar.add_task("loading", total=None)
        started: list[int] = []

        def on_progress(done: int, total: int) -> None:
            if not started:  # what was there already says nothing about the rate
                started.append(done)
                bar.reset(task, description="synthesizing", completed=done, total=total)
            bar.update(task, completed=done, total=total)

        outcome = run(
            manifest,
            out_dir,
            model=model,
            config=config,
            rank=rank,
            world=world,
            device=chosen,
            collect_only=collect,
            on_progress=on_progress,
            on_failure=lambda bad: err.print(f"row {bad.number} {bad.id}: {bad.message}", markup=False),
        )
    _print_outcome(outcome, out_dir, rank, world)
    raise typer.Exit(_exit_code(outcome, os.environ))


def _place(rank: int | None, world: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Rank and number of ranks: as told, else as torchrun and deepspeed tell, else alone."""
    found = []
    for told, name, alone in ((rank, "RANK", 0), (world, "WORLD_SIZE", 1)):
        try:
            found.append(told if told is not None else int(environment.get(name, alone)))
        except ValueError:
            raise PromptError(f"{name} is {environment[name]!r}", expected="a whole number") from None
    given = {"--rank" if rank is not None else None, "--world" if world is not None else None} - {None}
    if len(given) == 1:
        raise PromptError(
            f"{given.pop()} is given alone",
            expected="both --rank and --world, or neither",
            fix="give the other one too",
        )
    return found[0], found[1]


def _device_of_rank(environment: Mapping[str, str]) -> str | None:
    """The GPU of this rank on its machine; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    return f"cuda:{int(environment.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def _print_outcome(outcome: Outcome, folder: Path, rank: int, world: int) -> None:
    whose = f"rank {rank} of {world}: " if world > 1 else ""
    err.print(f"{whose}{outcome.made} studies made, {outcome.found} found, {len(outcome.failed)} rows failed")
    if outcome.num_pending:
        err.print(
            f"{outcome.num_pending} studies are still to be made, by other ranks or by the same command once more"
        )
    for name in ("results.csv", "failed.csv"):
        if (folder / name).is_file():
            out.print(str(folder / name))


def _exit_code(outcome: Outcome, environment: Mapping[str, str]) -> int:
    """3 where rows failed. A launcher ends the other ranks when one fails: there the last one alone tells."""
    launched = "TORCHELASTIC_RUN_ID" in environment or {"CROSS_RANK", "LOCAL_SIZE"} <= set(environment)
    if outcome.num_pending and launched:
        return 0
    return INCOMPLETE if outcome.num_failed or outcome.failed else 0
