"""The table of sources of studies: one row for each kind. Its module is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from medcodi.config import from_dict
from medcodi.data.sources.announced import AnnouncedStudy

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]  # map, or one over several processes


@dataclass(frozen=True)
class Source:
    """A kind of source."""

    title: str  # for the command line
    module: str  # module of this folder that holds its config class and its function of studies
    config: str  # name of the class of its options, made by :func:`medcodi.config.config`
    # name of the function: config, and an ``Each`` where it reads headers -> the studies it announces, in a fixed order
    studies: str = "studies"
    reads_headers: bool = False  # it opens every file to learn its content, which several processes may share
    # its use agreement says who may see the data: showing it to readers needs their attestation
    credentialed: bool = False

    def announce(self, kind: str, options: Mapping[str, Any], each: Each = map) -> Iterator[AnnouncedStudy]:
        """The studies, in a fixed order; headers are read through ``each``.

        Args:
            kind: Key of the row, for messages.
            options: Values of the config class, as YAML or the command line gives them.
            each: Applies a function to many files, in their order.

        Raises:
            DataError: If the source cannot be read.
            ConfigError: If an option is unknown or invalid.
        """
        module = import_module(f"{__name__}.{self.module}")
        config = from_dict(getattr(module, self.config), dict(options), source=f"options of source {kind!r}")
        studies = getattr(module, self.studies)
        return studies(config, each) if self.reads_headers else studies(config)


SOURCES: dict[str, Source] = {
    "phantom": Source("the thorax phantom, computed", "phantoms", "PhantomConfig"),
    "csv": Source("a table of image paths and texts", "csv_table", "CsvConfig"),
    "dicom": Source("any folder of DICOM files", "dicom_folder", "DicomConfig", reads_headers=True),
    "mimic-cxr": Source(
        "MIMIC-CXR, DICOM", "mimic", "MimicConfig", "studies_dicom", reads_headers=True, credentialed=True
    ),
    "mimic-cxr-jpg": Source("MIMIC-CXR-JPG", "mimic", "MimicConfig", "studies_jpg", credentialed=True),
    "openi": Source("Indiana University, Open-i", "openi", "OpeniConfig"),
}
