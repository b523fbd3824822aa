"""A study from a DICOMweb server as files that are prompts: films as they are, the report as text, the record of the tags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medcodi.data.dicom.reading import DicomHeader, read_header
from medcodi.data.dicom.reports import SR_CLASSES, references, report_text
from medcodi.data.dicom.tags import corrupt_if_it_fails
from medcodi.data.refusals import Refused
from medcodi.data.sources.dicom_folder import record_values
from medcodi.errors import DataError
from medcodi.modality import names
from medcodi.pacs.dicomweb import DicomWebServer
from medcodi.pacs.servers import Address, ServerError, UnreachableError, read_address
from medcodi.pacs.tls import Tls
from medcodi.record import CLINICAL_RECORD, RecordValue
from medcodi.storage import atomic
from medcodi.storage.ownership import refuse_full

if TYPE_CHECKING:
    from pydicom import Dataset

_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")  # PS3.5 9.1
_RADIOGRAPHS = ("CR", "DX", "RG", "RF", "OT", "")  # DICOM Modality of what may be a film; others are not retrieved
REPORT, RECORD = names("text")[0], names("table")[0]


@dataclass(frozen=True, kw_only=True)
class FetchedStudy:
    """Files of one study."""

    # Modality -> its file: ``frontal.dcm``, ``lateral.dcm``, ``report.txt``, ``record.json``.
    files: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was left out, and why


def fetch(url: str, study: str, folder: str | Path, *, tls: Tls = Tls()) -> FetchedStudy:
    """Fetch one study by QIDO-RS and WADO-RS into a new folder that only its owner can read.

    One film a view, the first that can be read; the first structured report with a text, a verified one before others; age, sex,
    projection and body-mass index of the tags.

    Args:
        url: Root of the DICOMweb server.
        study: Study Instance UID.
        folder: A new or empty folder.
        tls: Certificates.

    Raises:
        ServerError: If the address is invalid, or the server refuses; UnreachableError if it is away.
        DataError: If the server has no such study, nothing in it can be used, or the folder is not empty.
    """
    address, folder = _web_address(url), Path(folder)
    if len(study) > 64 or not _UID.fullmatch(study):
        raise DataError(  # it becomes a part of addresses
            f"{study[:80]!r} is no Study Instance UID", expected="numbers and points, such as 1.2.840.113619.2.5"
        )
    refuse_full(folder, fix="choose another folder")
    # List the study, then fill the folder, which appears whole.
    server = DicomWebServer(address, tls)
    listed = server.instances(study)
    if not listed:
        raise DataError(
            f"{address.text} has no study {study}",
            expected="the Study Instance UID of a study that is there",
            fix="look it up in the viewer; an accession number is no UID",
        )
    with atomic.filling(folder, error=DataError) as staging:
        staging.chmod(0o700)
        fetched = _fill(staging, server, study, listed)
        if not fetched.files:
            raise DataError(
                f"the study {study} holds nothing that can be a prompt: {'; '.join(fetched.notes)[:500]}",
                expected="a chest film, or a structured report",
                fix="choose another study",
            )
    return FetchedStudy(files={name: folder / path.name for name, path in fetched.files.items()}, notes=fetched.notes)


def _web_address(url: str) -> Address:
    address = read_address(url)
    if address.is_association:
        raise ServerError(
            f"{url} is the address of C-STORE, which only takes studies",
            expected="a DICOMweb address, https://HOST/dicom-web: studies come by QIDO-RS and WADO-RS, not by C-MOVE",
            fix="ask who runs the server for its DICOMweb address",
        )
    return address


def _fill(staging: Path, server: DicomWebServer, study: str, listed: list[Dataset]) -> FetchedStudy:
    """Retrieve instance by instance: at most one is in memory."""
    fetched, record = FetchedStudy(), {}
    reports: list[Dataset] = []
    # Films and reports, in a viewer's order.
    for row in sorted(listed, key=_place):
        instance, is_report = str(row.SOPInstanceUID), str(row.get("SOPClassUID", "")).startswith(SR_CLASSES)
        kind = str(row.get("Modality", "") or "").upper()
        if not is_report and kind not in _RADIOGRAPHS:
            fetched.notes.append(f"{instance} is of DICOM modality {kind}")
            continue
        try:
            dataset = server.retrieve(study, str(row.SeriesInstanceUID), instance)
        except UnreachableError:
            raise
        except ServerError as error:  # of this instance alone: the study was listed
            fetched.notes.append(f"{instance}: {error.failed}")
            continue
        if is_report:
            reports.append(dataset)
        elif header := _film(dataset, staging, fetched):
            record = {**dict(_fields(header)), **record}
    # The report as text, and the record of the films' tags.
    if text := _report({str(row.SOPInstanceUID) for row in listed}, reports, fetched):
        fetched.files[REPORT] = staging / f"{REPORT}.txt"
        atomic.write_text(fetched.files[REPORT], text + "\n")
    if record:
        fetched.files[RECORD] = staging / f"{RECORD}.json"
        atomic.write_json(fetched.files[RECORD], record)
    return fetched


def _place(row: Dataset) -> tuple[int, int, str]:
    """The order of instances in a viewer: series, then number."""
    numbers = (row.get("SeriesNumber"), row.get("InstanceNumber"))
    series, number = (int(value) if value is not None else 0 for value in numbers)
    return series, number, str(row.SOPInstanceUID)


def _film(dataset: Dataset, staging: Path, fetched: FetchedStudy) -> DicomHeader | None:
    """Write a film under the name of its view; its header, or None where it is left out."""
    instance, path = str(dataset.SOPInstanceUID), staging / "film.dcm"
    try:
        with corrupt_if_it_fails(instance):
            dataset.save_as(path)
        header = read_header(path)
    except Refused as error:
        fetched.notes.append(error.failed.replace(str(path), instance))
        path.unlink(missing_ok=True)
        return None
    view = header.modality
    if view is None or view in fetched.files:
        what = f"a second {view}" if view else f"of no view that a model knows ({header.view})"
        fetched.notes.append(f"{instance} is {what}")
        path.unlink()
        return None
    fetched.files[view] = path.rename(path.with_name(f"{view}.dcm"))
    return header


def _report(listed: set[str], reports: list[Dataset], fetched: FetchedStudy) -> str:
    """The text of the report to be used; notes the others, and images that it refers to and that the server lacks."""
    # Those with a text before those without, verified ones before others.
    texts = [(report_text(report), report) for report in reports]
    texts.sort(key=lambda pair: (not pair[0], pair[1].get("VerificationFlag") != "VERIFIED"))
    for text, report in texts[1:] if texts and texts[0][0] else texts:
        fetched.notes.append(
            f"{report.SOPInstanceUID} is {'a further report' if text else 'a structured report without a text'}"
        )
    if not texts or not texts[0][0]:
        return ""
    text, report = texts[0]
    if missing := references(report) - listed:
        fetched.notes.append(
            f"the report refers to {len(missing)} images that the server does not have in this study, such as {sorted(missing)[0]}"
        )
    return text


def _fields(header: DicomHeader) -> Iterator[tuple[str, RecordValue]]:
    """Fields of the record that the tags give, without those that nobody has, such as an age of 999."""
    for name, value in record_values(header).items():
        try:
            parsed = CLINICAL_RECORD.fields[name].parse(name, value)
        except DataError:
            continue
        if parsed is not None:
            yield name, parsed
