"""The prompts of a row: looked at before the work begins, read when their turn comes."""

from __future__ import annotations

from pathlib import Path

from medcodi.data.images import check_image_file
from medcodi.data.reports import normalise_report, read_text
from medcodi.errors import DataError
from medcodi.generation.bulk.manifest import Row
from medcodi.generation.pipeline import read_prompt
from medcodi.generation.prompts import Value
from medcodi.modality import MODALITIES


def check_prompts(row: Row) -> None:
    """Look at a row's prompt files without decoding pixels: texts are read, images must be there and have a header.

    Raises:
        DataError: If one cannot be used.
        MissingExtraError: If one is a DICOM file and pydicom is not installed.
    """
    for name, value in row.prompts.items():
        if MODALITIES[name].kind == "text":
            normalise_report(_content(value))
            continue
        check_image_file(Path(value), modality=name)


def load_prompts(row: Row, image_size: int) -> dict[str, Value]:
    """A row's prompts as the model takes them.

    Raises:
        DataError: If one cannot be used.
    """
    return {
        name: read_prompt(name, _content(value) if MODALITIES[name].kind == "text" else value, image_size)
        for name, value in row.prompts.items()
    }


def _content(value: Path | str) -> str:
    """The text itself, or that of its file."""
    if isinstance(value, str):
        return value
    try:
        return read_text(value)
    except OSError as error:
        raise DataError(
            f"the text {value} cannot be read: {error.strerror}",
            expected="a UTF-8 text file",
            fix="check the path (relative to the manifest)",
        ) from None
