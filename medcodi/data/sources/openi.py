"""Source ``openi``: the Indiana University collection of Open-i, XML reports and PNG images.

The reports name their images, but not the view of each. The collection's table of projections gives
it (``filename,projection``); without one, the image's own caption, where it names a single view. Several images of one
view: the first in the order of the report counts, the others are in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from medcodi.config import config
from medcodi.data.dicom.views import view_of
from medcodi.data.reports import compose_report
from medcodi.data.sources.announced import AnnouncedStudy, LeftOut, second_image
from medcodi.data.tables import find_table, read_table
from medcodi.errors import DataError
from medcodi.modality import names

_REPORT_FOLDERS = ("ecgen-radiology", "NLMCXR_reports/ecgen-radiology", "NLMCXR_reports", "reports", ".")
_IMAGE_FOLDERS = ("NLMCXR_png", "images", "images/images_normalized", "png", ".")


@config
class OpeniConfig:
    """Options of source ``openi``."""

    path: str  # The folder that holds reports and images
    # Folder of the XML reports; None: ``ecgen-radiology``, ``NLMCXR_reports`` or ``reports`` in ``path``
    reports: str | None = None
    images: str | None = None  # Folder of the PNG images; None: ``NLMCXR_png``, ``images`` or ``png`` in ``path``
    projections: str | None = None  # The table of views; None: ``indiana_projections.csv`` in ``path``, where it is


def studies(options: OpeniConfig) -> Iterator[AnnouncedStudy]:
    """Studies in the order of the reports' numbers. The collection has no patient identifiers: each study is a patient.

    Raises:
        DataError: If the reports, the images or the table cannot be found or read.
    """
    root = Path(options.path)
    if not root.is_dir():
        raise DataError(f"no folder at {root}", expected="the unpacked collection", fix="check path=")
    reports = sorted(_folder(root, options.reports, _REPORT_FOLDERS, "xml", "reports").glob("*.xml"), key=_number)
    images = {
        _key(file.name): file
        for file in sorted(_folder(root, options.images, _IMAGE_FOLDERS, "png", "images").glob("*.png"))
    }
    projections = _projections(root, options)
    seen: dict[str, Path] = {}
    for report in reports:
        study = _study(report, images, projections)
        if study.study_id in seen:
            detail = f"{report}: study {study.study_id!r} is in {seen[study.study_id]} already"
            study = AnnouncedStudy(
                study_id=f"{study.study_id} ({report.name})",
                patient_id=study.patient_id,
                refused=LeftOut(file=str(report), reason="duplicate id", detail=detail),
            )
        seen.setdefault(study.study_id, report)
        yield study


def _number(path: Path) -> tuple[int, str]:
    return (int(path.stem) if path.stem.isdigit() else 10**9, path.name)


def _folder(root: Path, named: str | None, usual: tuple[str, ...], suffix: str, what: str) -> Path:
    places = [Path(named)] if named else [root / name for name in usual]
    folder = next((place for place in places if next(place.glob(f"*.{suffix}"), None)), None)
    if folder is None:
        raise DataError(
            f"no {what} (*.{suffix}) in {named or root}",
            expected="a folder such as " + (usual[0] if named is None else f"{root}/{usual[0]}"),
            fix=f"unpack NLMCXR_{'reports' if suffix == 'xml' else 'png'}.tgz there, or give options.{what}",
        )
    return folder


def _key(name: str) -> str:
    """One name for all spellings: ``CXR1_1_IM-0001-3001`` is ``1_IM-0001-3001.dcm.png`` in the table."""
    stem = name.removesuffix(".png").removesuffix(".dcm").removeprefix("CXR")
    first, _, rest = stem.partition("_")
    return rest if rest.startswith(f"{first}_") else stem


def _projections(root: Path, options: OpeniConfig) -> Mapping[str, str] | None:
    """Image -> view, or None without a table."""
    path = Path(options.projections) if options.projections else find_table(root, "*projections")
    if path is None:
        return None
    if not path.is_file():
        raise DataError(
            f"no table at {path}", expected="a table of filename, projection", fix="check options.projections"
        )
    projections_of: dict[str, str] = {}
    for number, row in enumerate(read_table(path, ("filename", "projection")), start=2):
        if projections_of.setdefault(_key(row["filename"]), row["projection"]) != row["projection"]:
            raise DataError(
                f"{path}, line {number}: {row['filename']!r} is {row['projection']!r}, and {projections_of[_key(row['filename'])]!r} before",
                expected="one projection for each image",
                fix="correct the table",
            )
    return projections_of


def _study(report: Path, images: Mapping[str, Path], projections: Mapping[str, str] | None) -> AnnouncedStudy:
    name = str(report)
    try:
        tree = ElementTree.parse(report).getroot()
    except (ElementTree.ParseError, OSError, ValueError) as error:
        return AnnouncedStudy(
            study_id=report.stem,
            patient_id=report.stem,
            refused=LeftOut(file=name, reason="report: unreadable", detail=f"{name} is no XML: {error}"),
        )
    study_id = (_attribute(tree.find("uId"), "id") or report.stem).strip()
    spare: list[LeftOut] = []
    chosen, views = _images(tree, images, projections, study_id, spare)
    # Two parts of one label are one section.
    parts: dict[str, str] = {}
    for node in tree.iter("AbstractText"):
        label, part = (node.get("Label") or "").strip().upper(), "".join(node.itertext()).strip()
        parts[label] = f"{parts.get(label, '')} {part}".strip()
    text = compose_report(parts.get("FINDINGS", ""), parts.get("IMPRESSION", ""))
    terms = [" ".join((node.text or "").split()) for node in tree.iter("major")]
    refused = None
    if not text:
        detail = f"{name}: neither FINDINGS nor IMPRESSION"
        spare.append(LeftOut(file=name, reason="report: no findings or impression", detail=detail))
    if not chosen and (spare or not text):  # its images cannot be used, or it has nothing at all
        refused, spare = spare[0], spare[1:]
    return AnnouncedStudy(
        study_id=study_id,
        patient_id=study_id,
        images=chosen,
        texts={names("text")[0]: text} if text else {},
        views=views,
        metadata={"source": "openi", "views": views, "mesh": terms},
        refused=refused,
        spare=tuple(spare),
    )


def _images(
    tree: ElementTree.Element,
    images: Mapping[str, Path],
    projections: Mapping[str, str] | None,
    study_id: str,
    spare: list[LeftOut],
) -> tuple[dict[str, Path], dict[str, str]]:
    """(modality -> file, modality -> view); what is not taken goes to ``spare``."""
    # The first image of each view is taken; the others are in the ledger.
    chosen: dict[str, Path] = {}
    views: dict[str, str] = {}
    for node in tree.iter("parentImage"):
        name = _attribute(node, "id")
        file = images.get(_key(name))
        caption = (node.findtext("caption") or "").strip()
        view = caption if projections is None else projections.get(_key(name), "")
        modality = view_of(view, position=True).modality
        if file is None:
            spare.append(LeftOut(file=name, reason="missing file", detail=f"study {study_id!r}: no image {name}.png"))
        elif modality is None:
            fix = "" if projections else "; options.projections=indiana_projections.csv would tell"
            detail = f"{file}: view {view or 'none'!r} does not tell frontal from lateral{fix}"
            spare.append(LeftOut(file=str(file), reason="unknown view", detail=detail, view=view))
        elif modality in chosen:
            spare.append(second_image(study_id, modality, chosen[modality], file, view))
        else:
            chosen[modality], views[modality] = file, view
    return chosen, views


def _attribute(node: ElementTree.Element | None, name: str) -> str:
    return (node.get(name) or "") if node is not None else ""
