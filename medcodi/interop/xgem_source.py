"""A published checkpoint, in one file or several: every tensor under the key that the whole model's file has for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcodi.errors import CheckpointError
from medcodi.interop.stored import SAFETENSORS, TORCH_FILES, StoredTensor, tensors_in
from medcodi.interop.xgem_keys import UNET_ROOT, UNETS, Census, rooted, unwrapped

_INDEX = ".index.json"  # how sharded checkpoints name the table of their shards
_OLD_IMAGE_UNET = "unet_image"  # what older single-view files call the UNet of their view
_SHOWN = 5


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a published checkpoint.

    Attributes:
        files: Those they come from.
        tensors: Published key -> tensor.
        found_as: Published key -> the key it has in its file, where that is another.
        census: Counts over the keys.
    """

    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]
    found_as: Mapping[str, str]
    census: Census

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Published key -> shape."""
        return {key: tensor.shape for key, tensor in self.tensors.items()}


def open_checkpoint(sources: Sequence[Path], *, old_image_unet: str | None = None) -> Checkpoint:
    """Find the tensors of a checkpoint; nothing of them is read.

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
        raw = {file: _keyed(file, tensors_in(file), old_image_unet) for file in _files(source)}
        census = Census.of(key for keyed in raw.values() for key in keyed)
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
        files += raw
        tensors |= {key: tensor for key, (_, tensor) in ours.items()}
        found_as |= {key: original for key, (original, _) in ours.items()}
    _refuse_unknown(unknown)
    renamed = {key: original for key, original in found_as.items() if key != original}
    return Checkpoint(tuple(files), tensors, renamed, Census.of(tensors))


def _keyed(
    file: Path, found: Mapping[str, StoredTensor], old_image_unet: str | None
) -> dict[str, tuple[str, StoredTensor]]:
    """Keys without wrappers, and with what the file's name says of them -> original key and tensor."""
    prefix = _named_block(file)
    keyed: dict[str, tuple[str, StoredTensor]] = {}
    for original, tensor in found.items():
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
    """The prefix of a file that holds one block, which the published scripts write into its name; else nothing."""
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
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()), key=str)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index} cannot be read as an index of shards: {error!r}", expected="a weight_map of key -> file"
        ) from None
    if escaping := [name for name in names if Path(str(name)).name != name]:
        raise CheckpointError(f"{index} names {escaping[0]!r}", expected="files of its own folder")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} shards are missing: {', '.join(missing[:_SHOWN])}",
            expected=f"every file that {index} names",
            fix="fetch them",
        )
    return [index.parent / name for name in names]


def _refuse_unknown(keys: Iterable[str]) -> None:
    keys = list(keys)
    if keys:
        more = f", and {len(keys) - _SHOWN:,} more" if len(keys) > _SHOWN else ""
        raise CheckpointError(
            f"{len(keys):,} keys are not of the published layout: {', '.join(keys[:_SHOWN])}{more}",
            expected="keys such as model.diffusion_model.unet_frontal.*, autokl.*, optimus.*, clip.model.*",
            fix="remove them if they belong to something else; a layout of another model cannot be read",
        )
