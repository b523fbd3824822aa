"""The published MedCoDi-M checkpoint -> a model folder of ours: streamed, resumable, every key accounted for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medcodi import __version__
from medcodi.config import to_dict
from medcodi.errors import CheckpointError
from medcodi.interop.xgem_derived import check_derived, noise_schedule
from medcodi.interop.xgem_fate import Fate
from medcodi.interop.xgem_layout import Untold, infer_config
from medcodi.interop.xgem_plan import Recipe, Recipes, UnusableWeightsError, plan
from medcodi.interop.xgem_source import Checkpoint, open_checkpoint
from medcodi.interop.xgem_tokenizers import find_tokenizers
from medcodi.model import STAGES, ModelConfig
from medcodi.model.components import file_hash, write_weights
from medcodi.model.files import write_index

REPORT, PROGRESS, UNFINISHED = "import_report.json", "import_progress.json", ".unfinished"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

OnComponent = Callable[[str, int, int, bool], None]  # name, number done, number in all, whether it was there already


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        folder: The model folder.
        config: Of the model.
        report: Every published key and what became of it, as written to ``import_report.json``.
    """

    folder: Path
    config: ModelConfig
    report: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """Number of keys by what became of them."""
        return self.report["counts"]


def import_xgem(
    source: str | Path,
    out: str | Path,
    *,
    also: Sequence[str | Path] = (),
    tokenizers: str | Path | None = None,
    dtype: str = "float32",
    allow_half: bool = False,
    untold: Untold = Untold(),
    old_image_unet: str | None = None,
    on_component: OnComponent | None = None,
) -> Imported:
    """Import a checkpoint in the published layout.

    One tensor at a time is in memory. Files are written into ``OUT.unfinished``, which becomes ``out`` when all is there; if
    the import is killed or the disk fills up, the next one goes on from the components that are finished.

    Args:
        source: A torch file (read as ``weights_only``: nothing in it is executed), a safetensors file, or a folder of shards
            with their index, or of files of single parts.
        out: The model folder: new, or empty.
        also: More files, of single parts; their keys replace those of ``source``.
        tokenizers: Folder of the three vocabularies, see :func:`medcodi.interop.xgem_tokenizers.find_tokenizers`.
        dtype: Precision that weights are stored in: a key of ``DTYPES``.
        allow_half: Take weights in half precision.
        untold: What the shapes of the tensors do not tell.
        old_image_unet: The view whose UNet older files of single parts call ``unet_image``.
        on_component: Called after each component.

    Returns:
        The folder, the config inferred, and the report.

    Raises:
        CheckpointError: If the checkpoint cannot be read, is not of the layout, lacks tensors or holds unusable ones, or the
            folder cannot be written. Nothing is left at ``out``.
    """
    out = Path(out)
    _refuse_taken(out)
    checkpoint = open_checkpoint([Path(source), *map(Path, also)], old_image_unet=old_image_unet)
    config = infer_config(checkpoint.shapes, untold, noise_schedule(checkpoint))
    recipes, fates = plan(checkpoint, config, allow_half=allow_half)
    check_derived(checkpoint)
    spoken = find_tokenizers(Path(tokenizers) if tokenizers else None, config)

    settings = {"dtype": dtype, "config": to_dict(config)}
    staging = out.with_name(out.name + UNFINISHED)
    components = _Staging.open(staging, {"files": _identities(checkpoint), **settings})
    _refuse_full_disk(staging, recipes, components.finished, DTYPES[dtype])
    for number, (name, of_component) in enumerate(recipes.items(), start=1):
        was_there = name in components.finished
        if not was_there:
            components.add(name, _write(staging, name, of_component, checkpoint, DTYPES[dtype]))
        if on_component is not None:
            on_component(name, number, len(recipes), was_there)

    report = _report(checkpoint, fates, recipes, {**settings, "allow_half": allow_half})
    provenance = {"imported_from": report["files"], "layout": "published", "medcodi": __version__, "report": REPORT}
    _finish(
        staging,
        out,
        report,
        lambda: write_index(staging, config, spoken, components.finished, trained_stages=STAGES, provenance=provenance),
    )
    return Imported(out, config, report)


def _refuse_taken(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise CheckpointError(
            f"{out} exists and is not empty", expected="a new folder", fix="choose another, or remove it first"
        )


def _identities(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """What tells whether the files are still the ones that an unfinished import read."""
    return [
        {"file": file.name, "bytes": (seen := file.stat()).st_size, "changed": seen.st_mtime_ns}
        for file in checkpoint.files
    ]


class _Staging:
    """The folder of an unfinished import, and the components in it that are finished.

    Attributes:
        finished: Component -> its entry of the index.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], finished: dict[str, dict[str, Any]]) -> None:
        self.folder, self.identity, self.finished = folder, identity, finished

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> _Staging:
        """Go on from what is there, if it is of the same files and settings and its hashes hold; else begin anew."""
        identity = json.loads(json.dumps(identity))
        progress, finished = folder / PROGRESS, {}
        if folder.exists():
            if not progress.is_file():
                raise CheckpointError(
                    f"{folder} is in the way", expected="room for the unfinished import", fix="move it away"
                )
            try:
                seen = json.loads(progress.read_text(encoding="utf-8"))
            except ValueError:  # it was being written when the import was killed
                seen = {}
            if seen.get("identity") == identity:
                finished = {name: entry for name, entry in seen["components"].items() if _holds(folder, entry)}
            else:
                shutil.rmtree(folder)
        staging = cls(folder, identity, finished)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            staging._save()
        except OSError as error:
            raise _unwritable(folder, error) from None
        return staging

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Note that a component is finished."""
        self.finished[name] = entry
        try:
            self._save()
        except OSError as error:
            raise _unwritable(self.folder, error) from None

    def _save(self) -> None:
        partial = self.folder / (PROGRESS + ".partial")
        partial.write_text(json.dumps({"identity": self.identity, "components": self.finished}), encoding="utf-8")
        partial.replace(self.folder / PROGRESS)


def _holds(folder: Path, entry: Mapping[str, Any]) -> bool:
    file = folder / entry["file"]
    return file.is_file() and file_hash(file) == entry["sha256"]


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be written: {error.strerror or error}",
        fix="free the disk, or choose another folder, and run it again: finished components are kept",
    )


def _stored_dtype(recipe: Recipe, dtype: torch.dtype) -> torch.dtype:
    return dtype if recipe.is_weight and recipe.shape else torch.float32


def _refuse_full_disk(staging: Path, recipes: Recipes, finished: Mapping[str, Any], dtype: torch.dtype) -> None:
    needed = sum(
        torch.Size(recipe.shape).numel() * _stored_dtype(recipe, dtype).itemsize
        for name, of_component in recipes.items()
        if name not in finished
        for recipe in of_component.values()
    )
    free = shutil.disk_usage(staging).free
    if free < needed:
        if not finished:
            shutil.rmtree(staging)
        raise CheckpointError(
            f"{needed / 2**30:.1f} GiB are to be written to {staging.parent}, and {free / 2**30:.1f} GiB are free",
            expected="room for the whole model",
            fix="free the disk, choose another folder, or store half the bytes with --dtype bfloat16",
        )


def _write(
    staging: Path, name: str, recipes: Mapping[str, Recipe], checkpoint: Checkpoint, dtype: torch.dtype
) -> dict[str, Any]:
    specs = {key: (recipe.shape, _stored_dtype(recipe, dtype)) for key, recipe in recipes.items()}

    def read(key: str) -> torch.Tensor:
        value = recipes[key].make(checkpoint).to(specs[key][1])
        if not torch.isfinite(value).all():
            raise UnusableWeightsError(
                f"{', '.join(recipes[key].sources)} holds numbers too large for {dtype}", fix="store it as bfloat16"
            )
        return value

    num_parameters = sum(torch.Size(recipe.shape).numel() for recipe in recipes.values() if recipe.is_weight)
    try:
        return {**write_weights(staging / f"{name}.safetensors", specs, read), "num_parameters": num_parameters}
    except UnusableWeightsError:
        shutil.rmtree(staging)  # what is finished belongs to a checkpoint that cannot be imported
        raise


def _report(
    checkpoint: Checkpoint, fates: Mapping[str, Fate], recipes: Recipes, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What became of every key, in the order of the checkpoint."""
    counts = dict.fromkeys(("used", "kept", "dropped", "derivable"), 0)
    numbers = dict(counts)
    keys: dict[str, dict[str, Any]] = {}
    for key, each in fates.items():
        shape = checkpoint.tensors[key].shape
        counts[each.status] += 1
        numbers[each.status] += torch.Size(shape).numel()
        entry: dict[str, Any] = {"status": each.status, "shape": list(shape)}
        if each.why:
            entry["why"] = each.why
        if each.targets:
            entry["to"] = [f"{target.component}/{target.key}" for target in each.targets]
        if key in checkpoint.found_as:
            entry["found_as"] = checkpoint.found_as[key]
        keys[key] = entry
    return {
        "format": 1,
        "files": [{"file": one["file"], "bytes": one["bytes"]} for one in _identities(checkpoint)],
        "settings": dict(settings),
        "counts": {**counts, "unknown": 0, "all": len(fates)},
        "numbers": numbers,
        "components": {name: len(of_component) for name, of_component in recipes.items()},
        "keys": keys,
    }


def _finish(staging: Path, out: Path, report: Mapping[str, Any], write: Callable[[], None]) -> None:
    """Write what vouches for the components, and put the folder where it was asked for."""
    try:
        (staging / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        write()
        (staging / PROGRESS).unlink()
        if out.exists():
            out.rmdir()  # it is empty
        staging.rename(out)
    except OSError as error:
        raise _unwritable(out, error) from None
