"""Tensors in files of others: where each lies is found without executing anything, each is read alone when it is needed."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from medcodi.errors import CheckpointError

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
TORCH_FILES, SAFETENSORS = (".pt", ".pth", ".bin", ".ckpt"), ".safetensors"
_NESTED = ("state_dict", "net", "module")  # under which training scripts put the weights
_HEADER_LIMIT = 100 * 2**20  # bytes; as the safetensors library has it


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        file: Where it is.
        shape: Its shape.
        dtype: Its precision.
        offset: Of its first number, in bytes from the start of the file.
        stride: In numbers.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    stride: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor, contiguous, in memory of its own; the file is read, not mapped.

        A private map of a file larger than the machine's memory is refused by Linux, and its pages would count as ours.

        Raises:
            CheckpointError: If the file ends before the tensor does.
        """
        empty = 0 in self.shape
        last = 0 if empty else 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        buffer = torch.empty(last * self.dtype.itemsize, dtype=torch.uint8)
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.offset)
            view, done = memoryview(buffer.numpy().data), 0
            while done < len(view):
                got = file.readinto(view[done : done + 2**26])
                if not got:
                    raise CheckpointError(
                        f"{self.file} ends at byte {self.offset + done:,}, within a tensor", mend="fetch it again"
                    )
                done += got
        return buffer.view(self.dtype).as_strided(self.shape, self.stride).contiguous()


def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """What a torch file or a safetensors file holds; nothing of the tensors themselves is read.

    Raises:
        CheckpointError: If it is missing, truncated, of another format, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}", expected="a file or a folder", mend="check the path")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        return _in_torch_file(path)
    if path.suffix in TORCH_FILES:
        raise CheckpointError(
            f"{path} is not a torch file of the zip format",
            expected="what torch.save writes since PyTorch 1.6, which can be read without loading it whole",
            mend="load it with weights_only=True and save it again, or as safetensors",
        )
    return _in_safetensors(path)


def _in_safetensors(path: Path) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > min(size - 8, _HEADER_LIMIT):
            raise CheckpointError(
                f"{path} ({size:,} bytes) is neither a torch file nor a safetensors file, or is truncated",
                mend="check the path, or fetch it again",
            )
        try:
            header = json.loads(file.read(length))
            entries = header.items()
        except (ValueError, AttributeError) as error:  # of the JSON, or of its encoding
            raise CheckpointError(f"{path} is not a safetensors file: {error}", mend="fetch it again") from None
    return {key: _in_header(path, key, entry, 8 + length, size) for key, entry in entries if key != "__metadata__"}


def _in_header(path: Path, key: str, entry: Any, data: int, size: int) -> StoredTensor:
    """One entry of a safetensors header, checked against the file's size; ``data`` is where the tensors begin."""
    try:
        dtype, shape = _TYPES.get(entry["dtype"]), tuple(int(side) for side in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {key} is {entry} ({error!r})") from None
    num_bytes = torch.Size(shape).numel() * dtype.itemsize if dtype and min(shape, default=0) >= 0 else -1
    if dtype is None or num_bytes != end - begin or begin < 0 or data + end > size:
        raise CheckpointError(
            f"{path}: {key}, {entry['dtype']} {list(shape)}, does not lie at bytes {begin:,} to {end:,} of {size:,}",
            expected="a whole safetensors file",
            mend="fetch it again",
        )
    return StoredTensor(path, shape, dtype, data + begin, _contiguous(shape))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _in_torch_file(path: Path) -> dict[str, StoredTensor]:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} ({path.stat().st_size:,} bytes) is truncated", mend="fetch it again")
    try:
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors: loading it could run code ({str(error).splitlines()[0][:160]})",
            expected="tensors by name, readable with weights_only=True",
            mend="save its state_dict alone, or as safetensors; do not load files that you do not trust",
        ) from None
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a torch file: {str(error).splitlines()[0][:160]}", mend="fetch it again"
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
            mend="save the state_dict alone, without what else a training script keeps",
        )
    offset = getattr(value.untyped_storage(), "_checkpoint_offset", None)
    if offset is None:
        raise CheckpointError(
            f"PyTorch {torch.__version__} does not say where in {path} a tensor lies",
            expected="PyTorch 2.7 or newer for torch files",
            mend="update PyTorch, or save the weights as safetensors",
        )
    start = offset + value.storage_offset() * value.dtype.itemsize
    return StoredTensor(path, tuple(value.shape), value.dtype, start, tuple(value.stride()))
