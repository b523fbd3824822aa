"""Items of each task, real, generated and controls, drawn from the two arms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medcodi.errors import DataError
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.study import Direction, Study
from medcodi.turing.design.config import ReaderStudyConfig, TaskConfig
from medcodi.turing.design.generated_arm import GeneratedArm
from medcodi.turing.design.real_arm import RealArm
from medcodi.turing.design.tasks import task_kind

REAL, GENERATED, AUTOENCODED, MISMATCHED, PAIR = "real", "generated", "autoencoded", "mismatched", "pair"


@dataclass(frozen=True)
class ItemContent:
    """One image or text of an item."""

    origin: str  # `real`, `generated` or `autoencoded`
    case: str  # study id
    modality: str  # the part of the study that is shown
    direction: Direction | None = None  # prompts and targets of a generated content


@dataclass(frozen=True, kw_only=True)
class ReaderItem:
    """One item of a task: what a trial shows, and what the right answer is."""

    name: str  # unique in the study
    task: str  # id of the task
    arm: str  # `real`, `generated`, `autoencoded`, `mismatched`; `pair` for a forced choice, which shows both arms
    case: str  # study id; items of one case are paired
    patients: tuple[str, ...]  # patients whose images or texts are shown
    sides: tuple[tuple[ItemContent, ...], ...]  # one side; two for a forced choice (real first)
    truth: dict[str, Any] = field(default_factory=dict)  # the right answer, where there is one
    repeat_of: str = ""  # name of the item that it repeats, or ""
    practice: bool = False  # True: shown first, does not count

    @property
    def contents(self) -> tuple[ItemContent, ...]:
        """Contents of all sides."""
        return tuple(content for side in self.sides for content in side)

    def key_entry(self) -> dict[str, Any]:
        """Entry of the answer key."""
        sides = [
            [vars(shown) | {"direction": None if shown.direction is None else str(shown.direction)} for shown in side]
            for side in self.sides
        ]
        return {"task": self.task, "arm": self.arm, "case": self.case, "patients": list(self.patients), "sides": sides}


def draw_items(study: ReaderStudyConfig, real: RealArm, generated: GeneratedArm) -> list[ReaderItem]:
    """Choose the cases of every task and build its items; cases of the real arm are marked as used.

    Raises:
        DataError: If an arm has fewer cases than the study needs.
    """
    return [item for task in study.blocks for item in _TaskItems(study, task, real, generated).draw()]


class _TaskItems:
    """Draws the items of one task."""

    def __init__(self, study: ReaderStudyConfig, task: TaskConfig, real: RealArm, generated: GeneratedArm) -> None:
        self.study, self.task, self.real, self.generated = study, task, real, generated
        self.kind = task_kind(task.kind)
        self.available = generated.available(task, real)

    def draw(self) -> list[ReaderItem]:
        task = self.task
        forced_choice = len(self.kind.sides) > 1  # each item shows both arms
        # Practice items first; their cases are not used again.
        num_practice = -(-task.practice // (1 if forced_choice else 2))  # an item of each arm, rounded up
        practice = self._arms("practice", num_practice, [], paired=forced_choice)[: task.practice]
        used = [item.case for item in practice]
        # The items of both arms, then the controls.
        main = self._arms("item", task.num_items, used, paired=task.paired)
        used = used + [item.case for item in main]
        items = [*main, *self._autoencoded(main), *self._mismatched(main, used)]
        return [replace(item, practice=True) for item in practice] + items + self._repeats(items)

    # ---- arms ----------------------------------------------------------------------------------------------------
    def _arms(self, what: str, num: int, used: Sequence[str], *, paired: bool) -> list[ReaderItem]:
        """``num`` items of each arm, alternating; for a forced choice ``num`` pairs."""
        if num == 0:
            return []
        # Paired: both arms show the same cases, if the generated arm has enough of them.
        paired = paired and (self.available is None or self._num_common(used) >= num)
        cases = self._real(what, num, used, prompts=paired, among=self.available if paired else None)
        others = cases if paired else self._others(what, num, [*used, *cases])
        if len(self.kind.sides) > 1:
            return [self._pair(what, row, *both) for row, both in enumerate(zip(cases, others, strict=True))]
        items = []
        for row, (case, other) in enumerate(zip(cases, others, strict=True)):
            items += [
                self._item(f"{what}-{row:03d}-r", REAL, case, [self._shown_real(case)]),
                self._item(f"{what}-{row:03d}-g", GENERATED, other, [self._shown_generated(other)]),
            ]
        return items

    def _num_common(self, used: Collection[str]) -> int:
        """Number of unused cases that both arms have."""
        wanted = set(self.task.modalities)
        names = {case.name for case in self.real.cases if wanted <= case.modalities} - set(used)
        return len(names & set(self.available or ()))

    def _real(
        self,
        what: str,
        num: int,
        used: Sequence[str],
        *,
        shown: Collection[str] | None = None,
        prompts: bool = False,
        among: Collection[str] | None = None,
    ) -> list[str]:
        """Study ids of ``num`` real cases with every modality ``shown`` and, if a model generates from them, a prompt."""
        wanted = set(self.task.modalities if shown is None else shown)
        if prompts and self.available is None:
            wanted |= set(self.task.prompts or ())
            if self.task.prompts is None:  # any modality that is not generated serves as prompt
                targets = set(self.task.shown_generated)
                among = [case.name for case in self.real.cases if case.modalities - targets]
        purpose = f"task {self.task.id!r} ({what})"
        cases = self.real.take(num, wanted, seed=self.study.seed, purpose=purpose, among=among, used=used)
        return [case.name for case in cases]

    def _others(self, what: str, num: int, used: Sequence[str]) -> list[str]:
        """Cases of the generated arm that the real arm does not show."""
        shown_real = [name for name in self.task.modalities if name not in self.task.shown_generated]
        # A model generates from any further real case.
        if self.available is None:
            return self._real(f"{what}, generated", num, used, shown=shown_real, prompts=True)
        # Files: any study that is not used yet.
        free = [name for name in self.available if name not in used]
        if len(free) < num:
            raise DataError(
                f"task {self.task.id!r} needs {num} generated studies with {', '.join(self.task.shown_generated)}; "
                f"{self.generated.name} has {len(free)} left",
                expected=f"at least {num}",
                fix="generate more, or use fewer items",
            )
        order = numpy_generator("turing-others", self.study.seed, self.task.id, what).permutation(len(free))
        chosen = [free[index] for index in order[:num]]
        if shown_real:  # the real part of these cases is shown beside the generated one
            self._real(f"{what}, generated", num, [], shown=shown_real, among=chosen)
        return chosen

    # ---- controls ------------------------------------------------------------------------------------------------
    def _autoencoded(self, main: Sequence[ReaderItem]) -> list[ReaderItem]:
        # Real cases that are shown anyway, then further ones.
        cases = [item.case for item in main if item.arm == REAL][: self.task.autoencoded]
        if len(cases) < self.task.autoencoded:
            cases += self._real("autoencoded", self.task.autoencoded - len(cases), [item.case for item in main])
        return [
            self._item(f"autoencoded-{row:03d}", AUTOENCODED, case, [self._shown_real(case, AUTOENCODED)])
            for row, case in enumerate(cases)
        ]

    def _mismatched(self, main: Sequence[ReaderItem], used: Sequence[str]) -> list[ReaderItem]:
        """Real items whose last modality is another patient's, of cases that the task does not show otherwise.

        Each content is shown as often as those of the other items are: what is shown once among contents that are shown twice tells itself.

        Raises:
            DataError: If there are too few cases, or the number of items does not allow it.
        """
        if not (num := self.task.mismatched):
            return []
        *_, last_name = self.task.modalities
        last_times = self._times_shown(main, [last_name])
        first_times = self._times_shown(main, [name for name in self.task.modalities if name != last_name])
        if num % first_times or num % last_times:
            times = max(first_times, last_times)
            raise DataError(
                f"task {self.task.id!r}: {num} mismatched items tell themselves, because the others show each real content {times} times",
                expected=f"a multiple of {times}",
                fix=f"mismatched: {-(-num // times) * times}",
            )
        num_first, num_last = num // first_times, num // last_times
        items = []
        if first_times == last_times == 1:
            cases = self._real("mismatched", max(2, num), used)
            pairs = [(cases[row], self._other_patient(cases, row)) for row in range(num)]
        else:
            # One case on one side must meet others on the other side.
            apart = num_first if min(num_first, num_last) == 1 else 0
            needed = num_first + num_last if apart else max(num_first, num_last)
            cases = self._real("mismatched", needed, used)
            pairs = self._mismatched_pairs(cases[:num_first] * first_times, cases[apart:][:num_last] * last_times)
        for row, (case, other) in enumerate(pairs):
            *first, last = self._shown_real(case)
            contents = (*first, replace(last, case=other))  # the last modality is another patient's
            items.append(self._item(f"mismatched-{row:03d}", MISMATCHED, case, [contents]))
        return items

    def _times_shown(self, main: Sequence[ReaderItem], names: Collection[str]) -> int:
        """How often a real content of some modalities is shown: twice, where both arms of a paired task show it."""
        shown = [content for item in main for content in item.contents if content.origin == REAL]
        counts = Counter((content.case, content.modality) for content in shown if content.modality in names)
        return max(counts.values(), default=1)

    def _mismatched_pairs(self, first: Sequence[str], last: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs of cases of different patients, no pair twice: one list turned against the other."""
        for turn in range(1, len(first) + 1):
            pairs = [(case, last[(row + turn) % len(last)]) for row, case in enumerate(first)]
            different = all(self._patient(case) != self._patient(other) for case, other in pairs)
            if different and len(set(pairs)) == len(pairs):
                return pairs
        raise self._one_patient()

    def _other_patient(self, cases: Sequence[str], row: int) -> str:
        patient = self.real.study(cases[row]).patient_id
        others = [*cases[row + 1 :], *cases[:row]]
        other = next((case for case in others if self.real.study(case).patient_id != patient), None)
        if other is None:
            raise self._one_patient()
        return other

    def _one_patient(self) -> DataError:
        return DataError(
            f"task {self.task.id!r}: its mismatched items need more patients than {self.real.name} has",
            fix="real studies of more patients, or mismatched: 0",
        )

    def _repeats(self, items: Sequence[ReaderItem]) -> list[ReaderItem]:
        """Repeated items, taken from each arm in turn, in a random order within an arm."""
        generator = numpy_generator("turing-repeats", self.study.seed, self.task.id)
        arms: dict[str, list[ReaderItem]] = {}
        for index in generator.permutation(len(items)):
            arms.setdefault(items[index].arm, []).append(items[index])
        turns = [arm[row] for row in range(len(items)) for _, arm in sorted(arms.items()) if row < len(arm)]
        return [replace(item, name=f"{item.name}-again", repeat_of=item.name) for item in turns[: self.task.repeats]]

    # ---- contents ------------------------------------------------------------------------------------------------
    def _shown_real(self, case: str, origin: str = REAL) -> tuple[ItemContent, ...]:
        return tuple(
            ItemContent(origin if MODALITIES[name].kind == "image" else REAL, case, name)
            for name in self.task.modalities
        )

    def _shown_generated(self, case: str) -> tuple[ItemContent, ...]:
        direction = self.generated.direction(self.task, case, self.real)
        return tuple(
            ItemContent(GENERATED, case, name, direction)
            if name in self.task.shown_generated
            else ItemContent(REAL, case, name)
            for name in self.task.modalities
        )

    def _pair(self, what: str, row: int, case: str, other: str) -> ReaderItem:
        return self._item(f"{what}-{row:03d}", PAIR, case, [self._shown_real(case), self._shown_generated(other)])

    def _item(self, name: str, arm: str, case: str, sides: Sequence[tuple[ItemContent, ...]]) -> ReaderItem:
        shown = dict.fromkeys(content.case for side in sides for content in side)
        return ReaderItem(
            name=f"{self.task.id}-{name}",
            task=self.task.id,
            arm=arm,
            case=case,
            patients=tuple(dict.fromkeys(self._patient(name) for name in shown)),
            sides=tuple(sides),
            truth=self._truth(arm, case),
        )

    def _patient(self, case: str) -> str:
        real = self.real.find(case)
        return real.patient if real else case  # a generated study without a real one is its own patient

    def _truth(self, arm: str, case: str) -> dict[str, Any]:
        if self.kind.answer == "findings":
            # Findings of a real study are true of what was generated from it, not of a mismatched pair.
            study = self.real.study(case) if self.real.has(case) else None
            return {"findings": known_findings(study, self.task.findings) if study and arm != MISMATCHED else {}}
        # Controls have no right answer.
        if self.kind.confidence and arm in (REAL, GENERATED):
            return {"choice": arm}
        return {}


def known_findings(study: Study, names: Sequence[str]) -> dict[str, str]:
    """Finding -> ``present`` or ``absent``, for the findings that the study's labels decide."""
    words = {1.0: "present", 0.0: "absent"}
    return {name: words[study.labels[name]] for name in names if study.labels.get(name) in words}
