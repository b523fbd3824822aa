"""Source ``dicom``: any folder of DICOM files; studies and views are read from the tags, reports from text files beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from medcodi.config import config
from medcodi.data.dicom.reading import DicomHeader, read_header
from medcodi.data.image_files import is_dicom
from medcodi.data.refusals import Refused
from medcodi.data.reports import read_text
from medcodi.data.sources.announced import AnnouncedStudy, LeftOut, check_patients, joined, projection
from medcodi.errors import DataError
from medcodi.modality import modality, names
from medcodi.storage.names import is_plain_name


@config
class DicomConfig:
    """Options of source ``dicom``."""

    path: str  # The folder; searched with all folders below it
    default_view: str | None = None  # Modality of images whose tags name no view; None: they are left out
    # Folder of reports, ``<study id>.txt`` or ``<file stem>.txt``; None: beside the images, ``report.txt`` beside a
    # ``frontal.dcm`` or ``lateral.dcm`` too
    reports: str | None = None
    # Each study is a patient of its own: for folders whose Patient IDs were removed or replaced, and that truly hold
    # no patient with two studies
    study_is_patient: bool = False
    # Fill records from the tags: age, sex, view position (PA, AP), body-mass index where size and weight are there
    record: bool = False

    def __post_init__(self) -> None:
        if self.default_view is not None and modality(self.default_view).kind != "image":
            raise ValueError(f"default_view is {self.default_view!r}, expected one of {', '.join(names('image'))}")


def studies(options: DicomConfig, each: Callable[..., Iterator[AnnouncedStudy]] = map) -> Iterator[AnnouncedStudy]:
    """Studies in the order of their first files, by path; files that are no DICOM are passed over.

    Raises:
        DataError: If the folder is missing or holds no DICOM file.
    """
    folder = Path(options.path)
    if not folder.is_dir():
        raise DataError(f"no folder at {folder}", expected="a folder of DICOM files", fix="check path=")
    # Every DICOM file of the tree, in the order of paths.
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and is_dicom(file)]
    if not files:
        raise DataError(
            f"{folder} holds no DICOM file",
            expected="at least one, in it or below it",
            fix="check path=; images with a table are --source csv",
        )
    by_id: dict[str, AnnouncedStudy] = {}
    for study in each(partial(_study, options=options), files):
        by_id[study.study_id] = joined(by_id[study.study_id], study) if study.study_id in by_id else study
    # Without reliable patients, splits by patient would be wrong.
    usable = [study for study in by_id.values() if study.refused is None]
    if not options.study_is_patient:
        check_patients(usable, f"the DICOM files of {folder}", "Patient ID", "options.study_is_patient=true")
    yield from by_id.values()


def _study(file: Path, options: DicomConfig) -> AnnouncedStudy:
    try:
        header = read_header(file)
    except Refused as error:
        name = str(file)
        return AnnouncedStudy(
            study_id=name, patient_id=name, refused=LeftOut(file=name, reason=error.reason, detail=str(error))
        )
    # The default view applies only where the tags name no view at all.
    view = header.modality or (None if header.view_named else options.default_view)
    refused = None
    if view is None:
        fix = "" if header.view_named else "; options.default_view=frontal would take it as one"
        refused = LeftOut(
            file=str(file),
            reason="unknown view",
            detail=f"{file}: {header.view}{fix}",
            view=header.view,
        )
    texts, unreadable = _report(file, header.study_id, options)
    return AnnouncedStudy(
        study_id=header.study_id,
        patient_id=f"study:{header.study_id}" if options.study_is_patient else header.patient_id,
        images={view: file} if view else {},
        texts=texts,
        views={view: header.view} if view else {},
        values=record_values(header) if options.record else {},
        metadata={**header.metadata, "source": "dicom"},
        refused=refused,
        spare=unreadable,
    )


def record_values(header: DicomHeader) -> dict[str, str]:
    """Fields of the record as the tags hold them; a sex other than F or M (``O``), and other positions, say nothing."""
    bmi = header.bmi
    # Sizes are typed by hand; one that is no number says nothing.
    with suppress(ValueError, ZeroDivisionError, OverflowError):
        bmi = str(round(float(header.weight) / float(header.size) ** 2, 1))
    sex = str(header.metadata.get("sex", "")).upper()
    return {
        "age": str(header.metadata.get("age", "")),
        "sex": sex if sex in ("F", "M") else "",
        "view": projection(header.position),
        "bmi": bmi,
    }


def _report(file: Path, study_id: str, options: DicomConfig) -> tuple[dict[str, str], tuple[LeftOut, ...]]:
    """The report beside an image, and what of it is left out: the image stays."""
    folder = Path(options.reports) if options.reports else file.parent
    # A folder of one study, as `dicom fetch` and `generate --format dicom` write it, calls its files by their modalities.
    own = names("text") if file.stem in names("image") and not options.reports else ()
    for stem in (study_id, file.stem, *own):
        if not is_plain_name(f"{stem}.txt"):  # a UID from a tag is no path
            continue
        path = folder / f"{stem}.txt"
        if path.is_file():
            try:
                return {names("text")[0]: read_text(path)}, ()
            except (Refused, OSError) as error:
                reason = error.reason if isinstance(error, Refused) else "report: unreadable"
                return {}, (LeftOut(file=str(path), reason=reason, detail=f"{path}: {error}"),)
    return {}, ()
