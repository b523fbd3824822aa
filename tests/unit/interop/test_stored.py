"""Tensors of foreign files: found without executing anything, read one at a time."""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import skip_data

from medcodi.errors import CheckpointError
from medcodi.interop.stored import tensors_in

TENSORS = {
    "flat": torch.arange(12, dtype=torch.float32),
    "half": torch.linspace(0, 1, 5).half(),
    "brain": torch.linspace(0, 1, 6).bfloat16().reshape(2, 3),
    "number": torch.tensor(3.5),
    "ids": torch.arange(6).reshape(2, 3),
    "empty": torch.zeros(0, 4),
}


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_tensors_come_back_as_they_were(kind, tmp_path) -> None:
    path = tmp_path / f"file.{kind}"
    torch.save(TENSORS, path) if kind == "pt" else save_file(TENSORS, path)
    found = tensors_in(path)
    assert found.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert found[key].shape == tuple(value.shape) and found[key].dtype == value.dtype
        assert torch.equal(found[key].read(), value)


def test_views_parameters_and_tied_tensors_of_a_torch_file(tmp_path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    content = OrderedDict(turned=base.T, part=base[1:3, ::2], weight=nn.Parameter(base + 1), tied=base)
    torch.save(content, tmp_path / "file.pt")
    found = tensors_in(tmp_path / "file.pt")
    for key, value in content.items():
        read = found[key].read()
        assert torch.equal(read, value.detach()) and read.is_contiguous()
    assert found["tied"].offset == found["turned"].offset  # one storage


@pytest.mark.parametrize("nesting", [("state_dict",), ("net",), ("state_dict", "module")])
def test_what_training_scripts_put_around_the_weights_is_seen_through(nesting, tmp_path) -> None:
    content: dict = dict(TENSORS)
    for name in reversed(nesting):
        content = {"epoch": 3, name: content}
    torch.save(content, tmp_path / "file.pt")
    assert tensors_in(tmp_path / "file.pt").keys() == TENSORS.keys()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_executed(zipped, tmp_path) -> None:
    content = {"weight": torch.ones(2), "extra": Bomb(tmp_path / "executed")}
    if zipped:
        torch.save(content, tmp_path / "bomb.pt")
    else:
        (tmp_path / "bomb.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="code|zip"):
        tensors_in(tmp_path / "bomb.pt")
    assert not (tmp_path / "executed").exists()


def test_files_of_the_old_torch_format_are_refused(tmp_path) -> None:
    torch.save(TENSORS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="zip format"):
        tensors_in(tmp_path / "old.pt")


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 0.99])
def test_truncated_files_are_refused(kind, share, tmp_path) -> None:
    whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    tensors = {name: torch.ones(2000) for name in "abc"}
    torch.save(tensors, whole) if kind == "pt" else save_file(tensors, whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="truncated|whole safetensors|zip format|not a safetensors"):
        tensors_in(cut)


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.ones(5000)}, path)
    found = tensors_in(path)
    os.truncate(path, 4000)
    with pytest.raises(CheckpointError, match="within a tensor"):
        found["a"].read()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}', "does not lie"),  # 8 bytes are no 4 numbers
        (b'{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}', "does not lie"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', "does not lie"),  # beyond the end
        (b'{"a":{"dtype":"F32","shape":[-2,-1],"data_offsets":[0,8]}}', "does not lie"),
        (b'{"a":{"dtype":"F32","shape":[2]}}', "not a safetensors file"),
        (b'{"a":[1,2]}', "not a safetensors file"),
        (b"[1, 2]", "not a safetensors file"),
        (b"{not json}", "not a safetensors file"),
    ],
)
def test_safetensors_headers_that_lie_are_refused(header, words, tmp_path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match=words):
        tensors_in(path)


@pytest.mark.parametrize(
    "content",
    [[torch.ones(2)], torch.ones(2), {"weight": torch.ones(2), "epoch": 3}, {"weight": torch.eye(3).to_sparse()}],
)
def test_what_is_no_dictionary_of_tensors_is_refused(content, tmp_path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="holds a|is a int|sparse"):
        tensors_in(tmp_path / "file.pt")


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at .*nothing.pt"):
        tensors_in(tmp_path / "nothing.pt")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system with holes")
def test_a_torch_file_larger_than_memory_is_opened(tmp_path) -> None:
    """64 GiB of holes: nothing of it is read, and none of it is mapped, which small machines refuse."""
    with FakeTensorMode():
        content = {f"large{index}": torch.empty(2**30) for index in range(16)} | {"last": torch.empty(5)}
    with skip_data(materialize_fake_tensors=True):
        torch.save(content, tmp_path / "huge.pt")
    found = tensors_in(tmp_path / "huge.pt")
    assert found["large15"].shape == (2**30,)
    assert torch.equal(found["last"].read(), torch.zeros(5))
