"""The plan of a run as tables: what a person reads before paying for it."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table

from medcodi.training.config import TrainConfig
from medcodi.training.estimate import GIB, MIMIC_IMAGES, MIMIC_STUDIES, Estimate, StagePlan


def plan_tables(run: TrainConfig, plan: Estimate) -> Group:
    """Memory for each ZeRO stage, the recommendation, the time, and what it all rests on."""
    return Group(_memory(run, plan), *_advice(run, plan), "", *_assumptions(run, plan))


def print_plan(run: TrainConfig, plan: Estimate, console: Console) -> None:
    """Print the plan."""
    console.print(plan_tables(run, plan))


def _memory(run: TrainConfig, plan: Estimate) -> Table:
    hardware = plan.hardware
    table = Table(
        "GiB on each GPU", "weights", "gradients", "AdamW", "average", "buffers", "a study", "micro-batch", "peak",
        title=f"Stage {run.stage.name} of {run.model or run.init} on {hardware.gpus} GPUs of {hardware.gpu_memory:g} GiB",
        title_justify="left",
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for row in plan.plans:
        parts = (row.weights, row.gradients, row.optimizer, row.average, row.buffers + row.fixed_activations)
        fits = row.micro_size > 0
        table.add_row(
            f"ZeRO {row.zero_stage}" + (" (recommended)" if row is plan.best else ""),
            *(f"{part / GIB:.1f}" for part in parts),
            f"{row.study_activations / GIB:.2f}",
            str(row.micro_size) if fits else "does not fit",
            f"{row.peak(row.micro_size) / GIB:.1f}" if fits else f"{row.peak(1) / GIB:.1f}",
            style="bold" if row is plan.best else None,
        )
    return table


def _advice(run: TrainConfig, plan: Estimate) -> list[str]:
    hours, gpus = plan.gpu_hours, plan.hardware.gpus
    lines = [
        f"{plan.steps:,} steps of {plan.global_size} studies: {plan.epochs:.1f} times through MIMIC-CXR"
        f" ({MIMIC_STUDIES:,} studies, {MIMIC_IMAGES:,} images).",
        f"About {hours:,.0f} GPU-hours, {hours / gpus:,.1f} hours on {gpus} GPUs.",
    ]
    if plan.best is None:
        return ["No ZeRO stage fits: take larger GPUs or more of them.", *lines]
    return [_settings(run, plan, plan.best), *lines]


def _settings(run: TrainConfig, plan: Estimate, best: StagePlan) -> str:
    share = plan.global_size // plan.hardware.gpus
    return (
        f"Recommended: engine.name=deepspeed engine.zero_stage={best.zero_stage} batch.micro_size={best.micro_size}"
        f" ({best.micro_size} x {share // best.micro_size} accumulated x {plan.hardware.gpus} GPUs = {plan.global_size})."
    )


def _assumptions(run: TrainConfig, plan: Estimate) -> list[str]:
    hardware, cost = plan.hardware, plan.cost
    cached = "studies come encoded from the cache, autoencoders and prompt encoders are not in memory"
    source = cached if run.cache else "frozen networks run on every batch"
    return [
        "Assumed:",
        f"- {cost.trained / 1e6:,.1f} M parameters trained, {cost.frozen / 1e6:,.1f} M frozen beside them; all float32, {run.precision} by autocast;"
        f" the moving average float32; {source}.",
        f"- {cost.study_flops / 1e12:.2f} TFLOP a study, forward and backward, at {hardware.mfu:.0%} of {hardware.peak_tflops:g} TFLOP/s;"
        " talk between GPUs and reading data are in that share.",
        f"- {hardware.reserved:g} GiB of each GPU reserved, {hardware.fragmentation:.0%} of the rest lost to fragmentation; every study has every modality.",
        "- nothing offloaded; without activation checkpointing, which leaves less of `a study` and takes about a third more time.",
        "Change them with --mfu, --peak-tflops, --reserved; docs/SCALING.md says how far the counts were off when they were measured.",
    ]
