"""Where studies come from: one row for each kind of source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from medcodi.data.sources import csv_table, dicom_folder, mimic, mimic_tables, openi, phantoms
from medcodi.data.sources.record import Record


@dataclass(frozen=True)
class Source:
    """A kind of source.

    Attributes:
        title: For the command line.
        Options: Class of its options, made by :func:`medcodi.config.config`.
        records: Options -> the studies it announces, in a fixed order.
        credentialed: Its use agreement says who may see the data: showing it to readers needs their attestation.
    """

    title: str
    Options: type
    records: Callable[[Any], Iterator[Record]]
    credentialed: bool = False


SOURCES: dict[str, Source] = {
    "phantom": Source("the thorax phantom, computed", phantoms.PhantomOptions, phantoms.records),
    "csv": Source("a table of image paths and texts", csv_table.CsvOptions, csv_table.records),
    "dicom": Source("any folder of DICOM files", dicom_folder.DicomOptions, dicom_folder.records),
    "mimic-cxr": Source("MIMIC-CXR, DICOM", mimic_tables.MimicOptions, mimic.records_dicom, credentialed=True),
    "mimic-cxr-jpg": Source("MIMIC-CXR-JPG", mimic_tables.MimicOptions, mimic.records_jpg, credentialed=True),
    "openi": Source("Indiana University, Open-i", openi.OpeniOptions, openi.records),
}
