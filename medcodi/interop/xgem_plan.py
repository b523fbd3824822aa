"""The plan of an import: which published tensors make up which of ours. Every contradiction is refused before weights are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.errors import CheckpointError, ConfigError
from medcodi.interop.xgem_checkpoint import XgemCheckpoint
from medcodi.interop.xgem_disposition import Disposition, Shaping, Target, some_of
from medcodi.interop.xgem_keys import TIED, TIED_TO, disposition
from medcodi.model import MedCoDi, ModelConfig
from medcodi.model.fresh import absent_tokenizers

# From the published code; not in its checkpoint.
LATENT_SCALES = {"autoencoder_image": 0.18215, "autoencoder_text": 4.3108}
_HALVES = (torch.float16, torch.bfloat16)


class UnusableWeightsError(CheckpointError):
    """Weights that are not finite: no later attempt with the same file can succeed."""


@dataclass(frozen=True)
class Recipe:
    """How one of our tensors is made."""

    shape: tuple[int, ...]
    is_weight: bool  # a parameter, stored in the chosen precision; buffers stay float32
    sources: tuple[str, ...] = ()  # published keys, concatenated along the first axis
    shaping: Shaping = "same"  # of each source
    value: float | None = None  # the constant that fills it, if it has no sources

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape that each source must have."""
        part = (self.shape[0] // len(self.sources), *self.shape[1:]) if self.shape else ()
        return {"same": part, "matrix": (*part, 1, 1), "transposed": tuple(reversed(part))}[self.shaping]

    def stored_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision in the file: ``dtype`` for weights; buffers and single numbers stay float32."""
        return dtype if self.is_weight and self.shape else torch.float32

    def make(self, checkpoint: XgemCheckpoint) -> Tensor:
        """The tensor, float32.

        Raises:
            UnusableWeightsError: If a number is not finite.
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


def plan(
    checkpoint: XgemCheckpoint, config: ModelConfig, *, allow_half: bool = False
) -> tuple[Recipes, dict[str, Disposition]]:
    """Plan how each of our tensors is made.

    Args:
        checkpoint: The published tensors.
        config: The model they make up.
        allow_half: Accept weights in half precision, which the published ones are not.

    Returns:
        Component -> key -> recipe, and published key -> disposition.

    Raises:
        CheckpointError: If tensors are missing, misshapen, of a wrong precision, or belong to no part of the model.
    """
    # The disposition of every published key.
    dispositions: dict[str, Disposition] = {}
    for key in checkpoint.tensors:
        of_key = disposition(key, checkpoint.census)
        assert of_key is not None, key  # open_checkpoint has refused those
        dispositions[key] = of_key
    sources = _sources(dispositions)

    # A recipe for every tensor of the model, which is built without memory.
    recipes: Recipes = {}
    missing: list[str] = []
    with torch.device("meta"):
        components = MedCoDi(config, absent_tokenizers(config)).components()
    for component, module in components.items():
        weights = dict(module.named_parameters())
        recipes[component] = {}
        for key, value in module.state_dict().items():
            recipe = _recipe(component, key, value, key in weights, sources.pop((component, key), []))
            if recipe is None:
                missing.append(f"{component}/{key}")
            else:
                recipes[component][key] = recipe

    # Nothing missing, nothing left over, everything of the right shape and precision.
    _refuse_missing(missing)
    _refuse_left_over(sources)
    _refuse_misfits(checkpoint, recipes, allow_half)
    return recipes, dispositions


def _sources(dispositions: Mapping[str, Disposition]) -> dict[tuple[str, str], list[tuple[str, Target]]]:
    """Our (component, key) -> published keys that go there, in the order of concatenation."""
    sources = defaultdict(list)
    for key, of_key in dispositions.items():
        if key == TIED and TIED_TO in dispositions:
            continue  # compared with it, not stored twice
        for target in of_key.targets:
            sources[target.component, target.key].append((key, target))
    return {place: sorted(pairs, key=lambda pair: pair[1].part) for place, pairs in sources.items()}


def _recipe(
    component: str, key: str, value: Tensor, is_weight: bool, sources: Sequence[tuple[str, Target]]
) -> Recipe | None:
    shape = tuple(value.shape)
    if not sources:
        constant = {"scale": LATENT_SCALES.get(component), "shift": 0.0}.get(key)
        return None if is_weight or constant is None else Recipe(shape, is_weight, value=constant)
    first = sources[0][1]
    if [target.part for _, target in sources] != list(range(first.num_parts)):
        return None
    return Recipe(shape, is_weight, tuple(key for key, _ in sources), first.shaping)


def _refuse_missing(missing: Sequence[str]) -> None:
    if missing:
        parts = sorted({name.split("/")[0] for name in missing})
        raise CheckpointError(
            f"the checkpoint lacks what {len(missing):,} tensors of {', '.join(parts)} are made of: {some_of(missing)}",
            expected="every layer of the published model",
            fix="fetch it again; where parts were saved in files of their own, give them too (--also)",
        )


def _refuse_left_over(sources: Mapping[tuple[str, str], Sequence[tuple[str, Target]]]) -> None:
    extra = [key for pairs in sources.values() for key, _ in pairs]
    if extra:
        raise CheckpointError(
            f"{len(extra):,} tensors belong to no layer of a model of this size: {some_of(extra)}",
            expected="the layers that the checkpoint's own sizes ask for",
            fix="fetch the checkpoint again, or remove what does not belong to it",
        )


def _refuse_misfits(checkpoint: XgemCheckpoint, recipes: Recipes, allow_half: bool) -> None:
    misshapen, wrong_type = [], []
    allowed = (torch.float32, torch.float64, *(_HALVES if allow_half else ()))
    for recipe in (recipe for component in recipes.values() for recipe in component.values()):
        for key in recipe.sources:
            stored = checkpoint.tensors[key]
            if stored.shape != recipe.source_shape:
                misshapen.append(f"{key} is {list(stored.shape)} and not {list(recipe.source_shape)}")
            if stored.dtype not in allowed:
                wrong_type.append((key, stored.dtype))
    if misshapen:
        raise CheckpointError(
            f"{len(misshapen):,} tensors are misshapen: {some_of(misshapen)}",
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


# ---- derivable tensors: compared, then computed anew ---------------------------------------------------------------
def noise_schedule(checkpoint: XgemCheckpoint) -> NoiseScheduleConfig:
    """The noise schedule in the checkpoint's buffers, or the published one where it has none.

    Raises:
        CheckpointError: If the buffers are not a scaled-linear schedule.
    """
    schedule = NoiseScheduleConfig()
    if "betas" in checkpoint.tensors:
        betas = checkpoint.tensors["betas"].read().double().flatten()
        try:
            schedule = NoiseScheduleConfig(
                num_train_timesteps=len(betas),
                beta_start=float(f"{betas[0]:.7g}"),  # the decimal number that became float32
                beta_end=float(f"{betas[-1]:.7g}"),
            )
        except (ConfigError, IndexError) as error:
            raise CheckpointError(f"the checkpoint's betas are not a noise schedule: {error}") from None
    # Scaled linear: sqrt(beta) grows linearly; alpha_bar_t is the product of 1 - beta.
    betas_expected = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.num_train_timesteps) ** 2
    expected = {"betas": betas_expected, "alphas_cumprod": np.cumprod(1.0 - betas_expected)}
    for key in expected.keys() & checkpoint.tensors.keys():
        stored = checkpoint.tensors[key].read().double().flatten().numpy()
        if stored.shape != expected[key].shape or not np.allclose(stored, expected[key], rtol=1e-4, atol=0.0):
            raise CheckpointError(
                f"{key} does not follow a scaled-linear schedule from {schedule.beta_start} to {schedule.beta_end}",
                expected="the published noise schedule",
                fix="fetch the checkpoint again",
            )
    return schedule


def check_derived(checkpoint: XgemCheckpoint) -> None:
    """Compare causal masks, position numbers and the tied output matrix with their definition.

    Raises:
        CheckpointError: If one differs: the imported model would behave differently.
    """
    for key, stored in checkpoint.tensors.items():
        if key.endswith(".attn.bias") and key.startswith("optimus.decoder."):
            _require(key, bool(torch.equal(stored.read().float(), torch.ones(stored.shape).tril())), "a causal mask")
        elif key.endswith(".position_ids"):
            numbers = stored.read().flatten()
            _require(key, torch.equal(numbers.long(), torch.arange(len(numbers))), "0, 1, 2 and so on")
    if TIED in checkpoint.tensors and TIED_TO in checkpoint.tensors:
        tied, original = checkpoint.tensors[TIED], checkpoint.tensors[TIED_TO]
        same_place = (tied.file, tied.offset) == (original.file, original.offset)
        is_same = tied.shape == original.shape and (same_place or torch.equal(tied.read(), original.read()))
        _require(TIED, is_same, f"the same numbers as {TIED_TO}, to which it is tied")


def _require(key: str, holds: bool, expected: str) -> None:
    if not holds:
        raise CheckpointError(f"{key} differs from its definition", expected=expected, fix="fetch the checkpoint again")
