"""``medcodi demo``: every direction once on held-out phantoms, on one page: prompts, generated contents and truth side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from medcodi import __version__
from medcodi.app.arguments import Device, Model, Steps, read_device
from medcodi.app.terminal import app, err, out, progress_bar, say_loading
from medcodi.errors import PromptError
from medcodi.modality import MODALITIES

if TYPE_CHECKING:
    from medcodi.model import MedCoDi, ModelConfig
    from medcodi.model.generation_config import GenerationConfig
    from medcodi.study import Content, Direction, Study

TEMPLATE = Path(__file__).parents[1] / "templates" / "demo.html"


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the page.")] = Path("demo"),
    model: Model = None,
    seed: Annotated[int, typer.Option(help="Chooses the held-out patients and the noise.")] = 0,
    steps: Steps = None,
    device: Device = None,
) -> None:
    """Generate in every direction, and write one page that shows prompts, generated and truth side by side.

    The studies are phantoms that the model has never seen. Nothing is downloaded.

    [bold]Examples[/bold]

        medcodi demo

        medcodi demo --out /tmp/page --seed 7
    """
    if seed < 0:
        raise PromptError(f"seed is {seed}", expected="an integer >= 0")
    say_loading("the model")
    from medcodi.pages.page import check_page

    check_page(out_dir / "index.html")
    if model is not None:
        from medcodi.model.index import read_index

        read_index(model)  # refused before the networks' libraries are loaded
    page = write_demo(model, out_dir, seed=seed, num_inference_steps=steps, device=read_device(device), console=err)
    out.print(f"The page: {page}")


@dataclass(frozen=True)
class DemoRow:
    """One direction: its study and the generated contents."""

    direction: Direction
    study: Study
    generated: dict[str, Content]
    seed: int
    seconds: float


def write_demo(
    source: str | None,
    folder: Path,
    *,
    seed: int,
    num_inference_steps: int | None,
    device: str | None,
    console: Console,
) -> Path:
    """Generate every direction once and write the page.

    Args:
        source: Model folder or hub repository; None: the shipped demo.
        folder: Folder of the page.
        seed: Chooses the held-out patients and the noise.
        num_inference_steps: None: the model's own.
        device: None: a GPU if there is one.
        console: Shows the progress.

    Returns:
        Path of the page, a single file.

    Raises:
        CheckpointError: If the model cannot be loaded.
        PromptError: If a setting is invalid.
        DataError: If the folder cannot be written.
    """
    from medcodi.data.reports import sections
    from medcodi.generation.pipeline import load
    from medcodi.metrics.labeler import label_report
    from medcodi.model.generation_config import GenerationConfig
    from medcodi.pages.page import check_page, render_template, write_page
    from medcodi.study import finding_words

    check_page(folder / "index.html")
    settings = GenerationConfig(num_inference_steps=num_inference_steps)
    # Load the model and complete the settings with its defaults.
    with console.status("Loading the model ..."):
        model = load(source, device)
    settings = settings.resolved(model)
    rows = generate_rows(model, settings, seed=seed, console=console)
    # Everything is inside the one file: images as data URIs, style, text.
    html = render_template(
        TEMPLATE,
        filters={"sections": sections, "words": finding_words, "read": label_report},
        modalities=MODALITIES,
        rows=rows,
        units=units_of(model.config),
        facts=model_facts(model, settings),
        version=__version__,
    )
    return write_page(folder / "index.html", html)


def generate_rows(model: MedCoDi, settings: GenerationConfig, *, seed: int, console: Console) -> list[DemoRow]:
    """Generate every direction, each on another patient: the first ones of the held-out split, not selected by their results."""
    from medcodi.data.loading import DataConfig
    from medcodi.evaluation.config import default_directions
    from medcodi.generation.pipeline import generate_batch
    from medcodi.generation.request import read_prompt

    # Patient number first + i belongs to direction i; version 1 has no records.
    directions = [direction for direction in default_directions(model.config.modalities) if direction.prompts]
    first = seed * len(directions)
    studies = DataConfig(
        source="phantom",
        split="test",
        num_studies=first + len(directions),
        image_size=model.config.image_size,
        version=1 if model.config.record is None else 2,
    ).build()
    rows = []
    with progress_bar(console) as bar:
        task = bar.add_task("", total=len(directions))
        for number, direction in enumerate(directions):
            bar.update(task, description=str(direction))
            # The time of a row includes reading its prompts.
            start = time.perf_counter()
            study = studies[first + number]
            prompts = {name: read_prompt(name, study.contents[name], model.config) for name in direction.prompts}

            def advance(done: int, total: int, number: int = number) -> None:
                bar.update(task, completed=number + done / total)

            generated = generate_batch(
                model, [prompts], direction.targets, [first + number], settings, on_step=advance
            )[0]
            rows.append(DemoRow(direction, study, generated, first + number, time.perf_counter() - start))
        bar.update(task, completed=len(directions), description="done")
    return rows


def units_of(config: ModelConfig) -> dict[str, str]:
    """Field of the model's records -> its unit; without records, nothing."""
    fields = {} if config.record is None else config.record.fields
    return {name: field.unit for name, field in fields.items()}


def model_facts(model: MedCoDi, settings: GenerationConfig) -> dict[str, Any]:
    """Facts about the model for the page: label -> text."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "Model": model.config.name,
        "Parameters": f"{num_parameters / 1e6:.1f} M",
        "Image size": f"{model.config.image_size} × {model.config.image_size}",
        "Trained stages": " → ".join(model.trained_stages) or "none: random weights",
        "Sampler": f"{settings.sampler}, {settings.num_inference_steps} steps, guidance {settings.guidance_scale:g}",
        "SHA-256": model.identity()[:16],
    }
