"""Names of MIMIC-CXR's folders and tables, and the refusals where they are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field
from functools import partial
from pathlib import Path

from medcodi.config import Finite, config
from medcodi.data.dataset import SPLIT_NAMES
from medcodi.data.tables import find_table, read_table
from medcodi.errors import DataError, one_of
from medcodi.record import CLINICAL_RECORD, FieldConfig
from medcodi.storage.names import is_plain_name
from medcodi.study import CHEXPERT_LABELS

IDS = ("subject_id", "study_id")
LABELERS = ("chexpert", "negbio")
_LABELS = {"1.0": 1.0, "0.0": 0.0, "-1.0": -1.0, "1": 1.0, "0": 0.0, "-1": -1.0}


@config
class MimicConfig:
    """Options of sources ``mimic-cxr`` and ``mimic-cxr-jpg``."""

    path: str  # The folder that holds ``files/``
    # Folder of the tables (split, metadata, labels; they come with MIMIC-CXR-JPG); None: ``path``
    tables: str | None = None
    reports: str | None = None  # Folder that holds ``files/p10/...txt``; None: ``path``, or ``mimic-cxr-reports`` in it
    need_reports: bool = True  # Refuse where no report is found; false prepares images alone
    labels: str | None = "chexpert"  # ``chexpert``, ``negbio``, or null for none
    official_split: bool = True  # Take the official split; false divides by patient as for other sources
    groups: list[str] | None = None  # Only these folders of patients (``[p10, p11]``); None: all of them must be there
    # Folder of MIMIC-IV, which holds ``hosp/`` and ``icu/``: fills the records; None: no records
    mimic_iv: str | None = None
    mimic_iv_ed: str | None = None  # Folder of MIMIC-IV-ED, which holds ``ed/``: its vital signs too
    record_hours: Finite = 24.0  # Window before the study of whose values the first is taken, in hours
    # Further fields of the record: those of ``items``, and columns of the table of admissions
    fields: dict[str, FieldConfig] = field(default_factory=dict)
    # Field -> itemids of laboratory values or vital signs, beside the usual (``{creatinine: [50912]}``)
    items: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mimic_iv is None and (self.mimic_iv_ed or self.fields or self.items):
            raise ValueError("mimic_iv_ed, fields and items need mimic_iv, the folder of MIMIC-IV")
        if not self.record_hours > 0:
            raise ValueError(f"record_hours is {self.record_hours:g}, must be above 0")
        for name in self.items:
            one_of("field of items", name, (*CLINICAL_RECORD.fields, *self.fields), DataError)
        if self.labels is not None:
            one_of("labels", self.labels, LABELERS, DataError)


def tables_folder(options: MimicConfig) -> Path:
    """The folder of the tables."""
    folder = Path(options.tables or options.path)
    if not folder.is_dir():
        raise DataError(
            f"no folder at {folder}", expected="the folder of MIMIC-CXR's tables", fix="check options.tables"
        )
    return folder


def mimic_table(options: MimicConfig, pattern: str, what: str, fix: str = "") -> Path:
    """A table that must be there. ``what`` names its content in the refusal."""
    folder = tables_folder(options)
    path = find_table(folder, pattern)
    if path is None:
        raise DataError(
            f"no {pattern}.csv.gz in {folder}, which holds {what}",
            expected="the tables of MIMIC-CXR-JPG",
            fix="download it, and give its folder as options.tables" + fix,
        )
    return path


def official_splits(options: MimicConfig) -> dict[str, str] | None:
    """Image -> split; None where our own is wanted."""
    if not options.official_split:
        return None
    path = mimic_table(
        options, "mimic-cxr-*-split", "the official split", "; or options.official_split=false for splits of our own"
    )
    # An image may have one split only, and one of the known names.
    split_of: dict[str, str] = {}
    for number, row in enumerate(read_table(path, ("dicom_id", "split")), start=2):
        split = SPLIT_NAMES.get(row["split"].lower())
        if split is None or split_of.setdefault(row["dicom_id"], split) != split:
            raise DataError(
                f"{path}, line {number}: dicom_id {row['dicom_id']!r} is in split {row['split']!r}"
                + ("" if split is None else f", and in {split_of[row['dicom_id']]!r} before"),
                expected="train, validate or test, once for each image",
                fix="download the table again",
            )
    return split_of


def study_labels(options: MimicConfig) -> dict[str, dict[str, float]]:
    """Study -> labels; a blank cell (not mentioned) has no key, which differs from 0 (denied)."""
    if options.labels is None:
        return {}
    path = mimic_table(options, f"mimic-cxr-*-{options.labels}", "the labels", "; or options.labels=null for none")
    # Any value but 1, 0, -1 or nothing means a damaged table.
    labels: dict[str, dict[str, float]] = {}
    for number, row in enumerate(read_table(path, IDS), start=2):
        cells = {label: row[label] for label in CHEXPERT_LABELS if row.get(label)}
        if wrong := next((label for label, cell in cells.items() if cell not in _LABELS), None):
            raise DataError(
                f"{path}, line {number}: {wrong} is {cells[wrong]!r}",
                expected="1.0, 0.0, -1.0 or nothing",
                fix="download the table again",
            )
        labels.setdefault(f"s{row['study_id']}", {label: _LABELS[cell] for label, cell in cells.items()})
    return labels


def report_paths(options: MimicConfig) -> Callable[[str, str], Path | None]:
    """(patient, study) -> path of the report, or None where none are wanted."""
    if not options.need_reports and options.reports is None:
        return lambda patient, study_id: None
    # Accept the folder itself, its files/, or the unpacked archive.
    root = Path(options.reports or options.path)
    places = [root / "files", root, root / "mimic-cxr-reports" / "files"]
    folder = next((place for place in places if next(place.glob("p[0-9][0-9]/p*/s*.txt"), None)), None)
    if folder is None:
        archive = next(root.glob("mimic-cxr-reports.zip"), None)
        raise DataError(
            f"no report in {root}: none like files/p10/p10000032/s50414267.txt",
            expected="the reports of MIMIC-CXR, unpacked",
            fix=(
                f"unzip {archive}" if archive else "unzip mimic-cxr-reports.zip, and give its folder as options.reports"
            )
            + "; options.need_reports=false prepares images alone",
        )
    return partial(_report_path, folder)


def _report_path(root: Path, patient: str, study_id: str) -> Path | None:
    if not is_plain_name(patient) or not is_plain_name(f"{study_id}.txt"):  # a number out of a table is no path
        return None
    return root / patient[:3] / patient / f"{study_id}.txt"


def check_groups(root: Path, patients: Iterable[str]) -> None:
    """Half a tree is refused at once, not after hours of reading the other half."""
    # Folders p10 to p19 hold the patients by the first digits of their numbers.
    groups = sorted({patient[:3] for patient in patients})
    missing = [group for group in groups if not (root / "files" / group).is_dir()]
    if missing:
        there = [group for group in groups if group not in missing]
        raise DataError(
            f"{root / 'files'} has no {', '.join(missing)}, which the tables name",
            expected=", ".join(groups),
            fix="download the rest" + (f", or options.groups=[{', '.join(there)}]" if there else ""),
        )
