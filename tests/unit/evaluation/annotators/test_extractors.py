"""Feature extractors: each gives what its own library gives for the same weights and images; weights are held to their hash."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcodi.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from medcodi.evaluation.annotators.extractor_networks import xrv_network
from medcodi.evaluation.annotators.extractor_rows import EXTRACTORS
from medcodi.evaluation.annotators.extractors import Extractor, eight_bit_pixels, load_extractor
from medcodi.model import tiny_model
from medcodi.storage.atomic import sha256_file
from tests.unit.evaluation.annotators.extractor_files import inception_file, rad_dino_folder, xrv_file

IMAGES = [np.random.default_rng(index).integers(0, 256, (40, 40), dtype=np.uint8) for index in range(3)]


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inception_file(tmp_path_factory.mktemp("inception"))


@pytest.fixture(scope="module")
def xrv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return xrv_file(tmp_path_factory.mktemp("xrv"))


@pytest.fixture(scope="module")
def rad_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rad_dino_folder(tmp_path_factory.mktemp("rad-dino"))


def own_weights(name: str, path: Path, weights: Path | None = None) -> Extractor:
    return load_extractor(name, weights=path, sha256=sha256_file(weights or path))


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
    features = ours(IMAGES[:2], "frontal")
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
    plain = Extractor(EXTRACTORS["inception"], ours.network)
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
    features = own_weights("xrv", xrv)(images, "frontal")
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
    np.testing.assert_allclose(ours(images, "lateral"), np.stack(expected), rtol=1e-5, atol=1e-6)


def test_demo_is_the_classifiers_own_features() -> None:
    from medcodi.evaluation.annotators.classifier import FindingClassifier
    from medcodi.model.shipped import demo_checkpoint

    ours = load_extractor("demo")
    expected = FindingClassifier.load(demo_checkpoint()).read([image / 255 for image in IMAGES], "lateral")[1]
    np.testing.assert_allclose(ours(IMAGES, "lateral"), expected, rtol=1e-6, atol=1e-6)
    assert ours.identity("lateral") != ours.identity("frontal")


def test_prompt_encoder_puts_images_and_texts_into_one_space() -> None:
    model = tiny_model(seed=0)
    ours = load_extractor("prompt-encoder", model=model)
    images, texts = ours(IMAGES, "frontal"), ours(["No effusion.", "Large heart."], "report")
    assert images.shape[1] == texts.shape[1] == ours.dim
    np.testing.assert_allclose(np.linalg.norm(np.vstack([images, texts]), axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(texts, model.encode_prompts("report", ["No effusion.", "Large heart."]).pooled.detach())


def test_float_and_8_bit_images_are_alike() -> None:
    ours = load_extractor("demo")
    rounded = [image.astype(np.float32) / 255 for image in IMAGES]
    np.testing.assert_array_equal(ours(IMAGES, "frontal"), ours(rounded, "frontal"))
    assert eight_bit_pixels(np.array([[0.0, 0.5, 1.0]])).tolist() == [[0, 128, 255]]


def test_every_row_says_what_makes_figures_comparable() -> None:
    for name, row in EXTRACTORS.items():
        assert row.name == name and row.resize and row.normalisation and row.features
        assert row.weights is None or row.weights.url.startswith("https://")
    assert all(len(EXTRACTORS[name].weights.sha256 or "") == 64 for name in ("inception", "xrv"))  # type: ignore[union-attr]


# ---- what cannot be ----------------------------------------------------------------------------------------------------
def test_without_weights_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity")
    pytest.importorskip("torchxrayvision")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, says in (
        ("inception", r"6726825d.*sha256 6726825d.*MEDCODI_EXTRACTORS"),
        ("xrv", "torchxrayvision/releases.*56524913"),
    ):
        with pytest.raises(CheckpointError, match=says):
            load_extractor(name)
    with pytest.raises(CheckpointError, match="'rad-dino' has no weights.*huggingface.co/microsoft/rad-dino"):
        load_extractor("rad-dino", weights=str(tmp_path / "nowhere/at-all"))
    with pytest.raises(CheckpointError, match="no weights of 'xrv' at"):
        load_extractor("xrv", weights=tmp_path / "missing.pt")


def test_a_folder_of_weights_is_looked_into(xrv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = EXTRACTORS["xrv"].weights
    assert source is not None
    (tmp_path / source.file).symlink_to(xrv)
    monkeypatch.setenv("MEDCODI_EXTRACTORS", str(tmp_path))
    assert load_extractor("xrv", sha256=sha256_file(xrv)).dim == 1024


def test_other_weights_than_the_hash_says_are_refused(xrv: Path, rad_dino: Path) -> None:
    with pytest.raises(CheckpointError, match=f"have sha256 {sha256_file(xrv)}.*Expected 56524913"):
        load_extractor("xrv", weights=xrv)
    with pytest.raises(CheckpointError, match="Expected 000"):
        load_extractor("rad-dino", weights=rad_dino, sha256="0" * 64)


def test_files_that_are_no_weights_are_refused(xrv: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    for name, path in (("inception", text), ("inception", xrv), ("xrv", text)):
        with pytest.raises(CheckpointError, match="cannot be read|does not hold the weights"):
            own_weights(name, path)
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        load_extractor("rad-dino", weights=tmp_path)


class _Payload:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_code_in_a_weight_file_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(_Payload()))
    for name in ("inception", "xrv"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            own_weights(name, path)
    assert not (tmp_path / "ran").exists()


def test_the_published_whole_module_is_read_only_where_its_hash_is_known(tmp_path: Path, xrv: Path) -> None:
    whole = xrv_file(tmp_path, whole=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        own_weights("xrv", whole)
    digest = sha256_file(whole)
    state = xrv_network(whole, digest, digest).state_dict()
    expected = torch.load(xrv)
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_unknown_names_kinds_modalities_and_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'inception'"):
        load_extractor("incepton")
    with pytest.raises(ConfigError, match="without a model"):
        load_extractor("prompt-encoder")
    ours = load_extractor("demo")
    with pytest.raises(DataError, match="was given a text"):
        ours.prepare("a report")
    with pytest.raises(DataError, match="cannot embed 'report'"):
        ours.embed([], "report")
    for bad, says in (
        (np.full((4, 4), np.nan), "values from nan"),
        (np.zeros((4, 4, 3)), "shape"),
        (np.zeros((4, 4), int), "int64"),
    ):
        with pytest.raises(DataError, match=says):
            ours.prepare(bad)
    monkeypatch.setitem(__import__("sys").modules, "torchxrayvision", None)
    with pytest.raises(MissingExtraError, match="torchxrayvision.*medcodi\\[eval\\]"):
        xrv_network(Path("x"), "", None)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    models = pytest.importorskip("torchxrayvision").models
    network = models.DenseNet()
    network.features.norm5.weight.data[0] = float("nan")
    torch.save(network.state_dict(), tmp_path / "nan.pt")
    with pytest.raises(DataError, match="xrv: the features of 2 of 2 samples hold NaN.*the first is number 0"):
        own_weights("xrv", tmp_path / "nan.pt")(IMAGES[:2], "frontal")
