"""Import of the published MedCoDi-M checkpoint into a model folder: streamed, resumable, every key accounted for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from medcodi import __version__
from medcodi.config import to_dict
from medcodi.errors import CheckpointError
from medcodi.interop.xgem_checkpoint import Checkpoint, open_checkpoint
from medcodi.interop.xgem_disposition import Disposition
from medcodi.interop.xgem_layout import LayoutConfig, infer_config
from medcodi.interop.xgem_plan import (
    Recipe,
    Recipes,
    UnusableWeightsError,
    absent_tokenizers,
    check_derived,
    noise_schedule,
    plan,
)
from medcodi.model import STAGES, ModelConfig
from medcodi.model.components import file_hash, write_weights
from medcodi.model.files import write_index
from medcodi.networks.tokenizer import ReportTokenizer, Tokenizers

REPORT, PROGRESS, UNFINISHED = "import_report.json", "import_progress.json", ".unfinished"
# Role -> whether texts are lower-cased first (the published report autoencoder does so before its cased vocabulary).
TOKENIZER_ROLES = {"prompts": False, "report": True, "decoder": True}
_ADDED_TOKENS = ["<PAD>", "<BOS>", "<EOS>"]  # the published decoder adds these to GPT-2's vocabulary, in this order
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

OnComponent = Callable[[str, int, int, bool], None]  # name, number done, total number, whether it existed already


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        folder: The model folder.
        config: The model's config.
        report: Every published key and its disposition, as in ``import_report.json``.
    """

    folder: Path
    config: ModelConfig
    report: dict[str, Any]

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
    staging = out.with_name(out.name + UNFINISHED)
    components = _Staging.open(staging, {"files": _identities(checkpoint), **settings})
    _refuse_full_disk(staging, recipes, components.finished, DTYPES[dtype])
    for number, (name, tensors) in enumerate(recipes.items(), start=1):
        existed = name in components.finished
        if not existed:
            components.add(name, _write(staging, name, tensors, checkpoint, DTYPES[dtype]))
        if on_component is not None:
            on_component(name, number, len(recipes), existed)

    # Report, index, and the folder under its name.
    report = _report(checkpoint, dispositions, recipes, {**settings, "allow_half": allow_half})
    provenance = {"imported_from": report["files"], "layout": "published", "medcodi": __version__, "report": REPORT}
    _finish(
        staging,
        out,
        report,
        lambda: write_index(
            staging, config, vocabularies, components.finished, trained_stages=STAGES, provenance=provenance
        ),
    )
    return Imported(out, config, report)


def _refuse_existing(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise CheckpointError(
            f"{out} exists and is not empty", expected="a new folder", fix="choose another, or remove it first"
        )


def _identities(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Name, size and time of the files: an unfinished import resumes only from the same ones."""
    return [
        {"file": file.name, "bytes": (status := file.stat()).st_size, "changed": status.st_mtime_ns}
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
        """Resume if the folder is of the same files and settings (components whose hashes hold are kept); else start anew."""
        identity = json.loads(json.dumps(identity))
        progress, finished = folder / PROGRESS, {}
        if folder.exists():
            if not progress.is_file():
                raise CheckpointError(
                    f"{folder} is in the way", expected="room for the unfinished import", fix="move it away"
                )
            try:
                earlier = json.loads(progress.read_text(encoding="utf-8"))
            except ValueError:  # it was being written when the import was killed
                earlier = {}
            if earlier.get("identity") == identity:
                finished = {name: entry for name, entry in earlier["components"].items() if _is_whole(folder, entry)}
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
        """Record a finished component."""
        self.finished[name] = entry
        try:
            self._save()
        except OSError as error:
            raise _unwritable(self.folder, error) from None

    def _save(self) -> None:
        partial = self.folder / (PROGRESS + ".partial")
        partial.write_text(json.dumps({"identity": self.identity, "components": self.finished}), encoding="utf-8")
        partial.replace(self.folder / PROGRESS)


def _is_whole(folder: Path, entry: Mapping[str, Any]) -> bool:
    file = folder / entry["file"]
    return file.is_file() and file_hash(file) == entry["sha256"]


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be written: {error.strerror or error}",
        fix="free the disk, or choose another folder, and run it again: finished components are kept",
    )


def _refuse_full_disk(staging: Path, recipes: Recipes, finished: Mapping[str, Any], dtype: torch.dtype) -> None:
    needed = sum(
        torch.Size(recipe.shape).numel() * recipe.stored_dtype(dtype).itemsize
        for name, tensors in recipes.items()
        if name not in finished
        for recipe in tensors.values()
    )
    free = shutil.disk_usage(staging).free
    if free < needed:
        if not finished:
            shutil.rmtree(staging)
        raise CheckpointError(
            f"{needed / 2**30:.1f} GiB are needed in {staging.parent}, and {free / 2**30:.1f} GiB are free",
            expected="room for the whole model",
            fix="free the disk, choose another folder, or store half the bytes with --dtype bfloat16",
        )


def _write(
    staging: Path, name: str, recipes: Mapping[str, Recipe], checkpoint: Checkpoint, dtype: torch.dtype
) -> dict[str, Any]:
    specs = {key: (recipe.shape, recipe.stored_dtype(dtype)) for key, recipe in recipes.items()}

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
        shutil.rmtree(staging)  # the finished components are of a checkpoint that can never be imported
        raise


def _report(
    checkpoint: Checkpoint, dispositions: Mapping[str, Disposition], recipes: Recipes, settings: Mapping[str, Any]
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


def _finish(staging: Path, out: Path, report: Mapping[str, Any], write: Callable[[], None]) -> None:
    """Write the report and the index, then rename the folder to ``out``."""
    try:
        (staging / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        write()
        (staging / PROGRESS).unlink()
        if out.exists():
            out.rmdir()  # it is empty
        staging.rename(out)
    except OSError as error:
        raise _unwritable(out, error) from None


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
    return Tokenizers(
        **{
            role: _read_tokenizer(file, role, absent[role].vocab_size) if file else absent[role]
            for role, file in files.items()
        }
    )


def _read_tokenizer(file: Path, role: str, vocab_size: int) -> ReportTokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exceptions
        raise CheckpointError(
            f"{file} cannot be read as a tokenizer: {error}", expected="a tokenizer.json of the tokenizers library"
        ) from None
    if role == "decoder" and tokenizer.get_vocab_size() == vocab_size - len(_ADDED_TOKENS):
        tokenizer.add_special_tokens(_ADDED_TOKENS)
    if tokenizer.get_vocab_size() != vocab_size:
        raise CheckpointError(
            f"{file} has {tokenizer.get_vocab_size():,} tokens",
            expected=f"{vocab_size:,}, as many as the weights embed",
            fix="give the vocabulary that the weights were trained with",
        )
    return ReportTokenizer(tokenizer, lowercase=TOKENIZER_ROLES[role])
