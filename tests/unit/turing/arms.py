"""Small studies and tables of real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medcodi.config import from_dict
from medcodi.turing.design.config import ReaderStudyConfig


def tiny_study(**task: object) -> ReaderStudyConfig:
    values = {"id": "t", "kind": "rating", "modalities": ["frontal"], "num_items": 2, **task}
    return from_dict(
        ReaderStudyConfig,
        {"name": "s", "title": "t", "tasks": [values], "readers": 1, "image_size": 64, "blinding": {"crop": "none"}},
    )


def real_table(folder: Path, num: int, broken: int = 0, name: str = "table") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["study_id,patient_id,image,view"]
    for index in range(num):
        Image.fromarray(np.random.default_rng(index).integers(0, 255, (70, 90), dtype=np.uint8)).save(
            folder / f"{index}.png"
        )
        rows.append(f"s{index},p{index},{index}.png,PA")
    for index in range(broken):
        (folder / f"{index}.png").unlink()
    (folder / f"{name}.csv").write_text("\n".join(rows))
    return folder / f"{name}.csv"
