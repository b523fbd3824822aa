"""A model folder: ``model_index.json``, the tokenizers and one safetensors file for each component; saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights

from medcodi.config import from_dict, to_dict
from medcodi.errors import CheckpointError, MedCoDiError, first_line
from medcodi.model.components import ComponentFiles, component_specs, move_buffers, write_weights
from medcodi.model.config import ModelConfig
from medcodi.model.index import FORMAT_VERSION, INDEX, parse_index, read_index, replaceable_files
from medcodi.model.threads import LOADING
from medcodi.networks.environment import EnvironmentConfig
from medcodi.networks.tokenizer import AbsentTokenizer, ReportTokenizer, Tokenizers
from medcodi.storage import atomic

if TYPE_CHECKING:
    from medcodi.model.medcodi import MedCoDi

TOKENIZER = "tokenizer.json"


def save_model(model: MedCoDi, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write a model folder, whole or not at all, and return it.

    Args:
        model: The model.
        folder: New, empty, or the folder of a model, which is replaced.
        dtype: Precision of the stored weights (buffers and single numbers, such as scales, keep theirs); None: theirs.
            Components that are still on disk are then copied, without being read into memory.

    Raises:
        CheckpointError: If the folder exists and holds something other than a model, or cannot be written.
    """
    folder = Path(folder)
    refuse_other_folder(folder)
    # Components to copy from the model's files; the rest is written from memory.
    copied = set(model.pending) if dtype is None and model.files and model.files.dtype == torch.float32 else set()
    model.load_components(model.pending - copied)
    with ExitStack() as stack:
        with atomic.refusing(folder, error=CheckpointError):
            staging = stack.enter_context(atomic.staging_folder(folder))
        # Components, tokenizers, and last the index.
        components: dict[str, Any] = {}
        for name, module in model.components().items():
            num_parameters = sum(parameter.numel() for parameter in module.parameters())
            if name in copied and model.files:
                components[name] = {**model.files.copy(name, staging), "num_parameters": num_parameters}
                continue
            path, state = staging / f"{name}.safetensors", module.state_dict()
            components[name] = {
                **write_weights(path, component_specs(module, dtype), state.__getitem__),
                "num_parameters": num_parameters,
            }
        write_index(
            staging,
            model.config,
            model.tokenizers,
            components,
            trained_stages=model.trained_stages,
            provenance=model.provenance,
        )
        _replace(staging, folder)
    return folder


def refuse_other_folder(folder: Path) -> None:
    """Refuse to write a model into a folder of other files."""
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not (folder / INDEX).is_file()):
        raise CheckpointError(
            f"{folder} exists and holds no model", expected="a new or empty folder", fix="choose another folder"
        )
    if (folder / INDEX).is_file():
        parse_index(folder / INDEX)  # a broken index does not prove that the folder is a model's


def write_index(
    folder: Path,
    config: ModelConfig,
    tokenizers: Tokenizers,
    components: Mapping[str, Mapping[str, Any]],
    *,
    trained_stages: tuple[str, ...],
    provenance: Mapping[str, Any],
) -> None:
    """Write the tokenizers and then the index, which names every file with its hash.

    The components' files are there already; ``components`` are their entries: name -> ``file``, ``sha256``, ``num_parameters``.
    """
    index = {
        "format": FORMAT_VERSION,
        "config": to_dict(config),
        "trained_stages": list(trained_stages),
        **write_tokenizers(folder, tokenizers),
        "components": dict(components),
        "provenance": dict(provenance),
    }
    atomic.write_json(folder / INDEX, index, error=CheckpointError)


def write_tokenizers(folder: Path, tokenizers: Tokenizers) -> dict[str, Any]:
    """Write the tokenizers (one file if all roles share one, as in our own models); returns their entries of the index."""
    roles, shared = tokenizers.by_role(), tokenizers.prompts
    if all(tokenizer is shared for tokenizer in roles.values()) and not isinstance(shared, AbsentTokenizer):
        shared.save(folder / TOKENIZER)
        return {"tokenizer_sha256": atomic.sha256_file(folder / TOKENIZER)}
    return {"tokenizers": {role: _write_tokenizer(folder, role, tokenizer) for role, tokenizer in roles.items()}}


def _write_tokenizer(folder: Path, role: str, tokenizer: ReportTokenizer) -> dict[str, Any]:
    if isinstance(tokenizer, AbsentTokenizer):
        return {"file": None, "vocab_size": tokenizer.vocab_size}
    file = folder / f"tokenizer_{role}.json"
    tokenizer.save(file)
    return {"file": file.name, "sha256": atomic.sha256_file(file), "lowercase": tokenizer.lowercase}


def _read_tokenizers(folder: Path, index: Mapping[str, Any]) -> Tokenizers:
    """Read the tokenizers that an index names; a file with another hash than in the index is refused."""
    if "tokenizers" not in index:
        return Tokenizers.one(ReportTokenizer.load(folder / TOKENIZER, sha256=index["tokenizer_sha256"]))
    roles = {}
    for role in ("prompts", "report", "decoder"):
        entry = index["tokenizers"][role]
        roles[role] = (
            AbsentTokenizer(entry["vocab_size"], role)
            if entry["file"] is None
            else ReportTokenizer.load(folder / entry["file"], lowercase=entry["lowercase"], sha256=entry["sha256"])
        )
    return Tokenizers(**roles)


def _replace(staging: Path, folder: Path) -> None:
    """Replace the files of the old model; other files (cards, evaluators) stay."""
    if not folder.exists():
        atomic.publish_folder(staging, folder, error=CheckpointError)
        return
    with atomic.refusing(folder, error=CheckpointError):
        # Files of the old model that have no successor.
        if (folder / INDEX).is_file():
            for name in replaceable_files(parse_index(folder / INDEX)):
                if not (staging / name).exists():
                    (folder / name).unlink(missing_ok=True)
        # The index last: without it there is no model.
        for new in sorted(staging.iterdir(), key=lambda file: file.name == INDEX):
            atomic.sync(new)
            new.replace(folder / new.name)
        atomic.sync(folder)


def load_model(
    cls: type[MedCoDi],
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    lazy: bool = False,
    environment: EnvironmentConfig | None = None,
) -> MedCoDi:
    """Load a model folder or a hub repository.

    Args:
        cls: The class of the model.
        source: Folder, ``"demo"`` for the shipped model, or ``owner/name`` on the hub.
        device: Device of the weights.
        dtype: Precision of the weights; buffers and single numbers stay float32.
        lazy: Read each component only when it is first needed.
        environment: Of ``kind: features``: replaces the stored one by fresh connectors, drawn from torch's generator.

    Raises:
        CheckpointError: If a file is missing, truncated, changed since it was saved, a pickle, or does not fit the config.
    """
    folder, index = read_index(source)
    fresh: set[str] = set()
    if environment is not None and environment.kind != "features":
        raise CheckpointError(
            f"environment {environment.kind!r} in place of the one of {folder}",
            expected="{kind: features}, whose connectors can be fresh",
            fix="leave environment out to load the model as it is",
        )
    if environment is not None:
        index = {**index, "config": {**index["config"], "environment": to_dict(environment)}}
    model = _build(cls, folder, index)
    if environment is not None:  # fresh weights, which are in no file
        model.environment.update(model.fresh_connectors())
        model.environment.to(device)
        fresh = {f"environment_{name}" for name in model.environment}
    missing = [name for name in model.components() if name not in index["components"]]
    if missing:
        raise CheckpointError(f"{folder} has no component {missing[0]!r}", expected=", ".join(model.components()))

    # Weights come from the files: now, or when they are first needed.
    move_buffers(model, device)
    model.files = ComponentFiles(folder, index, dtype, torch.device(device))
    model.pending = set(model.components()) - fresh
    model.home = torch.device(device) if lazy else None
    if not lazy:
        model.load_components()
    model.trained_stages = tuple(index["trained_stages"])
    model.provenance = index.get("provenance", {})
    return model.eval()


def _build(cls: type[MedCoDi], folder: Path, index: Mapping[str, Any]) -> MedCoDi:
    """Build the model of an index without memory for its weights, and without drawing random numbers."""
    source = folder / INDEX
    try:
        config = from_dict(ModelConfig, index["config"], source=str(source))
        tokenizers = _read_tokenizers(folder, index)
        # accelerate patches nn.Module for all threads meanwhile.
        with LOADING, torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            model = cls(config, tokenizers)
        if empty := next((name for name, value in model.named_parameters() if not value.numel()), None):
            raise CheckpointError(f"{source}: its config describes no model ({empty} has a size of 0)")
        return model
    except CheckpointError:
        raise
    except MedCoDiError as error:
        failed = error.failed if str(source) in error.failed else f"{source}: {error.failed}"
        raise CheckpointError(failed, expected=error.expected, fix=error.fix) from None
    except Exception as error:  # whatever the networks make of sizes that do not fit each other
        raise CheckpointError(
            f"{source}: its config describes no model ({type(error).__name__}: {first_line(error)[:160]})",
            fix="fetch or train the model again",
        ) from error
