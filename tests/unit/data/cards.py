"""A dataset of tests, whose studies show their own number; and whether two batches are the same."""

from __future__ import annotations

import numpy as np
import torch

from medcodi.data.loading import Batch
from medcodi.modality import MODALITIES, names
from medcodi.study import Study

SIZE = 8


class Cards:
    """Studies that show their own number; every third lacks its report, every fourth its images."""

    def __init__(self, num_studies: int) -> None:
        self.name, self.image_size, self.fingerprint = "cards", SIZE, f"cards-{num_studies}"
        self._num_studies = num_studies

    def __len__(self) -> int:
        return self._num_studies

    def __getitem__(self, index: int) -> Study:
        contents: dict[str, np.ndarray | str] = {}
        if index % 4:
            contents |= {name: np.full((SIZE, SIZE), index / 100, np.float32) for name in names("image")}
        if index % 3:
            contents |= {name: f"report {index}" for name in names("text")}
        labels = {"Edema": 1.0, "Fracture": -1.0} if index % 2 else {}
        return Study(study_id=f"s{index}", patient_id=f"p{index // 2}", contents=contents, labels=labels)


def same(left: Batch, right: Batch) -> bool:
    for name in MODALITIES:
        ours, theirs = left.contents[name], right.contents[name]
        if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
            if not torch.equal(ours, theirs):
                return False
        elif ours != theirs:
            return False
        if not torch.equal(left.present[name], right.present[name]):
            return False
    return left.samples == right.samples and left.labels.nan_to_num(9).equal(right.labels.nan_to_num(9))
