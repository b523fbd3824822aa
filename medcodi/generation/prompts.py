"""From prompts to what the denoisers attend to: each prompt, and each null prompt, is encoded once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from medcodi.modality import MODALITIES, in_table_order
from medcodi.model import MedCoDi
from medcodi.networks.attention import Context
from medcodi.networks.prompt_encoding import PromptEncoding

Value = np.ndarray | str  # a prompt as a model takes it: float32 [H, W] in [0, 1] at its size, or a text


def value_hash(value: Value) -> str:
    """SHA-256 of a prompt, as hexadecimal: of the text, or of the image's float32 values."""
    data = value.encode() if isinstance(value, str) else np.ascontiguousarray(value, np.float32).tobytes()
    return hashlib.sha256(data).hexdigest()


class PromptContexts:
    """The contexts of batches of requests, with a memory of the prompts seen last.

    Attributes:
        model: Whose prompt encoders are asked.
        capacity: How many encodings are kept.
        exact: Encode every prompt on its own and give every text as many tokens as the longest can have. Then a row of a
            context has the same bytes whatever stands beside it, provided that all rows have the same prompts.
            Otherwise new prompts are encoded in one batch, and rows agree up to rounding.
    """

    def __init__(self, model: MedCoDi, *, capacity: int = 256, exact: bool = False) -> None:
        self.model, self.capacity, self.exact = model, capacity, exact
        self._kept: OrderedDict[tuple[str, str], PromptEncoding] = OrderedDict()  # (kind, hash) -> one row
        self._nulls: dict[str, PromptEncoding] = {}  # kind -> one row

    def contexts(
        self, prompts: Sequence[Mapping[str, Value]], weights: Sequence[Mapping[str, float]]
    ) -> tuple[Context, Context]:
        """The contexts of a batch of requests, and the contexts of their null prompts.

        Requests of one batch may have different prompts: an absent one has weight 0. A request without any prompt gets the
        null prompts of every modality in both.

        Args:
            prompts: For each request, modality -> value.
            weights: For each request, modality -> weight > 0; absent ones weigh 1.
        """
        bare = torch.tensor([float(not prompt) for prompt in prompts])
        every = self.model.config.modalities if bare.any() else ()
        names = in_table_order([*every, *(name for prompt in prompts for name in prompt)])
        self._encode(prompts, names)
        encodings, nulls, asked = {}, {}, {}
        for name in names:
            null = self.null(name)
            rows = [self._kept[_key(name, prompt[name])] if name in prompt else null for prompt in prompts]
            length = self._length(name, rows)
            encodings[name] = PromptEncoding.concatenate([row.padded(length) for row in rows])
            nulls[name] = null.padded(length).expand(len(prompts))
            given = [
                float(weight.get(name, 1.0)) if name in prompt else 0.0
                for prompt, weight in zip(prompts, weights, strict=True)
            ]
            asked[name] = (torch.tensor(given) + bare).to(self.model.device)
        self._forget()
        return self.model.context(encodings, asked), self.model.context(nulls, asked)

    def null(self, name: str) -> PromptEncoding:
        """The null prompt of a modality, one row."""
        kind = MODALITIES[name].kind
        if kind not in self._nulls:
            self._nulls[kind] = self.model.null_prompts(name, 1)
        return self._nulls[kind]

    def _length(self, name: str, rows: Sequence[PromptEncoding]) -> int:
        longest = max(row.tokens.shape[1] for row in rows)
        return self.model.prompt_encoders.max_tokens(MODALITIES[name].kind) if self.exact else longest

    def _encode(self, prompts: Sequence[Mapping[str, Value]], names: Iterable[str]) -> None:
        """Encode what is not in memory, each prompt once, however many requests have it."""
        for name in names:
            values = {_key(name, prompt[name]): prompt[name] for prompt in prompts if name in prompt}
            for key in values:
                if key in self._kept:
                    self._kept.move_to_end(key)
            new = {key: value for key, value in values.items() if key not in self._kept}
            for some in [{key: value} for key, value in new.items()] if self.exact else filter(None, [new]):
                encoded = self.model.encode_prompts(name, self._stack(name, list(some.values())))
                for row, key in enumerate(some):
                    self._kept[key] = encoded.rows(slice(row, row + 1))

    def _stack(self, name: str, values: Sequence[Value]) -> Tensor | list[str]:
        if MODALITIES[name].kind == "text":
            return [str(value) for value in values]
        images = np.stack([np.asarray(value, np.float32) for value in values])
        return torch.from_numpy(images)[:, None].to(self.model.device)

    def _forget(self) -> None:
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)


def _key(name: str, value: Value) -> tuple[str, str]:
    return MODALITIES[name].kind, value_hash(value)
