"""Tensors in files: located without reading any, each read alone when it is needed."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from medcodi.errors import CheckpointError
from medcodi.storage.checked_json import parse_json, shown

SAFETENSORS_TYPES = {
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
_HEADER_LIMIT = 100 * 10**6  # bytes; as the safetensors library has it
_MAX_DIMENSIONS = 64  # of a shape; PyTorch's limit


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file."""

    file: Path  # where it is
    shape: tuple[int, ...]  # its shape
    dtype: torch.dtype  # its precision
    offset: int  # of its first number, in bytes from the start of the file
    stride: tuple[int, ...]  # in numbers

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
                        f"{self.file} ends at byte {self.offset + done:,}, within a tensor", fix="fetch it again"
                    )
                done += got
        return buffer.view(self.dtype).as_strided(self.shape, self.stride).contiguous()


def tensors_in_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name; none is read.

    Raises:
        CheckpointError: If it is truncated, or of another format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > min(size - 8, _HEADER_LIMIT):
            raise CheckpointError(
                f"{path} ({size:,} bytes) is neither a torch file nor a safetensors file, or is truncated",
                fix="check the path, or fetch it again",
            )
        header = parse_json(
            file.read(length), f"the header of {path}, which is not a safetensors file,", CheckpointError
        )
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is not a safetensors file: its header is {shown(header)}", fix="fetch it again")
    _check_metadata(path, header.pop("__metadata__", {}))
    tensors = {key: _in_header(path, key, entry, 8 + length, size) for key, entry in header.items()}
    _refuse_overlap(path, tensors)
    return tensors


def _check_metadata(path: Path, metadata: Any) -> None:
    texts = [*metadata, *metadata.values()] if isinstance(metadata, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise CheckpointError(
            f"{path} is not a safetensors file: __metadata__ is {shown(metadata)}", expected="texts by name"
        )


def _in_header(path: Path, key: str, entry: Any, data: int, size: int) -> StoredTensor:
    """One entry of a safetensors header, checked against the file's size; ``data`` is where the tensors begin."""
    # Types: a known dtype, and integers from 0 for the shape and the offsets.
    values = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (values.get(name) for name in ("dtype", "shape", "data_offsets"))
    dtype = SAFETENSORS_TYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None or not _are_sizes(shape, _MAX_DIMENSIONS) or not _are_sizes(offsets, 2) or len(offsets) != 2:
        raise CheckpointError(
            f"{path} is not a safetensors file: {shown(key)[1:-1]} is {shown(entry)}",
            expected="a whole safetensors file of known dtypes",
            fix="fetch it again",
        )
    # Values: as many bytes as the shape needs, inside the file. Python's integers do not overflow.
    begin, end = offsets
    if math.prod(shape) * dtype.itemsize != end - begin or data + end > size:
        raise CheckpointError(
            f"{path}: {shown(key)[1:-1]}, {kind} {shape}, is not stored at bytes {begin:,} to {end:,} of {size:,}",
            expected="a whole safetensors file",
            fix="fetch it again",
        )
    return StoredTensor(path, tuple(shape), dtype, data + begin, _contiguous(shape))


def _are_sizes(values: Any, most: int) -> TypeGuard[list[int]]:
    """Whether a value is a list of at most ``most`` integers from 0 to the largest that PyTorch counts to."""
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 for value in values)
    )


def _refuse_overlap(path: Path, tensors: dict[str, StoredTensor]) -> None:
    """Refuse tensors that share bytes: the library writes none, and one would change with the other."""
    last, end = "", 0
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, math.prod(item[1].shape))):
        if 0 in tensor.shape:
            continue
        if tensor.offset < end:
            raise CheckpointError(
                f"{path}: {shown(key)[1:-1]} and {shown(last)[1:-1]} overlap",
                expected="a whole safetensors file",
                fix="fetch it again",
            )
        last, end = key, tensor.offset + math.prod(tensor.shape) * tensor.dtype.itemsize


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
