"""The real side of an evaluation: held-out studies, their truth, what is read from the real targets, and derangements."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medcodi.data.dataset import read_study
from medcodi.data.loading import StudyDataset
from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import FindingClassifier, target_truth
from medcodi.evaluation.ranks import ALONE, Ranks, blocks_of
from medcodi.metrics.labeler import label_report, labels_from_findings
from medcodi.modality import MODALITIES
from medcodi.study import CHEXPERT_LABELS, Direction, Finding, Study

Value = np.ndarray | str
KEPT_BYTES = 1 << 30  # of images of real studies that stay in memory


def eight_bit(image: np.ndarray) -> np.ndarray:
    """An image as it comes back from an 8-bit file: float32 in [0, 1], 256 levels. Real and generated are judged alike."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).astype(np.float32) / 255


def content_sha256(value: Value) -> str:
    """SHA-256 of a content as it is judged: of a text's UTF-8, or of an image's shape and 8-bit pixels."""
    if isinstance(value, str):
        return hashlib.sha256(value.encode()).hexdigest()
    pixels = np.round(np.asarray(value) * 255).astype(np.uint8)
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


@dataclass(frozen=True)
class LeftOut:
    """Something that was not scored, and why."""

    study_id: str
    what: str
    reason: str


class RealStudies:
    """Studies by index; texts, labels and findings of all stay in memory, images only as far as ``KEPT_BYTES`` go."""

    def __init__(self, dataset: StudyDataset, places: Sequence[int], light: Sequence[Study]) -> None:
        """Remember where each study lies.

        Args:
            dataset: That holds them.
            places: Index in the dataset of each study.
            light: The studies without their images.
        """
        self._dataset, self._places, self.light = dataset, list(places), list(light)
        self._kept: OrderedDict[int, Study] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> Study:
        if row in self._kept:
            self._kept.move_to_end(row)
            return self._kept[row]
        study = read_study(self._dataset, self._places[row])
        self.keep(row, study)
        return study

    def keep(self, row: int, study: Study) -> None:
        """Keep a study in memory; the ones asked for longest ago make room."""
        self._kept[row] = study
        self._bytes += _num_bytes(study)
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= _num_bytes(self._kept.popitem(last=False)[1])


def _num_bytes(study: Study) -> int:
    return sum(image.nbytes for image in study.images.values())


class HeldOut:
    """Held-out studies and all that is computed from them once.

    Attributes:
        studies: In dataset order.
        patients: Patient of each.
        held: Modalities that each holds.
        hashes: For each, modality -> SHA-256 of its content as it is judged.
        excluded: Studies that could not be read, where that is allowed.
        truth: float32 ``[N, 14]`` of 0, 1, NaN.
        findings: True findings of each study, with sides, where they are told.
        truth_source: "labels" where the dataset tells them, else "reference report" (read by the rule labeler).
        block_size: Studies that are worked on together; a block belongs to one rank.
        remembered: Figures of the real studies that several directions share.
    """

    def __init__(
        self,
        dataset: StudyDataset,
        classifier: FindingClassifier | None,
        *,
        block_size: int = 32,
        ranks: Ranks = ALONE,
        exclude_unreadable: bool = False,
        label: Callable[[Sequence[str]], list[tuple[Finding, ...]]] | None = None,
        unmentioned: str = "absent",
    ) -> None:
        """Read every study once, each rank its share.

        Args:
            dataset: The studies.
            classifier: Of findings in images.
            block_size: Studies that are worked on together.
            ranks: The processes.
            exclude_unreadable: List a study that cannot be read as excluded; else it stops the run.
            label: Reads the truth from reports where the dataset tells no labels; None: the rule labeler.
            unmentioned: Of labels: see ``ScoringOptions``.

        Raises:
            DataError: If a study cannot be read and ``exclude_unreadable`` is not set, or an id stands twice.
        """
        self.name, self.fingerprint, self.classifier = dataset.name, dataset.fingerprint, classifier
        self.image_size, self.block_size = dataset.image_size, block_size
        kept: dict[int, Study] = {}
        mine = [
            [_looked_at(dataset, place, kept, exclude_unreadable) for place in block]
            for block in ranks.share(blocks_of(len(dataset), block_size))
        ]
        looked = [one for block in ranks.gathered(mine) for one in block]
        self.excluded = [one for one in looked if isinstance(one, LeftOut)]
        places = [place for place, one in enumerate(looked) if not isinstance(one, LeftOut)]
        seen = [one for one in looked if not isinstance(one, LeftOut)]
        self.studies = RealStudies(dataset, places, [study for study, _, _ in seen])
        for row, place in enumerate(places):
            if place in kept:
                self.studies.keep(row, kept[place])
        self.held = [frozenset(modalities) for _, modalities, _ in seen]
        self.hashes: list[Mapping[str, str]] = [hashes for _, _, hashes in seen]
        light = self.studies.light
        self.ids, self.patients = [study.study_id for study in light], [study.patient_id for study in light]
        if len(set(self.ids)) < len(self.ids):
            twice = next(one for one in self.ids if self.ids.count(one) > 1)
            raise DataError(f"{self.name} holds study {twice!r} twice", fix="prepare the dataset again")
        told = np.stack([_truth_told(study, unmentioned == "absent") for study in light])
        self.truth_source = "reference report" if np.isnan(told).all() else "labels"
        reports = [study.report or "" for study in light]
        read = (label or _label_by_rules)(reports) if self.truth_source != "labels" else []
        self.findings = [tuple(study.findings) for study in light] if self.truth_source == "labels" else read
        self.truth = (
            told
            if self.truth_source == "labels"
            else np.stack([_truth_from(text, one) for text, one in zip(reports, read, strict=True)])
        )
        self.remembered: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self.studies)

    @property
    def are_phantoms(self) -> bool:
        """Whether every study is a thorax phantom, of which readers of this project were made."""
        return all(study.metadata.get("source") == "phantom" for study in self.studies.light)

    @property
    def blocks(self) -> list[range]:
        """Rows of the studies, in blocks."""
        return blocks_of(len(self), self.block_size)

    def having(self, modalities: Iterable[str]) -> list[int]:
        """Indices of the studies that hold all of the modalities."""
        wanted = set(modalities)
        return [row for row, held in enumerate(self.held) if wanted <= held]

    def usable(self, direction: Direction) -> list[int]:
        """Indices of the studies that hold all prompts and targets of a direction.

        Raises:
            DataError: If there are fewer than 4.
        """
        rows = self.having(direction.prompts + direction.targets)
        if len(rows) < 4:
            raise DataError(
                f"{len(rows)} of {len(self)} studies hold all of {direction}",
                expected="at least 4",
                fix="choose other directions, or more studies",
            )
        return rows

    def values(self, modality: str, rows: Sequence[int]) -> list[np.ndarray | str]:
        """Real contents of some studies, as they are judged."""
        if MODALITIES[modality].kind == "text":
            return [self.studies.light[row].contents[modality] for row in rows]
        return [eight_bit(np.asarray(self.studies[row].contents[modality])) for row in rows]


Looked = tuple[Study, tuple[str, ...], dict[str, str]]


def _looked_at(dataset: StudyDataset, place: int, kept: dict[int, Study], exclude: bool) -> Looked | LeftOut:
    """A study without its images, the modalities it holds, and the hashes of what will be judged."""
    try:
        study = read_study(dataset, place)
    except DataError as error:
        if not exclude:
            raise
        study_id = getattr(dataset, "study_id", None)
        return LeftOut(study_id(place) if study_id else f"number {place}", "study", str(error))
    if len(kept) < KEPT_BYTES // max(_num_bytes(study), 1):
        kept[place] = study
    texts = {name: value for name, value in study.contents.items() if isinstance(value, str)}
    judged = {name: eight_bit(image) for name, image in study.images.items()}
    hashes = {name: content_sha256(value) for name, value in {**texts, **judged}.items()}
    return replace(study, contents=texts), tuple(study.contents), hashes


def _truth_told(study: Study, blank_is_absent: bool) -> np.ndarray:
    """What a study's labels say, float32 ``[14]``; of a study without any, nothing is known."""
    truth = target_truth(study, CHEXPERT_LABELS)
    told = np.array([not np.isnan(study.labels.get(label, np.nan)) for label in CHEXPERT_LABELS])
    if blank_is_absent and told.any():
        truth[~told] = 0.0
    return truth


def _label_by_rules(reports: Sequence[str]) -> list[tuple[Finding, ...]]:
    return [label_report(report) for report in reports]


def _truth_from(report: str, findings: tuple[Finding, ...]) -> np.ndarray:
    """What a report says, float32 ``[14]``: uncertain is unknown, not mentioned is absent; nothing is known without one."""
    if not report:
        return np.full(len(CHEXPERT_LABELS), np.nan, np.float32)
    told = labels_from_findings(findings)
    values = np.array([told.get(label, 0.0) for label in CHEXPERT_LABELS], np.float32)
    return np.where(values == -1, np.nan, values).astype(np.float32)
