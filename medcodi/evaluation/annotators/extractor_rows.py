"""The rows of the table of feature extractors. A further extractor is one more row here, and a loader."""

from __future__ import annotations

from dataclasses import replace

from medcodi.evaluation.annotators.extractor_networks import (
    INCEPTION_SIZE,
    RAD_DINO,
    XRV_SIZE,
    load_demo,
    load_inception,
    load_prompt_encoder,
    load_rad_dino,
    load_xrv,
)
from medcodi.evaluation.annotators.extractors import ExtractorRow
from medcodi.evaluation.annotators.weights import WeightSource

_INCEPTION_WEIGHTS = WeightSource(
    file="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    caches=("~/.cache/torch/hub/checkpoints",),
    licence="Apache-2.0",
)
_XRV_FILE = "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"

_INCEPTION = ExtractorRow(
    name="inception",
    title="Inception-v3 (torch-fidelity)",
    input_size=INCEPTION_SIZE,
    resize="none before the network; inside, TensorFlow 1's bilinear without antialiasing, as torch-fidelity has it",
    normalisation="gray as three colours, (8 bit - 128) / 128",
    features="2048 after the last pooling",
    dim=2048,
    weights=_INCEPTION_WEIGHTS,
    load=load_inception,
)

_ROWS = (
    _INCEPTION,
    replace(
        _INCEPTION,
        name="inception-antialiased",
        title="Inception-v3, antialiased",
        resize="antialiased bicubic (Pillow) to 299, 8 bits; nothing is resized inside the network",
    ),
    ExtractorRow(
        name="xrv",
        title="DenseNet-121 (torchxrayvision)",
        input_size=XRV_SIZE,
        resize="centre crop to a square, antialiased bilinear to 224",
        normalisation="[-1024, 1024]",
        features="1024, mean of the last map after ReLU",
        dim=1024,
        weights=WeightSource(
            file=_XRV_FILE,
            url=f"https://github.com/mlmed/torchxrayvision/releases/download/v1/{_XRV_FILE}",
            sha256="56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899",
            caches=("~/.torchxrayvision/models_data",),
            licence="Apache-2.0",
        ),
        load=load_xrv,
    ),
    ExtractorRow(
        name="rad-dino",
        title="RAD-DINO",
        input_size=None,
        resize="its own processor's: antialiased bicubic of the short side, centre crop",
        normalisation="its own processor's mean and deviation",
        features="the class token after the last norm",
        dim=None,
        weights=WeightSource(
            file="model.safetensors", url=f"https://huggingface.co/{RAD_DINO}", sha256=None, licence="MSRLA"
        ),
        load=load_rad_dino,
    ),
    ExtractorRow(
        name="demo",
        title="Finding classifier (ours)",
        input_size=None,
        resize="antialiased bilinear to the classifier's size",
        normalisation="[0, 1]",
        features="mean of the last map",
        dim=None,
        load=load_demo,
    ),
    ExtractorRow(
        name="prompt-encoder",
        title="Prompt encoder of the model",
        kinds=("image", "text"),
        input_size=None,
        resize="antialiased bilinear to the model's image size",
        normalisation="the model's own",
        features="the pooled prompt in the shared latent space, of length 1",
        dim=None,
        load=load_prompt_encoder,
    ),
)

EXTRACTORS: dict[str, ExtractorRow] = {row.name: row for row in _ROWS}
