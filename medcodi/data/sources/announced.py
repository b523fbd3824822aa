"""One study as a source announces it: what files and texts it is made of, not yet read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medcodi.data.image_files import read_image
from medcodi.data.images import fit_square
from medcodi.data.refusals import Refused
from medcodi.data.reports import normalise_report
from medcodi.errors import DataError
from medcodi.modality import names
from medcodi.record import CLINICAL_RECORD, FieldConfig, RecordValue
from medcodi.study import Content, Study

OLDEST = 90.0  # years


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file or text that does not enter the dataset, and why."""

    file: str  # its name in the source
    reason: str  # two or three words, the same for every refusal of this sort
    detail: str = ""  # the whole message
    view: str = ""  # view position of an image, as the source gives it


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The result of reading an announced study."""

    study: Study | None = None  # the study, or None where it cannot be used
    refused: LeftOut | None = None  # why it cannot
    spare: tuple[LeftOut, ...] = ()  # files left out although the study is kept, beside those it announced as spare


@dataclass(frozen=True, kw_only=True)
class AnnouncedStudy:
    """A study to be read."""

    study_id: str  # unique in its source
    patient_id: str  # studies of one patient go to one split
    split: str | None = None  # ``train``, ``val`` or ``test`` where the source has an official one
    images: Mapping[str, Path] = field(default_factory=dict)  # image modality -> file
    texts: Mapping[str, str] = field(default_factory=dict)  # text modality -> text as the source holds it
    # image modality -> view position as the source gives it (``"PA"``), where it does
    views: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, float] = field(default_factory=dict)  # CheXpert name -> 1, 0 or -1
    values: Mapping[str, Any] = field(default_factory=dict)  # field of the record -> value as the source holds it
    # further fields than :data:`medcodi.record.CLINICAL_RECORD` has
    fields: Mapping[str, FieldConfig] = field(default_factory=dict)
    # where its values come from, for the ledger, where that is a choice (the hours before the study)
    values_from: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)  # further values of the source
    refused: LeftOut | None = None  # why the study cannot be used, if the source already knows
    spare: tuple[LeftOut, ...] = ()  # files of the study that are not used, though nothing is wrong with it

    def files(self) -> dict[str, str]:
        """Modality -> what it is called in the ledger."""
        return {
            **{name: str(path) for name, path in self.images.items()},
            **{name: f"{self.study_id}:{name}" for name in self.texts},
        }

    def read_texts(self) -> tuple[Mapping[str, str], tuple[LeftOut, ...]]:
        """The texts, and those that cannot be used: the study is kept without them."""
        return self.texts, ()

    def read_values(self) -> tuple[dict[str, RecordValue], tuple[LeftOut, ...]]:
        """The record, and the values that are invalid: each field is left out alone.

        Ages above 89 become 90, as de-identified data have it (HIPAA safe harbor, 45 CFR 164.514(b)(2)(i)(C)).
        """
        record: dict[str, RecordValue] = {}
        invalid: list[LeftOut] = []
        fields = {**CLINICAL_RECORD.fields, **self.fields}
        for name in (name for name in fields if name in self.values):
            try:
                parsed = fields[name].parse(name, self.values[name])
            except DataError as error:
                file = f"{self.study_id}:record.{name}"
                invalid.append(LeftOut(file=file, reason="record: invalid value", detail=str(error)))
                continue
            if parsed is not None:
                record[name] = min(parsed, OLDEST) if name == "age" and isinstance(parsed, float) else parsed
        return record, tuple(invalid)

    def load(self, image_size: int) -> Loaded:
        """Read everything: the study, its images fitted to ``image_size``, or what of it cannot be used."""
        if self.refused is not None:
            return Loaded(refused=self.refused)
        contents: dict[str, Content] = {}
        file = self.study_id
        view = ""
        try:
            # Images: read, checked against the view they are given as, fitted to the square.
            for name, path in self.images.items():
                file, view = str(path), self.views.get(name, "")
                contents[name] = fit_square(read_image(path, modality=name), image_size)
            file, view = self.study_id, ""
            # Texts: read and brought to their normal form.
            texts, spare = self.read_texts()
            for name, text in texts.items():
                file = self.files().get(name, f"{self.study_id}:{name}")
                contents[name] = normalise_report(text)
        except DataError as error:
            reason = error.reason if isinstance(error, Refused) else "unusable"
            return Loaded(refused=LeftOut(file=file, reason=reason, detail=str(error), view=view))
        if not contents:
            detail = f"study {self.study_id!r} has neither image nor report"
            return Loaded(refused=LeftOut(file=self.study_id, reason="nothing in it", detail=detail), spare=spare)
        # The record, beside what shows something.
        record, invalid = self.read_values()
        if record:
            contents[names("table")[0]] = record
        spare = (*spare, *invalid)
        study = Study(
            study_id=self.study_id,
            patient_id=self.patient_id,
            contents=contents,
            labels=self.labels,
            metadata=self.metadata,
        )
        return Loaded(study=study, spare=spare)


def projection(view: str) -> str:
    """PA or AP, as a record's field ``view`` knows them, from a view position such as ``AP SUPINE``; "" of any other."""
    word = view.strip().upper().partition(" ")[0].partition("_")[0]
    return word if word in CLINICAL_RECORD.fields["view"].values else ""


# Values that anonymisation leaves in place of a patient's identifier; one with a number in it is a pseudonym.
_NO_PATIENT = re.compile(
    r"study:.*|anon[^1-9]*|unknown|none|null|nan|n/?a|nil|not?[ _-]?(?:id|name|available|applicable)|removed|redacted|blank"
    r"|de-?identified|(?:patient|test)[\^ _-]*(?:patient|test|name|id)?|[0x.*?#\-_^ ]*",
    re.IGNORECASE,
)
MIN_STUDIES_OF_ONE_PATIENT = 10  # from here on, one patient for all studies is taken for a replaced identifier


def check_patients(studies: Sequence[AnnouncedStudy], source: str, column: str, fix: str) -> None:
    """Refuse studies whose patients are not known: those of one patient could come into several splits.

    Raises:
        DataError: If a patient is missing or a placeholder in two studies, or all studies are of one patient.
    """
    # Placeholders of anonymisation, and one identifier for everybody.
    counts = Counter(study.patient_id for study in studies)
    placeholders = sum(num for patient, num in counts.items() if _NO_PATIENT.fullmatch(patient))
    same = len(counts) == 1 and len(studies) >= MIN_STUDIES_OF_ONE_PATIENT
    if (placeholders < 2 or len(studies) < 2) and not same:
        return
    failed = (
        f"all {len(studies):,} studies of {source} have the {column} {next(iter(counts))!r}"
        if same
        else f"{placeholders:,} of {len(studies):,} studies of {source} have no {column}, or a placeholder"
    )
    raise DataError(
        failed,
        expected="the patient of each study, so that no patient comes into two splits",
        fix=f"export it with pseudonyms; or {fix} if no patient has two studies",
    )


TWO_PATIENTS = "two patients"


def two_patients(study_id: str, first: str, second: str) -> LeftOut:
    """The refusal of a study whose files or rows name two patients."""
    detail = f"study {study_id!r} is of patients {first!r} and {second!r}"
    return LeftOut(file=study_id, reason=TWO_PATIENTS, detail=detail)


def second_image(study_id: str, modality: str, first: object, file: Path, view: str) -> LeftOut:
    """The refusal of an image whose view the study has already: one image a view, the ``first`` counts."""
    detail = f"study {study_id!r} has a {modality} already: {first}"
    return LeftOut(file=str(file), reason="second image of a view", detail=detail, view=view)


def joined(
    old: AnnouncedStudy,
    new: AnnouncedStudy,
    differing: Callable[[AnnouncedStudy, AnnouncedStudy], list[LeftOut]] = lambda old, new: [],
) -> AnnouncedStudy:
    """Two files or rows of one study as one. Where both have a content, that of ``old`` counts; ``differing`` lists the others."""
    # One study of two patients is a fault of the export: left out.
    if new.patient_id != old.patient_id:
        return replace(old, refused=two_patients(old.study_id, old.patient_id, new.patient_id))
    # Beside what can be used, what cannot is left out alone.
    if old.refused is not None and new.refused is None and old.refused.reason != TWO_PATIENTS:
        old, new = new, old
    unusable = () if new.refused is None else (new.refused,)
    second = [
        second_image(old.study_id, name, old.images[name], file, new.views.get(name, ""))
        for name, file in new.images.items()
        if name in old.images
    ]
    return replace(
        old,
        images={**new.images, **old.images},
        texts={**new.texts, **old.texts},
        views={**new.views, **old.views},
        labels={**new.labels, **old.labels},
        values={**new.values, **{name: value for name, value in old.values.items() if value}},
        split=old.split or new.split,
        spare=(*old.spare, *new.spare, *unusable, *second, *differing(old, new)),
    )
