"""DICOM tags of any type, multiplicity or text: each is read by what it should hold, or the file is refused by its name."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcodi.data.images import MAX_PIXELS
from medcodi.data.refusals import Refused, check_file
from medcodi.errors import MedCoDiError, MissingExtraError, first_line

if TYPE_CHECKING:
    from pydicom import Dataset

_DEFLATED = "1.2.840.10008.1.2.1.99"
_MAX_INFLATED = 4 * MAX_PIXELS  # bytes: the largest image allowed, 16 bit, and as much again
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


@contextmanager
def corrupt_if_it_fails(where: str) -> Iterator[None]:
    """Turn whatever pydicom or a decoder raises on a broken file into a refusal that names the file."""
    try:
        yield
    except MedCoDiError:
        raise
    except Exception as error:  # foreign code on foreign bytes: any kind is possible
        raise Refused(
            f"{where} is corrupt ({type(error).__name__}: {first_line(error)[:200]})",
            reason="corrupt",
            expected="a whole DICOM file",
            fix="export it again",
        ) from error


class Tags:
    """The tags of one file. An element without a value counts as absent (PS3.5 7.4)."""

    def __init__(self, dataset: Dataset, where: str) -> None:
        self.dataset, self.where = dataset, where

    def values(self, keyword: str) -> list[Any]:
        """All values of an element; an empty list where it is absent or empty.

        Raises:
            Refused: If the element cannot be decoded.
        """
        try:
            value = self.dataset.get(keyword)
        except Exception as error:  # pydicom converts on access, and raises many kinds
            raise self._invalid(keyword, first_line(error), "a value of the tag's type") from error
        if value is None or (isinstance(value, str | bytes) and not value):
            return []
        return list(value) if isinstance(value, list | tuple) or hasattr(value, "append") else [value]

    def text(self, keyword: str) -> str:
        """The first value as text, stripped; "" where there is none, or where it is a sequence of items."""
        value = next(iter(self.values(keyword)), "")
        return "" if self._is_item(value) else _decoded(value).strip("\x00 \t\r\n")

    def texts(self, keyword: str) -> list[str]:
        """Every value as text."""
        return [_decoded(value).strip("\x00 \t\r\n") for value in self.values(keyword) if not self._is_item(value)]

    def number(self, keyword: str) -> float | None:
        """The first value as a number, a decimal comma included; None where there is none.

        Raises:
            Refused: If it is not a finite number.
        """
        return next(iter(self.numbers(keyword)), None)

    def numbers(self, keyword: str) -> list[float]:
        """Every value as a number."""
        return [self._number(keyword, text) for text in self.texts(keyword) if text]

    def _number(self, keyword: str, text: str) -> float:
        try:
            value = float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._invalid(keyword, repr(text), "a number")
        return value

    def integer(self, keyword: str, default: int | None = None) -> int:
        """The first value as a whole number (``"1.0"`` is 1); ``default`` where there is none.

        Raises:
            Refused: If it is not a whole number, or absent without a default.
        """
        value = self.number(keyword)
        if value is None and default is not None:
            return default
        if value is None or value != int(value):
            raise self._invalid(keyword, repr(self.text(keyword)), "a whole number")
        return int(value)

    def items(self, keyword: str) -> list[Tags]:
        """The items of a sequence; an empty list where the element is absent or is no sequence."""
        return [Tags(value, self.where) for value in self.values(keyword) if self._is_item(value)]

    @staticmethod
    def _is_item(value: Any) -> bool:
        return hasattr(value, "file_meta") or hasattr(value, "group_dataset")

    def _invalid(self, keyword: str, value: str, expected: str) -> Refused:
        return Refused(
            f"{self.where}: its tag {keyword} is invalid ({value[:80]})",
            reason="invalid tag",
            expected=expected,
            fix="correct the tag, or leave the file out",
        )


def _decoded(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


# ---- files -------------------------------------------------------------------------------------------------------------
def read_tags(path: Path, only: Sequence[str] = ()) -> Tags:
    """The tags of a file: all of them with its pixels, or ``only`` those that are named.

    Raises:
        Refused: If the file is missing, empty, no DICOM file, or too large.
        MissingExtraError: If pydicom is not installed.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise MissingExtraError("pydicom", extra="dicom", needed_for="reading DICOM files") from None
    check_file(path, str(path))
    some: dict[str, Any] = {"stop_before_pixels": True, "specific_tags": list(only)} if only else {}
    _check_inflated_size(path)
    try:
        return Tags(pydicom.dcmread(path, **some), str(path))
    except InvalidDicomError:
        pass
    # No preamble and no DICM mark, as older exports write it: read on trial, and taken if it describes an image.
    dataset = pydicom.dcmread(path, force=True, **some)
    if "Rows" not in dataset or "Modality" not in dataset:
        raise Refused(
            f"{path} is not a DICOM file (no DICM mark at byte 128, no image tags)",
            reason="unreadable",
            expected="a DICOM file",
            fix="export it as DICOM again, or rename it if it is another kind of image",
        )
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _plain_syntax(dataset)
    return Tags(dataset, str(path))


def _plain_syntax(dataset: Dataset) -> Any:
    """The uncompressed transfer syntax that a data set without file meta information was read in."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _check_inflated_size(path: Path) -> None:
    """Refuse a deflated file that grows beyond the largest image allowed, before it is held in memory."""
    from pydicom.filereader import read_file_meta_info

    try:
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
    except Exception:  # not a DICOM file with meta information: the reader says so
        return
    if syntax != _DEFLATED:
        return
    with path.open("rb") as file:
        data = file.read()
    # The deflated part starts after the meta group, whose length is in its first element.
    start = 144 + int.from_bytes(data[140:144], "little")
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    rest = data[start:]
    while rest and size <= _MAX_INFLATED:
        size += len(inflater.decompress(rest, 2**24))
        rest = inflater.unconsumed_tail
    if size > _MAX_INFLATED:
        raise Refused(
            f"{path} inflates to more than {_MAX_INFLATED / 2**20:,.0f} MiB",
            reason="too large",
            expected=f"an image of at most {MAX_PIXELS:,} pixels",
            fix="export it uncompressed",
        )
