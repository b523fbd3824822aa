"""Pages of one file: templates of this folder, with images and texts inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from medcodi.data.reports import sections
from medcodi.errors import DataError
from medcodi.metrics.labeler import label_report
from medcodi.modality import MODALITIES
from medcodi.pages.page import image_data_uri
from medcodi.study import Finding


def render(template: str, **values: Any) -> str:
    """Fill a template of ``medcodi/app/templates``; every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["modalities"] = MODALITIES
    environment.filters |= {
        "data_uri": image_data_uri,
        "sections": sections,
        "words": finding_words,
        "read": label_report,
    }
    return environment.get_template(template).render(**values)


def write_page(html: str, path: Path) -> Path:
    """Write a page whole or not at all; the folder is made.

    Raises:
        DataError: If it cannot be written there.
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(html, encoding="utf-8")
        return part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}", fix="choose another folder with --out") from None


def finding_words(finding: Finding) -> str:
    """``"large left lower Lung Lesion"``."""
    return " ".join(filter(None, (finding.size, finding.side, finding.location, finding.label)))
