"""A pool: every study of a set in memory, films as 8 bits, with truth, patient and subgroup; stored as one shard of the job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medcodi.data.dataset import StudyDataset, read_study
from medcodi.data.sources.phantom import PhantomDataset
from medcodi.errors import DataError
from medcodi.evaluation.annotators.classifier import TARGETS, target_truth
from medcodi.modality import MODALITIES
from medcodi.storage import atomic
from medcodi.study import Study
from medcodi.trust.utility.config import UtilityConfig

TENSORS, LISTS = "pool.safetensors", "pool.json"
AGE_BANDS = ((0, 40, "under 40"), (40, 65, "40 to 64"), (65, 200, "65 and over"))


@dataclass(frozen=True, kw_only=True)
class Pool:
    """N studies; V views of S pixels a side, K findings."""

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    groups: tuple[str, ...]  # sex and age band, such as "F, 40 to 64"; "" where they are not known
    reports: tuple[str, ...]  # "" where there is none
    images: Tensor  # uint8 [N, V, S, S]
    has_image: Tensor  # bool [N, V]
    truth: Tensor  # float32 [N, K] of 0, 1, NaN; of synthetic studies the prompt's
    sources: Tensor  # int64 [N], row of the training study that prompted a synthetic one; -1 of real ones
    reread: Tensor  # float32 [N, K], what an annotator reads in a synthetic study; NaN where it does not judge

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | np.ndarray) -> Pool:
        """Some of the studies, in this order; a row may occur more than once. All of them are this pool itself, not a copy."""
        if np.array_equal(rows, np.arange(len(self))):
            return self
        index = torch.as_tensor(np.asarray(rows, dtype=np.int64))
        values: dict[str, Any] = {name: tuple(getattr(self, name)[row] for row in index.tolist()) for name in _LISTS}
        values |= {name: getattr(self, name)[index] for name in _TENSORS}
        return Pool(**values)

    @staticmethod
    def joined(first: Pool, second: Pool) -> Pool:
        """The studies of two pools, one after the other."""
        if not len(first) or not len(second):
            return first if len(first) else second
        values: dict[str, Any] = {name: getattr(first, name) + getattr(second, name) for name in _LISTS}
        values |= {name: torch.cat([getattr(first, name), getattr(second, name)]) for name in _TENSORS}
        return Pool(**values)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the files of the shard; returns its record."""
        save_file({name: getattr(self, name).contiguous() for name in _TENSORS}, folder / TENSORS)
        text = json.dumps({name: list(getattr(self, name)) for name in _LISTS})
        (folder / LISTS).write_text(text, encoding="utf-8")
        files = {name: {"sha256": atomic.sha256_file(folder / name)} for name in (TENSORS, LISTS)}
        return {"files": files, "num_studies": len(self)}

    @classmethod
    def read(cls, folder: Path) -> Pool:
        """Read what :meth:`write` wrote."""
        lists = json.loads((folder / LISTS).read_text(encoding="utf-8"))
        values: dict[str, Any] = {name: tuple(lists[name]) for name in _LISTS}
        values |= load_file(folder / TENSORS)
        return cls(**values)


_LISTS = ("ids", "patients", "groups", "reports")
_TENSORS = ("images", "has_image", "truth", "sources", "reread")


class PoolBuilder:
    """Collects studies into a pool; one without what the task reads, or without a known finding, is left out and counted."""

    def __init__(
        self,
        modalities: Sequence[str],
        views: Sequence[str],
        findings: Sequence[str],
        size: int,
        *,
        labelled: bool = True,
    ) -> None:
        self.modalities, self.views, self.findings, self.size = modalities, views, findings, size
        self.labelled = labelled  # whether the task needs a known finding
        self.num_left_out = 0
        self._rows: list[tuple[Study, Tensor, Tensor, np.ndarray, int, np.ndarray]] = []

    def add(
        self, study: Study, source: int = -1, truth: np.ndarray | None = None, reread: np.ndarray | None = None
    ) -> None:
        """Add a study.

        Args:
            study: Its films have the pool's size.
            source: Row of the training study that prompted a synthetic one.
            truth: float32 ``[K]``; None: that of the study's labels and findings.
            reread: float32 ``[K]``, what an annotator reads in a synthetic study.

        Raises:
            DataError: If a film has another size.
        """
        films = torch.zeros(len(self.views), self.size, self.size, dtype=torch.uint8)
        present = torch.zeros(len(self.views), dtype=torch.bool)
        for view, name in enumerate(self.views):
            film = study.images.get(name)
            if film is None:
                continue
            if film.shape != (self.size, self.size):
                raise DataError(
                    f"study {study.study_id!r}: its {name} is {'×'.join(map(str, film.shape))}",
                    expected=f"{self.size}×{self.size} pixels, as the training studies",
                    fix="give every set the same image_size",
                )
            films[view] = torch.from_numpy(np.round(film * 255).clip(0, 255).astype(np.uint8))
            present[view] = True
        # What the task reads: any view, and a report where it reads reports.
        truth = target_truth(study, self.findings) if truth is None else truth
        reads_text, reads_films = (
            any(MODALITIES[m].kind == kind for m in self.modalities) for kind in ("text", "image")
        )
        lacks = (reads_films and not present.any()) or (reads_text and not study.report)
        if lacks or (self.labelled and np.isnan(truth).all()):
            self.num_left_out += 1
            return
        unread = np.full(len(self.findings), np.nan, np.float32)
        self._rows.append((study, films, present, truth, source, unread if reread is None else reread))

    def build(self, name: str) -> Pool:
        """The pool; refused where no study is left."""
        if not self._rows:
            raise DataError(
                f"{name} has no study with {' and '.join(self.modalities)} and a known finding ({self.num_left_out} left out)",
                expected="studies that the task can read",
                fix="choose other data, views or task",
            )
        studies, films, present, truth, sources, reread = zip(*self._rows, strict=True)
        return Pool(
            ids=tuple(study.study_id for study in studies),
            patients=tuple(study.patient_id for study in studies),
            groups=tuple(map(subgroup, studies)),
            reports=tuple(study.report or "" for study in studies),
            images=torch.stack(films),
            has_image=torch.stack(present),
            truth=torch.from_numpy(np.stack(truth)),
            sources=torch.tensor(sources, dtype=torch.int64),
            reread=torch.from_numpy(np.stack(reread)).float(),
        )


def read_studies(dataset: StudyDataset) -> Iterable[Study]:
    """Every study of a dataset in order; one that cannot be read is refused by name."""
    return (read_study(dataset, index) for index in range(len(dataset)))


def subgroup(study: Study) -> str:
    """Sex and age band of a study's record or metadata: ``"F, 40 to 64"``; "" where one of them is not known."""
    values: Mapping[str, Any] = {**study.metadata, **(study.record or {})}
    try:
        sex, age = str(values["sex"]).upper()[:1], float(values["age"])
    except (KeyError, TypeError, ValueError):
        return ""
    band = next((name for low, high, name in AGE_BANDS if low <= age < high), "")
    return f"{sex}, {band}" if sex in ("F", "M") and band else ""


def identifiers(dataset: StudyDataset) -> list[tuple[str, str]]:
    """Study and patient of every row, in order; no film is read or computed where the dataset knows them otherwise."""
    if isinstance(dataset, PhantomDataset):
        return [dataset.identifiers(index) for index in range(len(dataset))]
    if (contents := getattr(dataset, "contents", None)) is not None:
        return [(study, patient) for study, patient, _ in contents()]
    return [(study.study_id, study.patient_id) for study in read_studies(dataset)]


def findings_of(config: UtilityConfig, train: Pool) -> tuple[str, ...]:
    """The findings of a study: those of the config, or all with enough cases, and enough studies without, in training.

    Raises:
        DataError: If one that is named has too few cases, or there is none.
    """
    cases, others = (train.truth == 1).sum(0).tolist(), (train.truth == 0).sum(0).tolist()
    for finding in config.findings:
        if min(cases[TARGETS.index(finding)], others[TARGETS.index(finding)]) < config.min_positives:
            k = TARGETS.index(finding)
            raise DataError(
                f"{finding} has {cases[k]} cases among {cases[k] + others[k]} training studies",
                expected=f"at least {config.min_positives} (min_positives), and as many without it",
                fix="leave it out of findings, use more training studies, or a smaller min_positives",
            )
    enough = [min(pair) >= config.min_positives for pair in zip(cases, others, strict=True)]
    findings = config.findings or tuple(
        finding for finding, is_enough in zip(TARGETS, enough, strict=True) if is_enough
    )
    # What arms cut, and what alone prompts, must be among them.
    named = [arm.cut for arm in config.arms.values()] + [generator.finding for generator in config.generators.values()]
    if lacking := [finding for finding in named if finding and finding not in findings]:
        raise DataError(
            f"{lacking[0]} is cut or prompted for, and has {cases[TARGETS.index(lacking[0])]} cases in training",
            expected=f"one of the study's findings: {', '.join(findings)}",
            fix="name it in findings, use more training studies, or another finding",
        )
    if not findings and config.task != "retrieval":
        raise DataError(
            f"no finding has {config.min_positives} cases among {len(train)} training studies",
            expected="labels of findings",
            fix="more training studies, or a smaller min_positives",
        )
    return findings
