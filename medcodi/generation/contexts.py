"""Contexts: the prompts of a batch of requests, encoded and mixed into what the denoisers attend to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from medcodi.generation.request import value_hash
from medcodi.modality import MODALITIES, in_table_order
from medcodi.model import MedCoDi
from medcodi.networks.attention import Context
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.study import Content


class PromptContexts:
    """Contexts of batches of requests, with a cache of the most recent prompt encodings.

    Attributes:
        model: Its prompt encoders are used.
        capacity: Number of encodings in the cache.
        exact: Encode every prompt on its own and pad every text to the longest length. Then a row of a context has the same
            bytes whatever the other rows are, provided that all rows have prompts of the same modalities. Otherwise new
            prompts are encoded in one batch, and rows agree up to rounding.
    """

    def __init__(self, model: MedCoDi, *, capacity: int = 256, exact: bool = False) -> None:
        self.model, self.capacity, self.exact = model, capacity, exact
        self._cache: OrderedDict[tuple[str, str], PromptEncoding] = OrderedDict()  # (kind, hash) -> one row
        self._nulls: dict[str, PromptEncoding] = {}  # kind -> one row

    def contexts(
        self, prompts: Sequence[Mapping[str, Content]], weights: Sequence[Mapping[str, float]]
    ) -> tuple[Context, Context]:
        """The contexts of a batch of requests, and the contexts of their null prompts.

        Requests of one batch may have different prompts: an absent one has weight 0. A request without any prompt gets the
        null prompts of every modality in both.

        Args:
            prompts: For each request, modality -> value.
            weights: For each request, modality -> weight > 0; absent ones are 1.
        """
        # Every modality that some request needs.
        unprompted = torch.tensor([float(not prompt) for prompt in prompts])  # [B]
        all_modalities = self.model.config.modalities if unprompted.any() else ()
        names = in_table_order([*all_modalities, *(name for prompt in prompts for name in prompt)])
        self._encode(prompts, names)

        # One encoding and one null encoding per modality, padded to a common length: [B, L, D].
        encodings, nulls, batch_weights = {}, {}, {}
        for name in names:
            null = self.null(name)
            rows = [self._cache[_key(name, prompt[name])] if name in prompt else null for prompt in prompts]
            length = self._length(name, rows)
            encodings[name] = PromptEncoding.concatenate([row.padded(length) for row in rows])
            nulls[name] = null.padded(length).expand(len(prompts))
            # Absent prompts weigh 0; a request without any prompt weighs all null prompts alike.
            of_name = [
                float(weight.get(name, 1.0)) if name in prompt else 0.0
                for prompt, weight in zip(prompts, weights, strict=True)
            ]
            batch_weights[name] = (torch.tensor(of_name) + unprompted).to(self.model.device)  # [B]
        self._shrink()
        return self.model.context(encodings, batch_weights), self.model.context(nulls, batch_weights)

    def null(self, name: str) -> PromptEncoding:
        """The null prompt of a modality, one row."""
        kind = MODALITIES[name].kind
        if kind not in self._nulls:
            self._nulls[kind] = self.model.null_prompts(name, 1)
        return self._nulls[kind]

    def _length(self, name: str, rows: Sequence[PromptEncoding]) -> int:
        longest = max(row.tokens.shape[1] for row in rows)
        return self.model.prompt_encoders.max_tokens(MODALITIES[name].kind) if self.exact else longest

    def _encode(self, prompts: Sequence[Mapping[str, Content]], names: Iterable[str]) -> None:
        """Encode the prompts that are not in the cache, each once, however many requests have it."""
        for name in names:
            values = {_key(name, prompt[name]): prompt[name] for prompt in prompts if name in prompt}
            for key in values:
                if key in self._cache:
                    self._cache.move_to_end(key)
            new = {key: value for key, value in values.items() if key not in self._cache}
            # One by one where bytes must not depend on the batch, else all at once.
            for batch in [{key: value} for key, value in new.items()] if self.exact else filter(None, [new]):
                encoded = self.model.encode_prompts(name, self._stack(name, list(batch.values())))
                for row, key in enumerate(batch):
                    self._cache[key] = encoded.rows(slice(row, row + 1))

    def _stack(self, name: str, values: Sequence[Content]) -> Any:
        if MODALITIES[name].kind != "image":
            return list(values)
        images = np.stack([np.asarray(value, np.float32) for value in values])
        return torch.from_numpy(images)[:, None].to(self.model.device)  # [B, 1, H, W]

    def _shrink(self) -> None:
        while len(self._cache) > self.capacity:
            self._cache.popitem(last=False)


def _key(name: str, value: Content) -> tuple[str, str]:
    return MODALITIES[name].kind, value_hash(value)
