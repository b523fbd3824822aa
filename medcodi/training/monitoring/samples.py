"""Sample grids while training: what a stage can show of a few studies, as one labelled picture and one text file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from medcodi.data.dataset import StudyDataset
from medcodi.data.images import save_png8
from medcodi.data.loading import Batch, collate
from medcodi.modality import in_table_order
from medcodi.model import MedCoDi
from medcodi.randomness import seed_from_keys
from medcodi.study import Content, all_directions, content_text, subsets
from medcodi.training.caching.training_run import borrowed
from medcodi.training.ema import evaluating
from medcodi.training.monitoring.observer import Observer, StepReport
from medcodi.training.monitoring.trackers import RunLog
from medcodi.xmp import EDITED, MEDCODI, Mark

MAX_INFERENCE_STEPS = 20  # of the sampler: enough to see, cheap enough to be seen often

CELL = 128  # least pixels per side of a cell
TITLE = 150  # pixels of the column of titles
GAP = 2  # pixels between cells
PAPER, INK, ABSENT = 255, 20, 170  # grey levels
TITLE_SIZE, TEXT_SIZE = 13, 9  # of the letters, pixels


class SampleGrids(Observer):
    """Writes ``samples/step-…`` every ``tracking.samples_every`` steps."""

    def on_step(self, report: StepReport) -> None:
        """Draw samples where they are due; every rank draws, because under ZeRO-3 all ranks hold the model together."""
        run, tracking = self.run, self.run.config.tracking
        if not tracking.samples_every or report.step % tracking.samples_every:
            return
        indices = studies_to_show(run.sample_dataset, run.engine.stage.model.config.modalities, tracking.num_samples)
        studies = [run.sample_dataset[index] for index in indices]
        with borrowed(run.engine.stage.model), evaluating(run.engine, run.ema):
            batch = collate(studies, indices, run.sample_dataset.image_size).to(run.ranks.device)
            samples = draw_samples(run.engine.stage, batch, run.config.seed, tracking.samples)
        if run.ranks.is_first:
            write_samples(samples, report.step, run.folder.root, self.log)


def studies_to_show(dataset: StudyDataset, modalities: Sequence[str], num_studies: int) -> list[int]:
    """Indices of the first studies that hold every modality; where these are too few, of those that hold most of them."""
    # A prepared dataset lists what its studies hold; of another one, a few studies are read.
    contents = getattr(dataset, "contents", None)
    if contents is not None:
        modalities_of = [present for _, _, present in contents()]
    else:
        modalities_of = [frozenset(dataset[index].contents) for index in range(min(len(dataset), 4 * num_studies))]
    num_missing = [len(set(modalities) - present) for present in modalities_of]
    # Stable: in the order of the dataset.
    return sorted(range(len(modalities_of)), key=num_missing.__getitem__)[:num_studies]


@dataclass(frozen=True)
class GridRow:
    """One modality of every study, made in one way."""

    title: str  # what was made from what
    target: str  # the modality
    values: Sequence[Content | None]  # for each study; None where it lacks a prompt


@dataclass(frozen=True)
class Samples:
    """A grid of samples; columns are studies."""

    truth: dict[str, list[Content | None]]  # modality -> for each study its value, None where it has none
    rows: list[GridRow] = field(default_factory=list)  # what was made


def draw_samples(stage: Any, batch: Batch, seed: int, which: str = "stage") -> Samples:
    """Samples of the studies of a batch, in the directions that the stage trains, or in ``all`` of the model.

    Draws are keyed by (seed, sample): the same studies have the same noise every time, in every direction, and training's
    randomness is not touched. There are no rows where the stage has nothing to show.
    """
    model: MedCoDi = stage.model
    samples = Samples({name: _truth(batch, name) for name in model.config.modalities if name in batch.contents})
    if not len(batch):
        return samples
    if stage.name in RECONSTRUCTED:
        RECONSTRUCTED[stage.name](stage, batch, samples)
    if stage.name in DIRECTIONS:
        directions = every_direction(model.config.modalities) if which == "all" else DIRECTIONS[stage.name](stage)
        for prompts, targets in directions:
            _generate(model, batch, seed, samples, prompts, targets)
    return samples


def _truth(batch: Batch, name: str) -> list[Content | None]:
    values, present = batch.contents[name], batch.present[name].tolist()
    plain = values if isinstance(values, list) else list(values[:, 0].float().cpu().numpy())
    return [value if is_present else None for value, is_present in zip(plain, present, strict=True)]


def _reconstruct(stage: Any, batch: Batch, samples: Samples) -> None:
    """Each modality whose autoencoder is trained, decoded from the mean of its posterior."""
    model: MedCoDi = stage.model
    for name in stage.needs():
        truth = samples.truth[name]
        decoded = model.decode(name, model.latent(name, batch.contents[name]))
        plain = list(decoded[:, 0].float().cpu().numpy()) if isinstance(decoded, torch.Tensor) else list(decoded)
        values = [value if true is not None else None for value, true in zip(plain, truth, strict=True)]
        samples.rows.append(GridRow(f"{name} through its autoencoder", name, values))


def _generate(
    model: MedCoDi, batch: Batch, seed: int, samples: Samples, prompts: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    from medcodi.generation.pipeline import generate_batch
    from medcodi.model.generation_config import GenerationConfig

    # One request per study, with the prompts that it has.
    given = {name: samples.truth[name] for name in prompts}
    requests = [{name: v for name in prompts if (v := given[name][row]) is not None} for row in range(len(batch))]
    seeds = [seed_from_keys("samples", seed, sample) for sample in batch.samples]
    num_steps = min(MAX_INFERENCE_STEPS, model.config.generation.num_inference_steps or MAX_INFERENCE_STEPS)
    results = generate_batch(model, requests, targets, seeds, GenerationConfig(num_inference_steps=num_steps))

    # One row per target; a study that lacks a prompt shows nothing.
    for target in targets:
        others = "+".join(name for name in targets if name != target)
        title = f"{target}{f' (with {others})' if others else ''} from {'+'.join(prompts) or 'nothing'}"
        values = [
            result[target] if len(request) == len(prompts) else None
            for result, request in zip(results, requests, strict=True)
        ]
        samples.rows.append(GridRow(title, target, values))


# ---- directions --------------------------------------------------------------------------------------------------
Directions = list[tuple[tuple[str, ...], tuple[str, ...]]]  # (prompts, targets)


def every_direction(modalities: tuple[str, ...]) -> Directions:
    """All directions (12 for three modalities), those with the same targets together; and everything from nothing."""
    names = in_table_order(modalities)
    directions = sorted(all_directions(names), key=lambda direction: subsets(names).index(direction.targets))
    return [*((direction.prompts, direction.targets) for direction in directions), ((), names)]


def _single_targets(stage: Any) -> Directions:
    """Each target from every subset of the others, and from nothing."""
    names = in_table_order(stage.model.config.modalities)
    return [
        (prompts, (target,))
        for target in stage.targets
        for prompts in subsets((name for name in names if name != target), least=0)
    ]


def _joint_targets(stage: Any) -> Directions:
    """At least two modalities together from every subset of the others; all of them from nothing."""
    return [
        (prompts, targets) for prompts, targets in every_direction(stage.model.config.modalities) if len(targets) > 1
    ]


# Stage -> what it can show. A new stage is one more row in one of them.
RECONSTRUCTED: dict[str, Callable[[Any, Batch, Samples], None]] = {"autoencode": _reconstruct}
DIRECTIONS: dict[str, Callable[[Any], Directions]] = {"diffuse": _single_targets, "join": _joint_targets}


# ---- writing -----------------------------------------------------------------------------------------------------
def write_samples(samples: Samples, step: int, root: Path, log: RunLog) -> None:
    """Write ``samples/step-….png`` and ``.txt`` in a run's folder, and log both."""
    if not samples.rows:
        return
    folder = root / "samples"
    folder.mkdir(parents=True, exist_ok=True)

    # The picture: truth first, then what was made.
    names = in_table_order({row.target for row in samples.rows} | set(samples.truth))
    truth = [(f"{name}: truth", samples.truth[name]) for name in names if name in samples.truth]
    picture = contact_sheet([*truth, *((row.title, row.values) for row in samples.rows)])
    save_png8(picture, folder / f"step-{step:08d}.png", xmp=Mark(source_type=EDITED, system=MEDCODI).packet())
    log.image(step, "samples", picture)

    # The texts.
    text = as_text(samples)
    (folder / f"step-{step:08d}.txt").write_text(text + "\n", encoding="utf-8")
    log.text(step, "samples", text)


def as_text(samples: Samples) -> str:
    """The titles of all rows in order, and every generated text beside its truth."""
    titles = [*(f"{name}: truth" for name in samples.truth), *(row.title for row in samples.rows)]
    parts = ["rows: " + "; ".join(titles)]
    for row in samples.rows:
        truth = samples.truth.get(row.target, [None] * len(row.values))
        texts = zip(map(content_text, truth), map(content_text, row.values), strict=True)
        pairs = [(true, value) for true, value in texts if value is not None]
        if pairs:
            lines = [f"truth:  {true if true is not None else '(none)'}\nresult: {value}\n" for true, value in pairs]
            parts.append(f"== {row.title}\n" + "\n".join(lines))
    return "\n\n".join(parts)


# ---- the picture ---------------------------------------------------------------------------------------------------
def contact_sheet(rows: Sequence[tuple[str, Sequence[Content | None]]]) -> np.ndarray:
    """One picture, float32 ``[height, width]`` in [0, 1], of rows with a title and cells; None: absent."""
    # All cells are squares of the largest image, magnified by a whole number.
    sides = [max(cell.shape) for _, cells in rows for cell in cells if isinstance(cell, np.ndarray)]
    largest = max(sides, default=CELL)
    zoom = -(-CELL // largest)
    side = largest * zoom
    columns = max((len(cells) for _, cells in rows), default=0)
    sheet = Image.new("L", (TITLE + columns * (side + GAP), max(1, len(rows)) * (side + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (title, cells) in enumerate(rows):
        top = number * (side + GAP)
        _write(pen, title, (4, top + 4), TITLE - 8, side - 8, TITLE_SIZE)
        for column, cell in enumerate(cells):
            left = TITLE + column * (side + GAP)
            if isinstance(cell, np.ndarray):
                sheet.paste(_image(cell, zoom), (left, top))
            elif cell is None:
                pen.rectangle((left, top, left + side - 1, top + side - 1), fill=ABSENT)
                _write(pen, "absent", (left + 4, top + 4), side - 8, side - 8, TEXT_SIZE)
            else:
                _write(pen, content_text(cell) or "", (left + 2, top + 2), side - 4, side - 4, TEXT_SIZE)
    return np.asarray(sheet, dtype=np.float32) / 255.0


def _image(pixels: np.ndarray, zoom: int) -> Image.Image:
    grey = Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    return grey.resize((grey.width * zoom, grey.height * zoom), Image.Resampling.NEAREST)


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # Pillow before 10.1, or without FreeType: one small size
        return ImageFont.load_default()


def _write(pen: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], width: int, height: int, size: int) -> None:
    """Write a text, wrapped, and cut where the cell ends."""
    font = _font(size)
    per_line = max(4, int(width / max(1.0, font.getlength("abcdefghij klmnop") / 17)))
    lines = textwrap.wrap(text, per_line)
    room = max(1, height // (size + 3))
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1][: per_line - 1] + "…"]
    for number, line in enumerate(lines):
        pen.text((corner[0], corner[1] + number * (size + 3)), line, fill=INK, font=font)
