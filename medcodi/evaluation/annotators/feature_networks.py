"""The networks of feature extractors: how each is loaded, and what it does to an image first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from medcodi.errors import CheckpointError, ConfigError, MissingExtraError
from medcodi.evaluation.annotators.classifier import WEIGHTS_FILE, FindingClassifier
from medcodi.evaluation.annotators.weights import LoadRequest, WeightSource, check_hash, read_state, wrong_weights
from medcodi.modality import MODALITIES
from medcodi.model import demo_checkpoint

INCEPTION_SIZE = 299
RAD_DINO = "microsoft/rad-dino"
RANDOM = "random"  # in place of weights: a dry run of a protocol whose weights cannot be had; its figures mean nothing


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A network ready to embed."""

    dim: int  # length of a feature vector
    weights_sha256: str
    prepare: Callable[[Any], Any]  # one image (uint8 [H, W]) or text -> what the network takes; called in threads
    embed: Callable[[list[Any], str], Tensor]  # a batch of one modality -> features [B, dim]; called in one thread
    settings: dict[str, Any] = field(default_factory=dict)  # what else the features depend on


# ---- Inception-v3 --------------------------------------------------------------------------------------------------------
def load_inception(name: str, source: WeightSource | None, request: LoadRequest) -> FeatureNetwork:
    """torch-fidelity's Inception-v3, which resizes inside. Raises as :func:`features.load_extractor`, like every loader here."""
    return _inception(name, source, request, np.ascontiguousarray)


def load_inception_antialiased(name: str, source: WeightSource | None, request: LoadRequest) -> FeatureNetwork:
    """The same network on images that were resized antialiased before it."""

    def prepare(image: np.ndarray) -> np.ndarray:
        if image.shape == (INCEPTION_SIZE, INCEPTION_SIZE):
            return image
        return np.asarray(Image.fromarray(image).resize((INCEPTION_SIZE, INCEPTION_SIZE), Image.Resampling.BICUBIC))

    return _inception(name, source, request, prepare)


def _inception(name: str, source: WeightSource | None, request: LoadRequest, prepare: Any) -> FeatureNetwork:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise MissingExtraError("torch-fidelity", extra="eval", needed_for=f"the extractor {name!r}") from None
    assert source is not None
    path, digest = source.find(name, request)
    read_state(path)  # refuses anything but a plain state dict: the library would run code in it
    try:
        network = FeatureExtractorInceptionV3(name, ["2048"], feature_extractor_weights_path=str(path))
    except (RuntimeError, TypeError) as error:
        raise wrong_weights(name, path, error) from None
    # The same sums in another order in memory: 1.4 times as fast on a CPU, within 2e-7 (benchmarks/extraction.py).
    network = network.to(request.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def embed_one_size(images: list[np.ndarray]) -> Tensor:
        colour = torch.from_numpy(np.stack(images))[:, None].expand(-1, 3, -1, -1)  # [B, 3, H, W], gray not copied
        return network(colour.to(request.device))[0]

    def embed(images: list[np.ndarray], modality: str) -> Tensor:
        # Images of one size form a batch.
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(index)
        features = torch.cat([embed_one_size([images[index] for index in indices]) for indices in by_size.values()])
        # Back to the order of the images.
        order = [index for indices in by_size.values() for index in indices]
        return features[torch.tensor(order).argsort()]

    return FeatureNetwork(dim=2048, weights_sha256=digest, prepare=prepare, embed=embed)


# ---- torchxrayvision's DenseNet-121 ("all"): for features, and for findings (image_annotators.py) --------------------
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


def load_xrv(name: str, source: WeightSource | None, request: LoadRequest) -> FeatureNetwork:
    """Torchxrayvision's DenseNet-121."""
    import_xrv()
    assert source is not None
    path, digest = source.find(name, request)
    network: Any = xrv_network(path, digest, source.sha256).to(request.device)

    def embed(prepared: list[Tensor], modality: str) -> Tensor:
        return network.features2(torch.stack(prepared).to(request.device))

    return FeatureNetwork(dim=1024, weights_sha256=digest, prepare=xrv_input, embed=embed)


# ---- RAD-DINO --------------------------------------------------------------------------------------------------------
def load_rad_dino(name: str, source: WeightSource | None, request: LoadRequest) -> FeatureNetwork:
    """RAD-DINO by transformers, with its own processor; from a folder, or the hub (``repository@revision``)."""
    return _rad_dino(name, source, request, lambda image: Image.fromarray(image))


def load_rad_dino_299(name: str, source: WeightSource | None, request: LoadRequest) -> FeatureNetwork:
    """The same network as CheXGenBench feeds it: images are squeezed to 299 × 299 first, whatever their aspect."""
    side = (INCEPTION_SIZE, INCEPTION_SIZE)
    return _rad_dino(
        name, source, request, lambda image: Image.fromarray(image).resize(side, Image.Resampling.BILINEAR)
    )


def _rad_dino(
    name: str, source: WeightSource | None, request: LoadRequest, resized: Callable[[np.ndarray], Image.Image]
) -> FeatureNetwork:
    from transformers import AutoImageProcessor, AutoModel

    assert source is not None
    settings: dict[str, Any] = {}
    if request.weights == RANDOM:
        processor, network, digest = _random_dino()
        settings["random"] = True
    else:
        # The whole repository has to be there: weights, configuration, processor.
        folder = _hub_folder(name, source, request)
        files = [folder / file for file in ("model.safetensors", "pytorch_model.bin") if (folder / file).is_file()]
        if not files:
            raise CheckpointError(f"no model.safetensors in {folder}", fix=f"copy the whole of {source.url}")
        digest = check_hash(name, files[0], request.sha256 or source.sha256)
        try:
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            network = AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{folder} does not hold {name!r}: {str(error).splitlines()[0]}",
                expected="config.json, preprocessor_config.json and model.safetensors",
                fix=f"copy the whole of {source.url}",
            ) from None
    network = network.to(request.device).eval()
    # The processor's settings decide what the network sees, so they identify the features too.
    processor_json = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    settings |= {
        "input_size": int(network.config.image_size),
        "processor": hashlib.sha256(processor_json.encode()).hexdigest(),
    }

    def prepare(image: np.ndarray) -> Tensor:
        return processor(images=resized(image).convert("RGB"), return_tensors="pt")["pixel_values"][0]

    def embed(prepared: list[Tensor], modality: str) -> Tensor:
        return network(pixel_values=torch.stack(prepared).to(request.device)).pooler_output

    dim = int(network.config.hidden_size)
    return FeatureNetwork(dim=dim, weights_sha256=digest, prepare=prepare, embed=embed, settings=settings)


def _random_dino() -> tuple[Any, Any, str]:
    """A small network of RAD-DINO's kind with random weights, its processor, and the weights' SHA-256: for a dry run alone."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    size = 56  # four patches a side
    config = Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=size)
    processor = BitImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Dinov2Model(config)
    weights = b"".join(value.numpy().tobytes() for _, value in sorted(network.state_dict().items()))
    return processor, network, hashlib.sha256(weights).hexdigest()


def _hub_folder(name: str, source: WeightSource, request: LoadRequest) -> Path:
    """Folder of a hub model: the folder of the request, or the hub's copy on this machine."""
    wanted = str(request.weights or RAD_DINO)
    if Path(wanted).is_dir():
        return Path(wanted)
    from huggingface_hub import snapshot_download

    repository, _, revision = wanted.partition("@")
    patterns = ["*.json", "model.safetensors"]
    try:
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=patterns, local_files_only=not request.download
            )
        )
    except Exception as error:  # offline, not cached, no such repository: the hub's errors have no common base
        raise CheckpointError(
            f"the feature extractor {name!r} has no weights: {wanted} is not on this machine ({type(error).__name__})",
            expected="a folder with config.json, preprocessor_config.json and model.safetensors",
            fix=f"copy {source.url} into a folder and name it (weights of {name!r}), or allow the download",
        ) from None


# ---- Our own networks -----------------------------------------------------------------------------------------------------
def load_demo(name: str, source: WeightSource | None, request: LoadRequest) -> FeatureNetwork:
    """The finding classifier beside the demo checkpoint, or in the folder of the request."""
    folder = Path(request.weights) if request.weights is not None else demo_checkpoint()
    classifier = FindingClassifier.load(folder).to(request.device)
    digest = check_hash(name, folder / WEIGHTS_FILE, request.sha256)

    def prepare(image: np.ndarray) -> Tensor:
        return classifier.prepare([image.astype(np.float32) / 255])[0]

    def embed(prepared: list[Tensor], modality: str) -> Tensor:
        images = torch.stack(prepared).to(request.device)  # [B, 1, S, S]
        views = torch.full((len(images),), classifier.view(modality), device=images.device)
        return classifier.feature_map(images, views).mean((2, 3))

    trained_on = classifier.card.get("data", {}).get("train", {}).get("name")
    settings = {"input_size": classifier.config.image_size, "trained_on": trained_on}
    return FeatureNetwork(
        dim=classifier.feature_dim, weights_sha256=digest, prepare=prepare, embed=embed, settings=settings
    )


def load_prompt_encoder(name: str, source: WeightSource | None, request: LoadRequest) -> FeatureNetwork:
    """The prompt encoders of the model of the request: images and texts in one space."""
    model = request.model
    if model is None:
        raise ConfigError(f"the feature extractor {name!r} was requested without a model", fix="give the model")
    digest = model.fingerprint(["prompt_encoders"])
    if request.sha256 is not None and request.sha256 != digest:
        raise CheckpointError(f"the prompt encoders have sha256 {digest}", expected=request.sha256)
    size = model.config.image_size

    def prepare(value: np.ndarray | str) -> Any:
        if isinstance(value, str):
            return value
        image = torch.from_numpy(value.astype(np.float32) / 255)[None, None]  # [1, 1, H, W]
        if image.shape[-2:] != (size, size):
            image = F.interpolate(image, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
        return image[0]

    def embed(prepared: list[Any], modality: str) -> Tensor:
        is_text = MODALITIES[modality].kind == "text"
        return model.encode_prompts(modality, prepared if is_text else torch.stack(prepared).to(model.device)).pooled

    dim = int(model.config.prompt_encoders.embed_dim)
    return FeatureNetwork(dim=dim, weights_sha256=digest, prepare=prepare, embed=embed, settings={"input_size": size})
