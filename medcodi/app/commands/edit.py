"""``medcodi edit``: the same patient with other findings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcodi.app.arguments import (
    Device,
    Execution,
    Guidance,
    ImageFormat,
    Model,
    Preset,
    Sampler,
    Steps,
    Watermark,
    numbered_folder,
    read_device,
    read_execution,
    read_prompts,
    read_targets,
    refuse_full_folder,
    text_or_file,
)
from medcodi.app.terminal import app, domain_notes, err, print_generation, print_truncations, progress_bar, say_loading
from medcodi.errors import PromptError


@app.command()
def edit(
    study: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=VALUE",
            help="A content of the study: frontal=chest.dcm, report='...' or report=@file.txt; repeatable.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        str, typer.Option(help="Statements about findings, as text or @file.txt; the rest stays.", show_default=False)
    ] = "",
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY", help="What to edit; repeat for several.", show_default="the whole study"),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A new folder for images, texts and provenance.json.",
            show_default="edited, then edited-2 ...",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Above 0, at most 1: how much may change.", show_default="0.5, see docs/EDITING.md"),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="--report is the whole new report, not statements.")
    ] = False,
    model: Model = None,
    preset: Preset = None,
    guidance: Guidance = None,
    steps: Steps = None,
    sampler: Sampler = None,
    watermark: Watermark = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise; the same seed gives the same edit.")] = 0,
    image_format: ImageFormat = "png",
    device: Device = None,
    execution: Execution = None,
) -> None:
    """Edit a study: the same patient with other findings. Films and report change together; what is not named stays.

    The result may still show the patient whose films are given: it is not de-identified.

    [bold]Examples[/bold]

        medcodi edit --study frontal=chest.dcm --study report=@report.txt --report "Large left pleural effusion."

        medcodi edit --study frontal=chest.png --study lateral=side.png --report "No pneumothorax. Pacemaker in place."

        medcodi edit --study frontal=chest.png --study report=@old.txt --report @new.txt --replace --strength 0.6 --out here/
    """
    # Check the options before torch is loaded, which takes seconds.
    contents, targets = read_prompts(study or [], option="--study"), read_targets(target or [])
    if not contents:
        raise PromptError(
            "no study is given", expected="its contents", fix="--study frontal=chest.dcm --study report=@report.txt"
        )
    if not report:
        raise PromptError(
            "nothing to change: no report is given",
            expected="statements about findings",
            fix='--report "Large left pleural effusion."',
        )
    statements = text_or_file("report", report)
    folder = numbered_folder("edited") if out_dir is None else out_dir
    refuse_full_folder(folder)
    say_loading("the study and the model")
    with domain_notes(), progress_bar(err) as bar:
        task = bar.add_task("loading", total=None)
        from medcodi.generation.editing import STRENGTH
        from medcodi.generation.editing import edit as run
        from medcodi.generation.result import image_format as check_format

        check_format(image_format)
        generation = run(
            contents,
            statements,
            targets,
            model=model,
            strength=STRENGTH if strength is None else strength,
            replace=replace,
            preset=preset,
            guidance_scale=guidance,
            num_inference_steps=steps,
            sampler=sampler,
            watermark=watermark,
            seed=seed,
            device=read_device(device),
            execution=read_execution(execution or []),
            on_step=lambda done, total: bar.update(task, description="editing", completed=done, total=total),
        )
    generation.save(folder, image_format)
    print_truncations(generation, contents)
    if cut := generation.provenance["edit"].get("truncated"):
        err.print(f"[yellow]Note:[/yellow] {cut['read_tokens']} of {cut['tokens']} tokens of the new report were read.")
    print_generation(generation, folder)
