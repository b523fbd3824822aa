"""Components as safetensors files: written and read tensor by tensor, checked by hash, read when they are first needed."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcodi.errors import CheckpointError
from medcodi.model.threads import LOADING
from medcodi.storage.atomic import replacing, sha256_file, writing
from medcodi.storage.tensors import SAFETENSORS_TYPES, StoredTensor, tensors_in_safetensors

Specs = Mapping[str, tuple[tuple[int, ...], torch.dtype]]  # key -> shape and precision

_VECTOR_CONNECTOR = ".connector."  # in the names of a denoiser's connectors to environment vectors
_NAMES = {dtype: name for name, dtype in SAFETENSORS_TYPES.items()}


def write_weights(
    path: Path,
    specs: Specs,
    read: Callable[[str], Tensor],
    then: str = "run it again",
    metadata: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write a safetensors file, whole or not at all, with one tensor in memory at a time (a component can have 8 GB).

    Args:
        path: The file; an existing one is replaced.
        specs: Shape and stored precision of every tensor.
        read: Key -> tensor, which is cast to the stored precision here.
        then: What the user does once a full disk has room.
        metadata: Texts by name in the file's header.

    Returns:
        ``file`` (its name) and ``sha256``, as in the index of a model.

    Raises:
        CheckpointError: If the file cannot be written (a full disk), or a tensor has another shape than in ``specs``.
    """
    digest = hashlib.sha256()
    with writing(path, error=CheckpointError, then=then) as file:
        for piece in _pieces(specs, read, metadata):
            digest.update(piece)
            file.write(piece)
    return {"file": path.name, "sha256": digest.hexdigest()}


def hash_weights(specs: Specs, read: Callable[[str], Tensor]) -> str:
    """SHA-256 of the file that :func:`write_weights` would write."""
    digest = hashlib.sha256()
    for piece in _pieces(specs, read):
        digest.update(piece)
    return digest.hexdigest()


def component_specs(module: nn.Module, dtype: torch.dtype | None = None) -> Specs:
    """Shape and stored precision of a component's tensors; buffers and single numbers keep theirs (None: all do)."""
    parameters = dict(module.named_parameters())
    return {
        key: (tuple(value.shape), dtype if dtype and key in parameters and value.dim() else value.dtype)
        for key, value in module.state_dict().items()
    }


def _pieces(specs: Specs, read: Callable[[str], Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[Any]:
    """The bytes of a safetensors file, piece by piece."""
    # Header: the widest numbers first, so that every tensor is aligned.
    keys = sorted(specs, key=lambda key: (-specs[key][1].itemsize, key))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for key in keys:
        shape, dtype = specs[key]
        end = start + torch.Size(shape).numel() * dtype.itemsize
        header[key] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text

    # Tensors, in the order of the header.
    for key in keys:
        shape, dtype = specs[key]
        value = read(key).detach()
        if tuple(value.shape) != shape:
            raise CheckpointError(f"{key} is {tuple(value.shape)}", expected=f"{shape}, as in the file's header")
        cast = value.to("cpu", dtype)
        if dtype != value.dtype and not _is_finite(cast):
            raise CheckpointError(
                f"{key} holds numbers that are not finite in {dtype}", fix="store it in a wider precision"
            )
        yield cast.contiguous().view(-1).view(torch.uint8).numpy().data


def open_weights(path: Path, sha256: str) -> dict[str, StoredTensor]:
    """Check the hash of a safetensors file and locate its tensors.

    Raises:
        CheckpointError: If it is missing, truncated, changed, or not a safetensors file.
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
    # Not mapped: pages of a mapped file count as this process's memory, beside the weights copied from them.
    return tensors_in_safetensors(path)


def check_fit(path: Path, weights: Mapping[str, StoredTensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a file whose keys and shapes are not those of a module."""
    missing, extra = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
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


@dataclass(frozen=True)
class ComponentFiles:
    """The files of a model, from which components are read when they are needed."""

    folder: Path
    index: Mapping[str, Any]  # model_index.json
    dtype: torch.dtype  # precision of the weights in memory
    device: torch.device

    def read_into(self, module: nn.Module, name: str) -> None:
        """Read and check the weights of one component, tensor by tensor; a CheckpointError says what is damaged."""
        entry = self.index["components"][name]
        path = self.folder / entry["file"]
        parameters, expected = dict(module.named_parameters()), module.state_dict()
        weights = open_weights(path, entry["sha256"])
        # The file of a denoiser may hold connectors to environment vectors, which one that hears features does without.
        if not any(_VECTOR_CONNECTOR in key for key in expected):
            weights = {key: value for key, value in weights.items() if _VECTOR_CONNECTOR not in key}
        check_fit(path, weights, expected)
        # Weights are cast; buffers and single numbers, such as scales, are float32.
        state = {}
        for key in expected:
            value = weights[key].read()
            cast = self.dtype if key in parameters and value.dim() else torch.float32
            value = value.to(cast if value.is_floating_point() else value.dtype)
            if not _is_finite(value):  # after the cast: 1e300 is a float64, and infinite in float32
                raise CheckpointError(
                    f"{path}: {key} holds numbers that are not finite in {cast}", fix="fetch or train the model again"
                )
            state[key] = value.to(self.device)
        module.load_state_dict(state, assign=True)

    def copy(self, name: str, folder: Path) -> dict[str, Any]:
        """Check and copy the file of one component, without loading its weights; returns its entry of the index."""
        entry = dict(self.index["components"][name])
        source, target = self.folder / entry["file"], folder / f"{name}.safetensors"
        open_weights(source, entry["sha256"])
        with replacing(target, error=CheckpointError) as partial:
            shutil.copyfile(source, partial)
        return {**entry, "file": target.name}


def _is_finite(value: Tensor) -> bool:
    """Whether all numbers are finite; without a copy, which would fragment the memory between the weights."""
    if not value.is_floating_point() or not value.numel():
        return True
    return all(math.isfinite(extreme.item()) for extreme in value.aminmax())  # NaN passes through both


# ---- components without memory, or out of the module tree ---------------------------------------------------------------
class Placeholder(nn.Module):
    """Forwards every access to another module, which ``parameters()``, ``to``, ``state_dict`` and engines then skip."""

    inside: nn.Module  # the module it stands for

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["inside"] = module  # a normal assignment would make it a child

    def __getattr__(self, name: str) -> Any:
        if "inside" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["inside"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output."""
        return self.inside(*args, **kwargs)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that a placeholder stands for, or ``module`` itself."""
    return module.inside if isinstance(module, Placeholder) else module


def empty_parameters(module: nn.Module) -> None:
    """Put a module's parameters on the meta device, where they need no memory; buffers stay."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad))


def move_buffers(module: nn.Module, device: str | torch.device) -> None:
    """Move buffers, which are not parameters, to a device."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(device)


class LazyComponents(nn.Module):
    """A module whose components are read from files when they are first needed; until then their parameters are on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.files: ComponentFiles | None = None  # None: built in memory
        self.pending: set[str] = set()  # names of the components that were not needed yet

    def components(self) -> dict[str, nn.Module]:
        """Name -> component; each is saved in a file of its own."""
        raise NotImplementedError

    def load_components(self, names: Iterable[str] | None = None) -> None:
        """Read pending components (None: all) now; otherwise every method reads those that it needs."""
        names = None if names is None else set(names)
        if not (self.pending if names is None else any(name in self.pending for name in names)):
            return
        with LOADING:
            # Another thread may have read some of them meanwhile.
            todo = sorted(self.pending if names is None else self.pending & names)
            assert not todo or self.files is not None, (
                "components are pending, but there are no files to read them from"
            )
            modules = self.components()
            for name in todo:
                assert self.files is not None
                with torch.inference_mode(False):  # weights outlive the inference that they are first needed in
                    self.files.read_into(modules[name], name)
                self.pending.discard(name)  # last: the others look here first

    def unload_components(self, names: Iterable[str]) -> None:
        """Free the memory of components of a model with files; they are read again when they are needed."""
        names = set(names)
        if self.files is None:
            raise CheckpointError(
                f"{', '.join(sorted(names))} cannot be unloaded: this model was built in memory",
                expected="a model loaded by from_pretrained",
                fix="save it first and load it again",
            )
        modules = self.components()
        with LOADING:
            for name in names:
                self.pending.add(name)
                empty_parameters(modules[name])

    def hide_components(self, names: Iterable[str]) -> None:
        """Replace pending components by placeholders, which no engine moves, partitions or saves; they are still usable."""
        names = set(names)
        assert names <= self.pending, f"{sorted(names - self.pending)} are in memory, and belong in the module tree"
        hidden = {id(module) for name, module in self.components().items() if name in names}
        for parent in (self, *self.children()):
            for key, module in list(parent.named_children()):
                if id(module) in hidden:
                    parent._modules[key] = Placeholder(module.requires_grad_(False))
