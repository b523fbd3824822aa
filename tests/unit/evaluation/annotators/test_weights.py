"""Weight files: found, required hashes, refusals that say how to get them; no code in a file runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from medcodi.errors import CheckpointError
from medcodi.evaluation.annotators.features import EXTRACTORS, load_extractor
from medcodi.evaluation.annotators.weights import LoadRequest, WeightSource, check_hash
from medcodi.storage.atomic import sha256_file
from tests.unit.evaluation.annotators.extractor_files import own_weights

IMAGES = [np.random.default_rng(index).integers(0, 256, (40, 40), dtype=np.uint8) for index in range(3)]


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


def test_a_required_hash_may_be_in_capitals(tmp_path: Path) -> None:
    """SHA-256 of "abc", as FIPS 180-2 gives it."""
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert check_hash("abc", tmp_path / "abc", digest.upper()) == digest
    assert check_hash("abc", tmp_path / "abc", None) == digest
    source = WeightSource(file="abc", url="https://example.org/abc", sha256=digest, caches=(str(tmp_path),))
    assert source.find("abc", LoadRequest()) == (tmp_path / "abc", digest)
    with pytest.raises(CheckpointError, match="Expected 000"):
        source.find("abc", LoadRequest(sha256="0" * 64))


def test_a_download_appears_only_with_the_right_hash(tmp_path: Path) -> None:
    """From a file:// address: the published file is stored, another one or none leaves nothing behind."""
    published = tmp_path / "published"
    published.write_bytes(b"abc")
    cache = tmp_path / "cache"

    def source(name: str, sha256: str) -> WeightSource:
        return WeightSource(file="abc", url=(tmp_path / name).as_uri(), sha256=sha256, caches=(str(cache),))

    request, digest = LoadRequest(download=True), sha256_file(published)
    with pytest.raises(CheckpointError, match="have sha256 ba7816bf.*Expected 000"):
        source("published", "0" * 64).find("abc", request)
    with pytest.raises(CheckpointError, match="could not be downloaded from file:.*allow the download"):
        source("missing", digest).find("abc", request)
    assert not list(cache.iterdir())
    assert source("published", digest).find("abc", request) == (cache / "abc", digest)
    assert [path.name for path in cache.iterdir()] == ["abc"]
