"""Source ``csv``: any table of paths and texts, one row an image or one row a study."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from medcodi.data.dataset import SPLIT_NAMES
from medcodi.data.dicom.views import view_of
from medcodi.data.domain import SYNTHESIZED
from medcodi.data.reports import compose_report
from medcodi.data.sources.announced import AnnouncedStudy, LeftOut, check_patients, joined, projection
from medcodi.data.sources.detection import (
    FIELD,
    SYNTHESIS_COLUMNS,
    USUAL,
    CsvConfig,
    column_whose_cells,
    columns_of,
    columns_of_synthesis,
    table_at,
)
from medcodi.data.tables import TableRow, is_absent, read_header, read_rows, text_of_cell
from medcodi.errors import DataError, did_you_mean
from medcodi.modality import names
from medcodi.study import CHEXPERT_LABELS


def studies(options: CsvConfig) -> Iterator[AnnouncedStudy]:
    """Studies in the order of their first rows.

    Raises:
        DataError: If the table cannot be read, a named column is missing, nothing in it can be used, or it does not say
            which patient a study is of.
    """
    path = table_at(Path(options.path))
    header = read_header(path)
    if set(header) >= SYNTHESIS_COLUMNS:
        defaults = columns_of_synthesis(header, options.study_is_patient)
        options = replace(options, columns={**defaults, **options.columns})
    columns = columns_of(options, header, path)
    if "patient_id" not in columns and set(header) >= SYNTHESIS_COLUMNS:
        options = replace(options, study_is_patient=True)
    _check_patients(options, columns, path)
    root = Path(options.root) if options.root else path.parent
    # Rows of one study are joined, in the order of first appearance.
    by_id: dict[str, AnnouncedStudy] = {}
    for row in read_rows(path):
        if set(header) >= SYNTHESIS_COLUMNS:  # our own table, whose texts may be guarded from spreadsheets
            row = replace(row, cells={column: text_of_cell(cell) for column, cell in row.cells.items()})
        study = _study(row, columns, root, options)
        known = by_id.get(study.study_id)
        by_id[study.study_id] = study if known is None else _joined(known, study, by_study="image" not in columns)
    if "patient_id" in columns and not options.study_is_patient:
        check_patients(list(by_id.values()), str(path), columns["patient_id"], "options.study_is_patient=true")
    yield from by_id.values()


def _check_patients(options: CsvConfig, columns: Mapping[str, str], path: Path) -> None:
    """Without patients, studies of one patient would come into several splits: never silently."""
    if "patient_id" in columns or options.patient_pattern or options.study_is_patient:
        return
    header = read_header(path)
    column = next((name for name in header if re.search("patient|subject|person|mrn|case", name, re.IGNORECASE)), None)
    by_path = column_whose_cells(path, lambda cell: re.search(r"patient\d+", cell) is not None) is not None
    fixes = [f"options.columns.patient_id={column or 'COLUMN'}"] if column or not by_path else []
    if by_path or not column:
        fixes.append(
            "options.patient_pattern='(patient\\d+)'" + ("" if by_path else " where the image path names the patient")
        )
    raise DataError(
        f"{path} has no column of patients: its columns are {', '.join(header)}",
        expected=f"the patient of each study ({', '.join(USUAL['patient_id'])}), so that no patient comes into two splits",
        fix="; or ".join([*fixes, "options.study_is_patient=true if no patient has two studies"]),
    )


def _study(row: TableRow, columns: Mapping[str, str], root: Path, options: CsvConfig) -> AnnouncedStudy:
    number = row.line

    def written(meaning: str) -> str:
        return row.cells[columns[meaning]] if meaning in columns else ""

    def cell(meaning: str) -> str:
        return "" if is_absent(written(meaning)) else written(meaning)

    study_id = cell("study_id") or _study_of_path(row, columns, options) or f"row-{number}"
    # One column for each view, or one image column with its view beside it.
    images = {name: root / cell(name) for name in names("image") if cell(name)}
    refused = None
    if cell("image"):
        view = view_of(cell("view"), position=True).modality
        if view is None:
            refused = LeftOut(
                file=cell("image"),
                reason="unknown view",
                detail=f"line {number}: view {cell('view')!r} is none of those used",
                view=cell("view"),
            )
        else:
            images[view] = root / cell("image")
    # A whole report, or its sections.
    text = cell("report") or compose_report(cell("findings"), cell("impression"))
    absent = [
        LeftOut(
            file=f"{study_id}:{name}", reason="report: absent", detail=f"line {number}: {name} is {written(name)!r}"
        )
        for name in ("report", "findings", "impression")
        if written(name) and not cell(name)
    ]
    split = cell("split").lower()
    if split and split not in SPLIT_NAMES:
        raise DataError(
            f"{options.path}, line {number}: split {cell('split')!r}",
            expected=", ".join(SPLIT_NAMES),
            fix="correct it, or options.columns.split=null for splits of our own",
        )
    labels, invalid = _labels(row, study_id)
    if "labels" in columns:
        labels |= _named_labels(cell("labels"), f"{options.path}, line {number}", options.label_names)
    values = {meaning.removeprefix(FIELD): cell(meaning) for meaning in columns if meaning.startswith(FIELD)}
    if "view" in values:  # a lateral has no projection: nothing is said of it
        values["view"] = projection(values["view"])
    metadata = {name: cell(name) for name in ("sex", "age", "view") if cell(name)}
    return AnnouncedStudy(
        study_id=study_id,
        patient_id=cell("patient_id") or _patient(row, study_id, columns, options),
        split=SPLIT_NAMES[split] if split else None,
        images=images,
        texts={names("text")[0]: text} if text else {},
        views={name: cell("view") for name in images if cell("image")},
        labels=labels,
        values=values,
        fields=options.fields,
        metadata={**metadata, "source": SYNTHESIZED if set(row.cells) >= SYNTHESIS_COLUMNS else "csv"},
        refused=refused,
        spare=(*absent, *invalid),
    )


def _patient(row: TableRow, study_id: str, columns: Mapping[str, str], options: CsvConfig) -> str:
    """The patient of a row without an identifier: from the image's path, or the study itself where that is said."""
    if options.patient_pattern:
        match = _match_of_path(row, columns, options.patient_pattern)
        if match is not None and match.group(1):
            return match.group(1)
    elif options.study_is_patient:
        return study_id
    where = (
        f"none matches patient_pattern {options.patient_pattern!r}" if options.patient_pattern else "the cell is empty"
    )
    raise DataError(
        f"{options.path}, line {row.line}: no patient ({where})",
        expected="the patient of each study, so that no patient comes into two splits",
        fix="fill the cell, correct options.patient_pattern, or options.study_is_patient=true for rows without a patient",
    )


def _match_of_path(row: TableRow, columns: Mapping[str, str], pattern: str) -> re.Match[str] | None:
    """The first match in an image path of the row: only paths can name patient and study."""
    paths = [row.cells[columns[name]] for name in ("image", *names("image")) if name in columns]
    return next(filter(None, (re.search(pattern, path) for path in paths)), None)


def _study_of_path(row: TableRow, columns: Mapping[str, str], options: CsvConfig) -> str:
    if options.study_pattern is None:
        return ""
    match = _match_of_path(row, columns, options.study_pattern)
    if match is None:
        raise DataError(
            f"{options.path}, line {row.line}: no image path matches study_pattern {options.study_pattern!r}",
            expected="the study of each image",
            fix="correct options.study_pattern",
        )
    return "-".join(filter(None, match.groups()))


def _named_labels(cell: str, where: str, label_names: Mapping[str, str | None]) -> dict[str, float]:
    """Labels of a cell that lists their names; the others that the column can name are absent."""
    meaning = label_names or {label: label for label in CHEXPERT_LABELS}
    listed = [name.strip() for name in re.split(r"[|;,]", cell) if name.strip()]
    if not listed:
        return {}
    for name in listed:
        if name not in meaning:
            raise DataError(
                f"{where}: label {name!r}",
                expected=", ".join(meaning),
                fix=did_you_mean(name, meaning) + "; or name it in options.label_names",
            )
    present = {meaning[name] for name in listed}
    return {label: float(label in present) for label in meaning.values() if label}


def _labels(row: TableRow, study_id: str) -> tuple[dict[str, float], list[LeftOut]]:
    """Labels of the columns with CheXpert's names, and those whose cells hold something else than 1, 0, -1 or nothing."""
    labels: dict[str, float] = {}
    invalid: list[LeftOut] = []
    for label in (label for label in CHEXPERT_LABELS if not is_absent(row.cells.get(label, ""))):
        cell = row.cells[label]
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if value in (-1.0, 0.0, 1.0):
            labels[label] = value
        else:
            detail = f"line {row.line}: {label} is {cell[:40]!r}, expected 1, 0, -1 or nothing"
            invalid.append(LeftOut(file=f"{study_id}:{label}", reason="label: invalid value", detail=detail))
    return labels, invalid


def _joined(old: AnnouncedStudy, new: AnnouncedStudy, *, by_study: bool) -> AnnouncedStudy:
    """Two rows of one study as one; where a row is a whole study, the second is a duplicate."""
    if by_study and new.patient_id == old.patient_id:
        spare = LeftOut(
            file=old.study_id,
            reason="duplicate study",
            detail=f"study {old.study_id!r} appears in several rows; the first is used",
        )
        return replace(old, spare=(*old.spare, spare))
    return joined(old, new, _differing)


def _differing(old: AnnouncedStudy, new: AnnouncedStudy) -> list[LeftOut]:
    """Contents that two rows of one study give differently: the first row counts.

    Raises:
        DataError: If they name two splits.
    """
    if old.split and new.split and old.split != new.split:
        raise DataError(
            f"study {old.study_id!r} is in two splits, {old.split!r} and {new.split!r}",
            expected="all rows of a study in one split",
            fix="correct the split, or options.columns.split=null for splits of our own",
        )
    pairs = [("report", old.texts, new.texts), ("label", old.labels, new.labels), ("record", old.values, new.values)]
    return [
        LeftOut(
            file=f"{old.study_id}:{name}",
            reason=f"second {what}",
            detail=f"study {old.study_id!r} has another {name} already: {str(before[name])[:60]!r}, then {str(after[name])[:60]!r}",
        )
        for what, before, after in pairs
        for name in before
        if name in after and before[name] != after[name] and "" not in (before[name], after[name])
    ]
