"""``medcodi demo``: every direction once, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcodi.app.arguments import Device, Model, Steps, read_device
from medcodi.app.terminal import app, err, out


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the page.")] = Path("demo"),
    model: Model = None,
    seed: Annotated[int, typer.Option(help="Chooses the held-out patients and the noise.")] = 0,
    steps: Steps = None,
    device: Device = None,
) -> None:
    """Generate in all 12 directions, and write one page that shows prompts, generated and truth side by side.

    The studies are phantoms that the model has never seen. Nothing is downloaded.

    [bold]Examples[/bold]

        medcodi demo

        medcodi demo --out /tmp/page --seed 7
    """
    from medcodi.app.demo import DemoConfig, write_demo

    page = write_demo(
        DemoConfig(model=model, out=str(out_dir), seed=seed, num_inference_steps=steps, device=read_device(device)),
        console=err,
    )
    out.print(f"The page: {page}")
