"""The published MedCoDi-M checkpoint -> a model folder of ours: streamed, resumable, every key accounted for."""

from __future__ import annotations

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
from medcodi.model.components import write_weights
from medcodi.model.files import write_index
from medcodi.storage.job_folder import JobFolder, JobKind

REPORT = "import_report.json"
IMPORT = JobKind(
    name="an unfinished import",
    index="import_progress.json",
    staged="{target}.unfinished",
    error=CheckpointError,
    choose="move it away, or choose another --out",
    then="run it again: finished components are kept",
)
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
    job = JobFolder.beside(out, IMPORT, {"files": _identities(checkpoint), **settings})
    with job.opened(restart=True):
        # Import the components that are not there yet, or were damaged since.
        todo = job.verify(recipes)
        _refuse_full_disk(job, {name: recipes[name] for name in todo}, len(recipes), DTYPES[dtype])
        for number, (name, of_component) in enumerate(recipes.items(), start=1):
            if name in todo:
                _import_component(job, name, of_component, checkpoint, DTYPES[dtype])
            if on_component is not None:
                on_component(name, number, len(recipes), name not in todo)

        # Write what vouches for them, and publish the whole.
        report = _report(checkpoint, fates, recipes, {**settings, "allow_half": allow_half})
        provenance = {"imported_from": report["files"], "layout": "published", "medcodi": __version__, "report": REPORT}
        components = {name: _entry(job, name) for name in recipes}
        job.write_json(job.content / REPORT, report, indent=1)
        write_index(job.content, config, spoken, components, trained_stages=STAGES, provenance=provenance)
        job.publish()
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


def _stored_dtype(recipe: Recipe, dtype: torch.dtype) -> torch.dtype:
    return dtype if recipe.is_weight and recipe.shape else torch.float32


def _refuse_full_disk(job: JobFolder, todo: Recipes, num_components: int, dtype: torch.dtype) -> None:
    needed = sum(
        torch.Size(recipe.shape).numel() * _stored_dtype(recipe, dtype).itemsize
        for of_component in todo.values()
        for recipe in of_component.values()
    )
    free = shutil.disk_usage(job.root).free
    if free < needed:
        if len(todo) == num_components:
            job.clear()
        raise CheckpointError(
            f"{needed / 2**30:.1f} GiB are to be written to {job.root.parent}, and {free / 2**30:.1f} GiB are free",
            expected="room for the whole model",
            fix="free the disk, choose another folder, or store half the bytes with --dtype bfloat16",
        )


def _import_component(
    job: JobFolder, name: str, recipes: Mapping[str, Recipe], checkpoint: Checkpoint, dtype: torch.dtype
) -> None:
    specs = {key: (recipe.shape, _stored_dtype(recipe, dtype)) for key, recipe in recipes.items()}

    def read(key: str) -> torch.Tensor:
        value = recipes[key].make(checkpoint).to(specs[key][1])
        if not torch.isfinite(value).all():
            raise UnusableWeightsError(
                f"{', '.join(recipes[key].sources)} holds numbers too large for {dtype}", fix="store it as bfloat16"
            )
        return value

    path = job.content / f"{name}.safetensors"
    try:
        entry = write_weights(path, specs, read, IMPORT.then)
    except UnusableWeightsError:
        job.clear()  # what is finished belongs to a checkpoint that cannot be imported
        raise
    row = {"bytes": path.stat().st_size, "sha256": entry["sha256"]}
    num_parameters = sum(torch.Size(recipe.shape).numel() for recipe in recipes.values() if recipe.is_weight)
    job.finish(name, {path.name: row}, num_parameters=num_parameters)


def _entry(job: JobFolder, name: str) -> dict[str, Any]:
    """A finished component, as in the index of a model."""
    record = job.record(name)
    assert record is not None
    ((file, row),) = record["files"].items()
    return {"file": file, "sha256": row["sha256"], "num_parameters": record["num_parameters"]}


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
