"""The real arm: phantoms, a prepared dataset, a table or a folder, as cases that are read once they are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from medcodi.data.dataset import INFO_FILE, PHANTOMS_PER_SPLIT, SPLITS, open_dataset, read_info
from medcodi.data.domain import agreement_of
from medcodi.data.image_files import read_image
from medcodi.data.reports import normalise_report
from medcodi.data.sources import SOURCES
from medcodi.data.sources.announced import AnnouncedStudy, LeftOut
from medcodi.errors import DataError
from medcodi.modality import MODALITIES
from medcodi.randomness import numpy_generator
from medcodi.study import Study


@dataclass(frozen=True)
class RealCase:
    """A real study that can be shown."""

    name: str  # study id
    patient: str  # patient id
    modalities: frozenset[str]
    load: Callable[[], Study]  # reads the study; images in their own size, float32 [H, W] in [0, 1]


@dataclass
class RealArm:
    """Real cases, and how often each is used."""

    name: str  # the source, for the key
    agreement: str  # the source that has a use agreement, or ""
    cases: list[RealCase]  # in the order of the source
    left_out: list[LeftOut] = field(default_factory=list)  # studies that are unusable, and why
    _studies: dict[str, Study] = field(default_factory=dict)  # the cases read so far
    _uses: Counter[str] = field(default_factory=Counter)  # how often each case was taken

    def study(self, name: str) -> Study:
        """A case that was taken."""
        return self._studies[name]

    def has(self, name: str) -> bool:
        """Whether a case was taken."""
        return name in self._studies

    def find(self, name: str) -> RealCase | None:
        """The case with this study id, or None."""
        return next((case for case in self.cases if case.name == name), None)

    def take(
        self,
        num: int,
        modalities: Collection[str],
        *,
        seed: int,
        purpose: str,
        among: Collection[str] | None = None,
        used: Collection[str] = (),
    ) -> list[RealCase]:
        """Choose cases and read them: the least used first, one of each patient as long as there are enough patients.

        Args:
            num: Number of cases.
            modalities: Modalities that each case must have.
            seed: Seed of the choice.
            purpose: Names the choice, for its seed and for messages: ``"task 'frontal'"``.
            among: Study ids that may be chosen; None: all.
            used: Study ids that may not be chosen.

        Raises:
            DataError: If there are fewer; says how many there are and why others were left out.
        """
        wanted = set(modalities)
        candidates = [
            case
            for case in self.cases
            if wanted <= case.modalities and case.name not in used and (among is None or case.name in among)
        ]
        # A random order, the least used cases first.
        order = numpy_generator("turing-cases", seed, purpose).permutation(len(candidates))
        ranked = sorted((self._uses[candidates[index].name], rank, index) for rank, index in enumerate(order))
        # Take one case of each patient; a second one only if there are too few patients.
        taken: list[RealCase] = []
        for repeat_patients in (False, True):
            for _, _, index in ranked:
                case = candidates[index]
                if len(taken) == num:
                    break
                if case in taken or (not repeat_patients and case.patient in {other.patient for other in taken}):
                    continue
                if self._read(case, wanted):
                    taken.append(case)
        if len(taken) < num:
            reasons = "; ".join(f"{left.file}: {left.reason}" for left in self.left_out[:3])
            raise DataError(
                f"{purpose} needs {num} real studies with {', '.join(sorted(wanted))}; {self.name} has {len(taken)}"
                + (f" ({len(self.left_out)} left out: {reasons})" if reasons else ""),
                expected=f"at least {num}",
                fix="fewer items (num_items, mismatched, practice), or more real studies",
            )
        for case in taken:
            self._uses[case.name] += 1
        return taken

    def _read(self, case: RealCase, wanted: Collection[str]) -> bool:
        if case.name not in self._studies:
            try:
                self._studies[case.name] = case.load()
            except DataError as error:
                self.refuse(case, getattr(error, "reason", "unusable"), str(error))
                return False
        return set(wanted) <= set(self._studies[case.name].contents)

    def refuse(self, case: RealCase, reason: str, detail: str) -> None:
        """List a case as left out, once."""
        if not any(left.file == case.name for left in self.left_out):
            self.left_out.append(LeftOut(file=case.name, reason=reason, detail=detail))


def open_real(
    source: str, *, split: str = "test", num_phantoms: int = 200, image_size: int = 512, seed: int = 0
) -> RealArm:
    """Open the real arm.

    Args:
        source: ``"phantom"``, a prepared folder, a ``.csv`` table, or a folder of DICOM files.
        split: Split of a prepared folder or of the phantom; tables and folders of DICOM files have none.
        num_phantoms: Number of phantoms to choose from.
        image_size: Pixels a side of phantoms.
        seed: Seed of the phantoms.

    Raises:
        DataError: If the source is missing or unreadable.
    """
    path = Path(source)
    # The embedded phantom.
    if source == "phantom":
        from medcodi.data.sources.phantom import PhantomDataset

        offset = SPLITS.index(split) * PHANTOMS_PER_SPLIT
        dataset = PhantomDataset(num_phantoms, seed=seed, image_size=image_size, offset=offset)
        names = [f"phantom-{seed}-{offset + index:07d}" for index in range(num_phantoms)]
        everything = frozenset(MODALITIES)
        cases = [RealCase(name, name, everything, partial(dataset.__getitem__, row)) for row, name in enumerate(names)]
        return RealArm(f"phantom/{split}", "", cases)
    # A prepared dataset.
    if path.is_dir() and (path / INFO_FILE).is_file():
        info = read_info(path)
        prepared = open_dataset(path, split)
        metadata = prepared[0].metadata if len(prepared) else {}
        rows = enumerate(prepared.contents())
        cases = [RealCase(*row, partial(prepared.__getitem__, index)) for index, row in rows]
        return RealArm(prepared.name, agreement_of(path, info, metadata), cases)
    # A table or a folder of DICOM files, by the source that `medcodi data prepare` uses.
    kind = "csv" if path.suffix.lower() in (".csv", ".tsv") else "dicom"
    if not path.exists():
        raise DataError(
            f"no real studies at {source!r}",
            expected="'phantom', a prepared folder, a CSV table, or a folder of DICOM files",
            fix="check --real",
        )
    row = SOURCES[kind]
    studies = list(row.announce(kind, {"path": str(path)}))
    arm = RealArm(path.name, agreement_of(path, *(study.metadata for study in studies[:50])), [])
    for study in studies:
        _add_study(arm, study)
    return arm


def _add_study(arm: RealArm, study: AnnouncedStudy) -> None:
    arm.left_out.extend(study.spare)
    if study.refused is not None:
        arm.left_out.append(study.refused)
        return
    modalities = frozenset([*study.images, *study.texts])
    arm.cases.append(RealCase(study.study_id, study.patient_id, modalities, partial(_read_study, study)))


def _read_study(study: AnnouncedStudy) -> Study:
    """The study, images in their own size: the blinding pipeline resizes them, not the source."""
    images = {name: read_image(file) for name, file in study.images.items()}
    texts = {name: normalise_report(text) for name, text in study.texts.items()}
    return Study(
        study_id=study.study_id,
        patient_id=study.patient_id,
        contents={**images, **texts},
        labels=study.labels,
        metadata=study.metadata,
    )
