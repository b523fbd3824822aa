"""Where studies come from: one row for each kind of source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from medcodi.data.sources import csv_table, dicom_folder, mimic, mimic_tables, openi, phantoms
from medcodi.data.sources.record import Record

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # map, or one over several processes


@dataclass(frozen=True)
class Source:
    """A kind of source.

    Attributes:
        title: For the command line.
        Options: Class of its options, made by :func:`medcodi.config.config`.
        records: Options -> the studies it announces, in a fixed order; and an ``Each``, where it reads headers.
        reads_headers: It opens every file to know what it holds, which several processes may share.
        credentialed: Its use agreement says who may see the data: showing it to readers needs their attestation.
    """

    title: str
    Options: type
    records: Callable[..., Iterator[Record]]
    reads_headers: bool = False
    credentialed: bool = False

    def announce(self, options: Any, each: Each = map) -> Iterator[Record]:
        """The studies, in a fixed order; headers are read through ``each``."""
        return self.records(options, each) if self.reads_headers else self.records(options)


SOURCES: dict[str, Source] = {
    "phantom": Source("the thorax phantom, computed", phantoms.PhantomConfig, phantoms.records),
    "csv": Source("a table of image paths and texts", csv_table.CsvConfig, csv_table.records),
    "dicom": Source("any folder of DICOM files", dicom_folder.DicomConfig, dicom_folder.records, reads_headers=True),
    "mimic-cxr": Source(
        "MIMIC-CXR, DICOM", mimic_tables.MimicConfig, mimic.records_dicom, reads_headers=True, credentialed=True
    ),
    "mimic-cxr-jpg": Source("MIMIC-CXR-JPG", mimic_tables.MimicConfig, mimic.records_jpg, credentialed=True),
    "openi": Source("Indiana University, Open-i", openi.OpeniConfig, openi.records),
}
