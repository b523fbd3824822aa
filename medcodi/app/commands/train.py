"""``medcodi train`` and ``medcodi plot``: train a stage, estimate what it takes, draw its curves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from medcodi.app.arguments import Overrides
from medcodi.app.terminal import app, out, say_loading, show

if TYPE_CHECKING:
    from medcodi.training.config import TrainConfig
    from medcodi.training.cost import RunEstimate


@app.command()
def train(
    config: Annotated[str, typer.Option(help="The run: a file, or a recipe (medcodi config list train).")],
    settings: Overrides = None,
    resume: Annotated[str | None, typer.Option(help="Resume from 'latest', or from a checkpoint folder.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration and stop.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--estimate", help="Print memory, micro-batch, ZeRO stage and GPU-hours, and stop.")
    ] = False,
    gpus: Annotated[int, typer.Option(help="With --estimate: how many GPUs.")] = 8,
    card: Annotated[
        str,
        typer.Option(help="With --estimate: the GPU: a100, a100-40gb, h100, h200, b200, l40s, a10g, rtx4090, rtx3090."),
    ] = "a100",
    gpu_memory: Annotated[
        float | None, typer.Option(help="With --estimate: GiB of each.", show_default="the card's")
    ] = None,
    peak_tflops: Annotated[
        float | None, typer.Option(help="With --estimate: bf16 peak of one.", show_default="the card's")
    ] = None,
    mfu: Annotated[float, typer.Option(help="With --estimate: share of the peak that one GPU reaches.")] = 0.35,
    bandwidth: Annotated[
        float | None,
        typer.Option(
            help="With --estimate: GB/s of an all-reduce (the bus bandwidth of nccl-tests).",
            show_default="the card's link; at most 200 beyond 8 GPUs",
        ),
    ] = None,
    reserved: Annotated[float, typer.Option(help="With --estimate: GiB of each used by others.")] = 2.0,
    studies: Annotated[
        int | None,
        typer.Option(
            help="With --estimate: studies to train on.", show_default="of the data, else MIMIC-CXR's 227,835"
        ),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="With --estimate: passes over them.", show_default="the recipe's steps")
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="With --estimate: of a GPU-hour, in any currency.", show_default="no costs")
    ] = None,
) -> None:
    """Train one stage: autoencode, align, diffuse, join or distil.

    On several devices: torchrun --nproc-per-node 8 -m medcodi train ... or deepspeed --module medcodi train ...

    [bold]Examples[/bold]

        medcodi train --config autoencode

        medcodi train --config diffuse optimizer.lr=1e-4 --resume latest

        medcodi train --estimate --config medcodi-m/3-diffuse init=null model=medcodi-m --gpus 32

        medcodi train --estimate --config medcodi-m --card h100 --studies 50000 --epochs 40 --price 2.5
    """
    say_loading(f"the run of {config}")
    from medcodi.config import load, to_yaml
    from medcodi.training.config import TrainConfig

    # --print-config and --estimate stop before anything is trained; --estimate also plans all recipes of a folder.
    if plan:
        from medcodi.config import from_dict
        from medcodi.errors import ConfigError, one_of
        from medcodi.training.cost import CARDS, MACHINE_GPUS, NETWORK, Hardware, estimate

        memory, peak, link = CARDS[one_of("card", card, CARDS, ConfigError)]
        values = {"gpus": gpus, "mfu": mfu, "reserved": reserved, "price": price}
        values["gpu_memory"] = memory if gpu_memory is None else gpu_memory
        values["peak_tflops"] = peak if peak_tflops is None else peak_tflops
        own = link if gpus <= MACHINE_GPUS else min(link, NETWORK)
        values["bandwidth"] = own if bandwidth is None else bandwidth
        hardware = from_dict(Hardware, values, source="--estimate")
        runs = planned_runs(config, settings or [])
        plans = [estimate(run, hardware, studies=studies, epochs=epochs) for run in runs]
        for part in plan_tables(runs[0], plans[0]) if len(runs) == 1 else stage_tables(config, runs, plans):
            show(part) if isinstance(part, Table) else out.print(part)
        return
    run = load(TrainConfig, config, settings or [])
    if print_config:
        print(to_yaml(run), end="")
        return
    run.check_inputs()
    from medcodi.training.loop import train as run_stage

    folder = run_stage(run, resume)
    if not int(os.environ.get("RANK", "0")):  # only the first rank prints
        out.print(f"The run: {folder}")


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; several are compared in the same charts.")],
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; by default summary.html in the folder of the only run.")
    ] = None,
) -> None:
    """Draw the curves of runs from their logs: one HTML page, which loads nothing from elsewhere.

    Losses of each modality and of each set of prompts, validation by timestep, gradient norm, speed, memory, signs of
    trouble, the last samples. An unfinished run can be drawn too.

    [bold]Examples[/bold]

        medcodi plot runs/diffuse

        medcodi plot runs/diffuse runs/diffuse-tokens --out compare.html
    """
    from medcodi.errors import TrainingError
    from medcodi.training.monitoring.summary import PAGE, write_summary

    if any(run == Path("demo") and not (run / "log.jsonl").exists() for run in runs):
        raise TrainingError(
            "the shipped model demo carries no log of its training",
            expected="the folder of a run",
            fix="name a run's out=… folder; docs/DEMO.md reports how demo was trained",
        )
    if page is None and len(runs) > 1:
        raise TrainingError(
            f"{len(runs)} runs and no --out", expected="a name for the page", fix="add --out compare.html"
        )
    out.print(f"The page: {write_summary(runs, page or runs[0] / PAGE)}")


# ---- the plan of a run, or of all stages -----------------------------------------------------------------------------
def planned_runs(config: str, settings: list[str]) -> list[TrainConfig]:
    """The run of a recipe, or those of a folder of recipes, in the order of the stages.

    In a folder, a run that starts from a model that is not there yet is planned with the fresh model of the first.
    """
    from medcodi.config import load
    from medcodi.recipes import recipes_in
    from medcodi.stages.stage import STAGES
    from medcodi.training.config import TrainConfig

    files = recipes_in(config, "train") or [config]
    runs = {file: load(TrainConfig, file, settings) for file in files}
    fresh = next((run.model for run in runs.values() if run.model), None)
    for file, run in runs.items():
        if len(runs) > 1 and fresh and run.init not in (None, "demo") and not Path(str(run.init)).exists():
            runs[file] = load(TrainConfig, file, [*settings, "init=null", f"model={fresh}"])
    return sorted(runs.values(), key=lambda run: list(STAGES).index(run.stage.name))


def stage_tables(config: str, runs: list[TrainConfig], plans: list[RunEstimate]) -> list[Table | str]:
    """One row for each stage with memory, time and costs, their sum, and the assumptions."""
    from medcodi.training.cost import GIB

    hardware, priced = plans[0].hardware, plans[0].price is not None
    table = Table(
        "stage", "ZeRO", "micro", "GiB", "steps", "passes", "GPU-hours", "hours", "sending", *["costs"] * priced,
        title=f"{config} on {hardware.gpus} GPUs of {hardware.gpu_memory:g} GiB and {hardware.peak_tflops:g} TFLOP/s",
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for run, plan in zip(runs, plans, strict=True):
        best = plan.best
        peak = best.peak(best.micro_size) if best else min(row.peak(1) for row in plan.plans)
        table.add_row(
            run.stage.name,
            str(best.zero_stage) if best else "none",
            f"{best.micro_size} x {plan.global_size // hardware.gpus // best.micro_size}" if best else "",
            f"{peak / GIB:.1f}",
            f"{plan.steps:,}",
            f"{plan.epochs:,.1f}",
            *_time_and_costs([plan]),
        )
    table.add_section()
    table.add_row("all", *[""] * 5, *_time_and_costs(plans))
    return [
        table,
        f"`micro`: studies at a time x times accumulated, `GiB` on each GPU (of one study where none fits); `passes` over {_studies(plans[0])};",
        "`sending`: share of the hours in which GPUs send and nothing is computed.",
        "Stages with a cache read encoded studies: the frozen encoders are neither in memory nor run.",
        "",
        "Assumed:",
        *_shared_assumptions(plans[0]),
        f"For one stage in detail: --config {config}/NAME.",
    ]


def _time_and_costs(plans: list[RunEstimate]) -> list[str]:
    """Cells of a table, for all of these runs: GPU-hours, hours, share of sending, and costs where a price is given."""
    gpu_hours, hardware = sum(plan.gpu_hours for plan in plans), plans[0].hardware
    sending = sum(plan.steps * plan.communication for plan in plans) * hardware.gpus / 3600
    costs = [] if hardware.price is None else [f"{hardware.price * gpu_hours:,.0f}"]
    return [f"{gpu_hours:,.1f}", f"{gpu_hours / hardware.gpus:,.1f}", f"{sending / gpu_hours:.0%}", *costs]


def _studies(plan: RunEstimate) -> str:
    from medcodi.training.cost import MIMIC_IMAGES, MIMIC_STUDIES

    if plan.studies == MIMIC_STUDIES:
        return f"MIMIC-CXR ({MIMIC_STUDIES:,} studies, {MIMIC_IMAGES:,} images)"
    return f"{plan.studies:,} studies"


def plan_tables(run: TrainConfig, plan: RunEstimate) -> list[Table | str]:
    """Memory for each ZeRO stage, the recommendation, the time, and the assumptions."""
    return [_memory_table(run, plan), *_advice(run, plan), "", *_assumptions(run, plan)]


def _memory_table(run: TrainConfig, plan: RunEstimate) -> Table:
    from medcodi.training.cost import GIB

    hardware = plan.hardware
    table = Table(
        "GiB a GPU", "weights", "gradients", "AdamW", "average", "buffers", "study", "batch", "peak",
        title=f"Stage {run.stage.name} of {run.model or run.init} on {hardware.gpus} GPUs of {hardware.gpu_memory:g} GiB",
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    # One row per ZeRO stage. A stage that does not fit shows the peak of a single study.
    for row in plan.plans:
        parts = (row.weights, row.gradients, row.optimizer, row.average, row.buffers + row.fixed_activations)
        fits = row.micro_size > 0
        table.add_row(
            f"ZeRO {row.zero_stage}" + (" (best)" if row is plan.best else ""),
            *(f"{part / GIB:.1f}" for part in parts),
            f"{row.study_activations / GIB:.2f}",
            str(row.micro_size) if fits else "does not fit",
            f"{row.peak(row.micro_size) / GIB:.1f}" if fits else f"{row.peak(1) / GIB:.1f}",
            style="bold" if row is plan.best else None,
        )
    return table


def _advice(run: TrainConfig, plan: RunEstimate) -> list[str]:
    hours, gpus = plan.gpu_hours, plan.hardware.gpus
    costs = "" if plan.price is None else f"; at {plan.hardware.price:g} an hour, {plan.price:,.0f}"
    lines = [
        f"{plan.steps:,} steps of {plan.global_size} studies: {plan.epochs:.1f} times through {_studies(plan)}.",
        f"About {hours:,.0f} GPU-hours, {hours / gpus:,.1f} hours on {gpus} GPUs{costs}.",
    ]
    if plan.best is not None and gpus > 1:
        share = plan.communication / (plan.communication + plan.computation)
        lines.append(f"In {share:.0%} of them GPUs only send: {plan.best.sent / 1e9:,.1f} GB each in a step.")
    if plan.best is None:
        return ["No ZeRO stage fits: take larger GPUs or more of them.", *lines]
    best, share = plan.best, plan.global_size // plan.hardware.gpus
    recommended = (
        f"Recommended: engine.name=deepspeed engine.zero_stage={best.zero_stage} batch.micro_size={best.micro_size}"
        f" ({best.micro_size} x {share // best.micro_size} accumulated x {plan.hardware.gpus} GPUs = {plan.global_size})."
    )
    return [recommended, *lines]


def _assumptions(run: TrainConfig, plan: RunEstimate) -> list[str]:
    cost = plan.cost
    cached = "encoded studies are read from the cache, autoencoders and prompt encoders are not in memory"
    source = cached if run.cache else "frozen networks run on every batch"
    return [
        "Assumed:",
        f"- {cost.trained / 1e6:,.1f} M parameters trained, {cost.frozen / 1e6:,.1f} M frozen; all float32, {run.precision} by autocast;"
        f" the moving average float32; {source}.",
        f"- {cost.study_flops / 1e12:.2f} TFLOP a study, forward and backward.",
        *_shared_assumptions(plan),
    ]


def _shared_assumptions(plan: RunEstimate) -> list[str]:
    hardware = plan.hardware
    return [
        f"- {hardware.mfu:.0%} of {hardware.peak_tflops:g} TFLOP/s are reached, reading data included; communication comes on top,"
        f" at {hardware.bandwidth:g} GB/s, none of it during the backward pass.",
        f"- {hardware.reserved:g} GiB of each GPU reserved, {hardware.fragmentation:.0%} of the rest lost to fragmentation; every study has every modality.",
        "- nothing offloaded; without activation checkpointing, which leaves less of `a study` and takes about a third longer.",
        "Change them with --mfu, --peak-tflops, --bandwidth, --reserved; docs/SCALING.md compares the counts with measurements.",
    ]
