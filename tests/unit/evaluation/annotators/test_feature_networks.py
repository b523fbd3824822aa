"""The networks of feature extractors: each gives what its own library gives for the same weights and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcodi.errors import CheckpointError, MissingExtraError
from medcodi.evaluation.annotators.feature_networks import xrv_input, xrv_network
from medcodi.evaluation.annotators.features import EXTRACTORS, FeatureExtractor, load_extractor
from medcodi.model import tiny_model
from medcodi.storage.atomic import sha256_file
from tests.unit.evaluation.annotators.extractor_files import own_weights, xrv_file

IMAGES = [np.random.default_rng(index).integers(0, 256, (40, 40), dtype=np.uint8) for index in range(3)]


def test_inception_is_torch_fidelitys_pipeline(inception: Path, tmp_path: Path) -> None:
    """From files, by its own data set, loader and network."""
    utils = pytest.importorskip("torch_fidelity.utils")
    paths = [tmp_path / f"{index}.png" for index in range(2)]
    for path, image in zip(paths, IMAGES, strict=False):
        Image.fromarray(image).save(path)
    peer = utils.create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(inception), verbose=False
    )
    dataset = utils.ImagesPathDataset([str(path) for path in paths])
    expected = utils.get_featuresdict_from_dataset(dataset, peer, 2, False, True, False)["2048"]
    ours = own_weights("inception", inception)
    assert ours.prepare(np.zeros((400, 500), np.uint8)).shape == (400, 500)
    features = ours.annotate(IMAGES[:2], "frontal")
    assert features.shape == (2, 2048) and np.ptp(features) > 0
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    described = ours.describe()
    assert described["weights_sha256"] == sha256_file(inception) and described["published_weights"] is False


def test_inception_antialiased_shrinks_smoothly(inception: Path) -> None:
    """A fine checkerboard larger than the network's size becomes gray; without antialiasing it does not."""
    fine = (np.indices((598, 598)).sum(0) % 2 * 255).astype(np.uint8)
    ours = own_weights("inception-antialiased", inception)
    prepared = ours.prepare(fine)
    assert prepared.shape == (299, 299) and prepared.std() < 5
    plain = FeatureExtractor(EXTRACTORS["inception"], ours.network)
    assert ours.identity("frontal") != plain.identity("frontal")


def test_xrv_is_torchxrayvisions_pipeline(xrv: Path) -> None:
    """By its own normalisation, centre crop and resizing, of images that are not square and of several sizes."""
    library = pytest.importorskip("torchxrayvision")
    images = [np.random.default_rng(9).integers(0, 256, shape, dtype=np.uint8) for shape in ((300, 260), (64, 90))]
    network = xrv_network(xrv, "", None)
    crop, expected = library.datasets.XRayCenterCrop(), []
    for image in images:
        pixels = crop(library.utils.normalize(image, 255, reshape=True))
        with torch.inference_mode():
            expected.append(network.features2(torch.from_numpy(pixels)[None])[0].numpy())  # type: ignore[operator]
    features = own_weights("xrv", xrv).annotate(images, "frontal")
    assert features.shape == (2, 1024)
    np.testing.assert_allclose(features, np.stack(expected), rtol=1e-5, atol=1e-5)


def test_rad_dino_is_transformers_pipeline(rad_dino: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    images = [np.random.default_rng(9).integers(0, 256, shape, dtype=np.uint8) for shape in ((120, 90), (56, 56))]
    processor, network = AutoImageProcessor.from_pretrained(rad_dino), AutoModel.from_pretrained(rad_dino).eval()
    with torch.inference_mode():
        inputs = [processor(Image.fromarray(image).convert("RGB"), return_tensors="pt") for image in images]
        expected = [network(**one).pooler_output[0].numpy() for one in inputs]
    ours = own_weights("rad-dino", rad_dino, rad_dino / "model.safetensors")
    assert ours.dim == 32 and ours.describe()["input_size"] == 56
    np.testing.assert_allclose(ours.annotate(images, "lateral"), np.stack(expected), rtol=1e-5, atol=1e-6)


def test_demo_is_the_classifiers_own_features() -> None:
    from medcodi.evaluation.annotators.classifier import FindingClassifier
    from medcodi.model import demo_checkpoint

    ours = load_extractor("demo")
    expected = FindingClassifier.load(demo_checkpoint()).predict([image / 255 for image in IMAGES], "lateral")[1]
    np.testing.assert_allclose(ours.annotate(IMAGES, "lateral"), expected, rtol=1e-6, atol=1e-6)
    assert ours.identity("lateral") != ours.identity("frontal")


def test_prompt_encoder_puts_images_and_texts_into_one_space() -> None:
    model = tiny_model(seed=0)
    ours = load_extractor("prompt-encoder", model=model)
    images, texts = ours.annotate(IMAGES, "frontal"), ours.annotate(["No effusion.", "Large heart."], "report")
    assert images.shape[1] == texts.shape[1] == ours.dim
    np.testing.assert_allclose(np.linalg.norm(np.vstack([images, texts]), axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(texts, model.encode_prompts("report", ["No effusion.", "Large heart."]).pooled.detach())


def test_images_of_several_sizes_keep_their_order(inception: Path) -> None:
    ours = own_weights("inception", inception)
    images = [
        np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8) for seed, side in enumerate((40, 32, 40))
    ]
    together = ours.annotate(images, "frontal")
    alone = np.concatenate([ours.annotate([image], "frontal") for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_the_published_whole_module_is_read_only_where_its_hash_is_known(tmp_path: Path, xrv: Path) -> None:
    whole = xrv_file(tmp_path, whole=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        own_weights("xrv", whole)
    digest = sha256_file(whole)
    state = xrv_network(whole, digest, digest).state_dict()
    expected = torch.load(xrv)
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_input_is_the_scaled_centre_of_the_image() -> None:
    """224 of 300 columns in the middle; 0 becomes -1024, 255 becomes 1024; other sizes are resized."""
    image = np.zeros((224, 300), np.uint8)
    image[:, 38:262] = 255
    pixels = xrv_input(image)
    assert pixels.shape == (1, 224, 224) and (pixels == 1024).all()
    assert xrv_input(np.zeros((10, 30), np.uint8)).shape == (1, 224, 224)
    assert (xrv_input(np.zeros((10, 30), np.uint8)) == -1024).all()


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchxrayvision", None)
    with pytest.raises(MissingExtraError, match="torchxrayvision.*medcodi\\[eval\\]"):
        xrv_network(Path("x"), "", None)


def test_rad_dino_299_squeezes_images_as_chexgenbench_does(rad_dino: Path) -> None:
    """By torchvision's Resize on Pillow images, 8 bits, then the processor; whatever the aspect."""
    from torchvision.transforms import Resize
    from transformers import AutoImageProcessor

    image = np.random.default_rng(4).integers(0, 256, (120, 80), dtype=np.uint8)
    squeezed = Resize((299, 299))(Image.fromarray(image).convert("RGB"))
    processor = AutoImageProcessor.from_pretrained(rad_dino)
    expected = processor(images=squeezed, return_tensors="pt")["pixel_values"][0]
    ours, plain = (load_extractor(name, weights=rad_dino) for name in ("rad-dino-299", "rad-dino"))
    torch.testing.assert_close(ours.prepare(image), expected)
    assert ours.identity("frontal") != plain.identity("frontal")
    # Its 8 bits go through [0, 1] and back there: nothing is lost.
    levels = np.arange(256, dtype=np.float32)
    assert np.array_equal((levels / np.float32(255) * np.float32(255)).astype(np.uint8), levels.astype(np.uint8))


def test_random_weights_are_a_dry_run_that_says_so() -> None:
    first, second = (load_extractor("rad-dino-299", weights="random") for _ in range(2))
    features = first.annotate(IMAGES, "frontal")
    np.testing.assert_array_equal(features, second.annotate(IMAGES, "frontal"))
    described = first.describe()
    assert described["settings"]["random"] is True and described["published_weights"] is False
    assert features.shape == (3, described["dim"]) and np.ptp(features) > 0
