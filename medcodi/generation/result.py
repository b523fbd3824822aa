"""The result of a generation: samples, shortcuts to the first one, and files with their provenance."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from PIL import Image

from medcodi.config import to_dict
from medcodi.data.dicom.writing import write_dicom
from medcodi.data.images import pixels_sha256, save_png8, save_png16, to_uint8, to_uint16
from medcodi.errors import DataError, MissingExtraError, one_of
from medcodi.generation.request import value_hash
from medcodi.generation.watermark import VERSION as WATERMARK
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.model.generation_config import GenerationConfig
from medcodi.model.identity import model_identity
from medcodi.networks.tokenizer import Truncation
from medcodi.record import Record
from medcodi.storage import atomic
from medcodi.storage.ownership import refuse_full
from medcodi.study import Content, Direction, content_text
from medcodi.xmp import EDITED, GENERATED, MEDCODI, Mark

PROVENANCE = "provenance.json"
_LIBRARIES = ("medcodi", "torch", "diffusers", "transformers", "open_clip_torch", "numpy")


@dataclass(frozen=True, repr=False)
class Sample:
    """One generated set of targets; its seed reproduces it."""

    seed: int
    contents: Mapping[str, Content]  # target -> image float32 [H, W] in [0, 1], text, or record

    def __repr__(self) -> str:
        parts = (f"{name} {_brief(value)}" for name, value in self.contents.items())
        return f"Sample(seed={self.seed}, {', '.join(parts)})"


def _brief(value: Content) -> str:
    if isinstance(value, np.ndarray):
        return str([*value.shape])
    return repr(shorten(content_text(value) or "", 60, placeholder=" ..."))


@dataclass(frozen=True, repr=False)
class Generation:
    """Samples of one request.

    Every target is an attribute: ``generation.lateral`` is the first sample's lateral as a PIL image, ``generation.report``
    its report as a str, its record as a dict.
    """

    direction: Direction
    samples: list[Sample]  # in the order of their seeds
    provenance: dict[str, Any]  # everything needed to generate the samples again

    def __repr__(self) -> str:
        """One line: the direction, the model, and the first sample."""
        model = self.provenance.get("model", {})
        more = f" and {len(self.samples) - 1} more" if len(self.samples) > 1 else ""
        by = f"{model.get('name', 'unknown')} {model.get('sha256', '')[:12]}".rstrip()
        return f"Generation({self.direction} by {by}: {self.samples[0]!r}{more})"

    def __getattr__(self, name: str) -> Any:
        if name in MODALITIES and name in self.direction.targets:
            value = self.samples[0].contents[name]
            return to_pil(value) if isinstance(value, np.ndarray) else value
        targets = f"; its targets are {', '.join(self.direction.targets)}" if name in MODALITIES else ""
        raise AttributeError(f"this generation has no {name!r}{targets}")

    @property
    def images(self) -> dict[str, np.ndarray]:
        """Images of the first sample: float32 ``[H, W]`` in [0, 1]."""
        return {name: value for name, value in self.samples[0].contents.items() if isinstance(value, np.ndarray)}

    def save(self, folder: str | Path, format: str = "png") -> Path:
        """Write images, texts and ``provenance.json``, all or none.

        One sample: ``lateral.png``, ``report.txt``. Several: ``0/lateral.png``, ``1/lateral.png`` ...

        Every film is marked in its own file; ``provenance.json`` has the hash of every file (``medcodi verify-mark``).

        Args:
            folder: A new or empty folder.
            format: Format of the images: ``png`` (8 bits), ``png16`` or ``dicom`` (16 bits, marked as synthetic).

        Raises:
            DataError: If the folder is not empty or cannot be written, or the format is unknown.
            MissingExtraError: If the format needs a package that is not installed.
        """
        folder, writer = Path(folder), image_format(format)
        refuse_full(folder, fix="choose another folder")
        with atomic.filling(folder, error=DataError) as staging:
            written: dict[str, str] = {}
            for index, sample in enumerate(self.samples):
                subfolder = staging if len(self.samples) == 1 else staging / str(index)
                subfolder.mkdir(exist_ok=True)
                # Each image carries the provenance of its own sample.
                files = write_contents(sample.contents, subfolder, writer, {**self.provenance, "seeds": [sample.seed]})
                for file in files.values():
                    written[file.relative_to(staging).as_posix()] = atomic.sha256_file(file)
            atomic.write_json(staging / PROVENANCE, {**self.provenance, "files": written})
        return folder


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """A file format for generated images."""

    suffix: str
    # Called with an image [H, W] in [0, 1], a path, the image's modality, its sample's provenance, and the sample's record, if any.
    save: Callable[[np.ndarray, Path, str, Mapping[str, Any], Record | None], None]
    needs: tuple[str, str] | None = None  # the package that it imports, and the extra that installs it


def mark_of(provenance: Mapping[str, Any], levels: np.ndarray) -> Mark:
    """The mark of one film: its sample's provenance without the prompts, and the hash of its grey levels, uint16 ``[H, W]``."""
    model = provenance.get("model", {})
    return Mark(
        source_type=EDITED if "edit" in provenance else GENERATED,
        system=f"{MEDCODI} model {model.get('name', 'unknown')}",
        version=str(model.get("sha256", "")),
        direction=str(provenance.get("direction", "")),
        seed=str(provenance["seeds"][0]),
        pixels_sha256=pixels_sha256(levels),
        watermark=WATERMARK if provenance.get("settings", {}).get("watermark") else "",
        notice=str(provenance.get("notice", "")),
    )


def _save_png(image: np.ndarray, path: Path, modality: str, provenance: Mapping[str, Any], *_: Any) -> None:
    mark = mark_of(provenance, to_uint8(image) * np.uint16(257))
    save_png8(image, path, origin="synthetic", xmp=mark.packet())


def _save_png16(image: np.ndarray, path: Path, modality: str, provenance: Mapping[str, Any], *_: Any) -> None:
    save_png16(image, path, origin="synthetic", xmp=mark_of(provenance, to_uint16(image)).packet())


IMAGE_FORMATS: dict[str, ImageFormat] = {
    "png": ImageFormat(suffix=".png", save=_save_png),
    "png16": ImageFormat(suffix=".png", save=_save_png16),
    "dicom": ImageFormat(suffix=".dcm", save=write_dicom, needs=("pydicom", "dicom")),
}


def image_format(name: str) -> ImageFormat:
    """Look up a format, and check that its package is installed, before any work is done."""
    format = IMAGE_FORMATS[one_of("image format", name, IMAGE_FORMATS, DataError)]
    if format.needs is not None and find_spec(format.needs[0]) is None:
        raise MissingExtraError(format.needs[0], extra=format.needs[1], needed_for=f"writing {name}")
    return format


def write_contents(
    contents: Mapping[str, Content], folder: Path, format: ImageFormat, provenance: Mapping[str, Any]
) -> dict[str, Path]:
    """Write one sample's targets, and its provenance where the format holds it, into a folder; returns target -> file."""
    files: dict[str, Path] = {}
    record = next((value for value in contents.values() if isinstance(value, Mapping)), None)
    for name, value in contents.items():
        if isinstance(value, str):
            files[name] = folder / f"{name}.txt"
            files[name].write_text(value + "\n", encoding="utf-8")
        elif isinstance(value, Mapping):
            files[name] = folder / f"{name}.json"
            files[name].write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        else:
            files[name] = folder / f"{name}{format.suffix}"
            format.save(value, files[name], name, provenance, record)
    return files


def to_pil(image: np.ndarray) -> Image.Image:
    """Float ``[H, W]`` in [0, 1] -> 8-bit grey PIL image."""
    return Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))


def provenance(
    model: MedCoDi | Mapping[str, Any],
    direction: Direction,
    prompts: Mapping[str, Content],
    weights: Mapping[str, float],
    config: GenerationConfig,
    seeds: Sequence[int],
    arithmetic: Mapping[str, Any] | None = None,
    truncated: Mapping[str, Truncation] = {},
) -> dict[str, Any]:
    """Everything needed to generate samples again, without the prompts themselves (they may be a patient's).

    Args:
        model: The model, or its :func:`model_identity` if that is known already.
        direction: Prompts and targets.
        prompts: The prompts as the model saw them, by modality.
        weights: Their weights.
        config: Resolved.
        seeds: One for each sample.
        arithmetic: ``ExecutionConfig.arithmetic``.
        truncated: Text prompts that the model read in part.
    """
    return {
        "direction": str(direction),
        "model": model_identity(model) if isinstance(model, MedCoDi) else dict(model),
        "prompts": {
            name: {
                "sha256": value_hash(value),
                "weight": weights[name],
                **({"truncated": asdict(truncated[name])} if name in truncated else {}),
            }
            for name, value in prompts.items()
        },
        "seeds": list(seeds),
        "settings": to_dict(config),
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
