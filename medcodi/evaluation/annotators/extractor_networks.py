"""How the network of each row of the table of feature extractors is loaded, and what it does to an image first."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from medcodi.errors import CheckpointError, ConfigError, MissingExtraError
from medcodi.evaluation.annotators.classifier import WEIGHTS_FILE, FindingClassifier
from medcodi.evaluation.annotators.extractors import ExtractorRequest, ExtractorRow, LoadedNetwork
from medcodi.evaluation.annotators.weights import check_hash, find_weights
from medcodi.modality import MODALITIES
from medcodi.model.shipped import demo_checkpoint
from medcodi.storage.atomic import sha256_file

INCEPTION_SIZE, XRV_SIZE = 299, 224
RAD_DINO = "microsoft/rad-dino"


def read_state(path: Path, *, trusted: bool = False) -> Any:
    """What a weight file holds: safetensors, or PyTorch's format; code in it runs only if ``trusted`` (its hash is known).

    Raises:
        CheckpointError: If it cannot be read, or would run code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=not trusted)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read: {str(error).splitlines()[0]}",
            expected="a state dict (safetensors or PyTorch), or the published file",
            fix="download it again",
        ) from None


def _fill(name: str, network: nn.Module, state: Any, path: Path) -> None:
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not hold the weights of {name!r}: {' '.join(str(error).split())[:200]}",
            fix="name the right file",
        ) from None


def _stack_colour(prepared: list[np.ndarray]) -> Tensor:
    """Gray uint8 images of one size -> ``[B, 3, H, W]``, without copying the colours."""
    return torch.from_numpy(np.stack(prepared))[:, None].expand(-1, 3, -1, -1)


def _by_size(prepared: list[np.ndarray], run: Any) -> Tensor:
    """Run a network on images whose sizes may differ: each size is a batch of its own, the order is kept."""
    shapes = [image.shape for image in prepared]
    if len(set(shapes)) == 1:
        return run(prepared)
    rows: list[Tensor | None] = [None] * len(prepared)
    for shape in dict.fromkeys(shapes):
        chosen = [index for index, seen in enumerate(shapes) if seen == shape]
        for index, feature in zip(chosen, run([prepared[index] for index in chosen]), strict=True):
            rows[index] = feature
    return torch.stack([row for row in rows if row is not None])


def load_inception(row: ExtractorRow, request: ExtractorRequest) -> LoadedNetwork:
    """torch-fidelity's Inception-v3; a row named ``...antialiased`` resizes before the network.

    Raises:
        MissingExtraError, CheckpointError: See :func:`medcodi.evaluation.annotators.extractors.load_extractor`, as for every loader here.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise MissingExtraError("torch-fidelity", extra="eval", needed_for=f"the extractor {row.name!r}") from None
    assert row.weights is not None
    path = find_weights(row.name, row.weights, request.weights, download=request.download)
    digest = check_hash(row.name, path, request.sha256 or row.weights.sha256)
    read_state(path)  # a plain state dict: the library would run code in it
    try:
        network = FeatureExtractorInceptionV3(row.name, ["2048"], feature_extractor_weights_path=str(path))
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not hold the weights of {row.name!r}: {' '.join(str(error).split())[:200]}",
            fix="name the right file",
        ) from None
    # the same sums in another order in memory: 1.4 times as fast on a CPU, within 2e-7 (benchmarks/extraction.py)
    network = network.to(request.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def run(prepared: list[np.ndarray]) -> Tensor:
        return network(_stack_colour(prepared).to(request.device))[0]

    def clean(image: np.ndarray) -> np.ndarray:
        if image.shape == (INCEPTION_SIZE, INCEPTION_SIZE):
            return image
        resized = Image.fromarray(image).resize((INCEPTION_SIZE, INCEPTION_SIZE), Image.Resampling.BICUBIC)
        return np.asarray(resized)

    prepare = clean if row.name.endswith("antialiased") else np.ascontiguousarray
    return LoadedNetwork(
        dim=2048, weights=digest, prepare=prepare, embed=lambda prepared, modality: _by_size(prepared, run)
    )


def xrv_network(path: Path, digest: str, published: str | None) -> nn.Module:
    """Torchxrayvision's DenseNet-121 ("all") with weights from a file: a state dict, or the published pickle, known by its hash.

    Raises:
        MissingExtraError: If torchxrayvision is not installed.
        CheckpointError: If the file does not hold its weights.
    """
    try:
        import torchxrayvision as xrv
    except ImportError:
        raise MissingExtraError("torchxrayvision", extra="eval", needed_for="the extractor 'xrv'") from None
    held = read_state(path, trusted=digest == published)
    state = held.state_dict() if isinstance(held, nn.Module) else held
    network = xrv.models.DenseNet()
    _fill("xrv", network, state, path)
    described = xrv.models.model_urls["densenet121-res224-all"]
    network.op_threshs = torch.tensor(described["op_threshs"])
    network.input_resolution = described["input_resolution"]
    return network.eval()


def xrv_input(image: np.ndarray) -> Tensor:
    """As the library's loader has it: uint8 ``[H, W]`` -> ``[1, 224, 224]`` in [-1024, 1024], centre crop, antialiased bilinear."""
    height, width = image.shape
    side = min(height, width)
    top, left = height // 2 - side // 2, width // 2 - side // 2
    square = image[top : top + side, left : left + side]
    scaled = torch.from_numpy((2 * (square.astype(np.float32) / 255) - 1.0) * 1024)[None, None]
    if side != XRV_SIZE:
        scaled = F.interpolate(scaled, size=(XRV_SIZE, XRV_SIZE), mode="bilinear", antialias=True)
    return scaled[0]


def load_xrv(row: ExtractorRow, request: ExtractorRequest) -> LoadedNetwork:
    """Torchxrayvision's DenseNet-121, as a feature extractor."""
    assert row.weights is not None
    path = find_weights(row.name, row.weights, request.weights, download=request.download)
    digest = check_hash(row.name, path, request.sha256 or row.weights.sha256)
    network: Any = xrv_network(path, digest, row.weights.sha256).to(request.device)

    def embed(prepared: list[Tensor], modality: str) -> Tensor:
        return network.features2(torch.stack(prepared).to(request.device))

    return LoadedNetwork(dim=1024, weights=digest, prepare=xrv_input, embed=embed)


def load_rad_dino(row: ExtractorRow, request: ExtractorRequest) -> LoadedNetwork:
    """RAD-DINO by transformers, with its own processor; from a folder, or the hub (``name@revision``)."""
    from transformers import AutoImageProcessor, AutoModel

    assert row.weights is not None
    folder = _snapshot(row, request)
    weights = next(
        (folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()), None
    )
    if weights is None:
        raise CheckpointError(f"no model.safetensors in {folder}", fix=f"copy the whole of {row.weights.url}")
    digest = check_hash(row.name, weights, request.sha256 or row.weights.sha256)
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        network = AutoModel.from_pretrained(folder, local_files_only=True).to(request.device).eval()
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder} does not hold {row.name!r}: {str(error).splitlines()[0]}",
            expected="config.json, preprocessor_config.json and model.safetensors",
            fix=f"copy the whole of {row.weights.url}",
        ) from None
    settings = {
        "input_size": int(network.config.image_size),
        "processor": hashlib.sha256(json.dumps(processor.to_dict(), sort_keys=True, default=str).encode()).hexdigest(),
    }

    def prepare(image: np.ndarray) -> Tensor:
        return processor(images=Image.fromarray(image).convert("RGB"), return_tensors="pt")["pixel_values"][0]

    def embed(prepared: list[Tensor], modality: str) -> Tensor:
        return network(pixel_values=torch.stack(prepared).to(request.device)).pooler_output

    return LoadedNetwork(
        dim=int(network.config.hidden_size), weights=digest, prepare=prepare, embed=embed, settings=settings
    )


def _snapshot(row: ExtractorRow, request: ExtractorRequest) -> Path:
    """Folder of a hub model: the one named, or the hub's copy on this machine (``name@revision`` is understood)."""
    asked = str(request.weights or RAD_DINO)
    if Path(asked).is_dir():
        return Path(asked)
    from huggingface_hub import snapshot_download

    repository, _, revision = asked.partition("@")
    try:
        patterns = ["*.json", "model.safetensors"]
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=patterns, local_files_only=not request.download
            )
        )
    except Exception as error:  # offline, not cached, no such repository: the hub's errors have no common base
        assert row.weights is not None
        raise CheckpointError(
            f"the feature extractor {row.name!r} has no weights: {asked} is not on this machine ({type(error).__name__})",
            expected="a folder with config.json, preprocessor_config.json and model.safetensors",
            fix=f"copy {row.weights.url} into a folder and name it (weights of {row.name!r}), or allow the download",
        ) from None


def load_demo(row: ExtractorRow, request: ExtractorRequest) -> LoadedNetwork:
    """The finding classifier beside the demo checkpoint, or of the folder that is named."""
    folder = Path(request.weights) if request.weights is not None else demo_checkpoint()
    classifier = FindingClassifier.load(folder).to(request.device)
    digest = sha256_file(folder / WEIGHTS_FILE)
    if request.sha256 is not None:
        check_hash(row.name, folder / WEIGHTS_FILE, request.sha256)

    def prepare(image: np.ndarray) -> Tensor:
        return classifier.prepare([image.astype(np.float32) / 255])[0]

    def embed(prepared: list[Tensor], modality: str) -> Tensor:
        batch = torch.stack(prepared).to(request.device)
        views = torch.full((len(batch),), classifier.view(modality), device=batch.device)
        return classifier.feature_map(batch, views).mean((2, 3))

    train = classifier.card.get("data", {}).get("train", {}).get("name")
    settings = {"input_size": classifier.config.image_size, "trained_on": train}
    return LoadedNetwork(dim=classifier.feature_dim, weights=digest, prepare=prepare, embed=embed, settings=settings)


def load_prompt_encoder(row: ExtractorRow, request: ExtractorRequest) -> LoadedNetwork:
    """The prompt encoders of the model that is asked about: images and texts in one space."""
    model = request.model
    if model is None:
        raise ConfigError(
            f"the feature extractor {row.name!r} was asked for without a model", fix="give the model whose it is"
        )
    digest = model.fingerprint(["prompt_encoders"])
    if request.sha256 is not None and request.sha256 != digest:
        raise CheckpointError(f"the prompt encoders have sha256 {digest}", expected=request.sha256)
    size = model.config.image_size

    def prepare(value: np.ndarray | str) -> Any:
        if isinstance(value, str):
            return value
        image = torch.from_numpy(value.astype(np.float32) / 255)[None, None]
        if image.shape[-2:] != (size, size):
            image = F.interpolate(image, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
        return image[0]

    def embed(prepared: list[Any], modality: str) -> Tensor:
        is_text = MODALITIES[modality].kind == "text"
        values = prepared if is_text else torch.stack(prepared).to(model.device)
        return model.encode_prompts(modality, values).pooled

    dim = int(model.config.prompt_encoders.embed_dim)
    return LoadedNetwork(dim=dim, weights=digest, prepare=prepare, embed=embed, settings={"input_size": size})
