"""Reports <-> latents: a BERT encoder and a GPT-2 decoder around one vector (Optimus, arXiv 2004.04092)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import model_validator
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DynamicCache, GPT2Config, GPT2Model

from medcodi.config import config
from medcodi.networks.autoencoder import Autoencoder, draw, kl_to_standard_normal
from medcodi.networks.tokenizer import ReportTokenizer, embedding_size
from medcodi.transfer import to_device

INITIAL_LOGVAR = -3.0  # a posterior that is narrow from the start, so that the decoder learns to use z


@config
class ReportAutoencoderConfig:
    """Size of the report autoencoder. Optimus: 768, 768, 12, 12, 12, positions 512 and 1024, no posterior bias."""

    latent_dim: int = 128  # length of the latent vector z
    width: int = 256  # of the encoder, and of the decoder unless it has its own
    decoder_width: int | None = None  # None: width
    encoder_ffn: int | None = None  # width of the feed-forward layers; None: 4 x the width around them
    decoder_ffn: int | None = None  # the same of the decoder
    encoder_layers: int = 3  # transformer blocks of the encoder
    decoder_layers: int = 3  # transformer blocks of the decoder
    heads: int = 4  # attention heads of a block
    decoder_heads: int | None = None  # None: heads
    max_length: int = 128  # tokens of a report, with beginning and end; longer ones are cut
    encoder_positions: int | None = None  # None: max_length
    decoder_positions: int | None = None  # None: max_length + memory_slots, because the memory takes positions too
    # The posterior comes from the encoder's first token, or from the mean of all.
    pooling: Literal["first", "mean"] = "first"
    memory_slots: int = 1  # keys and values of each decoder layer that z becomes; several can be attended to by content
    posterior_bias: bool = True  # whether the layer that makes mean and variance of z has a bias
    encoder_vocab_size: int | None = None  # None: the tokenizer's
    decoder_vocab_size: int | None = None  # None: the tokenizer's

    @model_validator(mode="after")
    def _check(self) -> ReportAutoencoderConfig:
        sizes = (self.latent_dim, self.width, self.encoder_layers, self.decoder_layers, self.heads, self.memory_slots)
        if min(sizes) < 1:
            raise ValueError("latent_dim, width, layers, heads and memory_slots must be positive")
        for width, heads in ((self.width, self.heads), self.decoder_size):
            if width % heads:
                raise ValueError(f"width = {width} must be a multiple of heads = {heads}")
        if self.max_length < 2 or self.max_length > min(self.positions[0], self.positions[1] - self.memory_slots):
            raise ValueError(
                f"max_length = {self.max_length} must be at least 2 and fit encoder_positions, and decoder_positions less memory_slots"
            )
        return self

    @property
    def decoder_size(self) -> tuple[int, int]:
        """Width and number of heads of the decoder."""
        return self.decoder_width or self.width, self.decoder_heads or self.heads

    @property
    def positions(self) -> tuple[int, int]:
        """Number of positions of the encoder and of the decoder."""
        return self.encoder_positions or self.max_length, self.decoder_positions or self.max_length + self.memory_slots

    @property
    def latent_shape(self) -> tuple[int]:
        """Shape of one latent."""
        return (self.latent_dim,)

    def build(self, tokenizer: ReportTokenizer, decoder_tokenizer: ReportTokenizer | None = None) -> ReportAutoencoder:
        """The autoencoder, untrained; the decoder uses the encoder's tokenizer unless it is given its own."""
        return ReportAutoencoder(self, tokenizer, decoder_tokenizer or tokenizer)


@dataclass(frozen=True)
class ReportLoss:
    """Terms of the reconstruction loss, row by row."""

    loss: Tensor  # [B] cross-entropy (with token weights, if any) plus weighted KL, nats per token
    ce: Tensor  # [B] cross-entropy, nats per token
    kl: Tensor  # [B] KL of the posterior to N(0, 1), nats, without weight or free bits
    accuracy: Tensor  # [B] share of next tokens predicted right
    num_tokens: Tensor  # [B] number of next tokens
    z: Tensor  # [B, d] the unscaled latents that were decoded


class ReportAutoencoder(Autoencoder):
    """Text <-> vector ``[B, d]``."""

    def __init__(
        self, config: ReportAutoencoderConfig, tokenizer: ReportTokenizer, decoder_tokenizer: ReportTokenizer
    ) -> None:
        super().__init__(config.latent_shape)
        self.config = config
        self.tokenizer, self.decoder_tokenizer = tokenizer, decoder_tokenizer
        encoder_positions, decoder_positions = config.positions
        width, heads = config.decoder_size
        self.encoder: Any = BertModel(
            BertConfig(
                vocab_size=embedding_size(config.encoder_vocab_size, tokenizer, "report"),
                hidden_size=config.width,
                num_hidden_layers=config.encoder_layers,
                num_attention_heads=config.heads,
                intermediate_size=config.encoder_ffn or 4 * config.width,
                max_position_embeddings=encoder_positions,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                pad_token_id=tokenizer.pad_id,
                attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
            )
        )
        self.to_posterior = nn.Linear(config.width, 2 * config.latent_dim, bias=config.posterior_bias)
        self.decoder: Any = GPT2Model(
            GPT2Config(
                vocab_size=embedding_size(config.decoder_vocab_size, decoder_tokenizer, "decoder"),
                n_embd=width,
                n_inner=config.decoder_ffn,
                n_layer=config.decoder_layers,
                n_head=heads,
                n_positions=decoder_positions,
                activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one kernel
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=decoder_tokenizer.bos_id,
                eos_token_id=decoder_tokenizer.eos_id,
                attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
            )
        )
        self.to_memory = nn.Linear(config.latent_dim, config.decoder_layers * width * config.memory_slots, bias=False)
        self.to_embedding = nn.Linear(config.latent_dim, width, bias=False)
        if config.posterior_bias:
            with torch.no_grad():
                self.to_posterior.bias.copy_(torch.tensor([0.0, INITIAL_LOGVAR]).repeat_interleave(config.latent_dim))

    @property
    def _device(self) -> torch.device:
        return self.to_posterior.weight.device

    def encode(self, values: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior of the unscaled latent: two float32 tensors ``[B, d]``."""
        ids, mask = self.tokenizer.encode(values, self.config.max_length)
        return self.encode_ids(to_device(ids, self._device), to_device(mask, self._device))

    def encode_ids(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`encode`, from int64 ids ``[B, L]`` and their mask ``[B, L]``, True where there is a token."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # [B, L, W]
        if self.config.pooling == "mean":
            weights = mask.unsqueeze(-1).to(hidden)
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        else:
            pooled = hidden[:, 0]
        pooled = torch.tanh(self.encoder.pooler.dense(pooled))
        mean, logvar = self.to_posterior(pooled).float().chunk(2, dim=-1)
        return mean, logvar

    def decoder_parts(self) -> list[nn.Module]:
        """GPT-2, and the two maps that give z to it."""
        return [self.decoder, self.to_memory, self.to_embedding]

    def _memory(self, z: Tensor) -> DynamicCache:
        """A key/value cache that holds z: ``memory_slots`` vectors per layer, the same as keys and as values."""
        layers, (width, heads) = self.config.decoder_layers, self.config.decoder_size
        d = width // heads
        slots = rearrange(self.to_memory(z), "b (layer h slot d) -> layer b h slot d", layer=layers, h=heads, d=d)
        cache = DynamicCache()
        for layer, memory in enumerate(slots):
            cache.update(memory, memory, layer)
        return cache

    def _hidden(self, bias: Tensor, ids: Tensor, cache: DynamicCache) -> Tensor:
        """Last hidden states ``[B, L, W]`` at each of the ids, which are appended to the cache."""
        embedded = self.decoder.wte(ids) + bias.unsqueeze(1)
        return self.decoder(inputs_embeds=embedded, past_key_values=cache, use_cache=True).last_hidden_state

    def _next_logits(self, bias: Tensor, ids: Tensor, cache: DynamicCache) -> Tensor:
        """Logits ``[B, L, vocabulary]`` after each of the ids, which are appended to the cache."""
        return F.linear(self._hidden(bias, ids, cache), self.decoder.wte.weight)  # tied

    def logits(self, z: Tensor, ids: Tensor) -> Tensor:
        """Next-token logits ``[B, L, vocabulary]`` of unscaled latents ``[B, d]``, with the true text as input.

        ``ids`` are int64 ``[B, L]``, beginning token first, padding at the end, where no token attends to it.
        """
        return F.linear(self._states(z, ids), self.decoder.wte.weight)

    def _states(self, z: Tensor, ids: Tensor) -> Tensor:
        """Decoder states that :meth:`logits` are made of: its last hidden states ``[B, L, W]``."""
        z = z.to(self.to_memory.weight.dtype)
        return self._hidden(self.to_embedding(z), ids, self._memory(z))

    def reconstruction_loss(
        self,
        texts: Sequence[str],
        noise: Tensor | None = None,
        *,
        beta: float = 0.0,
        free_bits: float = 0.0,
        dropped: Tensor | None = None,
        token_weights: Tensor | None = None,
        num_groups: int = 1,
    ) -> ReportLoss:
        """The negative evidence lower bound of each text, per token.

        Args:
            texts: B reports.
            noise: Standard normal ``[B, d]`` that samples the posterior; None takes its mean.
            beta: Weight of the KL.
            free_bits: Nats per latent dimension below which the KL costs nothing (Kingma et al., 2016).
            dropped: bool ``[B, max_length]``, True where the decoder does not see its input token.
            token_weights: float ``[vocabulary]``, weights of the cross-entropy in the loss; None: 1 each.
            num_groups: Passes, each of reports of like length: a padded token costs as much as any other.
        """
        ids, mask = self.decoder_tokenizer.encode(texts, self.config.max_length)
        order = mask.sum(1).argsort(stable=True)
        spare = order[-1:].expand(max(0, num_groups - len(order)))  # no group is empty
        parts = [
            self._loss_of(
                [texts[int(row)] for row in rows],
                ids[rows],
                mask[rows],
                None if noise is None else noise[to_device(rows, noise.device)],
                beta=beta,
                free_bits=free_bits,
                dropped=None if dropped is None else dropped[rows],
                token_weights=token_weights,
            )
            for rows in torch.cat([order, spare]).tensor_split(num_groups)
        ]
        back = to_device(order.argsort(), self._device)
        return ReportLoss(
            *(torch.cat([getattr(part, field.name) for part in parts])[back] for field in fields(ReportLoss))
        )

    def _loss_of(
        self,
        texts: list[str],
        ids: Tensor,
        mask: Tensor,
        noise: Tensor | None,
        *,
        beta: float,
        free_bits: float,
        dropped: Tensor | None,
        token_weights: Tensor | None,
    ) -> ReportLoss:
        """:meth:`reconstruction_loss` of reports of like length, whose tokens are ``ids`` and ``mask`` ``[B, L]``."""
        # Encode; the decoder's inputs are the tokens shifted by one, some of them dropped.
        mean, logvar = self.encode(texts)
        kl = kl_to_standard_normal(mean, logvar)  # [B, d]
        longest = int(mask.sum(1).max())
        ids, mask = (to_device(part[:, :longest], self._device) for part in (ids, mask))
        inputs, targets, known = ids[:, :-1], ids[:, 1:], mask[:, 1:]
        if dropped is not None:
            hidden = dropped[:, : inputs.shape[1]].to(self._device) & (inputs != self.decoder_tokenizer.bos_id)
            inputs = inputs.masked_fill(hidden, self.decoder_tokenizer.pad_id)

        # Decode a sample of the posterior. A row of logits is as long as the vocabulary: only those of tokens that count.
        z = draw(mean, logvar, noise)
        logits = F.linear(self._states(z, inputs)[known], self.decoder.wte.weight).float()  # [tokens, vocabulary]
        targets = targets[known]

        # Average over the tokens of each report.
        num_tokens = known.sum(1).clamp(min=1)

        def average(values: Tensor) -> Tensor:
            return (
                torch.zeros(known.shape, device=values.device).masked_scatter(known, values.float()).sum(1) / num_tokens
            )

        each = F.cross_entropy(logits, targets, reduction="none")  # [tokens]
        ce = average(each)
        weighted = ce if token_weights is None else average(each * token_weights.to(each)[targets])
        accuracy = average(logits.argmax(-1) == targets)
        loss = weighted + beta * kl.clamp(min=free_bits).sum(1) / num_tokens
        return ReportLoss(loss=loss, ce=ce, kl=kl.sum(1), accuracy=accuracy, num_tokens=num_tokens, z=z)

    def decode(self, latent: Tensor) -> list[str]:
        """Reports from scaled latents ``[B, d]``, all rows at once; each token is the likeliest."""
        return self.decoder_tokenizer.decode(self.generate_ids(self.unscaled(latent)))

    @torch.no_grad()
    def generate_ids(self, z: Tensor) -> Tensor:
        """Token ids int64 ``[B, L]`` from unscaled latents ``[B, d]``: beginning first, padding after the end, cut at ``max_length``."""
        tokens = self.decoder_tokenizer
        z = z.to(self.to_memory.weight)
        bias, cache = self.to_embedding(z), self._memory(z)
        last = torch.full((len(z), 1), tokens.bos_id, dtype=torch.long, device=z.device)
        ended = torch.zeros(len(z), dtype=torch.bool)
        rows = [last.cpu()]
        while len(rows) < self.config.max_length - 1 and not ended.all():
            logits = self._next_logits(bias, last, cache)[:, -1].float()  # [B, vocabulary]
            # The likeliest token of each report; those that have ended get padding.
            chosen = logits.argmax(-1).cpu().masked_fill(ended, tokens.pad_id)
            ended |= chosen == tokens.eos_id
            rows.append(chosen.unsqueeze(1))
            last = chosen.unsqueeze(1).to(z.device)
        if not ended.all():
            rows.append(torch.where(ended, tokens.pad_id, tokens.eos_id).unsqueeze(1))
        return torch.cat(rows, dim=1)
