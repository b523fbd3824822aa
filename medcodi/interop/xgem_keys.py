"""The published checkpoint's keys -> ours: one function says of every key where it goes, or why it goes nowhere.

The published layout (the released MedCoDi-M, later called XGeM) is one flat dictionary: noise-schedule buffers without
prefix, ``model.diffusion_model.unet_*``, ``autokl``, ``optimus`` and ``clip.model``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medcodi.interop.xgem_fate import Fate
from medcodi.interop.xgem_towers import clip_fate, optimus_fate, vae_fate
from medcodi.interop.xgem_unets import unet_fate

UNETS = {"unet_frontal": "frontal", "unet_lateral": "lateral", "unet_text": "report"}  # published name -> modality
UNET_ROOT = "model.diffusion_model."
TIED, TIED_TO = "optimus.decoder.lm_head.weight", "optimus.decoder.transformer.wte.weight"
# What files of single parts leave out: the published training scripts save modules of their own.
ROOTS = ("", "model.", UNET_ROOT, "optimus.", "clip.", "clip.model.", "autokl.")
WRAPPERS = ("state_dict.", "net.", "module.")  # what wrapping a module adds

_SCHEDULE = (
    r"betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod|sqrt_recip(m1)?_alphas_cumprod"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])"
)


@dataclass(frozen=True)
class Census:
    """What has to be counted over all keys before single ones can be read.

    Attributes:
        vae_levels: Levels of the image autoencoder.
        last_environment: Published name of a UNet -> index of the last block of its environment encoder.
    """

    vae_levels: int
    last_environment: Mapping[str, int]

    @classmethod
    def of(cls, keys: Iterable[str]) -> Census:
        """Count over the keys of a checkpoint, with or without their roots."""
        levels, last = 0, dict.fromkeys(UNETS, 0)
        for key in keys:
            if found := re.search(r"(?:^|\.)(?:encoder\.down|decoder\.up)\.(\d+)\.", key):
                levels = max(levels, int(found[1]) + 1)
            elif found := re.search(r"(?:^|\.)(unet_\w+)\.connecters_out\.(\d+)\.", key):
                last[found[1]] = max(last.get(found[1], 0), int(found[2]))
        return cls(levels, last)


def fate(key: str, census: Census) -> Fate | None:
    """What becomes of a key of the published checkpoint; None: it is not of that layout."""
    if re.fullmatch(_SCHEDULE, key):
        return Fate("derivable", "follows from the noise schedule")
    if key.startswith(UNET_ROOT):
        name, _, rest = key.removeprefix(UNET_ROOT).partition(".")
        return unet_fate(UNETS[name], rest, census.last_environment[name]) if name in UNETS else None
    if key.startswith("autokl."):
        return vae_fate(key.removeprefix("autokl."), census.vae_levels)
    if key.startswith("optimus."):
        return optimus_fate(key.removeprefix("optimus."))
    if key.startswith("clip.model."):
        return clip_fate(key.removeprefix("clip.model."))
    return None


def unwrapped(key: str) -> str:
    """The key without what wrapping a module has put before it."""
    while wrapper := next((wrapper for wrapper in WRAPPERS if key.startswith(wrapper)), None):
        key = key.removeprefix(wrapper)
    return key


def rooted(key: str, census: Census) -> str | None:
    """The key with the root that a file of a single part leaves out; None: no root makes it one of the layout."""
    return next((root + key for root in ROOTS if fate(root + key, census) is not None), None)
