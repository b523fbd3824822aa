"""The ledger of a prepared dataset: every file that was there, in or out, and why; and an overview of its studies, as data and as one page."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from medcodi.data.dataset import SPLITS, open_dataset, read_info, read_study
from medcodi.data.files import is_url
from medcodi.data.sources.announced import AnnouncedStudy, LeftOut, Loaded
from medcodi.data.tables import read_rows, spreadsheet_row, text_of_cell
from medcodi.errors import DataError, one_of
from medcodi.modality import MODALITIES
from medcodi.storage.checked_json import foreign
from medcodi.study import Study

LEFT_OUT = "left out"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file (or text) of the source."""

    file: str
    study_id: str
    patient_id: str
    modality: str
    view: str = ""  # as the source tells it: PA, LL ...
    split: str  # empty where it is left out
    reason: str = ""  # empty where it is kept
    detail: str = ""


@dataclass
class Ledger:
    """Every file of a source, in or out, and the counts over them."""

    source: str = ""  # kind of source, e.g. ``mimic-cxr-jpg``.
    entries: list[Entry] = field(default_factory=list)  # a row a file, in the source's order
    num_studies: int = 0  # studies of the source
    left_out: int = 0  # studies left out

    @property
    def num_kept(self) -> int:
        """Studies in the dataset."""
        return self.num_studies - self.left_out

    def counts(self) -> dict[str, Any]:
        """Files and studies in and out; studies by split; files by modality, by view and split, and by reason."""
        kept = [entry for entry in self.entries if not entry.reason]
        out = [entry for entry in self.entries if entry.reason]
        studies = {entry.study_id: entry.split for entry in kept}
        return {
            "source": self.source,
            "files": {"in the source": len(self.entries), "kept": len(kept), LEFT_OUT: len(out)},
            "studies": {"in the source": self.num_studies, "kept": self.num_kept, LEFT_OUT: self.left_out},
            "split": dict(Counter(studies.values())),
            "modality": dict(Counter(entry.modality for entry in kept)),
            "view": self._by_view(),
            "reason": dict(Counter(entry.reason for entry in out).most_common()),
        }

    def _by_view(self) -> dict[str, dict[str, int]]:
        """Modality and view -> split (or left out) -> files."""
        files: dict[str, Counter[str]] = {}
        for entry in self.entries:
            name = " ".join(filter(None, (entry.modality, entry.view))) or "not said"
            files.setdefault(name, Counter())[entry.split if not entry.reason else LEFT_OUT] += 1
        order = (*SPLITS, LEFT_OUT)
        return {name: {key: files[name][key] for key in order if files[name][key]} for name in sorted(files)}

    def write(self, folder: Path) -> None:
        """Write ``ledger.csv`` (a row a file) and ``ledger.json`` (the counts)."""
        with (folder / "ledger.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(Entry.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(spreadsheet_row(asdict(entry)) for entry in self.entries)
        (folder / "ledger.json").write_text(json.dumps(self.counts(), indent=2) + "\n", encoding="utf-8")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Files and studies, in and out.
        counts = self.counts()
        table = Table(title=f"Ledger of {self.source}", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for group in ("files", "studies", "split", "modality", "reason"):
            table.add_section()
            for name, count in counts[group].items():
                table.add_row(f"{group} {name}" if group in ("files", "studies") else f"{group}: {name}", f"{count:,}")
        yield table
        # Files by view and split.
        columns = [name for name in (*SPLITS, LEFT_OUT) if any(name in row for row in counts["view"].values())]
        views = Table("files by view", title_justify="left")
        for name in columns:
            views.add_column(name, justify="right")
        for view, row in counts["view"].items():
            views.add_row(view, *(f"{row.get(name, 0):,}" for name in columns))
        yield views


def read_ledger(folder: Path) -> Iterator[Entry]:
    """The rows of a dataset's ``ledger.csv``, one after the other.

    Raises:
        DataError: If the file is missing or damaged; names the line.
    """
    for row in read_rows(folder / "ledger.csv"):
        yield Entry(**{name: text_of_cell(row.cells.get(name, "")) for name in Entry.__dataclass_fields__})


def entries_of(study: AnnouncedStudy, loaded: Loaded, split: str) -> Iterator[Entry]:
    """Every file of a study as a row of the ledger: in (then with its split), or left out and why."""
    ids = {"study_id": study.study_id, "patient_id": study.patient_id}

    def left_out(file: LeftOut, modality: str = "") -> Entry:
        why = {"reason": file.reason, "detail": file.detail}
        return Entry(file=file.file, **ids, modality=modality, view=file.view, split="", **why)

    # Files that no study needs, such as a second image of a view.
    for spare in (*study.spare, *loaded.spare):
        yield left_out(spare)

    # A study that is kept.
    files = study.files()
    if loaded.study is not None:
        for name in loaded.study.contents:
            file = files.get(name, study.study_id)
            note = study.values_from if MODALITIES[name].kind == "table" else ""
            yield Entry(file=file, **ids, modality=name, view=study.views.get(name, ""), split=split, detail=note)
        return

    # A study that is left out: the file that is to blame, then the others.
    assert loaded.refused is not None
    culprit = next((name for name, file in files.items() if file == loaded.refused.file), "")
    yield left_out(loaded.refused, culprit)
    spare_files = {spare.file for spare in loaded.spare}
    for name, file in files.items():
        if file != loaded.refused.file and file not in spare_files:
            view = study.views.get(name, "")
            yield left_out(LeftOut(file=file, reason="study left out", detail=loaded.refused.reason, view=view), name)


# ---- an overview: studies of each split, and what was left out -------------------------------------------------------
TEMPLATE = Path(__file__).with_name("overview.html")
THUMBNAIL = 256  # pixels a side of a film on the page, at most
NUM_EXAMPLES = 20  # files that are shown of a reason


@dataclass(frozen=True, kw_only=True)
class ShownStudy:
    """One study, and where it is from."""

    split: str
    index: int  # within its split
    study: Study
    entries: Sequence[Entry]  # its rows of the ledger

    @property
    def findings(self) -> list[str]:
        """Its positive labels."""
        return [label for label, value in self.study.labels.items() if value == 1]


@dataclass(frozen=True, kw_only=True)
class LeftOutReason:
    """A reason of the ledger, with the first files that it applies to."""

    reason: str
    num_files: int
    examples: Sequence[Entry]  # none of a dataset behind a URL, whose ledger is not copied


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A part of a dataset, and the counts of the whole."""

    name: str
    image_size: int
    splits: Mapping[str, int]  # split -> studies
    modalities: Mapping[str, int]  # modality -> studies that hold it
    studies: Sequence[ShownStudy]
    left_out: Sequence[LeftOutReason]  # the most frequent first

    @property
    def num_left_out(self) -> int:
        """Files that are left out."""
        return sum(reason.num_files for reason in self.left_out)


def overview(path: str | Path, *, split: str | None = None, start: int = 0, num: int = 8) -> Overview:
    """Read studies ``start`` to ``start + num`` of a split, or of every split, and what the ledger says.

    Args:
        path: A folder that ``medcodi data prepare`` wrote, or a URL of one.
        split: ``train``, ``val`` or ``test``; None: all that have studies.
        start: First study within each split, from 0; beyond the last there are none.
        num: Studies of each split, at most.

    Raises:
        DataError: If there is no such dataset or split, or a study or the ledger cannot be read.
    """
    info = read_info(path)
    if split is not None:
        one_of("split", split, SPLITS, DataError)
    # Counts, as the preparation wrote them.
    with foreign(f"the description of {path}", expected="counts as 'data prepare' wrote them", fix="prepare it again"):
        counts = info["counts"]
        splits = {name: int(counts["split"][name]) for name in SPLITS if counts["split"].get(name)}
        modalities = {name: int(count) for name, count in counts.get("modality", {}).items()}
        reasons = {str(reason): int(count) for reason, count in counts.get("reason", {}).items()}
    # Studies, in the order of the files.
    chosen = []
    for name in splits if split is None else (split,):
        dataset = open_dataset(path, name)
        rows = range(min(start, len(dataset)), min(start + num, len(dataset)))
        chosen += [(name, index, read_study(dataset, index)) for index in rows]
    # The ledger: rows of these studies, and the first ones of each reason. A copy of a URL has none.
    of_study: dict[str, list[Entry]] = {study.study_id: [] for _, _, study in chosen}
    examples: dict[str, list[Entry]] = {reason: [] for reason in reasons}
    for entry in () if is_url(path) else read_ledger(Path(path)):
        if entry.study_id in of_study:
            of_study[entry.study_id].append(entry)
        if entry.reason and len(examples.setdefault(entry.reason, [])) < NUM_EXAMPLES:
            examples[entry.reason].append(entry)
    return Overview(
        name=str(info["name"]),
        image_size=int(info["image_size"]),
        splits=splits,
        modalities=modalities,
        studies=[
            ShownStudy(split=name, index=index, study=study, entries=of_study[study.study_id])
            for name, index, study in chosen
        ],
        left_out=[
            LeftOutReason(reason=reason, num_files=count, examples=examples[reason])
            for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1])
        ],
    )


def render_overview(seen: Overview) -> str:
    """The page as one HTML text: a contact sheet that is filtered by split, and what was left out."""
    from medcodi.data.images import fit_square
    from medcodi.pages.page import render_template
    from medcodi.record import record_text

    size = min(seen.image_size, THUMBNAIL)
    filters = {"thumbnail": lambda image: fit_square(image, size), "words": record_text}
    return render_template(TEMPLATE, filters=filters, seen=seen, modalities=MODALITIES, size=size)


def write_overview(seen: Overview, path: str | Path) -> Path:
    """Write the page.

    Raises:
        DataError: If it cannot be written, or would replace a file that is none of our pages.
    """
    from medcodi.pages.page import write_page

    return write_page(path, render_overview(seen))
