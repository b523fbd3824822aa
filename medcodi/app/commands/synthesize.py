"""``medcodi synthesize``: generate a folder of studies from a manifest of requests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from medcodi.app.arguments import (
    Device,
    DicomCa,
    DicomCert,
    DicomOutbox,
    DicomPdf,
    DicomStore,
    Execution,
    Guidance,
    ImageFormat,
    Model,
    Order,
    Preset,
    Sampler,
    SequenceOfTargets,
    Steps,
    Watermark,
    Weak,
    read_device,
    read_execution,
    read_sequence,
    read_targets,
    read_weak,
)
from medcodi.app.delivery import read_delivery, send_synthesis
from medcodi.app.terminal import app, count_progress, counting_bar, domain_notes, err, out, say_loading, show
from medcodi.errors import PromptError

if TYPE_CHECKING:
    from medcodi.generation.bulk.job import SynthesisOutcome

INCOMPLETE = 3  # exit code if some rows failed and all others succeeded


@app.command()
def synthesize(
    manifest: Annotated[
        Path | None, typer.Option(help="Requests, one per row: .csv or .jsonl.", show_default=False)
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="A new folder, or that of an interrupted run to resume.", show_default=False),
    ] = None,
    model: Model = None,
    balance: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD,FIELD:WIDTH",
            help="Write the manifest: the findings of --data, with these fields of the record in groups of equal size.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Prepared dataset of --balance, with records.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Of --data.")] = "train",
    batch_size: Annotated[int, typer.Option(help="Samples denoised together.")] = 8,
    image_format: ImageFormat = "png",
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY",
            help="Targets of rows that name none; repeat for several.",
            show_default="all but the prompts",
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option(help="Samples of rows that name no number.")] = 1,
    seed: Annotated[int, typer.Option(help="Rows without a seed get one derived from this and their id.")] = 0,
    preset: Preset = None,
    guidance: Guidance = None,
    steps: Steps = None,
    sampler: Sampler = None,
    order: Order = None,
    sequence: SequenceOfTargets = None,
    weak: Weak = None,
    watermark: Watermark = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Copy a further column of the manifest into results.csv; repeatable."),
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Studies per folder.")] = 1000,
    rank: Annotated[
        int | None, typer.Option(help="Number of this process, from 0.", show_default="RANK, else 0")
    ] = None,
    world: Annotated[
        int | None, typer.Option(help="Number of processes that share the work.", show_default="WORLD_SIZE, else 1")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of each rank, if it computes on the CPU.")] = 1,
    device: Device = None,
    execution: Execution = None,
    exclude_near_copies: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="The model's training data: leave studies out of results.csv whose images are nearer to a training study than real"
            " patients are to each other. A filter is no proof of privacy.",
            show_default=False,
        ),
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Write results.csv from the finished studies; generate nothing.")
    ] = False,
    dicom_store: DicomStore = None,
    outbox: DicomOutbox = None,
    dicom_pdf: DicomPdf = False,
    dicom_ca: DicomCa = None,
    dicom_cert: DicomCert = None,
) -> None:
    """Generate studies for a manifest of requests, into one folder. An interrupted run resumes with the same command.

    Columns of the manifest, all optional: [bold]id[/bold], one column for each prompt ([bold]frontal[/bold] and
    [bold]lateral[/bold]: paths; [bold]report[/bold]: text, or [bold]report_file[/bold]: a path), [bold]targets[/bold]
    (frontal+lateral), [bold]seed[/bold], [bold]num_samples[/bold], [bold]weights[/bold] (frontal=0.5 report=1),
    [bold]order[/bold] (joint, staggered, chained); of a record one column for each field: [bold]record.age[/bold],
    [bold]record.sex[/bold]. Paths are relative to the manifest.

    [bold]--balance sex,age:20 --data DATA[/bold] writes the manifest (balanced.csv where no other is named): sexes and bands of 20
    years in equal numbers, the findings of every study kept. With --out it is carried out too.

    Each study has its own folder and a row in results.csv. Rows that fail are printed, listed in failed.csv and skipped; the
    exit code is then 3. The files are the same, byte by byte, for any number of ranks.

    [bold]--format dicom --dicom-store URL[/bold] sends every study of results.csv through an outbox, once each, by the rank that ends
    last; with --collect, those that are finished.

    [bold]Examples[/bold]

        medcodi synthesize --manifest prompts.csv --out synthetic/

        medcodi synthesize --manifest prompts.csv --out synthetic/ --target frontal --preset fast --batch-size 32 --format dicom

        torchrun --nproc-per-node 8 -m medcodi synthesize --manifest prompts.csv --out synthetic/

        medcodi synthesize --manifest prompts.jsonl --out synthetic/ --rank $SLURM_PROCID --world $SLURM_NTASKS

        medcodi synthesize --balance sex,age:20 --data data/mine --manifest balanced.csv

        medcodi synthesize --manifest prompts.csv --out synthetic/ --format dicom --dicom-store https://pacs.example.org/dicom-web
    """
    # Check the options before torch is loaded, which takes seconds.
    rank, world = _rank_and_world(rank, world, os.environ)
    targets = read_targets(target or [])
    delivery = read_delivery(
        dicom_store, outbox, targets, pdf=dicom_pdf, ca=dicom_ca, certificate=dicom_cert, folder_format=image_format
    )
    if balance is not None or data is not None:
        manifest = manifest or Path("balanced.csv")
        _write_balanced(balance, data, split, seed, manifest)
        if out_dir is None:
            return
    if manifest is None or out_dir is None:
        raise PromptError(
            f"no {'--manifest' if manifest is None else '--out'}",
            expected="a manifest of requests and a folder for the results",
            fix="--manifest prompts.csv --out synthetic/",
        )
    say_loading("the manifest and the model")
    from medcodi.generation.bulk.manifest import RowDefaults, read_manifest
    from medcodi.model.index import read_index

    defaults = RowDefaults(targets=targets, seed=seed, num_samples=num_samples)
    read_manifest(manifest, defaults, tuple(keep or ()))  # refused before the networks' libraries are loaded
    if model is not None:
        read_index(model)
    if exclude_near_copies is not None:
        from medcodi.data.dataset import read_info

        read_info(exclude_near_copies)
    from medcodi.distributed import rank_device
    from medcodi.generation.bulk.job import SynthesisConfig
    from medcodi.generation.bulk.job import synthesize as run
    from medcodi.model.generation_config import GenerationConfig

    config = SynthesisConfig(
        generation=GenerationConfig(
            preset=preset,
            sampler=sampler,
            num_inference_steps=steps,
            guidance_scale=guidance,
            order=order,
            sequence=read_sequence(sequence),
            weak=read_weak(weak or []),
            watermark=watermark,
        ),
        defaults=defaults,
        keep=tuple(keep or ()),
        batch_size=batch_size,
        shard_size=shard_size,
        image_format=image_format,
        threads=threads,
        execution=read_execution(execution or []),
    )
    # Generate; each rank takes its shards, only the first one shows a bar.
    chosen = rank_device(read_device(device))
    with domain_notes(), counting_bar(err) as bar:
        bar.disable = rank > 0  # one bar is enough
        outcome = run(
            manifest,
            out_dir,
            model=model,
            config=config,
            rank=rank,
            world=world,
            device=chosen,
            collect_only=collect,
            on_progress=count_progress(bar, "synthesizing"),
            on_failure=lambda bad: err.print(f"row {bad.number} {bad.id}: {bad.message}"),
        )
    _print_outcome(outcome, out_dir, rank, world)
    if exclude_near_copies is not None and not outcome.num_pending:
        _exclude(exclude_near_copies, out_dir, model, chosen)
    if delivery is not None and outcome.num_there:
        # The rank that ends last knows what is excluded.
        if not outcome.num_pending or (collect and exclude_near_copies is None):
            send_synthesis(delivery, out_dir)
        else:
            err.print("No DICOM study is sent yet: the rank that ends last sends them")
    raise typer.Exit(_exit_code(outcome, os.environ))


def _write_balanced(balance: str | None, data: str | None, split: str, seed: int, manifest: Path) -> None:
    """Write a balanced manifest, and print the groups before and after."""
    from medcodi.generation.bulk.balance import balanced, read_balance

    if balance is None or data is None:
        raise PromptError(
            f"{'--data' if balance is None else '--balance'} is given alone",
            expected="both, or neither",
            fix="--balance sex,age:20 --data DATA",
        )
    result = balanced(data, split, read_balance(balance), seed)
    result.write(manifest)
    table = Table("group", "studies", "rows", title=str(manifest), title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for group in result.after:
        table.add_row(", ".join(group), f"{result.before[group]:,}", f"{result.after[group]:,}")
    show(table)
    if result.num_left_out:
        err.print(f"{result.num_left_out:,} studies have no findings in words: they have no row")


def _exclude(data: str, folder: Path, model: str | None, device: str | None) -> None:
    """Leave near copies of training studies out of the results, by the rank that ended last."""
    from medcodi.data.loading import DataConfig
    from medcodi.generation.pipeline import load
    from medcodi.trust.privacy.near_copies import TABLE, exclude_near_copies

    excluded, generated = exclude_near_copies(folder, DataConfig(path=data).build(), load(model, device))
    err.print(
        f"{excluded} of {generated} studies are nearer to a training study than real patients are to each other: they are in {TABLE},"
        " not in results.csv. A filter is no proof of privacy."
    )


def _rank_and_world(rank: int | None, world: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Rank and world size: of the options, else of torchrun's or deepspeed's environment, else (0, 1)."""
    values = []
    for option, name, default in ((rank, "RANK", 0), (world, "WORLD_SIZE", 1)):
        try:
            values.append(option if option is not None else int(environment.get(name, default)))
        except ValueError:
            raise PromptError(f"{name} is {environment[name]!r}", expected="a whole number") from None
    # One of the two alone would leave shards to nobody, or generate them twice.
    if (rank is None) != (world is None):
        raise PromptError(
            f"{'--world' if rank is None else '--rank'} is given alone",
            expected="both --rank and --world, or neither",
            fix="give the other one as well",
        )
    return values[0], values[1]


def _print_outcome(outcome: SynthesisOutcome, folder: Path, rank: int, world: int) -> None:
    whose = f"rank {rank} of {world}: " if world > 1 else ""
    err.print(
        f"{whose}{outcome.made} studies generated, {outcome.found} were finished before, {len(outcome.failed)} rows failed"
    )
    if outcome.num_pending:
        err.print(
            f"{outcome.num_pending} studies are still missing: other ranks generate them, or the same command run again"
        )
    if outcome.num_truncated:
        err.print(
            f"{outcome.num_truncated} rows have a text that is longer than this model reads: results.csv says how much was read"
        )
    for name in ("results.csv", "failed.csv"):
        if (folder / name).is_file():
            out.print(str(folder / name))


def _exit_code(outcome: SynthesisOutcome, environment: Mapping[str, str]) -> int:
    """3 if rows failed. A launcher stops all ranks when one exits with an error, so there only the last rank reports it."""
    # torchrun sets the first variable, DeepSpeed's launcher the other two.
    launched = "TORCHELASTIC_RUN_ID" in environment or {"CROSS_RANK", "LOCAL_SIZE"} <= set(environment)
    if outcome.num_pending and launched:
        return 0
    return INCOMPLETE if outcome.num_failed or outcome.failed else 0
