"""A population whose reports need data to be learnt: each finding has forty words for it, and a report uses two of them.

Its films show the same findings as a bar and a disc. New studies never run out, so that the worth of a study is known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medcodi.randomness import numpy_generator
from medcodi.study import CHEXPERT_LABELS, Finding, Study

SIZE, NUM_WORDS = 32, 40
FINDINGS = ("Cardiomegaly", "Edema", "Pleural Effusion")


def toy_truth(index: int, seed: int) -> list[int]:
    return (numpy_generator("toy truth", seed, index).random(3) < 0.4).astype(int).tolist()


def toy_report(truth: list[int], *keys: int) -> str:
    """A report of these findings; other keys, other words."""
    draw = numpy_generator("toy words", *keys)
    words = [f"noise{draw.integers(300)}" for _ in range(8)]
    for finding, present in enumerate(truth):
        words += [f"finding{finding}word{draw.integers(NUM_WORDS)}" for _ in range(2 * present)]
    return " ".join(draw.permutation(words)) + "."


def toy_film(truth: list[int], *keys: int) -> np.ndarray:
    draw = numpy_generator("toy film", *keys)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    image = 0.2 + 0.1 * draw.random((SIZE, SIZE))
    image[26:, 18:30] += 0.4 * truth[2]
    image[(rows - 14) ** 2 + (columns - 16) ** 2 < 36] += 0.4 * truth[0]
    return image.astype(np.float32)


def toy_study(index: int, seed: int = 0) -> Study:
    truth = toy_truth(index, seed)
    labels = dict.fromkeys(CHEXPERT_LABELS, 0.0) | dict(zip(FINDINGS, map(float, truth), strict=True))
    findings = [Finding(label=name, side="left") for name, present in zip(FINDINGS, truth, strict=True) if present]
    return Study(
        study_id=f"toy-{seed}-{index}",
        patient_id=f"patient-{seed}-{index // 2}",
        contents={"frontal": toy_film(truth, seed, index), "report": toy_report(truth, seed, index)},
        labels=labels,
        findings=tuple(findings),
        metadata={"sex": "FM"[index % 2], "age": 30 + index % 50},
    )


class ToyStudies:
    """A dataset; seeds are populations without common patients."""

    def __init__(self, num: int, seed: int = 0) -> None:
        self.image_size, self.name, self.fingerprint = SIZE, f"toy-{seed}", f"toy-{num}-{seed}"
        self.num, self.seed, self.num_read = num, seed, 0

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Study:
        self.num_read += 1
        return toy_study(index, self.seed)

    def contents(self) -> list[tuple[str, str, frozenset[str]]]:
        names = frozenset(("frontal", "report"))
        return [(f"toy-{self.seed}-{i}", f"patient-{self.seed}-{i // 2}", names) for i in range(self.num)]


def toy_datasets(num: int = 320, held_out: int = 160) -> dict[str, ToyStudies]:
    sizes = {"train": num, "validation": held_out, "oracle": num, "test": 2 * held_out}
    return {name: ToyStudies(size, seed) for seed, (name, size) in enumerate(sizes.items())}


def toy_noise(*keys: int) -> str:
    """A report of words drawn from the whole vocabulary, which says nothing."""
    draw = numpy_generator("toy noise", *keys)
    words = [f"finding{finding}word{word}" for finding in range(len(FINDINGS)) for word in range(NUM_WORDS)]
    return " ".join(draw.choice([*words, *(f"noise{number}" for number in range(300))], 12)) + "."


def write_generated(folder: Path, num: int, *, kind: str) -> Path:
    """Reports that a generator made for the training studies: ``new`` ones, ``copies`` of the real ones, ``deaf`` to them, or ``noise``."""
    for index in range(num):
        truth = toy_truth(index, 98 if kind == "deaf" else 0)
        keys = (0, index) if kind == "copies" else (99, index)
        path = folder / "frontal_to_report" / f"toy-0-{index}" / "report.txt"
        path.parent.mkdir(parents=True)
        path.write_text(toy_noise(*keys) if kind == "noise" else toy_report(truth, *keys))
    return folder
