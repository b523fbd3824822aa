"""Tensors are found in a safetensors file without reading any, and come back bit for bit."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medcodi.errors import CheckpointError
from medcodi.storage.tensors import SAFETENSORS_TYPES, StoredTensor, tensors_in_safetensors


def test_what_the_library_writes_comes_back(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    saved = {
        name: torch.randint(0, 2, (3, 5), generator=generator).to(dtype) for name, dtype in SAFETENSORS_TYPES.items()
    }
    saved |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    save_file(saved, tmp_path / "a.safetensors", metadata={"format": "pt"})
    stored = tensors_in_safetensors(tmp_path / "a.safetensors")
    assert stored.keys() == saved.keys()
    for name, value in saved.items():
        back = stored[name].read()
        assert back.dtype == value.dtype and back.equal(value), name


def test_a_strided_tensor_is_read_in_its_own_order(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"xxxx" + torch.arange(12, dtype=torch.float32).numpy().tobytes())
    turned = StoredTensor(tmp_path / "raw", (3, 4), torch.float32, 4, (1, 3))
    assert turned.read().equal(torch.arange(12.0).reshape(4, 3).T) and turned.read().is_contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "w, F32 \\[2, 2\\], is not stored at bytes 0 to 16"),
        (lambda data: data[:5], "is truncated"),
        (lambda data: data[:8] + b"{" * (len(data) - 8), "is not a safetensors file"),
        (lambda data: struct.pack("<Q", 2**40) + data[8:], "is truncated"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(2, 2)}, path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        tensors_in_safetensors(path)


def test_an_unknown_type_and_a_wrong_length_are_refused(tmp_path: Path) -> None:
    for entry in (
        {"dtype": "F8", "shape": [1], "data_offsets": [0, 1]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
    ):
        header = json.dumps({"w": entry}).encode()
        (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        with pytest.raises(CheckpointError, match="a whole safetensors file"):
            tensors_in_safetensors(tmp_path / "a")


def test_a_file_that_became_shorter_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(2, 2)}, path)
    stored = tensors_in_safetensors(path)["w"]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="within a tensor"):
        stored.read()
