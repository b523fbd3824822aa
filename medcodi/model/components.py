"""A model's components as safetensors files: written tensor by tensor, read tensor by tensor, checked by hash."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcodi.errors import CheckpointError
from medcodi.storage.atomic import replacing, sha256_file, writing
from medcodi.storage.tensors import SAFETENSORS_TYPES, StoredTensor, tensors_in_safetensors

Specs = Mapping[str, tuple[tuple[int, ...], torch.dtype]]  # key -> shape and precision

_NAMES = {dtype: name for name, dtype in SAFETENSORS_TYPES.items()}


def write_weights(
    path: Path, specs: Specs, read: Callable[[str], Tensor], then: str = "run it again"
) -> dict[str, str]:
    """Write a safetensors file, whole or not at all, holding one tensor in memory at a time.

    The ``safetensors`` library writes only what is in memory as a whole; a component of the full-size model is 8 GB.

    Args:
        path: The file; replaced if there is one.
        specs: Shape and stored precision of every tensor.
        read: Gives the tensor of a key; cast to the stored precision here.
        then: What the user does once a full disk has room.

    Returns:
        ``file`` (its name) and ``sha256``, as in the index of a model.

    Raises:
        CheckpointError: If the file cannot be written (a full disk), or a tensor has another shape than in ``specs``.
    """
    # Lay the tensors out, widest numbers first: every one is aligned.
    keys = sorted(specs, key=lambda key: (-specs[key][1].itemsize, key))
    header: dict[str, Any] = {}
    start = 0
    for key in keys:
        shape, dtype = specs[key]
        end = start + torch.Size(shape).numel() * dtype.itemsize
        header[key] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)

    # Write and hash the pieces as they come.
    digest = hashlib.sha256()
    with writing(path, error=CheckpointError, then=then) as file:
        for piece in _pieces(struct.pack("<Q", len(head)) + head, keys, specs, read):
            digest.update(piece)
            file.write(piece)
    return {"file": path.name, "sha256": digest.hexdigest()}


def _pieces(head: bytes, keys: list[str], specs: Specs, read: Callable[[str], Tensor]) -> Iterator[Any]:
    yield head
    for key in keys:
        shape, dtype = specs[key]
        value = read(key).detach()
        if tuple(value.shape) != shape:
            raise CheckpointError(f"{key} is {tuple(value.shape)}", expected=f"{shape}, as announced")
        yield value.to("cpu", dtype).contiguous().view(-1).view(torch.uint8).numpy().data


def open_weights(path: Path, sha256: str) -> dict[str, StoredTensor]:
    """Find the tensors of a safetensors file, after its hash has been checked.

    They are read, not mapped: pages of a mapped file count as this process's memory, beside the weights copied from them.

    Raises:
        CheckpointError: If it is missing, truncated, changed, or no safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing", expected="every file that the index names", fix="fetch or train the model again"
        )
    if sha256_file(path) != sha256:
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or was changed since it was saved",
            expected=f"SHA-256 {sha256}",
            fix="fetch or train the model again",
        )
    return tensors_in_safetensors(path)


def check_fit(path: Path, weights: Mapping[str, StoredTensor], expected: Mapping[str, Tensor]) -> None:
    """Compare keys and shapes of a file with what a module has.

    Raises:
        CheckpointError: If one is missing, unknown or misshapen.
    """
    found = set(weights)
    missing, extra = sorted(set(expected) - found), sorted(found - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"{path} does not fit its config: {len(missing)} tensors missing {missing[:3]}, {len(extra)} unknown {extra[:3]}",
            expected="the tensors of the model that model_index.json describes",
        )
    for name, value in expected.items():
        shape = weights[name].shape
        if shape != tuple(value.shape):
            raise CheckpointError(
                f"{path}: {name} is {shape}", expected=f"{tuple(value.shape)}, as model_index.json says"
            )


def tokenizer_hashes(index: Mapping[str, Any]) -> Any:
    """What an index says of its tokenizers' bytes: one hash, or for each role an entry that holds one."""
    return index.get("tokenizers", index.get("tokenizer_sha256"))


@dataclass(frozen=True)
class ComponentFiles:
    """The files of a model, to read components from when they are needed.

    Attributes:
        folder: The model folder.
        index: Its ``model_index.json``.
        dtype: What weights become.
        device: Where they go.
    """

    folder: Path
    index: Mapping[str, Any]
    dtype: torch.dtype
    device: torch.device

    def read_into(self, module: nn.Module, name: str) -> None:
        """Read one component's weights, checked, tensor by tensor.

        Raises:
            CheckpointError: If the file is missing, damaged, or does not fit the module.
        """
        entry = self.index["components"][name]
        path = self.folder / entry["file"]
        parameters, expected = dict(module.named_parameters()), module.state_dict()
        weights = open_weights(path, entry["sha256"])
        check_fit(path, weights, expected)
        state = {}
        for key in expected:
            value = weights[key].read()
            if not _is_finite(value):
                raise CheckpointError(
                    f"{path}: {key} holds numbers that are not finite", fix="fetch or train the model again"
                )
            floating = value.is_floating_point()
            cast = self.dtype if key in parameters and value.dim() else torch.float32
            state[key] = value.to(self.device, cast if floating else value.dtype)
        module.load_state_dict(state, assign=True)

    def copy(self, name: str, folder: Path) -> dict[str, Any]:
        """Copy one component's file, checked, without reading its weights into memory.

        Returns:
            Its entry of the index.

        Raises:
            CheckpointError: If the file is missing or damaged, or the copy cannot be written.
        """
        entry = dict(self.index["components"][name])
        source, target = self.folder / entry["file"], folder / f"{name}.safetensors"
        open_weights(source, entry["sha256"])
        with replacing(target, error=CheckpointError) as partial:
            shutil.copyfile(source, partial)
        return {**entry, "file": target.name}

    def identity(self) -> str:
        """SHA-256 over the config and the hashes of all files, as hexadecimal; loads nothing."""
        hashes = {name: entry["sha256"] for name, entry in self.index["components"].items()}
        text = json.dumps([self.index["config"], hashes, tokenizer_hashes(self.index)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _is_finite(value: Tensor) -> bool:
    """Whether all numbers are; without a copy, which would leave holes between the weights in memory."""
    if not value.is_floating_point() or not value.numel():
        return True
    return all(math.isfinite(extreme.item()) for extreme in value.aminmax())  # NaN is passed on by both
