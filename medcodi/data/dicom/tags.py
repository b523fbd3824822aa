"""DICOM tags of any type, multiplicity or text: each is read by what it should hold, or the file is refused by its name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from medcodi.data.refusals import Refused
from medcodi.errors import MedCoDiError, first_line

if TYPE_CHECKING:
    from pydicom import Dataset

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
