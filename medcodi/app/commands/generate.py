"""``medcodi generate``: one request, any to any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.text import Text

from medcodi.app.arguments import (
    Device,
    Execution,
    Guidance,
    ImageFormat,
    Model,
    Order,
    Preset,
    Sampler,
    SequenceOfTargets,
    Steps,
    read_device,
    read_execution,
    read_prompts,
    read_sequence,
    read_targets,
    read_weights,
    refuse_full_folder,
)
from medcodi.app.terminal import app, err, out, progress_bar

if TYPE_CHECKING:
    from medcodi.generation.pipeline import Generation

SHOWN = 300  # characters of a text that was not read


@app.command()
def generate(
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=VALUE",
            help="A prompt: frontal=chest.dcm, report='...' or report=@file.txt; repeatable. None: unconditional.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY", help="What to generate; repeat for several.", show_default="all but the prompts"
        ),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for images, texts and provenance.json.")] = Path(
        "generated"
    ),
    model: Model = None,
    num_samples: Annotated[int, typer.Option(help="Number of samples, each with its own seed.")] = 1,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=NUMBER", help="Weight of a prompt among the prompts, 1 by default; 0 equals absence."
        ),
    ] = None,
    preset: Preset = None,
    guidance: Guidance = None,
    steps: Steps = None,
    sampler: Sampler = None,
    order: Order = None,
    sequence: SequenceOfTargets = None,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; the same seed gives the same sample.")] = 0,
    image_format: ImageFormat = "png",
    device: Device = None,
    execution: Execution = None,
) -> None:
    """Generate X-rays and reports from X-rays and reports, any to any.

    [bold]Examples[/bold]

        medcodi generate --prompt report="Large left pleural effusion." --target frontal

        medcodi generate --prompt frontal=chest.dcm --target lateral --target report --num-samples 4

        medcodi generate --prompt frontal=chest.png --prompt report=@report.txt --weight report=0.5 --guidance 3

        medcodi generate --prompt report=@report.txt --preset fast --format dicom

        medcodi generate --prompt report=@report.txt --model xgem/ --execution precision=bfloat16 --execution offload=cpu

        medcodi generate --order chained --sequence report+frontal+lateral

        medcodi generate --target frontal --steps 30 --sampler dpm++ --seed 7 --out here/
    """
    # Check the options before torch is loaded, which takes seconds.
    prompts, targets, weights = read_prompts(prompt or []), read_targets(target or []), read_weights(weight or [])
    in_sequence = read_sequence(sequence)
    refuse_full_folder(out_dir)
    with progress_bar(err) as bar:
        task = bar.add_task("loading", total=None)
        from medcodi.generation.pipeline import generate as run
        from medcodi.generation.result import image_format as check_format

        check_format(image_format)
        generation = run(
            prompts,
            targets,
            model=model,
            num_samples=num_samples,
            weights=weights,
            preset=preset,
            guidance_scale=guidance,
            num_inference_steps=steps,
            sampler=sampler,
            order=order,
            sequence=in_sequence,
            seed=seed,
            device=read_device(device),
            execution=read_execution(execution or []),
            on_step=lambda done, total: bar.update(task, description="generating", completed=done, total=total),
        )
    generation.save(out_dir, image_format)
    print_truncations(generation, prompts)
    print_generation(generation, out_dir)


def print_truncations(generation: Generation, prompts: Mapping[str, str]) -> None:
    """Say which texts the model has not read to their end, and what it has not read."""
    from medcodi.data.reports import normalise_report

    for name, prompt in generation.provenance["prompts"].items():
        if cut := prompt.get("truncated"):
            unread = " ".join(normalise_report(prompts[name])[cut["read_characters"] :].split())
            seen = f" {cut['read_tokens']} of {cut['tokens']} tokens of the {name} were read, which is all that this model reads."
            err.print(
                Text.assemble(("Note:", "yellow"), f"{seen} Not read: {unread[:SHOWN]}{'…' * (len(unread) > SHOWN)}")
            )


def print_generation(generation: Generation, folder: Path) -> None:
    """Print the texts and records of a generation, and the names of its files."""
    from medcodi.study import content_text

    for number, sample in enumerate(generation.samples):
        for name, value in sample.contents.items():
            text = content_text(value)
            if text is not None:
                out.print(Panel(Text(text), title=f"{name}, sample {number}", title_align="left", expand=False))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        out.print(str(path))
