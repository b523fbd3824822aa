"""Sources ``mimic-cxr`` (DICOM) and ``mimic-cxr-jpg``: the layouts of the two databases, as PhysioNet gives them out.

Several images of one view: the code that comes first in the modality table is taken (PA before AP, LATERAL before LL),
among equals the first image by name; the others are in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medcodi.data.dicom.reading import read_header
from medcodi.data.dicom.views import view_of
from medcodi.data.refusals import Refused
from medcodi.data.reports import compose_report, read_text
from medcodi.data.sources.announced import AnnouncedStudy, LeftOut, projection, second_image, two_patients
from medcodi.data.sources.mimic_iv import JoinedRecord, joined_records, study_time
from medcodi.data.sources.mimic_reports import read_mimic_report
from medcodi.data.sources.mimic_tables import (
    IDS,
    MimicConfig,
    check_groups,
    mimic_table,
    official_splits,
    report_paths,
    study_labels,
    tables_folder,
)
from medcodi.data.tables import find_table, read_table
from medcodi.errors import DataError
from medcodi.modality import MODALITIES, names
from medcodi.storage.names import stays_inside

_VIEW, _VIEW_IN_WORDS = "ViewPosition", "ViewCodeSequence_CodeMeaning"
_READ = (_VIEW, _VIEW_IN_WORDS, "StudyDate", "StudyTime")  # of the metadata table


# Row of the table that lists an image, its row of the metadata table where that is known, and its file.
Located = tuple[dict[str, str], dict[str, str] | None, Path]


@dataclass(frozen=True, kw_only=True)
class AnnouncedMimic(AnnouncedStudy):
    """A study whose report is read when the images are, so that a quarter of a million of them need not be in memory."""

    report: Path | None = None

    def files(self) -> dict[str, str]:
        """Modality -> path."""
        paths = {**self.images, **({names("text")[0]: self.report} if self.report else {})}
        return {name: str(path) for name, path in paths.items()}

    def read_texts(self) -> tuple[Mapping[str, str], tuple[LeftOut, ...]]:
        """Findings and impression; a report that has neither, or is not there, is left out and the images stay."""
        if self.report is None:
            return {}, ()
        name = str(self.report)
        try:
            report = read_mimic_report(read_text(self.report))
        except Refused as error:
            return {}, (LeftOut(file=name, reason=error.reason, detail=str(error)),)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            reason = "no report" if missing else "report: unreadable"
            return {}, (LeftOut(file=name, reason=reason, detail=f"{name}: {error.strerror}"),)
        text = compose_report(report.findings, report.impression)
        if not text:
            detail = f"{name}: parts {', '.join(report.parts) or 'none'}, no findings or impression among them"
            return {}, (LeftOut(file=name, reason=report.why_empty, detail=detail),)
        return {names("text")[0]: text}, ()


@dataclass
class _Study:
    """A study while its rows are gathered."""

    patient: str
    time: int | None = None  # in seconds, where the metadata table has it
    images: list[tuple[int, str, str, str, Path]] = field(default_factory=list)  # rank, dicom_id, modality, view, file
    splits: set[str] = field(default_factory=set)
    spare: list[LeftOut] = field(default_factory=list)
    refused: LeftOut | None = None


def studies_jpg(options: MimicConfig) -> Iterator[AnnouncedStudy]:
    """Studies of MIMIC-CXR-JPG in the order of its metadata table.

    Raises:
        DataError: If a table or a folder is missing or cannot be read.
    """
    metadata = mimic_table(options, "mimic-cxr-*-metadata", "the views")
    rows = read_table(metadata, ("dicom_id", *IDS))
    files = (({**row, "path": ""}, row) for row in rows)
    yield from _studies(options, files, suffix=".jpg", source="mimic-cxr-jpg")


def studies_dicom(options: MimicConfig, each: Callable[..., Iterator[Any]] = map) -> Iterator[AnnouncedStudy]:
    """Studies of MIMIC-CXR in the order of its record list; views from the metadata table, or else from the tags.

    Raises:
        DataError: If a table or a folder is missing or cannot be read.
    """
    # The record list names every image; without it the metadata table does.
    listed = find_table(Path(options.path), "cxr-record-list") or mimic_table(
        options, "mimic-cxr-*-metadata", "the images"
    )
    known = find_table(tables_folder(options), "mimic-cxr-*-metadata")
    if options.mimic_iv is not None:
        known = mimic_table(options, "mimic-cxr-*-metadata", "the times of the studies")
    # Views come from the metadata table where it is there: no file has to be opened.
    views = (
        {row["dicom_id"]: {key: row.get(key, "") for key in _READ} for row in read_table(known, ("dicom_id",))}
        if known
        else {}
    )
    files = ((row, views.get(row["dicom_id"])) for row in read_table(listed, ("dicom_id", *IDS)))
    yield from _studies(options, files, suffix=".dcm", source="mimic-cxr", each=map if known else each)


def _studies(
    options: MimicConfig,
    rows: Iterator[tuple[dict[str, str], dict[str, str] | None]],
    *,
    suffix: str,
    source: str,
    each: Callable[..., Iterator[Any]] = map,
) -> Iterator[AnnouncedStudy]:
    root = Path(options.path)
    # Tables first: a missing one is refused before files are touched.
    if not (root / "files").is_dir():
        raise DataError(
            f"no folder {root / 'files'}",
            expected="the database as downloaded, files/p10 to files/p19",
            fix="check path=",
        )
    split_of = official_splits(options)
    labels_of = study_labels(options)
    report_of = report_paths(options)
    studies: dict[str, _Study] = {}
    seen: set[str] = set()

    # Paths of the images in the chosen groups.
    def located() -> Iterator[Located]:
        for row, metadata in rows:
            patient, study = f"p{row['subject_id']}", f"s{row['study_id']}"
            if options.groups is None or patient[:3] in options.groups:
                path = row.get("path") or f"files/{patient[:3]}/{patient}/{study}/{row['dicom_id']}{suffix}"
                if not all(map(stays_inside, path.split("/"))):  # numbers and paths out of a table
                    raise DataError(
                        f"the tables name the image {path!r}",
                        expected=f"a path inside {root}",
                        fix="download the tables again",
                    )
                yield row, metadata, root / path

    # Gather rows by study; DICOM tags are read in parallel.
    for row, view, file in each(_viewed, located()):
        study_id = f"s{row['study_id']}"
        study = studies.setdefault(study_id, _Study(f"p{row['subject_id']}"))
        _add(study, study_id, row, view, file, seen)
        times = (study.time, study_time(row))
        study.time = min((time for time in times if time is not None), default=None)  # of the first image
        if split_of is not None:
            study.splits.add(split_of.get(row["dicom_id"], ""))
    if not studies:
        raise DataError(
            f"no image of {root} is in groups={options.groups}",
            expected="groups such as p10",
            fix="correct options.groups",
        )
    # Refuse half a download before hours of reading.
    check_groups(root, (study.patient for study in studies.values()))
    records: Mapping[str, JoinedRecord] = {}
    if options.mimic_iv is not None:
        records = joined_records(
            options, {name: (int(study.patient[1:]), study.time) for name, study in studies.items()}
        )
    for study_id, study in studies.items():
        announced = _study(study_id, study, labels_of.get(study_id, {}), report_of(study.patient, study_id), source)
        yield _with_record(announced, records[study_id], options) if study_id in records else announced


def _with_record(study: AnnouncedMimic, joined: JoinedRecord, options: MimicConfig) -> AnnouncedMimic:
    """The study with the values of MIMIC-IV, and with the projection of its frontal."""
    view = next(filter(None, map(projection, study.views.values())), "")
    return replace(
        study,
        values={**joined.values, "view": view},
        fields=options.fields,
        values_from=f"first values within {options.record_hours:g} h before the study",
        metadata={**study.metadata, **joined.metadata},
        spare=(*study.spare, *joined.spare),
    )


def _viewed(located: Located) -> tuple[dict[str, str], tuple[str, str | None] | LeftOut, Path]:
    """A row with its date and time, the view of its image (code and modality, or why it has none), and the file."""
    row, metadata, file = located
    row = {**row, **{key: metadata[key] for key in ("StudyDate", "StudyTime") if metadata and metadata.get(key)}}
    try:
        return row, _view(metadata, file), file
    except Refused as error:
        return row, LeftOut(file=str(file), reason=error.reason, detail=str(error)), file


def _add(
    study: _Study,
    study_id: str,
    row: Mapping[str, str],
    view: tuple[str, str | None] | LeftOut,
    file: Path,
    seen: set[str],
) -> None:
    """Enter one image into its study."""
    name = row["dicom_id"]
    if f"p{row['subject_id']}" != study.patient:
        study.refused = two_patients(study_id, study.patient, f"p{row['subject_id']}")
        return
    if name in seen:
        detail = f"dicom_id {name!r} appears in several rows; the first is used"
        study.spare.append(LeftOut(file=str(file), reason="duplicate id", detail=detail))
        return
    seen.add(name)
    if isinstance(view, LeftOut):
        study.spare.append(view)
        return
    code, modality = view
    if modality is None:
        detail = f"{file}: view {code!r} is none of those known"
        study.spare.append(LeftOut(file=str(file), reason="unknown view", detail=detail, view=code))
        return
    # Rank by the order of codes in the modality table.
    codes = MODALITIES[modality].view_codes
    rank = codes.index(code.upper()) if code.upper() in codes else len(codes)
    study.images.append((rank, name, modality, code, file))


def _view(row: Mapping[str, str] | None, file: Path) -> tuple[str, str | None]:
    """(code, modality): the View Position; where that is empty, the view code's words."""
    if row is None:
        header = read_header(file)
        if not header.position:
            return header.view, header.modality
        code, words = header.position, ""
    else:
        code, words = row.get(_VIEW, ""), row.get(_VIEW_IN_WORDS, "")
    if code:  # AP AXIAL, SWIMMERS, LAO ...: not the view that a model of chest examinations means
        return code, view_of(code, position=True).modality
    return words or "none", view_of(words).modality


def _study(
    study_id: str, study: _Study, labels: Mapping[str, float], report: Path | None, source: str
) -> AnnouncedMimic:
    images: dict[str, Path] = {}
    views: dict[str, str] = {}
    spare, refused = list(study.spare), study.refused
    for _, _, modality, code, file in sorted(study.images, key=lambda image: image[:2]):
        if modality in images:
            first = f"{images[modality]} ({views[modality]})"
            spare.append(second_image(study_id, modality, first, file, code))
        else:
            images[modality], views[modality] = file, code
    if not images and refused is None:
        refused, spare = spare[0], spare[1:]
    if len(study.splits) > 1:
        raise DataError(
            f"images of study {study_id!r} are in splits {', '.join(sorted(name or 'none' for name in study.splits))}",
            expected="all studies of a patient in one split",
            fix="download the split table again, or options.official_split=false for splits of our own",
        )
    split = next(iter(study.splits), None)
    if split == "" and refused is None:
        detail = f"study {study_id!r} is not in the official split; options.official_split=false would take it"
        refused = LeftOut(file=study_id, reason="not in the split", detail=detail)
    return AnnouncedMimic(
        study_id=study_id,
        patient_id=study.patient,
        split=split or None,
        images=images,
        views=views,
        labels=labels,
        metadata={"source": source, "views": views},
        refused=refused,
        spare=tuple(spare),
        report=report,
    )
