"""A balanced manifest: the findings of a dataset's studies, asked of patients whose age, sex ... are in groups of equal size."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from medcodi.data.dataset import open_dataset
from medcodi.data.reports import compose_report, sections
from medcodi.errors import DataError, PromptError, one_of
from medcodi.generation.bulk.manifest import is_row_id
from medcodi.modality import names
from medcodi.randomness import numpy_generator
from medcodi.record import RecordValue
from medcodi.storage import atomic

Group = tuple[str, ...]  # a value or band of each balanced field: ("F", "60-80")


@dataclass(frozen=True, kw_only=True)
class BalancedField:
    """A field of the record whose values are balanced: categories, or bands of a number."""

    name: str
    width: float | None = None  # of a band, in the field's unit; None: the field is categorical

    def band(self, value: RecordValue) -> str:
        """The group of a value: itself, or the band ``60-80`` that holds it, its upper end excluded."""
        if isinstance(value, str) or self.width is None:
            return str(value)
        low = math.floor(value / self.width) * self.width
        return f"{low:g}-{low + self.width:g}"


@dataclass(frozen=True, kw_only=True)
class Balance:
    """A balanced manifest."""

    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    before: Counter[Group] = field(default_factory=Counter)  # studies of the dataset in each group
    after: Counter[Group] = field(default_factory=Counter)  # rows in each group
    num_left_out: int = 0  # studies without findings in words

    def write(self, path: Path) -> None:
        """Write it as CSV; a file that is there must be the same.

        Raises:
            DataError: If there is another file, or it cannot be written.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        if path.exists() and (not path.is_file() or path.read_bytes() != text.getvalue().encode()):
            raise DataError(
                f"{path} exists, and is not the manifest that --balance would write", fix="choose another --manifest"
            )
        atomic.write_text(path, text.getvalue(), error=DataError, then="run it again")


def read_balance(text: str) -> tuple[BalancedField, ...]:
    """Parse ``sex,age:20``: categorical fields, and numeric ones with the width of their bands."""
    fields: list[BalancedField] = []
    for part in text.split(","):
        name, colon, width = (piece.strip() for piece in part.partition(":"))
        try:
            number = float(width) if colon else None
        except ValueError:
            number = math.nan
        if not name or name in {known.name for known in fields} or (number is not None and not 0 < number < math.inf):
            raise PromptError(
                f"--balance {text!r}: {part!r}",
                expected="each field once, with the width of a number's bands: sex,age:20",
            )
        fields.append(BalancedField(name=name, width=number))
    return tuple(fields)


def balanced(data: str, split: str, fields: Sequence[BalancedField], seed: int = 0) -> Balance:
    """A row for each study with findings in words: its findings as report, and a record that is drawn anew.

    Every combination of categories and bands that the fields take in the dataset gets the same number of rows (but for one), at
    random among the studies, so that no finding goes with a group. Within a band, numbers follow the dataset's.

    Args:
        data: A prepared dataset, with records and reports.
        split: Of the dataset.
        fields: What is balanced.
        seed: Of the draws.

    Raises:
        DataError: If there is no such dataset, field or report, or there are fewer studies than groups.
    """
    dataset = open_dataset(data, split)
    records = [dataset.record(index) or {} for index in range(len(dataset))]
    values = {each.name: _values(each, records, dataset.name) for each in fields}  # field -> band -> values
    groups: list[Group] = list(product(*(sorted(bands, key=_order) for bands in values.values())))

    # Findings and impression alone: an indication would name the age and sex of the patient that was.
    texts = [(dataset.study_id(index), _findings(dataset.report(index) or "")) for index in range(len(dataset))]
    texts = [(study_id, text) for study_id, text in texts if text]
    if len(texts) < len(groups):
        raise DataError(
            f"{len(texts):,} of {len(dataset):,} studies of {dataset.name} have findings in words, for {len(groups)} groups",
            expected="at least one study for each group",
            fix="wider bands, or fewer fields",
        )

    # Deal the groups out over the studies in random order, and draw the values of each.
    rng = numpy_generator("balance", seed, *(f"{each.name}:{each.width}" for each in fields))
    group_of = {int(study): groups[place % len(groups)] for place, study in enumerate(rng.permutation(len(texts)))}
    use_ids = all(is_row_id(study_id) for study_id, _ in texts)
    record_name, report_name = names("table")[0], names("text")[0]
    rows = []
    for number, (study_id, text) in enumerate(texts):
        row = {"id": study_id if use_ids else f"balanced-{number:06d}", report_name: text}
        for name, band in zip(values, group_of[number], strict=True):
            drawn = values[name][band][int(rng.integers(len(values[name][band])))]
            row[f"{record_name}.{name}"] = drawn if isinstance(drawn, str) else f"{drawn:g}"
        rows.append(row)
    whole = [record for record in records if all(each.name in record for each in fields)]
    return Balance(
        columns=("id", report_name, *(f"{record_name}.{name}" for name in values)),
        rows=rows,
        before=Counter(tuple(each.band(record[each.name]) for each in fields) for record in whole),
        after=Counter(group_of.values()),
        num_left_out=len(dataset) - len(texts),
    )


def _values(each: BalancedField, records: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[RecordValue]]:
    """Band -> the values of a field in it."""
    known = dict.fromkeys(key for record in records for key in record)
    if not known:
        raise DataError(
            f"no study of {name} has a record",
            expected=f"records with the field {each.name}",
            fix="prepare the data with records: docs/DATA.md",
        )
    one_of(f"field of the records of {name}", each.name, known, DataError)
    values = [record[each.name] for record in records if each.name in record]
    if isinstance(values[0], str) != (each.width is None):
        is_text = isinstance(values[0], str)
        raise DataError(
            f"--balance: {each.name} is {'categorical' if is_text else 'a number'}",
            expected=each.name if is_text else "the width of its bands",
            fix=each.name if is_text else f"{each.name}:20, for one",
        )
    bands: dict[str, list[RecordValue]] = {}
    for value in values:
        bands.setdefault(each.band(value), []).append(value)
    return bands


def _order(band: str) -> tuple[float, str]:
    """Bands of numbers in their order, categories by name."""
    start = band.rpartition("-")[0]
    try:
        return float(start), band
    except ValueError:
        return 0.0, band


def _findings(report: str) -> str:
    parts = sections(report)
    return compose_report(parts.get("findings") or parts.get("", ""), parts.get("impression", ""))
