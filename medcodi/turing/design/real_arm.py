"""The real arm: held-out phantoms, a prepared dataset, a table or a folder, as cases that are read when they are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medcodi.config import from_dict
from medcodi.data.dataset import INFO_FILE, PHANTOMS_PER_SPLIT, SPLITS, open_dataset, read_info
from medcodi.data.images import read_image
from medcodi.data.reports import normalise_report
from medcodi.data.sources import SOURCES
from medcodi.data.sources.record import LeftOut, Record
from medcodi.errors import DataError
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.study import Study

# Sources whose use agreements say who may see the data: readers must be covered by it.
AGREEMENTS = ("mimic", "physionet", "vindr", "brax", "chexpert", "padchest")


@dataclass(frozen=True)
class Case:
    """A real study that can be shown."""

    name: str  # its study id
    patient: str  # its patient
    modalities: frozenset[str]  # what it holds
    load: Callable[[], Study]  # reads it; images as they come, float32 `[H, W]` in [0, 1]


@dataclass
class RealArm:
    """Real cases, and which of them are taken."""

    name: str  # where they come from, for the key
    agreement: str  # the name that shows a use agreement, or ""
    cases: list[Case]  # in the source's order
    left_out: list[LeftOut] = field(default_factory=list)  # what could not be used, and why
    _studies: dict[str, Study] = field(default_factory=dict)
    _uses: Counter[str] = field(default_factory=Counter)

    def study(self, name: str) -> Study:
        """The contents of a case that was taken."""
        return self._studies[name]

    def has(self, name: str) -> bool:
        """Whether a case of this name was taken."""
        return name in self._studies

    def named(self, name: str) -> Case | None:
        """The case of a study id, or None."""
        return next((case for case in self.cases if case.name == name), None)

    def take(
        self,
        num: int,
        modalities: Collection[str],
        *,
        seed: int,
        purpose: str,
        among: Collection[str] | None = None,
        spare: Collection[str] = (),
    ) -> list[Case]:
        """Choose cases, those least used so far first, one a patient as long as there are enough, and read them.

        Args:
            num: How many.
            modalities: What each must hold.
            seed: Of the choice.
            purpose: For the message: ``"task 'frontal'"``.
            among: Study ids that may be chosen; None: all.
            spare: Study ids that may not.

        Raises:
            DataError: If there are fewer, naming how many there are and why others were left out.
        """
        wanted = set(modalities)
        able = [
            case
            for case in self.cases
            if wanted <= case.modalities and case.name not in spare and (among is None or case.name in among)
        ]
        order = numpy_generator("turing-cases", seed, purpose).permutation(len(able))
        ranked = sorted((self._uses[able[place].name], rank, place) for rank, place in enumerate(order))
        taken: list[Case] = []
        for doubled in (False, True):  # a patient's second study only if there are not enough patients
            for _, _, place in ranked:
                case = able[place]
                if len(taken) == num:
                    break
                if case in taken or (not doubled and case.patient in {one.patient for one in taken}):
                    continue
                if self._read(case, wanted):
                    taken.append(case)
        if len(taken) < num:
            reasons = "; ".join(f"{one.file}: {one.reason}" for one in self.left_out[:3])
            raise DataError(
                f"{purpose} needs {num} real studies with {', '.join(sorted(wanted))}; {self.name} has {len(taken)} to give"
                + (f" ({len(self.left_out)} left out: {reasons})" if reasons else ""),
                expected=f"at least {num}",
                fix="fewer items (num_items, mismatched, practice), or more real studies",
            )
        for case in taken:
            self._uses[case.name] += 1
        return taken

    def _read(self, case: Case, wanted: Collection[str]) -> bool:
        if case.name not in self._studies:
            try:
                self._studies[case.name] = case.load()
            except DataError as error:
                self.refuse(case, getattr(error, "reason", "unusable"), str(error))
                return False
        return set(wanted) <= set(self._studies[case.name].contents)

    def refuse(self, case: Case, reason: str, detail: str) -> None:
        """List a case as left out, once."""
        if not any(one.file == case.name for one in self.left_out):
            self.left_out.append(LeftOut(file=case.name, reason=reason, detail=detail))


def open_real(
    source: str, *, split: str = "test", num_phantoms: int = 200, image_size: int = 512, seed: int = 0
) -> RealArm:
    """Open the real arm.

    Args:
        source: ``"phantom"``, a prepared folder, a ``.csv`` table, or a folder of DICOM files.
        split: Of a prepared folder; of the phantom. A table or folder has none of its own.
        num_phantoms: How many phantoms there are to choose from.
        image_size: Pixels a side of phantoms.
        seed: Of the phantoms.

    Raises:
        DataError: If there is nothing there, or it cannot be read.
    """
    path = Path(source)
    if source == "phantom":
        from medcodi.data.sources.phantom import PhantomDataset

        offset = SPLITS.index(split) * PHANTOMS_PER_SPLIT
        dataset = PhantomDataset(num_phantoms, seed=seed, image_size=image_size, offset=offset)
        names = [f"phantom-{seed}-{offset + index:07d}" for index in range(num_phantoms)]
        everything = frozenset(MODALITIES)
        cases = [Case(name, name, everything, partial(dataset.__getitem__, row)) for row, name in enumerate(names)]
        return RealArm(f"phantom/{split}", "", cases)
    if path.is_dir() and (path / INFO_FILE).is_file():
        info = read_info(path)
        prepared = open_dataset(path, split)
        told = prepared[0].metadata if len(prepared) else {}
        rows = enumerate(prepared.contents())
        cases = [Case(*row, partial(prepared.__getitem__, index)) for index, row in rows]
        return RealArm(prepared.name, agreement_of(path, info, told), cases)
    kind = "csv" if path.suffix.lower() in (".csv", ".tsv") else "dicom"
    if not path.exists():
        raise DataError(
            f"no real studies at {source!r}",
            expected="'phantom', a prepared folder, a CSV table, or a folder of DICOM files",
            fix="check --real",
        )
    row = SOURCES[kind]
    records = list(row.announce(from_dict(row.Options, {"path": str(path)}, source=f"options of source {kind!r}")))
    arm = RealArm(path.name, agreement_of(path, *(record.metadata for record in records[:50])), [])
    for record in records:
        _enter(arm, record)
    return arm


def agreement_of(path: Path, *facts: Any) -> str:
    """What shows data under a use agreement: the source's own mark, or a word in the path or in what it says; else ""."""
    marked = next((fact for fact in facts if isinstance(fact, dict) and fact.get("credentialed")), None)
    if marked is not None:
        return str(marked.get("source", "its source"))
    text = " ".join([*path.absolute().parts[-3:], *(str(fact) for fact in facts)]).lower()
    return next((name for name in AGREEMENTS if name in text), "")


def _enter(arm: RealArm, record: Record) -> None:
    arm.left_out.extend(record.spare)
    if record.refused is not None:
        arm.left_out.append(record.refused)
        return
    modalities = frozenset([*record.images, *record.texts])
    arm.cases.append(Case(record.study_id, record.patient_id, modalities, partial(_read_record, record)))


def _read_record(record: Record) -> Study:
    """A record's study with its images as they come: the blinding pipeline fits them, not the source."""
    images = {name: read_image(file) for name, file in record.images.items()}
    texts = {name: normalise_report(text) for name, text in record.texts.items()}
    return Study(
        study_id=record.study_id,
        patient_id=record.patient_id,
        contents={**images, **texts},
        labels=record.labels,
        metadata=record.metadata,
    )
