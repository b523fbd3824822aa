"""The held-out studies: their truth, patients, modalities and hashes, read once and shared by everything that is evaluated.

In the rooms of evaluation, the *place* of a study is its index in the dataset, its *row* the index among the held-out studies that are readable.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from medcodi.data.dataset import read_study
from medcodi.data.loading import StudyDataset
from medcodi.distributed import ALONE, Ranks
from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import target_truth
from medcodi.metrics.fields import Fields, encoded_records
from medcodi.metrics.labeler import label_report, labels_from_findings
from medcodi.modality import MODALITIES, names
from medcodi.record import CLINICAL_RECORD, Record
from medcodi.study import CHEXPERT_LABELS, Content, Direction, Finding, Study

# Image float32 [H, W] in [0, 1], text, or the draws of a record: those of one study, the first of which is shown; one of a real study.
Value = np.ndarray | str | tuple[Record, ...]
MEMORY_BYTES = 1 << 30  # of real images that stay in memory
LEAST_USABLE = 4  # studies of a direction


def eight_bit(image: np.ndarray) -> np.ndarray:
    """Round to 256 levels, as a file of 8 bits would: float32 in [0, 1]. Real and generated images are treated alike."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).astype(np.float32) / 255


def as_annotated(content: Content) -> Value:
    """A study's content as it is annotated: images rounded to 8 bits, a record as its only draw."""
    return (
        content if isinstance(content, str) else eight_bit(content) if isinstance(content, np.ndarray) else (content,)
    )


def content_sha256(value: Value) -> str:
    """SHA-256 of a text's UTF-8, of an image's shape and 8-bit pixels, or of the draws of a record as JSON with sorted fields."""
    if isinstance(value, tuple):
        value = json.dumps([dict(record) for record in value], sort_keys=True)
    if isinstance(value, str):
        return hashlib.sha256(value.encode()).hexdigest()
    pixels = np.round(np.asarray(value) * 255).astype(np.uint8)
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


@dataclass(frozen=True)
class Exclusion:
    """Something that was not scored: the study, what of it, and the reason."""

    study_id: str
    what: str
    reason: str


@dataclass(frozen=True)
class LeftOutDirection:
    """A direction of a system that has too few studies to be evaluated."""

    system: str
    direction: str
    reason: str
    available: int  # studies
    needed: int = LEAST_USABLE

    def refusal(self) -> DataError:
        """The error, where no direction is left."""
        return DataError(
            f"{self.direction}: {self.reason}",
            expected=f"at least {self.needed}",
            fix="choose other directions (directions=[...]), or more studies",
        )


@dataclass(frozen=True)
class StudyShard:
    """Studies that are generated and annotated together, by one rank."""

    number: int  # position among the shards of all held-out studies
    rows: tuple[int, ...]  # its studies, as rows of the held-out studies


def shards_of(rows: Iterable[int], size: int) -> list[StudyShard]:
    """Shards of ``size`` held-out studies, restricted to ``rows``; empty ones are left out."""
    shards: dict[int, list[int]] = {}
    for row in sorted(set(rows)):
        shards.setdefault(row // size, []).append(row)
    return [StudyShard(number, tuple(own)) for number, own in shards.items()]


class RealStudies:
    """Studies by row; texts, records, labels and findings stay in memory, images up to ``MEMORY_BYTES`` (least recently used go first)."""

    def __init__(self, dataset: StudyDataset, places: Sequence[int], without_images: Sequence[Study]) -> None:
        self._dataset, self.places, self.without_images = dataset, list(places), list(without_images)
        self._cached: OrderedDict[int, Study] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> Study:
        if row in self._cached:
            self._cached.move_to_end(row)
            return self._cached[row]
        study = read_study(self._dataset, self.places[row])
        self.cache(row, study)
        return study

    def cache(self, row: int, study: Study) -> None:
        """Store a study in memory, and drop those used longest ago if there is no room."""
        self._cached[row] = study
        self._bytes += _num_bytes(study)
        while self._bytes > MEMORY_BYTES and len(self._cached) > 1:
            self._bytes -= _num_bytes(self._cached.popitem(last=False)[1])


def _num_bytes(study: Study) -> int:
    return sum(image.nbytes for image in study.images.values())


class HeldOutStudies:
    """Held-out studies in dataset order.

    Attributes:
        studies: By row.
        ids, patients: Of each.
        modalities: The modalities that each study has.
        hashes: For each, modality -> SHA-256 of its content as it is annotated.
        excluded: Unreadable studies, where that is allowed.
        truth: float32 ``[N, 14]`` of 0, 1, NaN.
        findings: True findings of each study, with sides where they are known.
        truth_source: "labels" if the dataset has them, else "reference report" (labelled).
        fields: Fields that the record of some study has.
        records: Modality -> values of its records, float64 ``[N, F]`` (see ``encoded_records``); none without records.
        shard_size: Studies per shard.
    """

    def __init__(
        self,
        dataset: StudyDataset,
        *,
        shard_size: int = 32,
        ranks: Ranks = ALONE,
        exclude_unreadable: bool = False,
        label: Callable[[Sequence[str]], list[tuple[Finding, ...]]] | None = None,
        unmentioned: str = "absent",
        fields: Fields | None = None,
    ) -> None:
        """Read every study once, each rank its share.

        Args:
            dataset: The studies.
            shard_size: Studies per shard.
            ranks: The processes.
            exclude_unreadable: List an unreadable study as excluded; else it stops the run.
            label: Reports -> findings: the truth if the dataset has no labels; None: the rule labeler.
            unmentioned: See ``ScoringConfig``.
            fields: Fields of records that are known; None: those of ``CLINICAL_RECORD``.

        Raises:
            DataError: If a record has an invalid value, a study is unreadable and ``exclude_unreadable`` is not set, or an id occurs twice.
        """
        self.name, self.fingerprint, self.image_size = dataset.name, dataset.fingerprint, dataset.image_size
        self.shard_size = shard_size

        # Read this rank's shards, exchange what the others read.
        in_memory: dict[int, Study] = {}
        own: list[list[_ReadStudy | Exclusion]] = []

        def read() -> None:
            places = range(len(dataset))
            for start in ranks.share(places[::shard_size]):
                shard = places[start : start + shard_size]
                own.append([_read(dataset, place, in_memory, exclude_unreadable) for place in shard])

        ranks.by_each(read)
        records = [record for shard in ranks.unshare(own) for record in shard]

        # Rows are the readable studies, in dataset order.
        self.excluded = [record for record in records if isinstance(record, Exclusion)]
        readable = [(place, record) for place, record in enumerate(records) if not isinstance(record, Exclusion)]
        self.studies = RealStudies(dataset, [place for place, _ in readable], [record.study for _, record in readable])
        for row, (place, _) in enumerate(readable):
            if place in in_memory:
                self.studies.cache(row, in_memory[place])
        self.modalities = [record.modalities for _, record in readable]
        self.hashes: list[Mapping[str, str]] = [record.hashes for _, record in readable]
        self.ids = [study.study_id for study in self.studies.without_images]
        self.patients = [study.patient_id for study in self.studies.without_images]
        if len(set(self.ids)) < len(self.ids):
            repeated = next(study_id for study_id in self.ids if self.ids.count(study_id) > 1)
            raise DataError(f"{self.name} holds study {repeated!r} twice", fix="prepare the dataset again")
        self._set_truth(label or _label_by_rules, unmentioned)
        self._set_records(CLINICAL_RECORD.fields if fields is None else fields)

    def _set_truth(self, label: Callable[[Sequence[str]], list[tuple[Finding, ...]]], unmentioned: str) -> None:
        """The truth is in the labels, or, if no study has any, in the reference reports."""
        studies = self.studies.without_images
        self.truth = np.stack([_truth_of_labels(study, unmentioned == "absent") for study in studies])  # [N, 14]
        self.findings = [tuple(study.findings) for study in studies]
        self.truth_source = "reference report" if np.isnan(self.truth).all() else "labels"
        if self.truth_source == "reference report":
            reports = [study.report or "" for study in studies]
            self.findings = label(reports)
            self.truth = np.stack([_truth_of_report(*pair) for pair in zip(reports, self.findings, strict=True)])

    def _set_records(self, fields: Fields) -> None:
        """Values of all records, of the fields that some of them has."""
        records = {
            name: [study.contents.get(name, {}) for study in self.studies.without_images]
            for name in names("table")
            if self.having([name])
        }
        present = {field for own in records.values() for record in own for field in record}  # type: ignore[union-attr]
        self.fields: Fields = {name: field for name, field in fields.items() if name in present}
        self.records = {name: encoded_records(self.fields, own) for name, own in records.items()}  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.studies)

    @property
    def are_phantoms(self) -> bool:
        """Whether every study is a thorax phantom."""
        return all(study.metadata.get("source") == "phantom" for study in self.studies.without_images)

    def shards(self, rows: Iterable[int]) -> list[StudyShard]:
        """Shards of the held-out studies, restricted to ``rows``; empty ones are left out.

        A shard is the same whatever the number of ranks, and one rank processes it whole, so its bytes are the same too.
        """
        return shards_of(rows, self.shard_size)

    def having(self, modalities: Iterable[str]) -> list[int]:
        """Rows of the studies that have all of the modalities."""
        wanted = set(modalities)
        return [row for row, present in enumerate(self.modalities) if wanted <= present]

    def usable(self, direction: Direction) -> list[int]:
        """Rows of the studies that have all prompts and targets of a direction."""
        return self.having(direction.prompts + direction.targets)

    def values(self, modality: str, rows: Sequence[int]) -> list[Value]:
        """Real contents as they are annotated."""
        is_image = MODALITIES[modality].kind == "image"
        studies = [self.studies[row] if is_image else self.studies.without_images[row] for row in rows]
        return [as_annotated(study.contents[modality]) for study in studies]


class _ReadStudy(NamedTuple):
    study: Study  # without its images
    modalities: frozenset[str]
    hashes: dict[str, str]  # modality -> SHA-256 of its content


def _read(dataset: StudyDataset, place: int, in_memory: dict[int, Study], exclude: bool) -> _ReadStudy | Exclusion:
    try:
        study = read_study(dataset, place)
    except DataError as error:
        if not exclude:
            raise
        study_id = getattr(dataset, "study_id", None)
        return Exclusion(study_id(place) if study_id else f"number {place}", "study", str(error))
    if len(in_memory) < MEMORY_BYTES // max(_num_bytes(study), 1):
        in_memory[place] = study
    hashes = {name: content_sha256(as_annotated(value)) for name, value in study.contents.items()}
    small = {name: value for name, value in study.contents.items() if not isinstance(value, np.ndarray)}
    return _ReadStudy(replace(study, contents=small), frozenset(study.contents), hashes)


def _truth_of_labels(study: Study, blank_is_absent: bool) -> np.ndarray:
    """float32 ``[14]``; all NaN for a study without labels."""
    truth = target_truth(study, CHEXPERT_LABELS)
    labelled = np.array([not np.isnan(study.labels.get(label, np.nan)) for label in CHEXPERT_LABELS])
    if blank_is_absent and labelled.any():
        truth[~labelled] = 0.0
    return truth


def _truth_of_report(report: str, findings: tuple[Finding, ...]) -> np.ndarray:
    """float32 ``[14]``: uncertain is unknown, not mentioned is absent; all NaN without a report."""
    if not report:
        return np.full(len(CHEXPERT_LABELS), np.nan, np.float32)
    labels = labels_from_findings(findings)
    values = np.array([labels.get(label, 0.0) for label in CHEXPERT_LABELS], np.float32)
    return np.where(values == -1, np.nan, values).astype(np.float32)


def _label_by_rules(reports: Sequence[str]) -> list[tuple[Finding, ...]]:
    return [label_report(report) for report in reports]
