"""A prepared dataset to look at: studies of each split, and what the ledger left out; as data, and as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcodi.data.dataset import SPLITS, open_dataset, read_info, read_study
from medcodi.data.files import is_url
from medcodi.data.preparation.ledger import Entry, read_ledger
from medcodi.errors import DataError, one_of
from medcodi.storage.checked_json import foreign
from medcodi.study import Study

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
    from medcodi.modality import MODALITIES
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
