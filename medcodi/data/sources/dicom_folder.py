"""Source ``dicom``: any folder of DICOM files; studies and views are read from the tags, reports from text files beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from medcodi.config import config
from medcodi.data.dicom.reading import read_header
from medcodi.data.images import is_dicom
from medcodi.data.refusals import Refused
from medcodi.data.sources.record import LeftOut, Record, second_images
from medcodi.errors import DataError
from medcodi.modality import modality, names


@config
class DicomConfig:
    """Options of source ``dicom``.

    Attributes:
        path: The folder; searched with all folders below it.
        default_view: Modality of images whose tags name no view; None: they are left out.
        reports: Folder of reports, ``<study id>.txt`` or ``<file stem>.txt``; None: beside the images.
    """

    path: str
    default_view: str | None = None
    reports: str | None = None

    def __post_init__(self) -> None:
        if self.default_view is not None and modality(self.default_view).kind != "image":
            raise ValueError(f"default_view is {self.default_view!r}, expected one of {', '.join(names('image'))}")


def records(options: DicomConfig, each: Callable[..., Iterator[Record]] = map) -> Iterator[Record]:
    """Studies in the order of their first files, by path; files that are no DICOM are passed over.

    Args:
        options: The folder.
        each: Applies a function to many files, in their order; headers are read through it.

    Raises:
        DataError: If the folder is missing or holds no DICOM file.
    """
    folder = Path(options.path)
    if not folder.is_dir():
        raise DataError(f"no folder at {folder}", expected="a folder of DICOM files", fix="check path=")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and is_dicom(file)]
    if not files:
        raise DataError(f"{folder} holds no DICOM file", expected="at least one, in it or below it", fix="check path=")
    found: dict[str, Record] = {}
    for one in each(partial(_record, options=options), files):
        found[one.study_id] = _joined(found[one.study_id], one) if one.study_id in found else one
    yield from found.values()


def _record(file: Path, options: DicomConfig) -> Record:
    try:
        header = read_header(file)
    except Refused as error:
        name = str(file)
        return Record(
            study_id=name, patient_id=name, refused=LeftOut(file=name, reason=error.reason, detail=str(error))
        )
    view = header.modality or options.default_view
    refused = None
    if view is None:
        refused = LeftOut(
            file=str(file),
            reason="unknown view",
            detail=f"{file}: {header.view}; default_view=frontal would take it as one",
            view=header.view,
        )
    return Record(
        study_id=header.study_id,
        patient_id=header.patient_id,
        images={view: file} if view else {},
        texts=_report(file, header.study_id, options),
        views={view: header.view} if view else {},
        metadata={**header.metadata, "source": "dicom"},
        refused=refused,
    )


def _report(file: Path, study_id: str, options: DicomConfig) -> dict[str, str]:
    folder = Path(options.reports) if options.reports else file.parent
    for stem in (study_id, file.stem):
        path = folder / f"{stem}.txt"
        if path.is_file():
            return {names("text")[0]: path.read_text(encoding="utf-8", errors="replace")}
    return {}


def _joined(old: Record, new: Record) -> Record:
    """Two files of one study as one record; beside a usable file, another one that is not is only left out itself."""
    if old.refused is not None and new.refused is None:
        old, new = new, old
    spare = [*old.spare, *new.spare, *second_images(old, new)]
    if new.refused is not None:
        spare.append(new.refused)
    return replace(
        old,
        images={**new.images, **old.images},
        texts={**new.texts, **old.texts},
        views={**new.views, **old.views},
        spare=tuple(spare),
    )
