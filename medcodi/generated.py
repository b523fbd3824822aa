"""What a generation returns: samples, easy access to the first, and files with their provenance."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcodi.config import to_dict
from medcodi.data.images import save_png8
from medcodi.errors import DataError
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.study import Direction

_LIBRARIES = ("medcodi", "torch", "diffusers", "transformers", "open_clip_torch", "numpy")


@dataclass(frozen=True)
class Sample:
    """One generated set of targets.

    Attributes:
        seed: Reproduces it.
        contents: Target -> image float32 ``[H, W]`` in [0, 1], or text.
    """

    seed: int
    contents: Mapping[str, np.ndarray | str]


@dataclass(frozen=True)
class Generation:
    """Samples of one request.

    ``generation.lateral`` is the first sample's lateral as a PIL image, ``generation.report`` its report as a str; so for
    every target.

    Attributes:
        direction: What was asked.
        samples: In the order of their seeds.
        provenance: Model and prompt hashes, seeds, settings, versions: what is needed to make it again.
    """

    direction: Direction
    samples: list[Sample]
    provenance: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name in MODALITIES and name in self.direction.targets:
            value = self.samples[0].contents[name]
            return value if isinstance(value, str) else to_pil(value)
        wanted = f"; its targets are {', '.join(self.direction.targets)}" if name in MODALITIES else ""
        raise AttributeError(f"this generation has no {name!r}{wanted}")

    @property
    def images(self) -> dict[str, np.ndarray]:
        """Images of the first sample: float32 ``[H, W]`` in [0, 1]."""
        return {name: value for name, value in self.samples[0].contents.items() if isinstance(value, np.ndarray)}

    def save(self, folder: str | Path) -> Path:
        """Write images (8-bit PNG), texts and ``provenance.json``; all or nothing.

        One sample: ``lateral.png``, ``report.txt``. Several: ``0/lateral.png``, ``1/lateral.png`` ...

        Args:
            folder: Made if missing; must not hold an earlier generation.

        Returns:
            The folder.

        Raises:
            DataError: If the folder is not empty, or cannot be written.
        """
        folder = Path(folder)
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise DataError(f"{folder} is not empty", expected="a new or empty folder", mend="choose another folder")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise DataError(
                f"{folder} cannot be made: {error.strerror}", mend="choose a folder that can be written"
            ) from None
        try:
            for index, sample in enumerate(self.samples):
                place = staging if len(self.samples) == 1 else staging / str(index)
                place.mkdir(exist_ok=True)
                for name, value in sample.contents.items():
                    if isinstance(value, str):
                        (place / f"{name}.txt").write_text(value + "\n", encoding="utf-8")
                    else:
                        save_png8(value, place / f"{name}.png")
            (staging / "provenance.json").write_text(json.dumps(self.provenance, indent=2) + "\n", encoding="utf-8")
            staging.chmod(0o755)
            if folder.is_dir():
                folder.rmdir()
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return folder


def to_pil(image: np.ndarray) -> Image.Image:
    """Float ``[H, W]`` in [0, 1] -> 8-bit grey PIL image."""
    return Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))


def provenance(
    model: MedCoDi,
    direction: Direction,
    prompts: Mapping[str, np.ndarray | str],
    weights: Mapping[str, float],
    settings: Any,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """All that is needed to make a generation again, without the prompts themselves (they may be a patient's)."""
    return {
        "direction": str(direction),
        "model": {
            "name": model.config.name,
            "sha256": model.identity(),
            "trained_stages": list(model.trained_stages),
        },
        "prompts": {name: {"sha256": _hash(value), "weight": weights[name]} for name, value in prompts.items()},
        "seeds": list(seeds),
        "settings": to_dict(settings),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        "notice": "Synthetic. Not for diagnosis.",
    }


def _hash(value: np.ndarray | str) -> str:
    data = value.encode() if isinstance(value, str) else np.ascontiguousarray(value, np.float32).tobytes()
    return hashlib.sha256(data).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
