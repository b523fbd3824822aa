"""Tensors in files of others: where each lies is found without executing anything, each is read alone when it is needed."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from medcodi.errors import CheckpointError, first_line
from medcodi.storage.tensors import StoredTensor, tensors_in_safetensors

TORCH_FILES, SAFETENSORS = (".pt", ".pth", ".bin", ".ckpt"), ".safetensors"
_NESTED = ("state_dict", "net", "module")  # under which training scripts put the weights


def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """What a torch file or a safetensors file holds; nothing of the tensors themselves is read.

    Raises:
        CheckpointError: If it is missing, truncated, of another format, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}", expected="a file or a folder", fix="check the path")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        return _in_torch_file(path)
    if path.suffix in TORCH_FILES:
        raise CheckpointError(
            f"{path} is not a torch file of the zip format",
            expected="what torch.save writes since PyTorch 1.6, which can be read without loading it whole",
            fix="load it with weights_only=True and save it again, or as safetensors",
        )
    return tensors_in_safetensors(path)


def _in_torch_file(path: Path) -> dict[str, StoredTensor]:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} ({path.stat().st_size:,} bytes) is truncated", fix="fetch it again")
    try:
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors: loading it could run code ({first_line(error)[:160]})",
            expected="tensors by name, readable with weights_only=True",
            fix="save its state_dict alone, or as safetensors; do not load files that you do not trust",
        ) from None
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a torch file: {first_line(error)[:160]}", fix="fetch it again"
        ) from None
    return {key: _stored(path, key, value) for key, value in _weights(path, content).items()}


def _weights(path: Path, content: Any) -> Mapping[str, Any]:
    """The dictionary of tensors, out of what a training script put around it."""
    while isinstance(content, Mapping):
        inner = next((content[name] for name in _NESTED if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            return content
        content = inner
    raise CheckpointError(f"{path} holds a {type(content).__name__}", expected="tensors by name (a state_dict)")


def _stored(path: Path, key: str, value: Any) -> StoredTensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise CheckpointError(
            f"{path}: {key} is a {type(value).__name__}{f' ({value.layout})' if isinstance(value, Tensor) else ''}",
            expected="a dense tensor",
            fix="save the state_dict alone, without what else a training script keeps",
        )
    offset = getattr(value.untyped_storage(), "_checkpoint_offset", None)
    if offset is None:
        raise CheckpointError(
            f"PyTorch {torch.__version__} does not say where in {path} a tensor lies",
            expected="PyTorch 2.7 or newer for torch files",
            fix="update PyTorch, or save the weights as safetensors",
        )
    start = offset + value.storage_offset() * value.dtype.itemsize
    return StoredTensor(path, tuple(value.shape), value.dtype, start, tuple(value.stride()))
