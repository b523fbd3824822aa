"""Weight files of feature extractors as their libraries have them, with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medcodi.evaluation.annotators.features import FeatureExtractor, load_extractor
from medcodi.storage.atomic import sha256_file


def own_weights(name: str, path: Path, weights: Path | None = None) -> FeatureExtractor:
    """An extractor with weights that are not the published ones, under their own hash."""
    return load_extractor(name, weights=path, sha256=sha256_file(weights or path))


def inception_file(folder: Path) -> Path:
    """A state dict of torch-fidelity's own class, as its converter writes it; the class reads weights as it is made, so that is put off."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = module.FeatureExtractorInceptionV3("random", ["2048"])
    path = folder / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def xrv_file(folder: Path, *, whole: bool = False) -> Path:
    """A state dict of torchxrayvision's DenseNet-121, or the whole module, as its authors publish it."""
    models = pytest.importorskip("torchxrayvision").models
    torch.manual_seed(0)
    network = models.DenseNet()
    path = folder / ("whole.pt" if whole else "state.pt")
    torch.save(network if whole else network.state_dict(), path)
    return path


def rad_dino_folder(folder: Path) -> Path:
    """The files of RAD-DINO's repository at tiny size: DINOv2, its processor, its configuration."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        resample=3,
        image_mean=[0.5307] * 3,
        image_std=[0.2583] * 3,
    ).save_pretrained(folder)
    return folder
