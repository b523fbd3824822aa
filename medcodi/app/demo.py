"""The demo page: each direction once on held-out phantoms, with prompts, generated contents and truth side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from medcodi import __version__
from medcodi.app.terminal import progress_bar
from medcodi.config import config
from medcodi.data.loading import DataConfig
from medcodi.data.reports import sections
from medcodi.errors import PromptError
from medcodi.generation.pipeline import generate_batch, load
from medcodi.generation.request import Value, read_prompt
from medcodi.metrics.labeler import label_report
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.model.generation_config import GenerationConfig
from medcodi.pages.page import render_template, write_page
from medcodi.study import Direction, Finding, Study, all_directions

TEMPLATE = Path(__file__).parent / "templates" / "demo.html"


@config
class DemoConfig:
    """Settings of the demo page."""

    model: str | None = None  # model folder or hub repository; None: the shipped demo
    out: str = "demo"  # folder of the page
    seed: int = 0  # chooses the held-out patients and the noise
    num_inference_steps: int | None = None  # none: the model's own
    device: str | None = None  # none: a GPU if there is one

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise PromptError(f"seed is {self.seed}", expected="an integer >= 0")


@dataclass(frozen=True)
class DemoRow:
    """One direction: its study and the generated contents."""

    direction: Direction
    study: Study
    generated: dict[str, Value]
    seed: int
    seconds: float


def write_demo(demo: DemoConfig, console: Console) -> Path:
    """Generate every direction once and write the page.

    Args:
        demo: Settings.
        console: Shows the progress.

    Returns:
        Path of the page, a single file.

    Raises:
        CheckpointError: If the model cannot be loaded.
        PromptError: If a setting is invalid.
        DataError: If the folder cannot be written.
    """
    settings = GenerationConfig(num_inference_steps=demo.num_inference_steps)
    # Load the model and complete the settings with its defaults.
    with console.status("Loading the model ..."):
        model = load(demo.model, demo.device)
    settings = settings.resolved(model)
    rows = generate_rows(model, settings, seed=demo.seed, console=console)
    # Everything is inside the one file: images as data URIs, style, text.
    html = render_template(
        TEMPLATE,
        filters={"sections": sections, "words": finding_words, "read": label_report},
        modalities=MODALITIES,
        rows=rows,
        facts=model_facts(model, settings),
        version=__version__,
    )
    return write_page(Path(demo.out) / "index.html", html)


def finding_words(finding: Finding) -> str:
    """``"large left lower Lung Lesion"``."""
    return " ".join(filter(None, (finding.size, finding.side, finding.location, finding.label)))


def generate_rows(model: MedCoDi, settings: GenerationConfig, *, seed: int, console: Console) -> list[DemoRow]:
    """Generate every direction, each on another patient: the first ones of the held-out split, not selected by their results."""
    # Patient number first + i belongs to direction i.
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
            # The time of a row includes reading its prompts.
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
            rows.append(DemoRow(direction, study, generated, first + number, time.perf_counter() - start))
        bar.update(task, completed=len(directions), description="done")
    return rows


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
