"""Records of MIMIC-CXR's studies, joined to the tables of MIMIC-IV and MIMIC-IV-ED: age, sex, and the first values before a study.

Dates of the databases are shifted, by the same time for all tables of a patient. They serve the join alone: no date enters a dataset.
Tables of events have a hundred million rows and more: they are read in blocks, and only what a study uses is held.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medcodi.data.sources.announced import OLDEST, LeftOut
from medcodi.data.sources.mimic_tables import MimicConfig
from medcodi.data.tables import find_table, read_header, read_table
from medcodi.errors import DataError, first_line, one_of

# Field -> itemids of hosp/d_labitems and icu/d_items, in the units of CLINICAL_RECORD but for degrees Fahrenheit.
ITEMS: dict[str, tuple[int, ...]] = {
    "bnp": (50963,),  # NTproBNP
    "crp": (50889,),  # C-Reactive Protein
    "leucocytes": (51301,),  # White Blood Cells
    "haemoglobin": (51222,),  # Hemoglobin
    "temperature": (223762, 223761),  # Temperature Celsius, Temperature Fahrenheit
    "oxygen_saturation": (220277,),  # O2 saturation pulseoxymetry
    "heart_rate": (220045,),  # Heart Rate
}
# Column of ed/vitalsign -> field.
_VITAL_SIGNS = {"temperature": "temperature", "o2sat": "oxygen_saturation", "heartrate": "heart_rate"}
_ED_UNITS = {"temperature": "F"}
_FAHRENHEIT = ("f", "°f", "?f")
_TOP_CODED = 91  # anchor_age of all patients who were older than 89 in their anchor year
_BLOCK = 2**22  # bytes of a table of events that are parsed at once
_TIME = "%Y-%m-%d %H:%M:%S"


@dataclass(kw_only=True)
class JoinedRecord:
    """The part of a study that comes from MIMIC-IV: values as texts with their units, and what is missing."""

    values: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    spare: tuple[LeftOut, ...] = ()


def study_time(row: Mapping[str, str]) -> int | None:
    """Time of a study in seconds, from ``StudyDate`` (20800506) and ``StudyTime`` (93014.531, leading zeros dropped); None without."""
    clock = row.get("StudyTime", "").partition(".")[0].zfill(6)
    try:
        return _seconds(f"{row.get('StudyDate', '')} {clock}", "%Y%m%d %H%M%S")
    except ValueError:
        return None


def _seconds(text: str, form: str = _TIME) -> int:
    return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp())


def joined_records(options: MimicConfig, times: Mapping[str, tuple[int, int | None]]) -> dict[str, JoinedRecord]:
    """Study -> its part of MIMIC-IV.

    Args:
        options: With ``mimic_iv``, and ``mimic_iv_ed`` where that is there.
        times: Study -> subject_id, and :func:`study_time`.

    Raises:
        DataError: If a table is missing or cannot be read, or a field or itemid is unknown.
    """
    hosp = _module(str(options.mimic_iv), "hosp", "mimic_iv")
    patients, admissions = _table(hosp, "patients"), _table(hosp, "admissions")
    labs, charts = _table(hosp, "labevents"), find_table(hosp.parent / "icu", "chartevents")
    vital_signs = options.mimic_iv_ed and _table(_module(options.mimic_iv_ed, "ed", "mimic_iv_ed"), "vitalsign")
    field_of = _fields_of_items(options, hosp)
    of_admission = _fields_of_admissions(options, admissions)

    # Age and sex, and the admission that a study falls into.
    subjects = {subject for subject, _ in times.values()}
    try:
        columns = ("gender", "anchor_age", "anchor_year")
        people = {int(row["subject_id"]): row for row in _rows_of(patients, columns, subjects)}
        stays: dict[int, list[dict[str, str]]] = {}
        for row in _rows_of(admissions, ("hadm_id", "admittime"), subjects):
            stays.setdefault(int(row["subject_id"]), []).append(row)
        joined = {
            study: _of_patient(study, people.get(subject), time, stays.get(subject, ()), of_admission)
            for study, (subject, time) in times.items()
        }
    except ValueError as error:  # a number or a time that is none; our own refusals pass
        if isinstance(error, DataError):
            raise
        raise DataError(f"{patients} or {admissions}: {error}", fix="download the tables again") from None

    # First values in the window before each study, of all tables of events.
    first = _FirstValues(times, options.record_hours)
    for path in filter(None, (labs, charts)):
        for subject, time, item, number, unit in _events(
            path, ("itemid", "valuenum", "valueuom"), subjects, set(field_of)
        ):
            first.add(subject, time, field_of[item], number, unit)
    if vital_signs:
        for subject, time, *numbers in _events(vital_signs, tuple(_VITAL_SIGNS), subjects):
            for (column, name), number in zip(_VITAL_SIGNS.items(), numbers, strict=True):
                first.add(subject, time, name, number, _ED_UNITS.get(column, ""))
    for study, values in first.values.items():
        joined[study].values |= {name: text for name, (_, text) in values.items()}
    return joined


def _of_patient(
    study: str,
    person: Mapping[str, str] | None,
    time: int | None,
    stays: Iterable[Mapping[str, str]],
    of_admission: Iterable[str],
) -> JoinedRecord:
    if person is None:
        detail = f"the patient of study {study!r} is not in MIMIC-IV's table of patients"
        return JoinedRecord(
            spare=(LeftOut(file=f"{study}:record", reason="record: patient not in MIMIC-IV", detail=detail),)
        )
    values = {"sex": person["gender"]}
    if time is None:
        detail = f"study {study!r} has no StudyDate and StudyTime: neither age nor values"
        return JoinedRecord(
            values=values, spare=(LeftOut(file=f"{study}:record", reason="record: no study time", detail=detail),)
        )
    # The anchor year is the patient's own, shifted as all dates of the patient are.
    years = datetime.fromtimestamp(time, UTC).year - int(person["anchor_year"])
    age = int(person["anchor_age"])
    if age < _TOP_CODED:
        values["age"] = str(age + years)
    elif years >= 0:  # before the anchor year, nothing is known of an age above 89
        values["age"] = str(OLDEST)
    # The admission that the study falls into, where there is one.
    stay = next((row for row in stays if _seconds(row["admittime"]) <= time <= _end_of(row)), None)
    if stay is None:
        return JoinedRecord(values=values)
    return JoinedRecord(
        values={**values, **{name: stay[name] for name in of_admission}}, metadata={"admission": stay["hadm_id"]}
    )


def _end_of(row: Mapping[str, str]) -> float:
    return _seconds(row["dischtime"]) if row.get("dischtime") else float("inf")


class _FirstValues:
    """The first value of each field in the hours before each study."""

    def __init__(self, times: Mapping[str, tuple[int, int | None]], hours: float) -> None:
        self._window = int(hours * 3600)
        self.values: dict[str, dict[str, tuple[int, str]]] = {}  # study -> field -> time and value
        by_subject: dict[int, list[tuple[int, str]]] = {}
        for study, (subject, time) in times.items():
            if time is not None:
                by_subject.setdefault(subject, []).append((time, study))
        self._studies = {subject: sorted(studies) for subject, studies in by_subject.items()}

    def add(self, subject: int, time: int | None, name: str, number: float | None, unit: str) -> None:
        """Enter a value; one without a time or a number says nothing."""
        if time is None or number is None:
            return
        if unit.lower() in _FAHRENHEIT:
            number, unit = round((number - 32) / 1.8, 2), "C"
        # The patient's studies from the time of the value to the end of its window.
        studies = self._studies.get(subject, [])
        start = bisect_left(studies, (time, ""))
        stop = bisect_right(studies, (time + self._window, "\U0010ffff"))
        for _, study in studies[start:stop]:
            values = self.values.setdefault(study, {})
            if name not in values or time < values[name][0]:
                values[name] = time, f"{number:g} {unit}".strip()


# ---- fields and items ------------------------------------------------------------------------------------------------
def _fields_of_items(options: MimicConfig, hosp: Path) -> dict[int, str]:
    """Itemid -> field; every itemid of the options is in a dictionary of the database."""
    items = {**ITEMS, **options.items}
    known: set[int] = set()
    if options.items:
        dictionaries = [_table(hosp, "d_labitems"), find_table(hosp.parent / "icu", "d_items")]
        known = {int(row["itemid"]) for path in filter(None, dictionaries) for row in read_table(path, ("itemid",))}
    for name, chosen in options.items.items():
        if absent := [item for item in chosen if item not in known]:
            raise DataError(
                f"options.items.{name} names the itemid {absent[0]}",
                expected="itemids of hosp/d_labitems or icu/d_items",
                fix="look it up there by its label",
            )
    return {item: name for name, chosen in items.items() for item in chosen}


def _fields_of_admissions(options: MimicConfig, path: Path) -> list[str]:
    """Fields without items: columns of the table of admissions."""
    columns = [column for column in read_header(path) if not column.endswith(("_id", "time"))]
    return [
        one_of("column of admissions, or field of options.items", name, columns, DataError)
        for name in options.fields
        if name not in options.items
    ]


# ---- tables ----------------------------------------------------------------------------------------------------------
def _module(folder: str, name: str, option: str) -> Path:
    path = Path(folder) / name
    if not path.is_dir():
        raise DataError(
            f"no folder at {path}",
            expected=f"the database as downloaded, with {name}/ in it",
            fix=f"check options.{option}",
        )
    return path


def _table(folder: Path, name: str) -> Path:
    path = find_table(folder, name)
    if path is None:
        raise DataError(
            f"no {name}.csv.gz in {folder}", expected="the tables of MIMIC-IV as downloaded", fix="download it there"
        )
    return path


def _rows_of(path: Path, columns: tuple[str, ...], subjects: set[int]) -> Iterator[dict[str, str]]:
    """The rows of some patients."""
    for row in read_table(path, ("subject_id", *columns)):
        if int(row["subject_id"]) in subjects:
            yield row


def _events(
    path: Path, columns: tuple[str, ...], subjects: set[int], items: set[int] | None = None
) -> Iterator[tuple[Any, ...]]:
    """Subject, time in seconds, and columns of the rows of some patients and items; one block of the file is in memory at a time."""
    import pyarrow as pa
    from pyarrow import compute as functions
    from pyarrow import csv

    compute: Any = functions  # its functions are made at run time
    types = {"subject_id": pa.int64(), "charttime": pa.timestamp("s"), **dict.fromkeys(columns, pa.float64())}
    types |= {name: kind for name, kind in (("itemid", pa.int64()), ("valueuom", pa.string())) if name in columns}
    patients = pa.array(subjects, pa.int64())
    try:
        with csv.open_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=types, include_columns=list(types)),
        ) as reader:
            for batch in reader:
                mask = compute.is_in(batch["subject_id"], value_set=patients)
                if items is not None:
                    mask = compute.and_(mask, compute.is_in(batch["itemid"], value_set=pa.array(items, pa.int64())))
                rows = batch.filter(mask)
                parts = [rows[name].cast(pa.int64()) if name == "charttime" else rows[name] for name in types]
                yield from zip(*(part.to_pylist() for part in parts), strict=True)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read: {first_line(error)}",
            expected=f"a table with the columns {', '.join(types)}",
            fix="download it again",
        ) from None
