"""The data of ``medcodi fit``: a prepared dataset, a table, or a folder of files; checked before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcodi.config import apply_overrides, from_dict
from medcodi.data.dataset import SPLITS, open_dataset, read_info
from medcodi.data.files import INFO_FILE, is_url
from medcodi.data.preparation.prepare import PrepareConfig
from medcodi.data.preparation.shards import split_of_patient
from medcodi.data.sources.announced import AnnouncedStudy
from medcodi.data.sources.detection import source_of, table_at
from medcodi.data.tables import read_header
from medcodi.errors import DataError
from medcodi.modality import MODALITIES, names

LEAST_STUDIES = 8  # in `train`
LEAST_TESTED = 8  # the number that an evaluation needs
NUM_SPLIT_SEEDS = 200  # divisions into splits that are tried for one that can be evaluated


@dataclass(frozen=True, kw_only=True)
class FitData:
    """The studies of a fit, counted before they are read."""

    path: str  # as given
    source: str | None  # kind of source that it is prepared from; None: it is prepared already
    table: str | None  # path that the source reads
    counts: dict[str, int]  # split -> studies
    modalities: dict[str, int]  # modality -> studies that hold it
    joined: dict[str, int]  # split -> studies that hold two modalities or more
    num_labelled: int  # training studies with labels
    image_size: int | None  # of a prepared dataset
    options: tuple[str, ...] = ()  # key=value settings of the preparation
    split_seed: int = 0  # of the division into splits
    columns: tuple[str, ...] = ()  # of a table

    def preparation(self, out: Path, image_size: int) -> PrepareConfig:
        """The config that prepares the studies into ``out``."""
        values = {"seed": self.split_seed, **_shares(sum(self.counts.values())), "image_size": image_size}
        return _prepare_config(
            self.source, self.table, self.options, {**values, "out": str(out), "name": Path(self.path).stem or None}
        )


def open_data(path: str, settings: Sequence[str] = ()) -> FitData:
    """Look at what is given; nothing is written.

    Args:
        path: A prepared dataset (folder or URL), a table, or a folder with one table or with DICOM files.
        settings: ``key=value`` of a preparation, such as ``options.study_is_patient=true``.

    Raises:
        DataError: If it is none of these, holds too few studies, or fewer than two modalities.
    """
    is_prepared = is_url(path) or (Path(path) / INFO_FILE).is_file()
    data = _prepared(path, settings) if is_prepared else _raw(path, settings)
    check_data(data)
    return data


def check_data(data: FitData) -> None:
    """Refuse studies from which no any-to-any model can be trained.

    Raises:
        DataError: Too few studies, or fewer than two modalities.
    """
    present = [name for name in MODALITIES if data.modalities.get(name)]
    if len(present) < 2:
        absent = [name for name in MODALITIES if name not in present]
        raise DataError(
            f"the studies of {data.path} hold {' and '.join(present) or 'nothing'} only",
            expected=f"at least two of {', '.join(MODALITIES)}: one that prompts, one that is generated",
            fix=f"add {' or '.join(absent)} to the studies; columns of a table are named by options.columns.{absent[0]}=COLUMN",
        )
    if data.counts.get("train", 0) < LEAST_STUDIES:
        total = sum(data.counts.values())
        raise DataError(
            f"{data.path} has {total:,} studies, {data.counts.get('train', 0):,} of them for training",
            expected=f"at least {LEAST_STUDIES} for training, and hundreds for a model that is of use",
            fix="add studies; 'medcodi data sample sample' writes some to try the command with",
        )
    num_joined = sum(data.joined.values())
    if num_joined < LEAST_STUDIES:
        raise DataError(
            f"{num_joined:,} of the {sum(data.counts.values()):,} studies of {data.path} hold two modalities or more"
            + (f"; the table's columns are {', '.join(data.columns)}" if data.columns else ""),
            expected=f"at least {LEAST_STUDIES}: a model learns one modality from another of the same study",
            fix="rows with the same study are joined: name that column by options.columns.study_id=COLUMN"
            if data.columns
            else "prepare the images and reports of one examination as one study",
        )


def _prepared(path: str, settings: Sequence[str]) -> FitData:
    if settings:
        raise DataError(
            f"{path} is prepared already; {settings[0]!r} is a setting of a preparation",
            expected="no settings, or files that are not prepared",
            fix="leave the settings out",
        )
    info = read_info(path)
    counts = info["counts"]
    splits = {name: open_dataset(path, name) for name in SPLITS if counts["split"].get(name)}  # no image is read
    return FitData(
        path=path,
        source=None,
        table=None,
        counts={name: int(counts["split"].get(name, 0)) for name in SPLITS},
        modalities={name: int(counts.get("modality", {}).get(name, 0)) for name in MODALITIES},
        joined={name: sum(len(present) > 1 for _, _, present in split.contents()) for name, split in splits.items()},
        num_labelled=splits["train"].num_labelled() if "train" in splits else 0,
        image_size=int(info["image_size"]),
    )


def _holds_two(study: AnnouncedStudy) -> bool:
    return len(study.images) + len(study.texts) > 1


def _raw(path: str, settings: Sequence[str]) -> FitData:
    source, table = source_of(Path(path))
    config = _prepare_config(source, str(table), settings, {"out": path})
    studies = [study for study in config.studies() if study.refused is None]
    seed = split_seed(studies)
    split = [study.split or split_of_patient(study.patient_id, seed=seed, **_shares(len(studies))) for study in studies]
    modalities = Counter(name for study in studies for name in (*study.images, *study.texts))
    _check_files(path, studies)
    return FitData(
        path=path,
        source=source,
        table=str(table),
        counts={name: split.count(name) for name in SPLITS},
        modalities=dict(modalities),
        joined=dict(Counter(name for name, study in zip(split, studies, strict=True) if _holds_two(study))),
        num_labelled=sum(bool(study.labels) for study, name in zip(studies, split, strict=True) if name == "train"),
        image_size=None,
        options=tuple(settings),
        split_seed=seed,
        columns=tuple(read_header(table_at(Path(table)))) if source == "csv" else (),
    )


def split_seed(studies: Sequence[AnnouncedStudy]) -> int:
    """The first division into splits with enough held-out studies to evaluate; 0 where the source divides, or none has."""
    if any(study.split for study in studies):
        return 0
    patients = [study.patient_id for study in studies]
    shares = _shares(len(studies))
    for seed in range(NUM_SPLIT_SEEDS):
        counts = Counter(split_of_patient(patient, seed=seed, **shares) for patient in patients)
        if counts["test"] >= LEAST_TESTED and counts["val"] >= 2 and counts["train"] >= LEAST_STUDIES:
            return seed
    return 0


def _shares(num_studies: int) -> dict[str, float]:
    """Shares of patients in ``val`` and ``test``: a tenth each, more where that would be too few to evaluate."""
    size = max(num_studies, 1)
    return {"val": min(0.2, max(0.1, 3 / size)), "test": min(0.4, max(0.1, 1.2 * LEAST_TESTED / size))}


def _prepare_config(
    source: str | None, table: str | None, settings: Sequence[str], values: dict[str, Any]
) -> PrepareConfig:
    given = {"source": source, "path": table, **values}
    return from_dict(PrepareConfig, apply_overrides(given, settings), source="fit")


def _check_files(path: str, studies: Sequence[AnnouncedStudy]) -> None:
    """Refuse a table most of whose image files are missing, before anything is written."""
    files = [file for study in studies for name, file in study.images.items() if name in names("image")]
    missing = [file for file in files if not file.exists()]
    if missing and len(missing) > len(files) / 10:
        raise DataError(
            f"{len(missing):,} of {len(files):,} image files that {path} names do not exist, such as {missing[0]}",
            expected="paths from the table's folder",
            fix="correct them, or name the folder that they start from: options.root=FOLDER",
        )
