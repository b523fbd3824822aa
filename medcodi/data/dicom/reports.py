"""Reports as DICOM: Basic Text SR out and in, and encapsulated PDF out.

Written with pydicom alone: highdicom has Enhanced and Comprehensive SR but no Basic Text SR, needs an image to refer to, and dates its
documents by the clock, so that the same sample would be another file each time.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from medcodi.data.dicom.attributes import code, derivation, made_by, model_uid, new_object, uid
from medcodi.data.reports import compose_report, sections
from medcodi.errors import DataError
from medcodi.modality import modality as modality_named
from medcodi.modality import names
from medcodi.record import Record

if TYPE_CHECKING:
    from pydicom import Dataset

BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
SR_CLASSES = "1.2.840.10008.5.1.4.1.1.88."  # every SOP class of structured reports begins with it
# Type 1 of an SR, though nothing was examined on any day: one that nobody takes for a date of an examination.
_NO_DATE, _NO_TIME = "19700101", "000000"
_TITLE = ("11528-7", "LN", "Radiology Report")  # PS3.16 CID 7000
_TEXT = ("121071", "DCM", "Finding")
# Section of a report -> its heading (CID 7001) and the concept of its text (CID 7002).
_SECTIONS = {
    "findings": (("121070", "DCM", "Findings"), _TEXT),
    "impression": (("121072", "DCM", "Impressions"), ("121073", "DCM", "Impression")),
}
# Code of a heading -> how a report writes it.
_HEADINGS = {"121070": "FINDINGS", "121072": "IMPRESSION", "121076": "CONCLUSION", "121060": "HISTORY", "121109": "INDICATION"}  # fmt: skip
_MAX_DEPTH = 32  # of a tree of content items; real ones have about five levels
# An A4 page in points, with a font of one width: no table of widths is needed to break lines.
_PAGE, _MARGIN, _FONT_SIZE, _LINE_STEP = (595, 842), 56, 10, 14
_COLUMNS = int((_PAGE[0] - 2 * _MARGIN) / (0.6 * _FONT_SIZE))
_LINES = (_PAGE[1] - 2 * _MARGIN) // _LINE_STEP


# ---- out -------------------------------------------------------------------------------------------------------------
def report_object(
    text: str, modality: str, provenance: Mapping[str, Any], record: Record, images: Sequence[Dataset] = ()
) -> Dataset:
    """A generated report as a Basic Text SR (PS3.3 A.35.1): complete, unverified, observed by a device, and of no day.

    A report of the sections findings and impression gets a container for each; any other is one text, as it is.

    Args:
        text: The report.
        modality: A text modality.
        provenance: Provenance of the sample.
        record: The record that was generated with it.
        images: The images of the same sample, which the report refers to.
    """
    attributes = {
        "SeriesInstanceUID": uid(provenance, "series", modality),
        "SeriesDescription": f"Synthetic {modality_named(modality).title}",
        "SeriesNumber": _series_number(modality),
        "InstanceNumber": 1,
        "Modality": "SR",
        "ReferencedPerformedProcedureStepSequence": [],
        # The document.
        "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED",
        "ContentDate": _NO_DATE,
        "ContentTime": _NO_TIME,
        "PerformedProcedureCodeSequence": [],
        # The root of its content.
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": code(*_TITLE),
        "ContinuityOfContent": "SEPARATE",
        "ContentSequence": [*_observer(provenance), *_text_items(text), *map(_image_item, images)],
    }
    if images:
        attributes["CurrentRequestedProcedureEvidenceSequence"] = _evidence(images)
    return new_object(BASIC_TEXT_SR, uid(provenance, "report", modality), provenance, record, attributes)


def pdf_object(text: str, modality: str, provenance: Mapping[str, Any], record: Record) -> Dataset:
    """A generated report as an encapsulated PDF (PS3.3 A.45.1).

    Raises:
        DataError: If the report has a letter that the PDF's font lacks.
    """
    notice = f"SYNTHETIC, not for diagnosis. {derivation(provenance)}."
    document = _pdf([*_wrapped(notice), "", *_wrapped(text)])
    attributes = {
        "SeriesInstanceUID": uid(provenance, "series", modality, "pdf"),
        "SeriesDescription": f"Synthetic {modality_named(modality).title}, PDF",
        "SeriesNumber": _series_number(modality) + len(names("text")),
        "InstanceNumber": 1,
        "Modality": "DOC",
        "ConversionType": "SYN",
        "ContentDate": "",
        "ContentTime": "",
        "AcquisitionDateTime": "",
        "BurnedInAnnotation": "NO",
        "DocumentTitle": "Synthetic radiology report",
        "ConceptNameCodeSequence": code(*_TITLE),
        "MIMETypeOfEncapsulatedDocument": "application/pdf",
        "EncapsulatedDocument": document + b"\0" * (len(document) % 2),
        "EncapsulatedDocumentLength": len(document),
    }
    return new_object(ENCAPSULATED_PDF, uid(provenance, "pdf", modality), provenance, record, attributes)


def _series_number(modality: str) -> int:
    """Reports follow the images."""
    return len(names("image")) + names("text").index(modality) + 1


def _item(relation: str, kind: str, concept: Sequence[str] = (), **attributes: Any) -> Dataset:
    """A content item (PS3.3 C.17.3.2)."""
    from pydicom import Dataset

    item = Dataset()
    item.RelationshipType, item.ValueType = relation, kind
    if concept:
        item.ConceptNameCodeSequence = code(*concept)
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _observer(provenance: Mapping[str, Any]) -> list[Dataset]:
    """The observer is a device, the model (PS3.16 TID 1002, TID 1004)."""
    relation, device = "HAS OBS CONTEXT", ("121007", "DCM", "Device")
    named = ("121013", "DCM", "Device Observer Name")
    return [
        _item(relation, "CODE", ("121005", "DCM", "Observer Type"), ConceptCodeSequence=code(*device)),
        _item(relation, "UIDREF", ("121012", "DCM", "Device Observer UID"), UID=model_uid(provenance)),
        _item(relation, "TEXT", named, TextValue=made_by(provenance)),
    ]


def _text_items(text: str) -> list[Dataset]:
    parts = sections(text)
    if compose_report(parts.get("findings", ""), parts.get("impression", "")) != text:
        return [_item("CONTAINS", "TEXT", _TEXT, TextValue=text)]
    return [
        _item(
            "CONTAINS",
            "CONTAINER",
            heading,
            ContinuityOfContent="SEPARATE",
            ContentSequence=[_item("CONTAINS", "TEXT", concept, TextValue=parts[name])],
        )
        for name, (heading, concept) in _SECTIONS.items()
        if name in parts
    ]


def _image_item(image: Dataset) -> Dataset:
    return _item("CONTAINS", "IMAGE", ReferencedSOPSequence=[_reference(image)])


def _reference(image: Dataset) -> Dataset:
    from pydicom import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return reference


def _evidence(images: Sequence[Dataset]) -> list[Dataset]:
    """Study -> series -> instances that a report refers to (PS3.3 Table C.17-3); each image is a series of its own."""
    from pydicom import Dataset

    study = Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = images[0].StudyInstanceUID, []
    for image in images:
        series = Dataset()
        series.SeriesInstanceUID, series.ReferencedSOPSequence = image.SeriesInstanceUID, [_reference(image)]
        study.ReferencedSeriesSequence.append(series)
    return [study]


# ---- a PDF of plain text ---------------------------------------------------------------------------------------------
def _wrapped(text: str) -> list[str]:
    return [part for line in text.splitlines() for part in textwrap.wrap(line, _COLUMNS) or [""]]


def _pdf(lines: Sequence[str]) -> bytes:
    """Lines as a PDF that can be searched, with a font that every reader has; the same bytes each time."""
    pages = [lines[start : start + _LINES] for start in range(0, len(lines), _LINES)]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    # Objects 1 to 3 are the catalogue, the pages and the font; then a page and its content, alternately.
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>",
    ]
    for number, page in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {_PAGE[0]} {_PAGE[1]}] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>".encode()
        )
        shown = b"\n".join(b"(" + _pdf_text(line) + b") Tj T*" for line in page)
        start = f"BT /F1 {_FONT_SIZE} Tf {_LINE_STEP} TL {_MARGIN} {_PAGE[1] - _MARGIN} Td\n".encode()
        content = start + shown + b"\nET"
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    # The file: every object, and where each begins.
    document, starts = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, start=1):
        starts.append(len(document))
        document += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    size = len(objects) + 1
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return bytes(document) + end % (size, table, size, len(document))


def _pdf_text(line: str) -> bytes:
    try:
        encoded = line.encode("cp1252")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the report holds {line[error.start]!r}, which the font of its PDF lacks",
            expected="letters of western European languages",
            fix="leave the PDF out: the structured report holds every letter",
        ) from None
    return encoded.replace(b"\\", rb"\\").replace(b"(", rb"\(").replace(b")", rb"\)")


# ---- in --------------------------------------------------------------------------------------------------------------
def report_text(dataset: Dataset) -> str:
    """The texts of a structured report in their order, each section below its heading; "" where it holds none.

    Codes, numbers and references are passed over.
    """
    lines = []
    for heading, pairs in groupby(_texts(dataset, "", 0), key=itemgetter(0)):
        texts = [text for _, text in pairs]
        lines.append(f"{heading}: {' '.join(texts)}" if heading else "\n".join(texts))
    return "\n".join(lines)


def references(dataset: Dataset) -> set[str]:
    """SOP instances that a structured report refers to as its evidence."""
    return {
        reference.ReferencedSOPInstanceUID
        for study in dataset.get("CurrentRequestedProcedureEvidenceSequence", [])
        for series in study.get("ReferencedSeriesSequence", [])
        for reference in series.get("ReferencedSOPSequence", [])
    }


def _texts(item: Dataset, heading: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _MAX_DEPTH:
        return
    for child in item.get("ContentSequence", []):
        if child.get("RelationshipType", "") != "CONTAINS":
            continue
        if child.get("ValueType", "") == "TEXT" and str(child.get("TextValue", "")).strip():
            yield heading, str(child.TextValue).strip()
        concept = next(iter(child.get("ConceptNameCodeSequence", [])), None)
        below = heading
        if child.get("ValueType", "") == "CONTAINER" and concept is not None:
            below = _HEADINGS.get(str(concept.get("CodeValue", "")), str(concept.get("CodeMeaning", "")).upper())
        yield from _texts(child, below, depth + 1)
