"""Which published tensors make up which of ours: planned, and every contradiction refused, before a number is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medcodi.errors import CheckpointError
from medcodi.interop.xgem_fate import Fate, Shaping, Target
from medcodi.interop.xgem_keys import TIED, TIED_TO, fate
from medcodi.interop.xgem_source import Checkpoint
from medcodi.model import MedCoDi, ModelConfig
from medcodi.networks.tokenizer import AbsentTokenizer, Tokenizers

LATENT_SCALES = {
    "autoencoder_image": 0.18215,
    "autoencoder_text": 4.3108,
}  # the published code's, not in its checkpoint
_HALVES = (torch.float16, torch.bfloat16)
_SHOWN = 5


class UnusableWeightsError(CheckpointError):
    """Numbers that no model should have: no later attempt with the same file can succeed."""


@dataclass(frozen=True)
class Recipe:
    """How one of our tensors is made.

    Attributes:
        shape: Of ours.
        is_weight: Whether it is a parameter, stored in the chosen precision; buffers stay float32.
        sources: Published keys, joined along the first axis.
        shaping: What is done to each.
        value: The constant it is filled with, where it has no sources.
    """

    shape: tuple[int, ...]
    is_weight: bool
    sources: tuple[str, ...] = ()
    shaping: Shaping = "same"
    value: float | None = None

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape that each source must have."""
        part = (self.shape[0] // len(self.sources), *self.shape[1:]) if self.shape else ()
        return {"same": part, "matrix": (*part, 1, 1), "transposed": tuple(reversed(part))}[self.shaping]

    def make(self, checkpoint: Checkpoint) -> Tensor:
        """The tensor, float32.

        Raises:
            CheckpointError: If a number is not finite.
        """
        if self.value is not None:
            return torch.full(self.shape, self.value)
        parts = [self._part(key, checkpoint.tensors[key].read()) for key in self.sources]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, key: str, value: Tensor) -> Tensor:
        value = value.float()
        if not torch.isfinite(value).all():
            raise UnusableWeightsError(
                f"{key} holds {int((~torch.isfinite(value)).sum()):,} numbers that are not finite",
                expected="finite weights",
                fix="fetch the checkpoint again; a training run that diverged cannot be imported",
            )
        return value.flatten(-3) if self.shaping == "matrix" else value.T if self.shaping == "transposed" else value


Recipes = dict[str, dict[str, Recipe]]  # component -> key -> recipe


def absent_tokenizers(config: ModelConfig) -> Tokenizers:
    """Stand-ins of the sizes that the weights have."""
    text, report = config.prompt_encoders.text, config.report_autoencoder
    sizes = {"prompts": text.vocab_size, "report": report.encoder_vocab_size, "decoder": report.decoder_vocab_size}
    return Tokenizers(**{role: AbsentTokenizer(size or config.vocab_size, role) for role, size in sizes.items()})


def plan(checkpoint: Checkpoint, config: ModelConfig, *, allow_half: bool = False) -> tuple[Recipes, dict[str, Fate]]:
    """What to make of a checkpoint.

    Args:
        checkpoint: Where its tensors are.
        config: The model they make up.
        allow_half: Take weights in half precision, which the published ones are not.

    Returns:
        How each of our tensors is made, and what becomes of each published key.

    Raises:
        CheckpointError: If tensors are missing, misshapen, of a wrong precision, or belong to no part of the model.
    """
    fates: dict[str, Fate] = {}
    for key in checkpoint.tensors:
        found = fate(key, checkpoint.census)
        assert found is not None, key  # open_checkpoint has refused those
        fates[key] = found
    sources = _sources(fates)
    recipes: Recipes = {}
    missing: list[str] = []
    with torch.device("meta"):
        components = MedCoDi(config, absent_tokenizers(config)).components()
    for component, module in components.items():
        weights = dict(module.named_parameters())
        recipes[component] = {}
        for key, value in module.state_dict().items():
            found_here = sources.pop((component, key), [])
            recipe = _recipe(component, key, value, key in weights, found_here)
            if recipe is None:
                missing.append(f"{component}/{key}")
            else:
                recipes[component][key] = recipe
    _refuse_missing(missing)
    _refuse_left_over(sources)
    _refuse_misfits(checkpoint, recipes, allow_half)
    return recipes, fates


def _sources(fates: Mapping[str, Fate]) -> dict[tuple[str, str], list[tuple[str, Target]]]:
    """Our (component, key) -> published keys that go there, in the order in which they are joined."""
    sources = defaultdict(list)
    for key, each in fates.items():
        if key == TIED and TIED_TO in fates:
            continue  # compared with it, not stored twice
        for target in each.targets:
            sources[target.component, target.key].append((key, target))
    return {where: sorted(found, key=lambda pair: pair[1].part) for where, found in sources.items()}


def _recipe(
    component: str, key: str, value: Tensor, is_weight: bool, found: Sequence[tuple[str, Target]]
) -> Recipe | None:
    shape = tuple(value.shape)
    if not found:
        constant = {"scale": LATENT_SCALES.get(component), "shift": 0.0}.get(key)
        return None if is_weight or constant is None else Recipe(shape, is_weight, value=constant)
    target = found[0][1]
    if [one.part for _, one in found] != list(range(target.num_parts)):
        return None
    return Recipe(shape, is_weight, tuple(source for source, _ in found), target.shaping)


def _refuse_missing(missing: Sequence[str]) -> None:
    if missing:
        parts = sorted({one.split("/")[0] for one in missing})
        raise CheckpointError(
            f"the checkpoint lacks what {len(missing):,} tensors of {', '.join(parts)} are made of: {_some(missing)}",
            expected="every layer of the published model",
            fix="fetch it again; where parts were saved in files of their own, give them too (--also)",
        )


def _refuse_left_over(sources: Mapping[tuple[str, str], Sequence[tuple[str, Target]]]) -> None:
    extra = [key for found in sources.values() for key, _ in found]
    if extra:
        raise CheckpointError(
            f"{len(extra):,} tensors belong to no layer of a model of this size: {_some(extra)}",
            expected="the layers that the checkpoint's own sizes ask for",
            fix="fetch the checkpoint again, or remove what does not belong to it",
        )


def _refuse_misfits(checkpoint: Checkpoint, recipes: Recipes, allow_half: bool) -> None:
    misshapen, wrong_type = [], []
    allowed = (torch.float32, torch.float64, *(_HALVES if allow_half else ()))
    for recipe in (recipe for of_component in recipes.values() for recipe in of_component.values()):
        for key in recipe.sources:
            found = checkpoint.tensors[key]
            if found.shape != recipe.source_shape:
                misshapen.append(f"{key} is {list(found.shape)} and not {list(recipe.source_shape)}")
            if found.dtype not in allowed:
                wrong_type.append((key, found.dtype))
    if misshapen:
        raise CheckpointError(
            f"{len(misshapen):,} tensors are misshapen: {_some(misshapen)}",
            expected="the shapes that the checkpoint's other layers ask for",
            fix="fetch it again",
        )
    if wrong_type:
        key, dtype = wrong_type[0]
        is_half = dtype in _HALVES
        raise CheckpointError(
            f"{len(wrong_type):,} weights are not float32: {key} is {str(dtype).removeprefix('torch.')}",
            expected="float32, as published",
            fix="--allow-half takes them as they are, rounded" if is_half else "fetch the checkpoint again",
        )


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
