"""Views from words: view positions and projections as DICOM tags, tables and other languages write them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from medcodi.modality import MODALITIES

# Views of a chest that are neither an upright or supine frontal nor a lateral, and parts that are no chest view at all.
_OTHER_VIEWS = re.compile(
    r"(?:DECUB\w*|[LR]LD|[LR][PA]O|OBL\w*|AXIAL|AXIAAL|SWIMMERS?|LORDOTIC\w*|LORDOTICA|COSTAL|RIBS?|EXPIRAT\w*|TANGENTIAL|SKYLINE)"
)


@dataclass(frozen=True)
class View:
    """The view that a text names."""

    # the image modality that it means; None where it names another view, several views, or none
    modality: str | None = None
    named: bool = False  # it names a view, known or not used: a default view must not replace it


def view_of(text: str, *, position: bool = False) -> View:
    """The view that a text names: ``"AP supine portable"``, ``"Lateral (left)"``, ``"perfil"``.

    Args:
        text: A view position, a projection, or a description such as ``"CHEST PA AND LATERAL"``.
        position: The text is there to name the view (a view position): whatever it says, a view is named.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().upper().strip()
    words = [word for word in re.split(r"[^A-Z]+", plain) if word]
    if any(_OTHER_VIEWS.fullmatch(word) for word in words):
        return View(named=True)
    # A text that is exactly one code may be a single letter ("L"); inside a description a single letter is a side.
    codes = [plain] + [word for word in words if len(word) > 1]
    images = {name: row for name, row in MODALITIES.items() if row.kind == "image"}
    modalities = {name for name, row in images.items() for code in codes if code in (*row.view_codes, name.upper())}
    if len(modalities) == 1:
        return View(modalities.pop(), named=True)
    return View(named=position and bool(words))
