"""What a generation returns: samples, easy access to the first, and files with their provenance."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcodi.config import to_dict
from medcodi.data.dicom.writing import write_dicom
from medcodi.data.images import save_png8, save_png16
from medcodi.errors import DataError, MissingExtraError, one_of
from medcodi.generation.prompts import value_hash
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

    def save(self, folder: str | Path, format: str = "png") -> Path:
        """Write images, texts and ``provenance.json``; all or nothing.

        One sample: ``lateral.png``, ``report.txt``. Several: ``0/lateral.png``, ``1/lateral.png`` ...

        Args:
            folder: Made if missing; must not hold an earlier generation.
            format: Of the images: ``png`` (8 bits), ``png16`` or ``dicom`` (16 bits, marked as synthetic).

        Returns:
            The folder.

        Raises:
            DataError: If the folder is not empty or cannot be written, or the format is unknown.
            MissingExtraError: If the format needs a package that is not installed.
        """
        folder, written = Path(folder), image_format(format)
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise DataError(f"{folder} is not empty", expected="a new or empty folder", fix="choose another folder")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise DataError(
                f"{folder} cannot be made: {error.strerror}", fix="choose a folder that can be written"
            ) from None
        try:
            for index, sample in enumerate(self.samples):
                place = staging if len(self.samples) == 1 else staging / str(index)
                place.mkdir(exist_ok=True)
                write_contents(sample.contents, place, written, {**self.provenance, "seeds": [sample.seed]})
            (staging / "provenance.json").write_text(json.dumps(self.provenance, indent=2) + "\n", encoding="utf-8")
            staging.chmod(0o755)
            if folder.is_dir():
                folder.rmdir()
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return folder


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """A file format for generated images.

    Attributes:
        suffix: Of its files.
        save: Writes an image float32 ``[H, W]`` in [0, 1] to a path, given its modality and the provenance of its sample.
        needs: Package that it cannot do without, and the extra that installs it.
    """

    suffix: str
    save: Callable[[np.ndarray, Path, str, Mapping[str, Any]], None]
    needs: tuple[str, str] | None = None


IMAGE_FORMATS: dict[str, ImageFormat] = {
    "png": ImageFormat(suffix=".png", save=lambda image, path, *_: save_png8(image, path)),
    "png16": ImageFormat(suffix=".png", save=lambda image, path, *_: save_png16(image, path)),
    "dicom": ImageFormat(suffix=".dcm", save=write_dicom, needs=("pydicom", "dicom")),
}


def image_format(name: str) -> ImageFormat:
    """Look a format up, and make sure that it can be written: before the work is done, not after it.

    Raises:
        DataError: If there is none of that name.
        MissingExtraError: If its package is not installed.
    """
    found = IMAGE_FORMATS[one_of("image format", name, IMAGE_FORMATS, DataError)]
    if found.needs is not None and find_spec(found.needs[0]) is None:
        raise MissingExtraError(found.needs[0], extra=found.needs[1], needed_for=f"writing {name}")
    return found


def write_contents(
    contents: Mapping[str, np.ndarray | str], folder: Path, format: ImageFormat, told: Mapping[str, Any]
) -> dict[str, Path]:
    """Write one sample's targets into a folder.

    Args:
        contents: Target -> image or text.
        folder: Where.
        format: Of the images.
        told: The sample's provenance, with its one seed.

    Returns:
        Target -> its file.
    """
    files = {}
    for name, value in contents.items():
        if isinstance(value, str):
            files[name] = folder / f"{name}.txt"
            files[name].write_text(value + "\n", encoding="utf-8")
        else:
            files[name] = folder / f"{name}{format.suffix}"
            format.save(value, files[name], name, told)
    return files


def to_pil(image: np.ndarray) -> Image.Image:
    """Float ``[H, W]`` in [0, 1] -> 8-bit grey PIL image."""
    return Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))


def model_identity(model: MedCoDi) -> dict[str, Any]:
    """What names a model in provenance: its name, a hash of its weights, and the stages it went through."""
    return {"name": model.config.name, "sha256": model.identity(), "trained_stages": list(model.trained_stages)}


def provenance(
    model: MedCoDi | Mapping[str, Any],
    direction: Direction,
    prompts: Mapping[str, np.ndarray | str],
    weights: Mapping[str, float],
    settings: Any,
    seeds: Sequence[int],
    arithmetic: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that is needed to make a generation again, without the prompts themselves (they may be a patient's).

    Args:
        model: The model, or its :func:`model_identity` where that is known already (hashing weights takes a while).
        direction: What was asked.
        prompts: As the model saw them.
        weights: Of every prompt.
        settings: Resolved ones.
        seeds: Of every sample.
        arithmetic: Precision, kernels: what changes last digits; None: the model's own, plainly run.
    """
    return {
        "direction": str(direction),
        "model": model_identity(model) if isinstance(model, MedCoDi) else dict(model),
        "prompts": {name: {"sha256": value_hash(value), "weight": weights[name]} for name, value in prompts.items()},
        "seeds": list(seeds),
        "settings": to_dict(settings),
        **({"execution": dict(arithmetic)} if arithmetic else {}),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        "notice": "Synthetic. Not for diagnosis.",
    }


@lru_cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
