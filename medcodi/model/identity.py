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

from medcodi.config import from_dict, to_dict
from medcodi.errors import PromptError
from medcodi.model.components import component_specs, hash_weights
from medcodi.model.config import ModelConfig
from medcodi.model.files import write_tokenizers
from medcodi.model.index import read_index

if TYPE_CHECKING:
    from medcodi.model.generation_config import WeakModelConfig
    from medcodi.model.medcodi import MedCoDi

# What fixes the noise, the latents and the context that both models are given.
_SHARED = ("modalities", "image_size", "schedule", "context", "context_scale", "prompt_encoders")


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


def check_weak(model: MedCoDi, weak: WeakModelConfig) -> str:
    """The identity of the weak model, from its index alone.

    Raises:
        CheckpointError: If there is no such model.
        PromptError: If it differs from ``model`` in more than its denoisers, or is another one than ``weak.sha256`` names.
    """
    index = read_index(weak.model)[1]
    theirs = from_dict(ModelConfig, index["config"], source=f"the index of {weak.model}")
    differing = [key for key in _SHARED if getattr(model.config, key) != getattr(theirs, key)]

    # Encoders and autoencoders by the hashes of their files, or of the files that they would be saved in.
    files = None if model.files is None else model.files.index
    for name, module in model.components().items():
        if name == "prompt_encoders" or name.startswith("autoencoder_"):
            own = component_sha256(module) if files is None else files["components"][name]["sha256"]
            if own != index["components"].get(name, {}).get("sha256"):
                differing.append(name)
    if files is not None and tokenizer_hashes(files) != tokenizer_hashes(index):
        differing.append("the tokenizer")
    if differing:
        raise PromptError(
            f"the weak model {weak.model} differs from {model.config.name!r} in {', '.join(differing)}",
            expected="one that differs in its denoisers alone, with the same latents and contexts",
            fix="a model of an earlier step of the same training, or smaller denoisers trained on the same encoders",
        )
    identity = index_sha256(index)
    if weak.sha256 not in (None, identity):
        raise PromptError(
            f"the weak model {weak.model} is {identity[:16]}, not {str(weak.sha256)[:16]}",
            fix="the model of that identity, or leave weak.sha256 out",
        )
    return identity
