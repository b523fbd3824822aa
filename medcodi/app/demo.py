"""The demo page: each direction once, prompts, generated and truth side by side, on phantoms the model has not seen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from medcodi import __version__
from medcodi.app.page import render, write_page
from medcodi.app.progress import progress_bar
from medcodi.config import config
from medcodi.data.loading import DataConfig
from medcodi.errors import PromptError
from medcodi.generation.pipeline import Value, generate_batch, load, read_prompt
from medcodi.model import MedCoDi
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction, Study, all_directions


@config
class DemoConfig:
    """What the demo page shows.

    Attributes:
        model: Model folder or hub repository; None: the shipped demo.
        out: Folder of the page.
        seed: Which held-out patients, and which noise.
        num_inference_steps: None: the model's own.
        device: None: a GPU where there is one.
    """

    model: str | None = None
    out: str = "demo"
    seed: int = 0
    num_inference_steps: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise PromptError(f"seed is {self.seed}", expected="an integer >= 0")


@dataclass(frozen=True)
class Row:
    """One direction: the study it was tried on, and what came out."""

    direction: Direction
    study: Study
    generated: dict[str, Value]
    seed: int
    seconds: float


def write_demo(demo: DemoConfig, console: Console) -> Path:
    """Generate every direction once and write the page.

    Args:
        demo: What to show.
        console: Where progress is drawn.

    Returns:
        Path of the page, one file without anything beside it.

    Raises:
        CheckpointError: If the model cannot be loaded.
        PromptError: If a setting cannot be.
        DataError: If the folder cannot be written.
    """
    settings = GenerationConfig(num_inference_steps=demo.num_inference_steps)
    with console.status("Loading the model ..."):
        model = load(demo.model, demo.device)
    settings = settings.resolved(model)
    rows = generate_rows(model, settings, seed=demo.seed, console=console)
    html = render("demo.html", rows=rows, facts=model_facts(model, settings), version=__version__)
    return write_page(html, Path(demo.out) / "index.html")


def generate_rows(model: MedCoDi, settings: GenerationConfig, *, seed: int, console: Console) -> list[Row]:
    """Each direction on a patient of its own: the first ones held out, none chosen by how the result looks."""
    directions = all_directions(model.config.modalities)
    first = seed * len(directions)
    studies = DataConfig(
        source="phantom", split="test", num_studies=first + len(directions), image_size=model.config.image_size
    ).build()
    rows = []
    with progress_bar(console) as bar:
        task = bar.add_task("", total=len(directions))
        for number, direction in enumerate(directions):
            bar.update(task, description=str(direction))
            start = time.perf_counter()
            study = studies[first + number]
            prompts = {
                name: read_prompt(name, study.contents[name], model.config.image_size) for name in direction.prompts
            }

            def advance(done: int, total: int, number: int = number) -> None:
                bar.update(task, completed=number + done / total)

            generated = generate_batch(
                model, [prompts], direction.targets, [first + number], settings, on_step=advance
            )[0]
            rows.append(Row(direction, study, generated, first + number, time.perf_counter() - start))
        bar.update(task, completed=len(directions), description="done")
    return rows


def model_facts(model: MedCoDi, settings: GenerationConfig) -> dict[str, Any]:
    """What a reader should know of the model, as label -> text."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "Model": model.config.name,
        "Parameters": f"{num_parameters / 1e6:.1f} M",
        "Image size": f"{model.config.image_size} × {model.config.image_size}",
        "Trained stages": " → ".join(model.trained_stages) or "none: random weights",
        "Sampler": f"{settings.sampler}, {settings.num_inference_steps} steps, guidance {settings.guidance_scale:g}",
        "SHA-256": model.fingerprint()[:16],
    }
