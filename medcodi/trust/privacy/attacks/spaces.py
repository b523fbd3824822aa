"""The spaces in which a generation is compared with real studies: what is embedded, and how far two embeddings are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from medcodi.modality import MODALITIES, Kind
from medcodi.model import MedCoDi
from medcodi.trust.privacy.attacks.membership import latents_of, stacked

SIDE, REACH = 32, 2  # of registered images: pixels a side, and the farthest shift that is tried
_BATCH = 64


@dataclass(frozen=True)
class Space:
    """One space."""

    name: str
    kinds: tuple[Kind, ...]  # of modalities that it embeds
    embed: Callable[[str, Sequence[Any]], np.ndarray]  # modality, contents -> float32 [B, ...]
    distances: Callable[[np.ndarray, np.ndarray], np.ndarray]  # [G, ...], [R, ...] -> [G, R], 0 where equal

    def features(self, modality: str, contents: Sequence[Any]) -> np.ndarray:
        """Embeddings of any number of contents, in batches: float32 ``[N, ...]``."""
        parts = [self.embed(modality, contents[start : start + _BATCH]) for start in range(0, len(contents), _BATCH)]
        return np.concatenate(parts).astype(np.float32)


def spaces_of(model: MedCoDi, more: Sequence[Space] = ()) -> list[Space]:
    """Registered pixels, the model's autoencoders and its prompt encoders; and ``more``, such as a re-identification network."""

    @torch.no_grad()
    def latent(modality: str, contents: Sequence[Any]) -> np.ndarray:
        return latents_of(model, modality, contents).flatten(1).cpu().numpy()

    @torch.no_grad()
    def encoding(modality: str, contents: Sequence[Any]) -> np.ndarray:
        is_image = MODALITIES[modality].kind == "image"
        values: Any = stacked(contents).to(model.device) if is_image else list(contents)
        return F.normalize(model.encode_prompts(modality, values).pooled.float(), dim=1).cpu().numpy()

    return [
        Space("pixels", ("image",), reduced, registered),
        Space("autoencoder", ("image", "text"), latent, euclidean),
        Space("prompt encoder", ("image", "text"), encoding, cosine),
        *more,
    ]


def euclidean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root mean squared difference: ``[G, D]``, ``[R, D]`` -> ``[G, R]``."""
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
    return np.sqrt(np.maximum(squares, 0) / first.shape[1])


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 less the cosine of unit vectors: ``[G, D]``, ``[R, D]`` -> ``[G, R]``."""
    return np.maximum(1 - first @ second.T, 0)


# ---- pixels after registration ---------------------------------------------------------------------------------------
def reduced(_: str, images: Sequence[np.ndarray]) -> np.ndarray:
    """Images at at most ``SIDE`` pixels a side: float32 ``[B, S, S]``."""
    stack = stacked(images)
    if stack.shape[-1] > SIDE:
        stack = F.interpolate(stack, (SIDE, SIDE), mode="bilinear", antialias=True)
    return stack[:, 0].numpy()


def registered(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 less the highest correlation over shifts of up to ``REACH`` pixels: ``[G, S, S]``, ``[R, S, S]`` -> ``[G, R]``."""
    side = first.shape[-1]
    window = slice(REACH, side - REACH)
    fixed = _standardised(second[:, window, window])
    best = np.full((len(first), len(second)), -1.0, np.float32)
    shifts = range(2 * REACH + 1)
    for down, across in ((down, across) for down in shifts for across in shifts):
        size = side - 2 * REACH
        moved = _standardised(first[:, down : down + size, across : across + size])
        np.maximum(best, moved @ fixed.T, out=best)
    return np.maximum(1 - best, 0)


def _standardised(images: np.ndarray) -> np.ndarray:
    """Flat images of mean 0 and length 1: ``[B, S * S]``; a constant one becomes 0."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
