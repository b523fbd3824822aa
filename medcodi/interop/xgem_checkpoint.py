"""A published checkpoint in one file or several: its tensors, located without executing anything, under the whole model's keys."""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from medcodi.errors import CheckpointError, first_line
from medcodi.interop.xgem_disposition import some_of
from medcodi.interop.xgem_keys import Census, rooted, unwrapped
from medcodi.interop.xgem_unets import UNET_ROOT, UNETS
from medcodi.storage.checked_json import parse_json, shown
from medcodi.storage.names import plain_name
from medcodi.storage.tensors import StoredTensor, tensors_in_safetensors

TORCH_FILES, SAFETENSORS = (".pt", ".pth", ".bin", ".ckpt"), ".safetensors"
_NESTING = ("state_dict", "net", "module")  # keys under which training scripts put the weights
_INDEX = ".index.json"  # suffix of the table of shards of a checkpoint
_OLD_IMAGE_UNET = "unet_image"  # name of the UNet in older files of a single view
_MAX_NESTING = 8  # dictionaries around the weights; a dictionary of a pickle may contain itself
_MAX_PICKLE = 256 * 2**20  # bytes of names and shapes, without the numbers


@dataclass(frozen=True)
class XgemCheckpoint:
    """Tensors of a published checkpoint."""

    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]  # published key -> tensor
    found_as: Mapping[str, str]  # published key -> its key in the file, if that is another
    census: Census

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Published key -> shape."""
        return {key: tensor.shape for key, tensor in self.tensors.items()}


def open_checkpoint(sources: Sequence[Path], *, old_image_unet: str | None = None) -> XgemCheckpoint:
    """Locate the tensors of a checkpoint; none is read.

    Args:
        sources: Files, or folders of them (shards with an index, or single parts). A later source replaces keys of earlier ones.
        old_image_unet: The view whose UNet files of single parts call ``unet_image``.

    Raises:
        CheckpointError: If a file cannot be read, or a key is not of the published layout.
    """
    tensors: dict[str, StoredTensor] = {}
    found_as: dict[str, str] = {}
    files: list[Path] = []
    unknown: list[str] = []
    for source in sources:
        # Keys of all files of a source, without wrappers.
        raw = {file: _keyed(file, tensors_in(file), old_image_unet) for file in _files(source)}
        census = Census.of(key for keyed in raw.values() for key in keyed)
        # Keys of the whole model's file, each once.
        ours: dict[str, tuple[str, StoredTensor]] = {}
        for keyed in raw.values():
            for plain, (original, tensor) in keyed.items():
                key = rooted(plain, census)
                if key is None:
                    unknown.append(original)
                elif key in ours:
                    raise CheckpointError(
                        f"{source} holds {key} twice: as {ours[key][0]} and as {original}", expected="each tensor once"
                    )
                else:
                    ours[key] = (original, tensor)
        # A later source replaces keys of earlier ones.
        files += raw
        tensors |= {key: tensor for key, (_, tensor) in ours.items()}
        found_as |= {key: original for key, (original, _) in ours.items()}
    _refuse_unknown(unknown)
    renamed = {key: original for key, original in found_as.items() if key != original}
    return XgemCheckpoint(tuple(files), tensors, renamed, Census.of(tensors))


def _keyed(
    file: Path, tensors: Mapping[str, StoredTensor], old_image_unet: str | None
) -> dict[str, tuple[str, StoredTensor]]:
    """Keys without wrappers, with the prefix that the file's name gives them -> original key and tensor."""
    prefix = _named_block(file)
    keyed: dict[str, tuple[str, StoredTensor]] = {}
    for original, tensor in tensors.items():
        key = prefix + unwrapped(original)
        if f"{_OLD_IMAGE_UNET}." in key:
            key = key.replace(_OLD_IMAGE_UNET, _current_name(original, old_image_unet))
        if key in keyed:
            raise CheckpointError(
                f"{file} holds {key} twice: as {keyed[key][0]} and as {original}", expected="each tensor once"
            )
        keyed[key] = (original, tensor)
    return keyed


def _named_block(file: Path) -> str:
    """The prefix of the keys of a file that holds one block, which the published scripts write into its name; else empty."""
    stem = file.name.removesuffix(file.suffix).removeprefix("model.")
    name = stem.removeprefix(UNET_ROOT).split(".")[0]
    is_block = stem.startswith(UNET_ROOT) and name in (*UNETS, _OLD_IMAGE_UNET)
    return f"{stem}." if is_block else ""


def _current_name(original: str, view: str | None) -> str:
    published = {ours: name for name, ours in UNETS.items()}
    if view not in published:
        raise CheckpointError(
            f"{original}: older files call the UNet of either view {_OLD_IMAGE_UNET}",
            expected=f"the modality it belongs to: one of {', '.join(published)}",
            fix="give --unet-image",
        )
    return published[view]


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    indices = sorted(source.glob(f"*{_INDEX}"))
    if len(indices) > 1:
        raise CheckpointError(
            f"{source} holds {len(indices)} indices: {', '.join(index.name for index in indices)}",
            expected="one checkpoint in a folder",
            fix="give the file itself, or move the others away",
        )
    if indices:
        return _shards(indices[0])
    files = sorted(file for file in source.iterdir() if file.suffix in (*TORCH_FILES, SAFETENSORS))
    if not files:
        raise CheckpointError(
            f"{source} holds no checkpoint", expected="torch files, safetensors, or an index of shards"
        )
    return files


def _shards(index: Path) -> list[Path]:
    content = parse_json(index.read_bytes(), str(index), CheckpointError)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} is not an index of shards", expected="a weight_map of key -> file")
    names = sorted({plain_name(name, str(index), CheckpointError) for name in weight_map.values()})
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} shards are missing: {', '.join(missing[:5])}",
            expected=f"every file that {index} names",
            fix="fetch them",
        )
    return [index.parent / name for name in names]


def _refuse_unknown(keys: Sequence[str]) -> None:
    if keys:
        raise CheckpointError(
            f"{len(keys):,} keys are not of the published layout: {some_of(keys)}",
            expected="keys such as model.diffusion_model.unet_frontal.*, autokl.*, optimus.*, clip.model.*",
            fix="remove them if they belong to something else; a layout of another model cannot be read",
        )


# ---- tensors in one file -------------------------------------------------------------------------------------------
def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a torch file or a safetensors file, located, not read; nothing in the file is executed.

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
    _check_archive(path)
    # Fake tensors have shape, type and offset in the file, and no memory.
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
    except Exception as error:  # a damaged pickle can raise any
        raise CheckpointError(
            f"{path} cannot be read as a torch file: {first_line(error)[:160]}", fix="fetch it again"
        ) from None
    return {key: _stored(path, key, value) for key, value in _state_dict(path, content).items()}


def _check_archive(path: Path) -> None:
    """Refuse a zip file that is damaged, or whose pickle would need much memory once it is inflated."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [entry.file_size for entry in archive.infolist() if entry.filename.endswith(".pkl")]
    except Exception as error:  # a damaged archive can raise any
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or damaged: {first_line(error)[:160]}",
            fix="fetch it again",
        ) from None
    if max(sizes, default=0) > _MAX_PICKLE:
        raise CheckpointError(f"{path} holds a pickle of {max(sizes):,} bytes", expected=f"at most {_MAX_PICKLE:,}")


def _state_dict(path: Path, content: Any) -> Mapping[str, Any]:
    """The dictionary of tensors, without the dictionaries that training scripts nest it in."""
    for _ in range(_MAX_NESTING):
        if not isinstance(content, Mapping):
            break
        inner = next((content[name] for name in _NESTING if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            return content
        content = inner
    nested = f", {_MAX_NESTING} times in itself" if isinstance(content, Mapping) else ""
    raise CheckpointError(f"{path} holds a {type(content).__name__}{nested}", expected="tensors by name (a state_dict)")


def _stored(path: Path, key: Any, value: Any) -> StoredTensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise CheckpointError(
            f"{path}: {key} is a {type(value).__name__}{f' ({value.layout})' if isinstance(value, Tensor) else ''}",
            expected="a dense tensor",
            fix="save the state_dict alone, without the other content of a training checkpoint",
        )
    if not isinstance(key, str) or not key.isprintable():
        raise CheckpointError(f"{path} names a tensor {shown(key)}", expected="keys of printable text")
    offset = getattr(value.untyped_storage(), "_checkpoint_offset", None)
    if offset is None:
        raise CheckpointError(
            f"PyTorch {torch.__version__} does not give the offset of a tensor in {path}",
            expected="PyTorch 2.7 or newer for torch files",
            fix="update PyTorch, or save the weights as safetensors",
        )
    # Inside the file, and not larger than it: a tensor of stride 0 has one number and any shape.
    start, size = offset + value.storage_offset() * value.dtype.itemsize, path.stat().st_size
    strides = zip(value.shape, value.stride(), strict=True)
    last = 1 + sum((side - 1) * stride for side, stride in strides) if value.numel() else 0
    if start + last * value.dtype.itemsize > size or math.prod(value.shape) * value.dtype.itemsize > size:
        raise CheckpointError(
            f"{path} ({size:,} bytes): {key} is {tuple(value.shape)}, which is not stored in the file",
            expected="dense tensors",
            fix="fetch it again",
        )
    return StoredTensor(path, tuple(value.shape), value.dtype, start, tuple(value.stride()))
