"""The study file: which tasks, how many items and controls, how the arms are blinded, what margins are declared."""

from __future__ import annotations

import re
from dataclasses import field, replace
from pathlib import Path

from medcodi.config import config, load
from medcodi.errors import ConfigError, did_you_mean
from medcodi.modality import modality
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import CHEXPERT_LABELS
from medcodi.turing.blinding import BlindingConfig
from medcodi.turing.pages import PagesConfig
from medcodi.turing.tasks import TaskKind, task_kind

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_DISCLOSING = re.compile(
    r"\b(generat\w*|synthe\w*|artificial\w*|fak(?:e|ed|es)|turing|AI|deepfake\w*)\b", re.IGNORECASE
)
_FINDINGS = ("Cardiomegaly", "Edema", "Consolidation", "Pneumothorax", "Pleural Effusion")


@config
class ScaleConfig:
    """A rating scale.

    Attributes:
        min: Lowest rating, 1.
        max: Highest, 5 or 10 as a rule; at most 10.
        labels: Rating -> words beside it; None: the task kind's own at both ends.
    """

    min: int = 1
    max: int = 5
    labels: dict[int, str] | None = None

    def __post_init__(self) -> None:
        if self.min != 1 or not 2 <= self.max <= 10:
            raise ConfigError(
                f"a scale from {self.min} to {self.max}", expected="from 1 to 5, or 1 to 10", fix="{min: 1, max: 5}"
            )
        outside = [rating for rating in self.labels or {} if not self.min <= rating <= self.max]
        if outside:
            raise ConfigError(
                f"a label for {outside[0]}, on a scale from {self.min} to {self.max}", fix="leave that label out"
            )


@config
class WindowConfig:
    """A window preset, in grey values from 0 to 65535."""

    name: str
    lo: int
    hi: int

    def __post_init__(self) -> None:
        if not 0 <= self.lo < self.hi <= 65535:
            raise ConfigError(f"window {self.name!r} from {self.lo} to {self.hi}", expected="0 <= lo < hi <= 65535")


@config
class TaskConfig:
    """One task: a block of items with one question.

    Attributes:
        id: Of the task, in the tables.
        kind: One of :data:`medcodi.turing.tasks.TASK_KINDS`.
        modalities: What an item shows, in this order.
        generated: Which of them are generated in the generated arm; None: all. The others are then the prompts' originals.
        prompts: What a model is given; None: every modality of the real study that is not generated.
        num_items: Items of the real arm, and as many of the generated arm (forced choice: pairs).
        autoencoded: Further items: real ones passed through the model's image autoencoder.
        mismatched: Further items: real, but the last modality is another patient's.
        repeats: Items shown a second time to the same reader.
        practice: Items before the others, which do not count.
        paired: The generated arm shows the same cases as the real one, where it has them.
        scale: Of ratings.
        confidence: Scale of the confidence, for kinds that ask for it.
        findings: The checklist, CheXpert's names.
        title: Heading; None: of the kind and modalities.
        question: None: the kind's.
        instructions: None: the kind's.
        free_text: What is asked beside a text field; None: no text field.
    """

    id: str
    kind: str
    modalities: tuple[str, ...]
    generated: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    num_items: int = 10
    autoencoded: int = 0
    mismatched: int = 0
    repeats: int = 0
    practice: int = 0
    paired: bool = True
    scale: ScaleConfig = ScaleConfig()
    confidence: ScaleConfig = ScaleConfig()
    findings: tuple[str, ...] = _FINDINGS
    title: str | None = None
    question: str | None = None
    instructions: str | None = None
    free_text: str | None = None

    def __post_init__(self) -> None:
        kind = task_kind(self.kind)
        where = f"task {self.id!r}"
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
        """What is generated in the generated arm."""
        return self.modalities if self.generated is None else self.generated

    @property
    def num_scored(self) -> int:
        """Items that count, repeats not among them."""
        arms = 1 if len(task_kind(self.kind).sides) > 1 else 2
        return arms * self.num_items + self.autoencoded + self.mismatched


@config
class SamplingConfig(GenerationConfig):
    """How a model generates its arm: the fields of :class:`GenerationConfig`, and the size of a batch."""

    batch_size: int = 8


@config
class StudyConfig:
    """A Visual Turing Test.

    Attributes:
        name: Of the study, for file names.
        title: Readers see it.
        tasks: In this order, those before disclosure first.
        readers: How many.
        seed: Of the choice of cases and of generation; what is shown where is drawn anew for every bundle.
        image_size: Pixels a side on the screen.
        windows: Presets.
        blinding: The one pipeline of both arms.
        sampling: How a model generates.
        pages: Words around the tasks.
        margins: Task -> equivalence margin, in rating units, or of accuracy for choices. Declared here, before the export.
        alpha: Of all tests.
    """

    name: str
    title: str
    tasks: tuple[TaskConfig, ...]
    readers: int = 3
    seed: int = 0
    image_size: int = 512
    windows: tuple[WindowConfig, ...] = (
        WindowConfig(name="Full", lo=0, hi=65535),
        WindowConfig(name="Lung", lo=0, hi=36000),
        WindowConfig(name="Mediastinum", lo=22000, hi=65535),
        WindowConfig(name="Bone", lo=30000, hi=65535),
    )
    blinding: BlindingConfig = BlindingConfig()
    sampling: SamplingConfig = SamplingConfig()
    pages: PagesConfig = PagesConfig()
    margins: dict[str, float] = field(default_factory=dict)
    alpha: float = 0.05

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

    def with_readers(self, readers: int | None) -> StudyConfig:
        """The same study for another number of readers; None: as it is."""
        return self if readers is None else replace(self, readers=readers)


def refuse_disclosure(where: str, *texts: str | None) -> None:
    """Refuse words that tell a reader, before the quality ratings, what the study is about.

    Raises:
        ConfigError: Naming the word.
    """
    for text in texts:
        found = _DISCLOSING.search(text or "")
        if found:
            raise ConfigError(
                f"{where}: {found.group()!r} in {text!r} discloses the purpose",
                expected="neutral words until the quality ratings are done",
                fix="say it in the instructions of a later task",
            )


def read_study(path: str | Path) -> StudyConfig:
    """Read a study file.

    Raises:
        ConfigError: If it cannot be read, or a task, margin or number cannot be.
    """
    return load(StudyConfig, path)


def num_cases(study: StudyConfig) -> int:
    """Real cases that a study needs at most, if no task shows those of another."""
    return sum(2 * (task.num_items + task.practice) + task.mismatched + 2 + task.autoencoded for task in study.tasks)
