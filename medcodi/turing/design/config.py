"""Config of a reader study: its tasks, items and controls, the blinding of both arms, and the margins declared beforehand."""

from __future__ import annotations

import re
from dataclasses import field, replace
from pathlib import Path
from typing import ClassVar

from medcodi.config import config, load
from medcodi.errors import ConfigError, did_you_mean
from medcodi.modality import modality
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import CHEXPERT_LABELS
from medcodi.turing.design.blinding import BlindingConfig
from medcodi.turing.design.tasks import TaskKind, task_kind

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_DISCLOSING = re.compile(
    r"\b(generat\w*|synthe\w*|artificial\w*|fak(?:e|ed|es)|turing|AI|deepfake\w*)\b", re.IGNORECASE
)
_FINDINGS = ("Cardiomegaly", "Edema", "Consolidation", "Pneumothorax", "Pleural Effusion")


@config
class ScaleConfig:
    """A rating scale."""

    min: int = 1  # always 1
    max: int = 5  # 2 to 10; usually 5 or 10
    labels: dict[int, str] | None = None  # rating -> words beside it; None: those of the task kind, at both ends

    def __post_init__(self) -> None:
        if self.min != 1 or not 2 <= self.max <= 10:
            raise ConfigError(
                f"a scale from {self.min} to {self.max}", expected="from 1 to 5, or 1 to 10", fix="{min: 1, max: 5}"
            )
        outside = [rating for rating in self.labels or {} if not self.min <= rating <= self.max]
        if outside:
            raise ConfigError(
                f"a label for {outside[0]} on a scale from {self.min} to {self.max}", fix="leave that label out"
            )


@config
class WindowConfig:
    """A window preset, in grey values from 0 to 65535."""

    name: str  # of the button
    lo: int  # grey value shown black
    hi: int  # grey value shown white

    def __post_init__(self) -> None:
        if not 0 <= self.lo < self.hi <= 65535:
            raise ConfigError(f"window {self.name!r} from {self.lo} to {self.hi}", expected="0 <= lo < hi <= 65535")


@config
class TaskConfig:
    """One task: a block of items with one question."""

    id: str  # names the task in every table
    kind: str  # one of TASK_KINDS
    modalities: tuple[str, ...]  # shown by each item, in this order
    # Modalities that are generated in the generated arm; None: all. The others are real, from the same case.
    generated: tuple[str, ...] | None = None
    # Modalities that prompt the model; None: every modality of the real study that is not generated.
    prompts: tuple[str, ...] | None = None
    num_items: int = 10  # items of each arm (forced choice: pairs)
    autoencoded: int = 0  # control items: real ones passed through the model's image autoencoder
    mismatched: int = 0  # control items: real ones whose last modality is of another patient
    repeats: int = 0  # items shown a second time to the same reader
    practice: int = 0  # items shown first, which do not count
    paired: bool = True  # both arms show the same cases, where the generated arm has them
    scale: ScaleConfig = ScaleConfig()  # for ratings
    confidence: ScaleConfig = ScaleConfig()  # for kinds that ask for a confidence
    findings: tuple[str, ...] = _FINDINGS  # the checklist, in CheXpert's names
    title: str | None = None  # heading; None: named after the modalities
    question: str | None = None  # None: the question of the kind
    instructions: str | None = None  # None: the instructions of the kind
    free_text: str | None = None  # label of a text field; None: no text field

    def __post_init__(self) -> None:
        kind = task_kind(self.kind)
        where = f"task {self.id!r}"
        # Names and modalities.
        if not _NAME.fullmatch(self.id):
            raise ConfigError(f"{where}: its id", expected="lower-case letters, digits, - and _", fix="rename the task")
        for name in (*self.modalities, *(self.generated or ()), *(self.prompts or ())):
            modality(name)
        if len(set(self.modalities)) != len(self.modalities) or len(self.modalities) < kind.least_modalities:
            raise ConfigError(
                f"{where} shows {', '.join(self.modalities) or 'nothing'}",
                expected=f"{kind.least_modalities} or more different modalities for {self.kind}",
            )
        if not self.shown_generated or set(self.shown_generated) - set(self.modalities):
            raise ConfigError(
                f"{where}: generated is {', '.join(self.shown_generated) or 'empty'}",
                expected="one or more of what it shows: " + ", ".join(self.modalities),
            )
        # A modality is generated or prompts, never both.
        both = set(self.prompts or ()) & set(self.shown_generated)
        if both:
            raise ConfigError(f"{where}: {', '.join(sorted(both))} is prompt and generated", fix="leave it out of one")
        self._check_counts(kind, where)
        unknown = [name for name in self.findings if name not in CHEXPERT_LABELS]
        if unknown:
            raise ConfigError(
                f"{where}: unknown finding {unknown[0]!r}",
                expected="CheXpert's names",
                fix=did_you_mean(unknown[0], CHEXPERT_LABELS),
            )
        # Tasks before disclosure must not name the purpose.
        if not kind.disclosed:
            refuse_disclosure(where, self.title, self.question, self.instructions, self.free_text)

    def _check_counts(self, kind: TaskKind, where: str) -> None:
        counts = {name: getattr(self, name) for name in ("autoencoded", "mismatched", "repeats", "practice")}
        negative = {name: count for name, count in counts.items() if count < 0}
        if self.num_items < 1 or negative:
            name, count = next(iter(negative.items()), ("num_items", self.num_items))
            raise ConfigError(f"{where}: {name} is {count}", expected="a number of items", fix=f"correct {name}")
        if self.mismatched and (len(self.modalities) < 2 or len(kind.sides) > 1):
            raise ConfigError(
                f"{where}: {self.mismatched} mismatched items of {', '.join(self.modalities)} in a task of kind {self.kind}",
                expected="two modalities or more, one beside the other",
                fix="mismatched: 0",
            )
        if self.autoencoded and len(kind.sides) > 1:
            raise ConfigError(f"{where}: autoencoded items in a forced choice", fix="autoencoded: 0")
        if self.repeats > self.num_scored:
            raise ConfigError(f"{where}: {self.repeats} repeats of {self.num_scored} items", fix="fewer repeats")

    @property
    def shown_generated(self) -> tuple[str, ...]:
        """Modalities that are generated in the generated arm."""
        return self.modalities if self.generated is None else self.generated

    @property
    def num_scored(self) -> int:
        """Number of items that count, repeats excluded."""
        arms = 1 if len(task_kind(self.kind).sides) > 1 else 2
        return arms * self.num_items + self.autoencoded + self.mismatched


@config
class SamplingConfig(GenerationConfig):
    """How a model generates its arm: the fields of :class:`GenerationConfig`, and the size of a batch."""

    batch_size: int = 8  # samples generated together


@config
class PagesConfig:
    """Texts before and after the tasks: plain text, paragraphs separated by blank lines. Adapt them to your ethics board."""

    # the first page
    welcome: str = (
        "Thank you for reading. You will see chest examinations, one after the other, and answer one question about each.\n\n"
        "Everything stays on this computer: the page needs no network and sends nothing. Your answers are stored as you go; "
        "you can stop at any time and continue later, here or, with a progress file, on another computer.\n\n"
        "Please read alone, in a darkened room, and do not talk about the items with other readers before all have finished."
    )
    # the same where the study is served: answers leave the reader's computer
    welcome_served: str = (
        "Thank you for reading. You will see chest examinations, one after the other, and answer one question about each.\n\n"
        "Your answers are sent to the server of the study as you go; you can stop at any time and continue later by the same "
        "link, here or on another computer. The link is yours alone: please do not pass it on.\n\n"
        "Please read alone, in a darkened room, and do not talk about the items with other readers before all have finished."
    )
    # what a reader agrees to
    consent: str = (
        "Taking part is voluntary, and you may stop at any time. Your answers, the time you take for each, and the size of "
        "your screen are recorded under a reader number, without your name. The full purpose of the study is explained "
        "during it."
    )
    # beside the box that a reader ticks
    consent_label: str = "I have read this and I take part."
    # above the test picture for the screen
    display_check: str = (
        "Set the screen to full brightness. In the picture below, the 5 % square should be visible inside the black square, "
        "and the 95 % square inside the white square."
    )
    # the last page
    end: str = (
        "You have finished. Please download the results file and send it to the person who gave you this folder. "
        "Thank you."
    )
    # the same where the study is served
    end_served: str = "You have finished: there is nothing to send. Thank you."

    def before_tasks(self) -> tuple[str, ...]:
        """Texts that a reader sees before the first task."""
        return self.welcome, self.welcome_served, self.consent, self.consent_label, self.display_check


@config
class ReaderStudyConfig:
    """A Visual Turing Test."""

    recipes: ClassVar[str] = "turing"  # folder of configs/ with recipes for this config

    name: str  # for file names
    title: str  # shown to readers
    tasks: tuple[TaskConfig, ...]  # in this order, those before disclosure first
    readers: int = 3  # number of readers, 1 to 99
    seed: int = 0  # for the choice of cases and for generation; orders and ids are drawn anew for every bundle
    image_size: int = 512  # pixels a side on the screen
    # Window presets that the viewer offers.
    windows: tuple[WindowConfig, ...] = (
        WindowConfig(name="Full", lo=0, hi=65535),
        WindowConfig(name="Lung", lo=0, hi=36000),
        WindowConfig(name="Mediastinum", lo=22000, hi=65535),
        WindowConfig(name="Bone", lo=30000, hi=65535),
    )
    blinding: BlindingConfig = BlindingConfig()  # the same pipeline for both arms
    sampling: SamplingConfig = SamplingConfig()  # how a model generates
    pages: PagesConfig = PagesConfig()  # texts before and after the tasks
    # Task -> equivalence margin, in rating units or (choices) in accuracy; declared here, before the export.
    margins: dict[str, float] = field(default_factory=dict)
    alpha: float = 0.05  # level of all tests

    def __post_init__(self) -> None:
        ids = [task.id for task in self.tasks]
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"the study's name is {self.name!r}", expected="lower-case letters, digits, - and _")
        if not ids or len(set(ids)) != len(ids):
            raise ConfigError(f"tasks {', '.join(ids) or 'none'}", expected="one or more, each with an id of its own")
        if self.readers < 1 or self.readers > 99:
            raise ConfigError(f"readers is {self.readers}", expected="1 to 99")
        if not 32 <= self.image_size <= 2048:
            raise ConfigError(f"image_size is {self.image_size}", expected="32 to 2048 pixels a side")
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha is {self.alpha}", expected="above 0 and below 0.5", fix="alpha: 0.05")
        self._check_margins()
        if self.blinded_to_purpose:
            refuse_disclosure("a study that begins with quality ratings", self.title, *self.pages.before_tasks())

    def _check_margins(self) -> None:
        tasks = {task.id: task for task in self.tasks}
        for name, margin in self.margins.items():
            if name not in tasks:
                raise ConfigError(
                    f"a margin for {name!r}, which is no task", expected="a task's id", fix=did_you_mean(name, tasks)
                )
            # A margin of the whole scale, or of half the accuracy, would prove nothing.
            rated = task_kind(tasks[name].kind).answer == "rating"
            limit = float(tasks[name].scale.max - tasks[name].scale.min) if rated else 0.5
            if not 0 < margin < limit:
                raise ConfigError(
                    f"the margin of {name!r} is {margin}",
                    expected=f"above 0 and below {limit:g}, in {'rating units' if rated else 'accuracy'}",
                )

    @property
    def blinded_to_purpose(self) -> bool:
        """Whether readers begin without knowing that items are generated."""
        return any(not task_kind(task.kind).disclosed for task in self.tasks)

    @property
    def blocks(self) -> tuple[TaskConfig, ...]:
        """The tasks in the order readers see them: those before disclosure first."""
        return tuple(sorted(self.tasks, key=lambda task: task_kind(task.kind).disclosed))

    def with_readers(self, readers: int | None) -> ReaderStudyConfig:
        """The same study with another number of readers; None: unchanged."""
        return self if readers is None else replace(self, readers=readers)


def refuse_disclosure(where: str, *texts: str | None) -> None:
    """Refuse words that disclose the purpose of the study before the quality ratings are done."""
    for text in texts:
        match = _DISCLOSING.search(text or "")
        if match:
            raise ConfigError(
                f"{where}: {match.group()!r} in {text!r} discloses the purpose",
                expected="neutral words until the quality ratings are done",
                fix="say it in the instructions of a later task",
            )


def read_reader_study(path: str | Path) -> ReaderStudyConfig:
    """Read the YAML file of a reader study.

    Raises:
        ConfigError: If it is unreadable, or a task, margin or number is invalid.
    """
    return load(ReaderStudyConfig, path)


def max_cases(study: ReaderStudyConfig) -> int:
    """Largest number of real cases that a study needs: the number if no two tasks share a case."""
    # 2 more for mismatched items, which need two patients.
    return sum(2 * (task.num_items + task.practice) + task.mismatched + 2 + task.autoencoded for task in study.tasks)
