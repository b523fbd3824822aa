"""Import of the published MedCoDi-M checkpoint into a model folder: streamed, resumable, every key accounted for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medcodi import __version__
from medcodi.config import to_dict
from medcodi.data.domain import REAL, Domain
from medcodi.errors import CheckpointError
from medcodi.interop.xgem_checkpoint import XgemCheckpoint, open_checkpoint
from medcodi.interop.xgem_disposition import Disposition
from medcodi.interop.xgem_layout import LayoutConfig, infer_config
from medcodi.interop.xgem_plan import Recipe, Recipes, UnusableWeightsError, check_derived, noise_schedule, plan
from medcodi.model import STAGES, ModelConfig
from medcodi.model.components import write_weights
from medcodi.model.files import write_index
from medcodi.model.fresh import absent_tokenizers
from medcodi.networks.tokenizer import ReportTokenizer, Tokenizers
from medcodi.networks.tokenizer_file import read_tokenizer
from medcodi.storage.job_folder import JobFolder, JobKind

REPORT = "import_report.json"
IMPORT = JobKind(
    name="an unfinished import",
    index_file="import_progress.json",
    staging_name="{target}.unfinished",
    error=CheckpointError,
    fix="move it away, or choose another --out",
    resume="run it again: finished components are kept",
)
# Role -> whether texts are lower-cased first (the published report autoencoder does so before its cased vocabulary).
TOKENIZER_ROLES = {"prompts": False, "report": True, "decoder": True}
_ADDED_TOKENS = ["<PAD>", "<BOS>", "<EOS>"]  # the published decoder adds these to GPT-2's vocabulary, in this order
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

OnComponent = Callable[[str, int, int, bool], None]  # name, number done, total number, whether it existed already


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    folder: Path
    config: ModelConfig
    report: dict[str, Any]  # every published key and its disposition, as in import_report.json

    @property
    def counts(self) -> dict[str, int]:
        """Status -> number of keys."""
        return self.report["counts"]


def import_xgem(
    source: str | Path,
    out: str | Path,
    *,
    also: Sequence[str | Path] = (),
    tokenizers: str | Path | None = None,
    dtype: str = "float32",
    allow_half: bool = False,
    layout: LayoutConfig = LayoutConfig(),
    old_image_unet: str | None = None,
    on_component: OnComponent | None = None,
) -> Imported:
    """Import a checkpoint in the published layout.

    One tensor at a time is in memory. Files are written into ``OUT.unfinished``, which is renamed to ``out`` when it is
    complete. After a kill or a full disk the same call resumes: finished components are not written again.

    Args:
        source: A torch file (loaded with ``weights_only``: nothing in it is executed), a safetensors file, or a folder of
            shards with their index, or of files of single parts.
        out: The model folder: new, or empty.
        also: More files of single parts; their keys replace those of ``source``.
        tokenizers: Folder of the three vocabularies, see :func:`find_tokenizers`.
        dtype: Precision of the stored weights: a key of ``DTYPES``.
        allow_half: Accept weights in half precision.
        layout: Sizes that the shapes of the tensors do not show.
        old_image_unet: The view whose UNet is called ``unet_image`` in older files of single parts.
        on_component: Called after each component.

    Returns:
        The folder, the config inferred, and the report.

    Raises:
        CheckpointError: If the checkpoint cannot be read, is not of the layout, lacks tensors or holds unusable ones, or
            the folder cannot be written. Nothing is left at ``out``.
    """
    # Locate every tensor, infer the model, plan: nothing is written before all of it fits.
    out = Path(out)
    _refuse_existing(out)
    checkpoint = open_checkpoint([Path(source), *map(Path, also)], old_image_unet=old_image_unet)
    config = infer_config(checkpoint.shapes, layout, noise_schedule(checkpoint))
    recipes, dispositions = plan(checkpoint, config, allow_half=allow_half)
    check_derived(checkpoint)
    vocabularies = find_tokenizers(Path(tokenizers) if tokenizers else None, config)

    # Write component by component; those that an interrupted import finished stay.
    settings = {"dtype": dtype, "config": to_dict(config)}
    job = JobFolder.beside(out, IMPORT, {"files": _identities(checkpoint), **settings})
    with job.opened(restart=True):
        todo = job.verify(recipes)
        _refuse_full_disk(job, {name: recipes[name] for name in todo}, len(recipes), DTYPES[dtype])
        for number, (name, tensors) in enumerate(recipes.items(), start=1):
            if name in todo:
                _import_component(job, name, tensors, checkpoint, DTYPES[dtype])
            if on_component is not None:
                on_component(name, number, len(recipes), name not in todo)

        # Write the report and the index, and publish the folder.
        report = _report(checkpoint, dispositions, recipes, {**settings, "allow_half": allow_half})
        provenance = {"imported_from": report["files"], "layout": "published", "medcodi": __version__, "report": REPORT}
        provenance = published_domain(config.modalities).after(provenance)
        components = {name: _index_entry(job, name) for name in recipes}
        job.write_json(job.content / REPORT, report, indent=1)
        write_index(job.content, config, vocabularies, components, trained_stages=STAGES, provenance=provenance)
        job.publish()
    return Imported(out, config, report)


def published_domain(modalities: Sequence[str]) -> Domain:
    """The training data of the published model (arXiv 2501.04614): MIMIC-CXR, and its use agreement."""
    return Domain(origin=REAL, sources=("MIMIC-CXR",), modalities=tuple(modalities), agreement="mimic-cxr")


def _refuse_existing(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        JobFolder.sweep_published(out, IMPORT)
        raise CheckpointError(
            f"{out} exists and is not empty", expected="a new folder", fix="choose another, or remove it first"
        )


def _identities(checkpoint: XgemCheckpoint) -> list[dict[str, Any]]:
    """Name, size and time of the files: an unfinished import resumes only from the same ones."""
    return [
        {"file": file.name, "bytes": (status := file.stat()).st_size, "changed": status.st_mtime_ns}
        for file in checkpoint.files
    ]


def _refuse_full_disk(job: JobFolder, todo: Recipes, num_components: int, dtype: torch.dtype) -> None:
    needed = sum(
        torch.Size(recipe.shape).numel() * recipe.stored_dtype(dtype).itemsize
        for tensors in todo.values()
        for recipe in tensors.values()
    )
    free = shutil.disk_usage(job.root).free
    if free < needed:
        if len(todo) == num_components:
            job.clear()
        raise CheckpointError(
            f"{needed / 2**30:.1f} GiB are needed in {job.root.parent}, and {free / 2**30:.1f} GiB are free",
            expected="room for the whole model",
            fix="free the disk, choose another folder, or store half the bytes with --dtype bfloat16",
        )


def _import_component(
    job: JobFolder, name: str, recipes: Mapping[str, Recipe], checkpoint: XgemCheckpoint, dtype: torch.dtype
) -> None:
    specs = {key: (recipe.shape, recipe.stored_dtype(dtype)) for key, recipe in recipes.items()}

    def read(key: str) -> torch.Tensor:
        value = recipes[key].make(checkpoint).to(specs[key][1])
        if not torch.isfinite(value).all():
            raise UnusableWeightsError(
                f"{', '.join(recipes[key].sources)} holds numbers too large for {dtype}", fix="store it as bfloat16"
            )
        return value

    path = job.content / f"{name}.safetensors"
    try:
        entry = write_weights(path, specs, read, IMPORT.resume)
    except UnusableWeightsError:
        job.clear()  # the finished components are of a checkpoint that can never be imported
        raise
    row = {"bytes": path.stat().st_size, "sha256": entry["sha256"]}
    num_parameters = sum(torch.Size(recipe.shape).numel() for recipe in recipes.values() if recipe.is_weight)
    job.finish(name, {path.name: row}, num_parameters=num_parameters)


def _index_entry(job: JobFolder, name: str) -> dict[str, Any]:
    """The entry of a finished component in the index of the model."""
    record = job.record(name)
    assert record is not None
    ((file, row),) = record["files"].items()
    return {"file": file, "sha256": row["sha256"], "num_parameters": record["num_parameters"]}


def _report(
    checkpoint: XgemCheckpoint, dispositions: Mapping[str, Disposition], recipes: Recipes, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The disposition of every key, in the order of the checkpoint."""
    counts = dict.fromkeys(("used", "kept", "dropped", "derivable"), 0)
    numbers = dict(counts)
    keys: dict[str, dict[str, Any]] = {}
    for key, of_key in dispositions.items():
        shape = checkpoint.tensors[key].shape
        counts[of_key.status] += 1
        numbers[of_key.status] += torch.Size(shape).numel()
        entry: dict[str, Any] = {"status": of_key.status, "shape": list(shape)}
        if of_key.why:
            entry["why"] = of_key.why
        if of_key.targets:
            entry["to"] = [f"{target.component}/{target.key}" for target in of_key.targets]
        if key in checkpoint.found_as:
            entry["found_as"] = checkpoint.found_as[key]
        keys[key] = entry
    return {
        "format": 1,
        "files": [{"file": file["file"], "bytes": file["bytes"]} for file in _identities(checkpoint)],
        "settings": dict(settings),
        "counts": {**counts, "unknown": 0, "all": len(dispositions)},
        "numbers": numbers,
        "components": {name: len(tensors) for name, tensors in recipes.items()},
        "keys": keys,
    }


# ---- vocabularies, which the authors do not publish with the weights ------------------------------------------------
def find_tokenizers(folder: Path | None, config: ModelConfig) -> Tokenizers:
    """Read ``prompts`` (CLIP's), ``report`` (BERT's, cased) and ``decoder`` (GPT-2's) from a folder.

    Each is ``ROLE.json`` or ``ROLE/tokenizer.json``, as the tokenizers library writes them. For a role without a
    file the model refuses to read and write text.

    Raises:
        CheckpointError: If the folder holds none, or one of another size than the weights.
    """
    absent = absent_tokenizers(config).by_role()
    if folder is None:
        return Tokenizers(**absent)
    files = {
        role: next((f for f in (folder / f"{role}.json", folder / role / "tokenizer.json") if f.is_file()), None)
        for role in TOKENIZER_ROLES
    }
    if not any(files.values()):
        raise CheckpointError(
            f"{folder} holds no tokenizer",
            expected="prompts.json (CLIP's), report.json (BERT's, cased), decoder.json (GPT-2's)",
            fix="put the tokenizer.json of each there under that name",
        )
    present = {role: _read_tokenizer(file, role, absent[role].vocab_size) for role, file in files.items() if file}
    return Tokenizers(**{**absent, **present})


def _read_tokenizer(file: Path, role: str, vocab_size: int) -> ReportTokenizer:
    tokenizer = read_tokenizer(file)
    if role == "decoder" and tokenizer.get_vocab_size() == vocab_size - len(_ADDED_TOKENS):
        tokenizer.add_special_tokens(_ADDED_TOKENS)
    if tokenizer.get_vocab_size() != vocab_size:
        raise CheckpointError(
            f"{file} has {tokenizer.get_vocab_size():,} tokens",
            expected=f"{vocab_size:,}, as many as the weights embed",
            fix="give the vocabulary that the weights were trained with",
        )
    return ReportTokenizer(tokenizer, lowercase=TOKENIZER_ROLES[role])
