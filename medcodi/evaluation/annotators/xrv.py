"""torchxrayvision's DenseNet-121 ("all"): weights, preprocessing and network, for features and for findings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcodi.errors import MissingExtraError
from medcodi.evaluation.annotators.weights import WeightSource, read_state, wrong_weights

XRV_SIZE = 224
_XRV_FILE = "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
XRV_WEIGHTS = WeightSource(
    file=_XRV_FILE,
    url=f"https://github.com/mlmed/torchxrayvision/releases/download/v1/{_XRV_FILE}",
    sha256="56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899",
    caches=("~/.torchxrayvision/models_data",),
    licence="Apache-2.0",
)


def import_xrv() -> Any:
    """The package ``torchxrayvision``; MissingExtraError if it is not installed."""
    try:
        import torchxrayvision
    except ImportError:
        raise MissingExtraError("torchxrayvision", extra="eval", needed_for="the extractor 'xrv'") from None
    return torchxrayvision


def xrv_network(path: Path, digest: str, published: str | None) -> nn.Module:
    """The network with weights from a file: a state dict, or the published pickle, which is unpickled only if its hash is known.

    Raises:
        MissingExtraError: If torchxrayvision is not installed.
        CheckpointError: If the file does not hold its weights.
    """
    xrv = import_xrv()
    content = read_state(path, trusted=digest == published)
    network = xrv.models.DenseNet()
    try:
        network.load_state_dict(content.state_dict() if isinstance(content, nn.Module) else content)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise wrong_weights("xrv", path, error) from None
    # The library sets these only when it downloads the weights itself.
    published_model = xrv.models.model_urls["densenet121-res224-all"]
    network.op_threshs = torch.tensor(published_model["op_threshs"])
    network.input_resolution = published_model["input_resolution"]
    return network.eval()


def xrv_input(image: np.ndarray) -> Tensor:
    """As the library's loader: uint8 ``[H, W]`` -> ``[1, 224, 224]`` in [-1024, 1024], centre crop, antialiased bilinear."""
    height, width = image.shape
    side = min(height, width)
    top, left = height // 2 - side // 2, width // 2 - side // 2
    square = image[top : top + side, left : left + side]
    scaled = torch.from_numpy((2 * (square.astype(np.float32) / 255) - 1.0) * 1024)[None, None]  # [1, 1, side, side]
    if side != XRV_SIZE:
        scaled = F.interpolate(scaled, size=(XRV_SIZE, XRV_SIZE), mode="bilinear", antialias=True)
    return scaled[0]
