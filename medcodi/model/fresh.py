"""Fresh models: random weights, and a tokenizer trained on texts, or none of the right size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medcodi.model.config import ModelConfig, tiny_config
from medcodi.model.medcodi import MedCoDi
from medcodi.networks.image_autoencoder import fit_images
from medcodi.networks.records import fit_records
from medcodi.networks.tokenizer import AbsentTokenizer, ReportTokenizer, Tokenizers
from medcodi.record import Record


def build_model(
    config: ModelConfig,
    texts: Sequence[str],
    records: Sequence[Record] = (),
    images: Tensor | None = None,
    *,
    seed: int = 0,
) -> MedCoDi:
    """A fresh model: random weights, and what is fitted to studies of the training split. The same for the same seed and studies.

    Args:
        config: Its config.
        texts: Reports that train the tokenizer.
        records: Records by which numbers are normalised.
        images: ``[N, 1, H, W]``, at whose principal components an image autoencoder with ``linear`` starts.
        seed: Of the weights.
    """
    tokenizer = ReportTokenizer.train(texts, vocab_size=config.vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MedCoDi(config, tokenizer)
    fit_records(model, records)
    if images is not None:
        fit_images(model, images)
    return model


def absent_tokenizers(config: ModelConfig) -> Tokenizers:
    """Tokenizers with vocabularies of the sizes that a model embeds, without words."""
    text, report = config.prompt_encoders.text, config.report_autoencoder
    sizes = {"prompts": text.vocab_size, "report": report.encoder_vocab_size, "decoder": report.decoder_vocab_size}
    return Tokenizers(**{role: AbsentTokenizer(size or config.vocab_size, role) for role, size in sizes.items()})


def tiny_model(seed: int = 0, **changes: Any) -> MedCoDi:
    """A model of :func:`tiny_config` with random weights and a tokenizer trained on phantom reports."""
    from medcodi.data.sources.phantom import phantom_report

    texts = [phantom_report(seed=0, index=index) for index in range(64)]
    return build_model(tiny_config(**changes), texts, seed=seed)
