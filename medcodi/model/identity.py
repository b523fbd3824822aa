"""The identity of a model: one SHA-256 over its config, components and tokenizers, the same wherever a model is named."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from medcodi.config import to_dict
from medcodi.model.components import component_specs, hash_weights
from medcodi.model.files import write_tokenizers

if TYPE_CHECKING:
    from medcodi.model.medcodi import MedCoDi


def model_identity(model: MedCoDi) -> dict[str, Any]:
    """The entry that names a model in every JSON file: its name, its :func:`model_sha256` and its trained stages."""
    return {"name": model.config.name, "sha256": model_sha256(model), "trained_stages": list(model.trained_stages)}


def model_sha256(model: MedCoDi) -> str:
    """SHA-256 over config, components and tokenizers, as hexadecimal.

    Of a model with files it comes from their index, without loading anything. Of a model built in memory it is computed from
    the weights, and equals that of the files which ``save_pretrained`` would write.
    """
    if model.files is not None:
        return index_sha256(model.files.index)
    # The parts of the index that saving would write; tokenizers have no bytes but in a file.
    with tempfile.TemporaryDirectory() as folder:
        tokenizers = write_tokenizers(Path(folder), model.tokenizers)
    components = {name: {"sha256": component_sha256(module)} for name, module in model.components().items()}
    return index_sha256({"config": to_dict(model.config), "components": components, **tokenizers})


def index_sha256(index: Mapping[str, Any]) -> str:
    """The identity of the model that a ``model_index.json`` describes."""
    # Not the whole index: provenance and trained stages do not change what a model computes.
    components = {name: entry["sha256"] for name, entry in index["components"].items()}
    text = json.dumps([index["config"], components, tokenizer_hashes(index)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tokenizer_hashes(index: Mapping[str, Any]) -> Any:
    """The hash of the tokenizer in an index, or for each role an entry with a hash."""
    return index.get("tokenizers", index.get("tokenizer_sha256"))


def component_sha256(module: nn.Module) -> str:
    """SHA-256 of the file that a component would be saved in."""
    return hash_weights(component_specs(module), module.state_dict().__getitem__)


def weights_sha256(components: Mapping[str, nn.Module], names: Iterable[str]) -> str:
    """SHA-256 over the names and bytes of the weights of some components, whatever files they come from."""
    digest = hashlib.sha256()
    for component in sorted(names):
        for name, value in sorted(components[component].state_dict().items()):
            digest.update(f"{component}.{name}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
