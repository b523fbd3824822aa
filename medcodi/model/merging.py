"""One model of several: a model with the changes of adapters added to its weights, or the average of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medcodi.data.domain import Domain
from medcodi.errors import CheckpointError, PromptError
from medcodi.model.adapter import Adapter, read_adapter
from medcodi.model.identity import index_sha256, tokenizer_hashes
from medcodi.model.index import read_index
from medcodi.model.medcodi import MedCoDi

_MAY_DIFFER = ("name", "generation")  # keys of the config that fix no weight
_HISTORY = ("training", "adapters", "averaged")  # in the provenance of a model: how it was made
SUFFIX = ".safetensors"  # of adapters; models are folders


def merge(
    sources: Sequence[str | Path], *, base: str | Path = "demo", weights: Sequence[float] | None = None
) -> MedCoDi:
    """One model of adapters (``base`` with their changes), or of models (their average).

    W + sum of w_i B_i A_i, or the sum of w_i W_i; the average of factors B and A would be that of neither.

    Args:
        sources: Files of adapters, or model folders.
        base: The model that the adapters change; not used for models.
        weights: Of each source, such as its number of patients; they are divided by their sum. None: all the same.

    Raises:
        CheckpointError: If a source cannot be read, an adapter is for another model, or models differ by more than weights.
        PromptError: If there are not as many weights as sources, or one is negative.
    """
    shares = _shares(weights, len(sources))
    are_adapters = {str(source).endswith(SUFFIX) for source in sources}
    if len(are_adapters) > 1:
        raise CheckpointError(
            f"{', '.join(map(str, sources))}: adapters and models together",
            expected="adapters alone (.safetensors), or models alone (folders)",
            fix="merge the adapters first",
        )
    if not are_adapters.pop():
        return averaged([str(source) for source in sources], shares)
    return with_adapters(base, [read_adapter(source) for source in sources], shares)


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if not count:
        raise PromptError("nothing to merge", expected="at least one adapter or model")
    values = [1.0] * count if weights is None else [float(weight) for weight in weights]
    total = sum(values)
    if len(values) != count or not all(math.isfinite(value) and value >= 0 for value in values) or not total > 0:
        raise PromptError(
            f"weights {', '.join(f'{value:g}' for value in values)} for {count} sources",
            expected="a number from 0 for each, not all 0",
            fix="give them in the order of the sources, such as their numbers of patients",
        )
    return [value / total for value in values]


@torch.no_grad()
def with_adapters(base: str | Path, adapters: Sequence[Adapter], shares: Sequence[float]) -> MedCoDi:
    """A model in memory whose weights are those of ``base`` plus the changes of the adapters, each times its share.

    Raises:
        CheckpointError: If an adapter is for another model.
    """
    model = MedCoDi.from_pretrained(base)
    identity = model.identity()
    for adapter in adapters:
        if adapter.base != identity:
            raise CheckpointError(
                f"the adapter changes {adapter.base_name!r} ({adapter.base[:16]}), and {base} is "
                f"{model.config.name!r} ({identity[:16]})",
                expected="the model that it was trained on",
                fix="give that model as the base",
            )
    components = model.components()
    for adapter, share in zip(adapters, shares, strict=True):
        for component, changes in adapter.changes().items():
            for name, change in changes.items():
                weight = components[component].get_submodule(name).weight
                assert isinstance(weight, torch.Tensor)
                weight += share * change.view_as(weight)
        origin = {"sha256": adapter.sha256, "base": adapter.base, "stage": adapter.stage, "training": adapter.training}
        _note(model, adapter.provenance, "adapters", {**origin, "share": share})
        if adapter.stage not in model.trained_stages:
            model.trained_stages = (*model.trained_stages, adapter.stage)
    model.files = None  # its identity is that of the weights in memory
    return model


@torch.no_grad()
def averaged(sources: Sequence[str], shares: Sequence[float]) -> MedCoDi:
    """A model in memory whose weights are the average of those of several models, which are alike but for their weights.

    Raises:
        CheckpointError: If their configs or tokenizers differ.
    """
    indices = [read_index(source)[1] for source in sources]
    for source, index in zip(sources[1:], indices[1:], strict=True):
        ours, theirs = (
            {key: value for key, value in each["config"].items() if key not in _MAY_DIFFER}
            for each in (indices[0], index)
        )
        if ours != theirs or tokenizer_hashes(index) != tokenizer_hashes(indices[0]):
            key = next((key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)), "the tokenizer")
            raise CheckpointError(
                f"{source} and {sources[0]} differ in {key}",
                expected="models that differ in their weights alone",
                fix="average models that were trained from the same one",
            )

    # Sum tensor by tensor, one further model in memory at a time; what is no weight, such as a count, must be the same.
    model = MedCoDi.from_pretrained(sources[0])
    total, origins = model.state_dict(), [dict(model.provenance)]
    for value in total.values():
        if value.is_floating_point():
            value *= shares[0]
    for source, share in zip(sources[1:], shares[1:], strict=True):
        other = MedCoDi.from_pretrained(source)
        origins.append(dict(other.provenance))
        for name, value in other.state_dict().items():
            if value.is_floating_point():
                total[name] += share * value
            elif not value.equal(total[name]):
                raise CheckpointError(f"{name} differs between {sources[0]} and {source}", expected="the same value")

    # Say what each was trained on.
    model.files, model.provenance = None, {}
    for index, origin, share in zip(indices, origins, shares, strict=True):
        history = {key: origin[key] for key in _HISTORY if key in origin}
        entry = {"name": index["config"]["name"], "sha256": index_sha256(index), "share": share, **history}
        _note(model, origin, "averaged", entry)
    return model


def _note(model: MedCoDi, provenance: dict[str, Any], key: str, entry: dict[str, Any]) -> None:
    """Add where a part of a model comes from to its provenance, and the domain of its studies."""
    domain = Domain.of(provenance)
    before = model.provenance if domain is None else domain.after(model.provenance)
    model.provenance = {**before, key: [*before.get(key, ()), entry]}
