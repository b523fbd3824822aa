"""``medcodi generate``: one request, any to any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

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
    numbered_folder,
    read_device,
    read_execution,
    read_prompts,
    read_sequence,
    read_targets,
    read_weak,
    read_weights,
    refuse_full_folder,
)
from medcodi.app.delivery import read_delivery
from medcodi.app.terminal import (
    app,
    domain_notes,
    err,
    print_generation,
    print_truncations,
    progress_bar,
    say_loading,
)


@app.command()
def generate(
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=VALUE",
            help="A prompt: frontal=chest.dcm, report='...' or report=@file.txt, record=age=71,sex=F; repeatable. None: unconditional.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY", help="What to generate; repeat for several.", show_default="all but the prompts"
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A new folder for images, texts and provenance.json.",
            show_default="generated, then generated-2 ...",
        ),
    ] = None,
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
    weak: Weak = None,
    watermark: Watermark = False,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; the same seed gives the same sample.")] = 0,
    image_format: ImageFormat = "png",
    dicom_store: DicomStore = None,
    outbox: DicomOutbox = None,
    dicom_pdf: DicomPdf = False,
    dicom_ca: DicomCa = None,
    dicom_cert: DicomCert = None,
    device: Device = None,
    execution: Execution = None,
) -> None:
    """Generate X-rays and reports from X-rays and reports, any to any.

    [bold]Examples[/bold]

        medcodi generate --prompt report="Large left pleural effusion." --target frontal

        medcodi generate --prompt frontal=chest.dcm --target lateral --target report --num-samples 4

        medcodi generate --prompt frontal=chest.png --prompt report=@report.txt --weight report=0.5 --guidance 3

        medcodi generate --prompt report=@report.txt --preset fast --format dicom

        medcodi generate --prompt record=age=71,sex=F --prompt report="Cardiomegaly." --target frontal --model models/demo-record

        medcodi generate --prompt report=@report.txt --model xgem/ --execution precision=bfloat16 --execution offload=cpu

        medcodi generate --order chained --sequence report+frontal+lateral

        medcodi generate --target frontal --steps 30 --sampler dpm++ --seed 7 --out here/

        medcodi generate --prompt report=@report.txt --dicom-store https://pacs.example.org/dicom-web
    """
    # Check the options before torch is loaded, which takes seconds.
    prompts, targets, weights = read_prompts(prompt or []), read_targets(target or []), read_weights(weight or [])
    in_sequence, weak_model = read_sequence(sequence), read_weak(weak or [])
    folder = numbered_folder("generated") if out_dir is None else out_dir
    refuse_full_folder(folder)
    delivery = read_delivery(dicom_store, outbox, targets, pdf=dicom_pdf, ca=dicom_ca, certificate=dicom_cert)
    say_loading("the prompts and the model")
    check_inputs(prompts, targets, weights, num_samples, seed, model)
    with domain_notes(), progress_bar(err) as bar:
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
            weak=weak_model,
            watermark=watermark,
            seed=seed,
            device=read_device(device),
            execution=read_execution(execution or []),
            on_step=lambda done, total: bar.update(task, description="generating", completed=done, total=total),
        )
    generation.save(folder, image_format)
    if delivery is not None:
        delivery.add(
            (sample.contents, generation.provenance | {"seeds": [sample.seed]}) for sample in generation.samples
        )
    print_truncations(generation, prompts)
    print_generation(generation, folder)
    if delivery is not None:
        delivery.send()


def check_inputs(
    prompts: dict[str, str],
    targets: Sequence[str] | None,
    weights: dict[str, float] | None,
    num_samples: int,
    seed: int,
    model: str | None,
) -> None:
    """Refuse what is wrong in a request, its files or its model's folder, before the networks' libraries are loaded."""
    from medcodi.generation.request import check_request, read_prompt
    from medcodi.model.index import read_index

    _, used, _ = check_request(prompts, targets, weights, num_samples, seed)
    for name, value in used.items():
        read_prompt(name, value, None)
    if model is not None:
        read_index(model)
