"""The job of a fit: prepare, four stages, the finding classifier, the evaluation; each part is skipped when it is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medcodi.app.fitting.inputs import LEAST_TESTED, FitData
from medcodi.app.fitting.plan import SIZES, STAGES, stage_config
from medcodi.data.files import INFO_FILE
from medcodi.errors import TrainingError
from medcodi.modality import MODALITIES, STANDARD, names
from medcodi.storage import atomic
from medcodi.storage.job_folder import JobFolder, JobKind, file_row
from medcodi.study import CHEXPERT_LABELS

FIT = JobKind(
    name="a fit",
    index_file="fit.json",
    record_file="done/{shard}.json",
    own_patterns=("done", "data", "stages", "cache", "model", "evaluation"),
    error=TrainingError,
    fix="choose another --out",
)
MODEL_INDEX = "model_index.json"
CLASSIFIER = "finding_classifier.safetensors"
LEAST_LABELLED = 16  # training studies with labels, below which no classifier is trained
EVALUATED = 200  # held-out studies, at most
# Groups of metrics that need the classifier's findings or features.
_OF_CLASSIFIER = ("findings", "frechet", "kernel", "prdc")


class Stopped(TrainingError):  # noqa: N818 -- not an error of the user's: the same command resumes
    """A signal stopped a stage; it was saved."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Data, folder and budget of a fit."""

    data: FitData
    size: str  # a row of SIZES
    out: Path
    minutes: float | None = None  # for the whole fit; None: the recipes' own steps
    seed: int = 0
    say: Callable[[str], None] = print  # shows one line of progress

    # ---- the parts -------------------------------------------------------------------------------------------------
    def run(self) -> Path:
        """Do every part that is not done, in order, under the folder's lock.

        Returns:
            The folder of the model.

        Raises:
            Stopped: If a signal stopped a stage; it is saved, and the next call resumes it.
            MedCoDiError: If a part fails; the parts before it stay.
        """
        # What every byte depends on; the time may be changed when a fit is resumed.
        identity = {"data": self.data.path, "settings": list(self.data.options), "size": self.size, "seed": self.seed}
        job = JobFolder(self.out, FIT, identity)
        with job.opened():
            parts = self.parts()
            for number, (name, (work, result)) in enumerate(parts.items(), start=1):
                title = f"{number}/{len(parts)} {name}"
                if job.record(name) is not None:
                    self.say(f"{title}: done before")
                    continue
                self.say(f"{title} ...")
                work()
                job.finish(name, {result: file_row(self.out / result)} if result else {})
        return self.out / "model"

    def parts(self) -> dict[str, tuple[Callable[[], Any], str]]:
        """Name of a part -> its work, and the file that shows that it is done (within the folder; "": none)."""
        prepared = {"data": (self._prepare, f"data/{INFO_FILE}")} if self.data.source else {}
        stages = {
            stage: (partial(self._train, stage, before), f"stages/{stage}/model/{MODEL_INDEX}")
            for stage, before in zip(STAGES, (None, *STAGES), strict=False)
        }
        model = {"model": (self._copy_model, f"model/{MODEL_INDEX}")}
        classifier = {"classifier": (self._train_classifier, f"model/{CLASSIFIER}")}
        evaluation = {"evaluation": (self._evaluate, "evaluation/results.json")}
        return {
            **prepared,
            **stages,
            **model,
            **(classifier if not self.without_classifier() else {}),
            **(evaluation if not self.without_evaluation() else {}),
        }

    def description(self, why: str, machine: str) -> list[str]:
        """The plan in lines: studies, model and why, time, and what is left out."""
        counts, held = self.data.counts, self.data.modalities
        present = ", ".join(f"{name} in {held[name]:,}" for name in MODALITIES if held.get(name))
        absent = [name for name in STANDARD if not held.get(name)]
        time = "the recipes' own steps" if self.minutes is None else f"about {self.minutes:g} min"
        left_out = {"finding metrics": self.without_classifier(), "the evaluation": self.without_evaluation()}
        return [
            f"studies: {counts['train']:,} to train, {counts['val']:,} to validate, {counts['test']:,} to evaluate; {present}",
            *(f"left out: {name}, which no study has{self._of_columns(name)}" for name in absent),
            f"model: {self.size} ({why}); --size chooses another",
            f"time: {time} ({machine}); --minutes changes it",
            *(f"left out: {name}, because {reason}" for name, reason in left_out.items() if reason),
        ]

    def _of_columns(self, name: str) -> str:
        """How a table would name a modality that was not recognised in it."""
        columns = self.data.columns
        return f" (columns: {', '.join(columns)}; options.columns.{name}=COLUMN names one)" if columns else ""

    @property
    def dataset(self) -> str:
        """The prepared dataset."""
        return str(self.out / "data") if self.data.source else self.data.path

    def _prepare(self) -> None:
        from medcodi.data.preparation.prepare import prepare

        if not (self.out / "data" / INFO_FILE).is_file():  # else killed after it was published
            prepare(self.data.preparation(self.out / "data", SIZES[self.size].image_size))

    def _train(self, stage: str, before: str | None) -> None:
        from medcodi.training.loop import train

        folder = self.out / "stages"
        if (folder / stage / "model").exists():  # killed between the model and its record
            return
        init = None if before is None else folder / before / "model"
        config = stage_config(stage, self.size, self.data, self.dataset, self.out, init, self.minutes)
        train(replace(config, seed=self.seed), "latest")
        if not (folder / stage / "model").exists():
            raise Stopped(f"stage {stage} was stopped and saved", fix="the same command resumes it")

    def _copy_model(self) -> None:
        with atomic.filling(self.out / "model", replace=True, error=FIT.error, then=FIT.resume) as folder:
            shutil.copytree(self.out / "stages" / STAGES[-1] / "model", folder, dirs_exist_ok=True)

    # ---- the end: classifier and evaluation --------------------------------------------------------------------------
    def without_classifier(self) -> str:
        """Why no finding classifier is trained; "": it is."""
        if not any(self.data.modalities.get(name) for name in names("image")):
            return "there are no images"
        if self.data.num_labelled < LEAST_LABELLED:
            return f"{self.data.num_labelled} training studies have labels, {LEAST_LABELLED} are needed"
        if not self.data.counts["val"] or not self.data.counts["test"]:
            return "no study is held out in val, or none in test"
        return ""

    def without_evaluation(self) -> str:
        """Why the model is not evaluated; "": it is."""
        num = min(self.data.counts["test"], self.data.joined.get("test", 0))
        return (
            ""
            if num >= LEAST_TESTED
            else f"{num} studies of two modalities are in split test, {LEAST_TESTED} are needed"
        )

    def _train_classifier(self) -> None:
        from medcodi.data.loading import DataConfig
        from medcodi.evaluation.annotators.classifier import ClassifierConfig
        from medcodi.evaluation.annotators.classifier_training import ClassifierTrainConfig, train_classifier

        views = tuple(name for name in names("image") if self.data.modalities.get(name))
        size = self.data.image_size or SIZES[self.size].image_size
        train_classifier(
            ClassifierTrainConfig(
                train=DataConfig(path=self.dataset, split="train"),
                validation=DataConfig(path=self.dataset, split="val"),
                test=DataConfig(path=self.dataset, split="test"),
                out=str(self.out / "model"),
                network=ClassifierConfig(image_size=size, modalities=views, targets=CHEXPERT_LABELS),
                num_steps=max(60, min(1400, self.data.counts["train"] // 4)),
                batch_size=min(64, max(8, self.data.counts["train"])),
                warmup_steps=20,
                seed=self.seed,
            )
        )

    def evaluation_values(self) -> dict[str, Any]:
        """Values of the evaluation's config: every direction, and the metrics that data and installation allow."""
        from medcodi.evaluation.config import ScoringConfig, default_directions

        # What is left out, and why.
        notes = {}
        if reason := self.without_classifier():
            notes |= {
                group: f"left out: no classifier of findings was trained, because {reason}" for group in _OF_CLASSIFIER
            }
        if find_spec("pycocoevalcap") is None:
            notes["text"] = "left out: pycocoevalcap is not installed (pip install 'medcodi[eval]')"
        present = tuple(name for name in MODALITIES if self.data.modalities.get(name))
        return {
            "model": str(self.out / "model"),
            "data": {"path": self.dataset, "split": "test"},
            "num_studies": min(EVALUATED, self.data.counts["test"]),
            "directions": [str(direction) for direction in default_directions(present)],
            "metrics": [group for group in ScoringConfig().metrics if group not in notes],
            "bootstrap_samples": 200,
            "notes": notes,
            "seed": self.seed,
            "out": str(self.out / "evaluation"),
        }

    def _evaluate(self) -> None:
        from medcodi.app.terminal import evaluate_and_print
        from medcodi.config import from_dict
        from medcodi.evaluation.config import EvaluateConfig
        from medcodi.model.card import CARD, model_card, write_card

        evaluate_and_print(from_dict(EvaluateConfig, self.evaluation_values(), source="fit"))
        model = self.out / "model"
        write_card(model_card(model, evaluation=self.out / "evaluation"), model / CARD)
