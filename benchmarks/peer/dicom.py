"""DICOM to a tensor in [0, 1], beside MONAI's reader and transforms and torchxrayvision's."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import prepare
import torch

from medcodi.data.dicom.reading import read_dicom
from medcodi.data.images import fit_square
from peer import Comparison, Sizes

SIZE = 256


def comparison(sizes: Sizes, folder: Path) -> Comparison:
    """The same uncompressed 12-bit files, one process, one thread; peers that are not installed are named."""
    paths = [folder / f"{index}.dcm" for index in range(sizes.of(16, 2))]
    for index, path in enumerate(paths):
        prepare.write_dicom(path, index)

    def ours(path: Path) -> torch.Tensor:
        return torch.from_numpy(fit_square(read_dicom(path).image, SIZE))[None]

    readers: dict[str, Callable[[Path], Any]] = {"ours": ours}
    facts: dict[str, Any] = {"files": len(paths), "pixels": prepare.SIDE}
    peers = {
        "monai, antialiased": lambda: _monai(mode="bilinear", anti_aliasing=True),
        "monai, area": lambda: _monai(mode="area"),
        "torchxrayvision": _torchxrayvision,
    }
    for name, reader in peers.items():
        if find_spec(name.partition(",")[0]) is None:
            facts[f"{name}: skipped"] = "not installed"
        else:
            readers[name] = reader()

    # How far apart the pixels are: MONAI stores columns first, torchxrayvision scales to -1024..1024.
    own = np.asarray(ours(paths[0]))[0]
    for name, reader in list(readers.items())[1:]:
        other = np.asarray(reader(paths[0]), dtype=np.float32)[0]
        other = (other - other.min()) / np.ptp(other)
        scaled = (own - own.min()) / np.ptp(own)
        facts[f"mean_difference_to_{name}"] = round(float(min(abs(scaled - o).mean() for o in (other, other.T))), 5)

    calls = {name: lambda reader=reader: [reader(path) for path in paths] for name, reader in readers.items()}
    what = f"{len(paths)} DICOM files of {prepare.SIDE} x {prepare.SIDE} to {SIZE} x {SIZE}, antialiased"
    return Comparison(what=what, calls=calls, goal=1 / 1.5, facts=facts)


def _monai(**resizing: Any) -> Callable[[Path], Any]:
    from monai.transforms import Compose, LoadImage, Resize, ScaleIntensity  # pyright: ignore[reportMissingImports]

    load = LoadImage(reader="PydicomReader", image_only=True, ensure_channel_first=True)
    return Compose([load, ScaleIntensity(), Resize((SIZE, SIZE), **resizing)])


def _torchxrayvision() -> Callable[[Path], Any]:
    import torchxrayvision as xrv

    crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(SIZE)
    return lambda path: resize(crop(xrv.utils.read_xray_dcm(path)[None]))
