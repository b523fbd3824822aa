"""``medcodi data prepare`` and ``medcodi train``: from a source of studies to a trained stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcodi.app.root import Overrides, app, data_app, out


@data_app.command()
def prepare(
    source: Annotated[str, typer.Option(help="Kind of source: csv, dicom, mimic-cxr, mimic-cxr-jpg, openi, phantom.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the dataset; made whole, or not at all.")],
    settings: Overrides = None,
) -> None:
    """Turn a source of studies into a memory-mapped dataset, with patient-level splits and a ledger.

    The ledger says of every file whether it is in or out, and why. With more than a tenth of the studies bad, the
    command refuses.

    [bold]Examples[/bold]

        medcodi data prepare --source csv --out data/mine path=studies.csv image_size=256

        medcodi data prepare --source dicom --out data/ward path=dicom/ max_bad_fraction=0.2
    """
    from medcodi.config import apply_overrides, from_dict
    from medcodi.data.preparation.prepare import PrepareConfig, prepare

    values = apply_overrides({"source": source, "out": str(out_dir)}, settings or [])
    out.print(prepare(from_dict(PrepareConfig, values, source="data prepare")))


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="A training configuration; ready ones lie in configs/train/.")],
    settings: Overrides = None,
    resume: Annotated[str | None, typer.Option(help="'latest', or a checkpoint folder, to go on from.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration and stop.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--estimate", help="Print memory, micro-batch, ZeRO stage and GPU-hours, and stop.")
    ] = False,
    gpus: Annotated[int, typer.Option(help="With --estimate: how many GPUs.")] = 8,
    gpu_memory: Annotated[float, typer.Option(help="With --estimate: GiB of each.")] = 80.0,
    peak_tflops: Annotated[float, typer.Option(help="With --estimate: bf16 peak of one (A100 312, H100 989).")] = 312.0,
    mfu: Annotated[float, typer.Option(help="With --estimate: share of the peak that training reaches.")] = 0.35,
    reserved: Annotated[float, typer.Option(help="With --estimate: GiB of each that are never ours.")] = 2.0,
) -> None:
    """Train one stage: autoencode, align, diffuse or join. The same as launch/train.py on one process.

    For several devices: deepspeed launch/train.py --config ... or torchrun launch/train.py --config ...

    [bold]Examples[/bold]

        medcodi train --config configs/train/autoencode.yaml

        medcodi train --config configs/train/diffuse.yaml optimizer.lr=1e-4 --resume latest

        medcodi train --estimate --config configs/train/medcodi-m/3-diffuse.yaml --gpus 32 --gpu-memory 80
    """
    from medcodi.config import from_dict, load, to_yaml
    from medcodi.training.config import TrainConfig

    run = load(TrainConfig, config, settings or [])
    if print_config:
        print(to_yaml(run), end="")
        return
    if plan:
        from medcodi.app.plan import print_plan
        from medcodi.training.estimate import Hardware, estimate

        values = {"gpus": gpus, "gpu_memory": gpu_memory, "peak_tflops": peak_tflops, "mfu": mfu, "reserved": reserved}
        print_plan(run, estimate(run, from_dict(Hardware, values, source="--estimate")), out)
        return
    from medcodi.training.loop import train as run_stage

    out.print(f"The run: {run_stage(run, resume)}")
