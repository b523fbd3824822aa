"""Studies of noise, and caches made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medcodi.data.dataset import StudyDataset
from medcodi.data.sources.phantom import phantom_report
from medcodi.model import MedCoDi
from medcodi.randomness import numpy_generator
from medcodi.study import Study
from medcodi.training.caching import EncodedStudies, cache_key, make_cache

STUDIES, SIZE = 40, 32  # two shards: 32 and 8


class Noise:
    """Studies of random pixels and phantom reports; every third lacks its lateral film, every fifth its report."""

    name, image_size = "noise", SIZE

    def __init__(self, num_studies: int = STUDIES, seed: int = 0) -> None:
        self.num_studies, self.seed, self.fingerprint = num_studies, seed, f"noise {seed} {num_studies}"
        self.scale = 1.0

    def __len__(self) -> int:
        return self.num_studies

    def __getitem__(self, index: int) -> Study:
        rng = numpy_generator("noise", self.seed, index)
        contents: dict = {"frontal": rng.random((SIZE, SIZE), dtype=np.float32) * self.scale}
        if index % 3:
            contents["lateral"] = rng.random((SIZE, SIZE), dtype=np.float32)
        if index % 5:
            contents["report"] = phantom_report(0, index)
        return Study(study_id=f"study {index}", patient_id=f"patient {index // 2}", contents=contents)

    def modality_counts(self) -> dict[str, int]:
        counts = {"frontal": self.num_studies}
        counts["lateral"] = sum(bool(i % 3) for i in range(self.num_studies))
        return {**counts, "report": sum(bool(i % 5) for i in range(self.num_studies))}


def made(model: MedCoDi, folder: Path, dataset: StudyDataset | None = None, **options) -> EncodedStudies:
    dataset = dataset or Noise()
    return make_cache(model, dataset, folder, cache_key(model, dataset), batch_size=12, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def copied(cache: Path, folder: Path) -> Path:
    folder.mkdir()
    for name, data in contents(cache).items():
        (folder / name).write_bytes(data)
    return folder
