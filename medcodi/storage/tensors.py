"""Tensors in files: located without reading any, each read alone when it is needed."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcodi.errors import CheckpointError

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
_HEADER_LIMIT = 100 * 2**20  # bytes; as the safetensors library has it


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
        try:
            header = json.loads(file.read(length))
            entries = header.items()
        except (ValueError, AttributeError) as error:  # of the JSON, or of its encoding
            raise CheckpointError(f"{path} is not a safetensors file: {error}", fix="fetch it again") from None
    return {key: _in_header(path, key, entry, 8 + length, size) for key, entry in entries if key != "__metadata__"}


def _in_header(path: Path, key: str, entry: Any, data: int, size: int) -> StoredTensor:
    """One entry of a safetensors header, checked against the file's size; ``data`` is where the tensors begin."""
    try:
        dtype, shape = SAFETENSORS_TYPES.get(entry["dtype"]), tuple(int(side) for side in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {key} is {entry} ({error!r})") from None
    num_bytes = torch.Size(shape).numel() * dtype.itemsize if dtype and min(shape, default=0) >= 0 else -1
    if dtype is None or num_bytes != end - begin or begin < 0 or data + end > size:
        raise CheckpointError(
            f"{path}: {key}, {entry['dtype']} {list(shape)}, does not lie at bytes {begin:,} to {end:,} of {size:,}",
            expected="a whole safetensors file",
            fix="fetch it again",
        )
    return StoredTensor(path, shape, dtype, data + begin, _contiguous(shape))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
