"""Stage ``autoencode``: images and reports learn their latents, whose scale is measured at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from pydantic import model_validator
from torch import Tensor, nn

from medcodi.config import config
from medcodi.errors import TrainingError
from medcodi.modality import MODALITIES, Kind, in_table_order
from medcodi.networks.autoencoder import draw, kl_to_standard_normal
from medcodi.randomness import StepRandomness
from medcodi.stages.image_terms import edge_difference, random_crops
from medcodi.stages.sharing import Rows, Share, each_weight
from medcodi.stages.stage import Stage, StepOutput, mean_over_ranks, num_ranks
from medcodi.stages.statements import STATEMENTS, statement_loss, statement_truth

if TYPE_CHECKING:
    from medcodi.data.loading import Batch
    from medcodi.networks.report_autoencoder import ReportLoss

SIDE_WORDS = ("left", "right", "bilateral", "bilaterally", "both")


@config
class AutoencodeOptions:
    """Options of stage ``autoencode``."""

    kinds: tuple[Kind, ...] = ("image", "text")
    decoder_only: bool = (
        False  # latents stay as they are, so that denoisers trained on them fit; only what is made of them improves
    )
    crop_size: int | None = (
        None  # train on random crops of so many pixels; None: whole images (end with those: norms see other statistics in crops)
    )
    kl_weight: float = 1e-4  # of the image latents' KL, nats per latent element
    edge_weight: float = 1.0  # of the gradient term
    edge_scales: int = 3  # resolutions it is taken at, each half the one before
    hard_weight: float = 0.0  # of the mean error over each image's worst pixels: small bright things are few pixels
    hard_share: float = 0.05  # how many of the pixels those are
    text_weight: float = 1.0  # of the reports' loss beside the images'
    beta: float = 0.1  # highest weight of the report latents' KL
    cycle_steps: int = 1000  # steps of one beta cycle (Fu et al., 2019)
    cycle_ramp: float = 0.5  # share of a cycle in which beta rises from 0
    free_bits: float = 0.05  # nats per report latent dimension that cost nothing
    word_dropout: float = 0.0  # share of input tokens the report decoder does not see
    side_weight: float = 1.0  # of the words that tell a side, in a report's cross-entropy; other words have 1
    statement_weight: float = 0.0  # of reading off a report's latent which findings it tells, and on which side

    @model_validator(mode="after")
    def _check(self) -> AutoencodeOptions:
        if not self.kinds:
            raise ValueError("kinds must name at least one of image, text")
        if (
            min(
                self.kl_weight,
                self.edge_weight,
                self.hard_weight,
                self.text_weight,
                self.beta,
                self.free_bits,
                self.side_weight,
                self.statement_weight,
            )
            < 0
        ):
            raise ValueError("weights, beta and free_bits must not be negative")
        if self.cycle_steps < 1 or not 0 < self.cycle_ramp <= 1 or self.edge_scales < 1:
            raise ValueError("cycle_steps and edge_scales must be at least 1, cycle_ramp in (0, 1]")
        if not 0 < self.hard_share <= 1:
            raise ValueError(f"hard_share = {self.hard_share} must be in (0, 1]")
        if not 0 <= self.word_dropout < 1:
            raise ValueError(f"word_dropout = {self.word_dropout} must be in [0, 1)")
        if self.crop_size is not None and self.crop_size < 1:
            raise ValueError(f"crop_size = {self.crop_size} must be positive")
        return self


class AutoencodeStage(Stage):
    """Trains the autoencoders of the kinds it is asked for."""

    name = "autoencode"
    Options = AutoencodeOptions
    options: AutoencodeOptions

    def __init__(self, model: Any, options: AutoencodeOptions | None = None) -> None:
        super().__init__(model, options)
        self.statements: nn.Linear | None = None
        if self.options.statement_weight and "text" in self.options.kinds:
            self.statements = nn.Linear(model.autoencoders["text"].latent_shape[0], len(STATEMENTS))
            for parameter in self.statements.parameters():
                nn.init.zeros_(parameter)
        crop = self.options.crop_size
        if "image" in self.options.kinds and crop is not None:
            factor, size = model.autoencoders["image"].config.factor, model.config.image_size
            if crop % factor or crop > size:
                raise TrainingError(
                    f"crop_size = {crop} does not fit", expected=f"a multiple of {factor}, at most {size} pixels"
                )

    def trained_parts(self) -> list[nn.Module]:
        """The autoencoders of the chosen kinds, or what decodes in them."""
        return [module for modules in self.parts().values() for module in modules]

    def parts(self) -> dict[str, list[nn.Module]]:
        """An autoencoder for each kind."""
        chosen = {kind: self._autoencoder(kind) for kind in self.options.kinds}
        return {kind: one.decoder_parts() if self.options.decoder_only else [one] for kind, one in chosen.items()}

    def needs(self) -> tuple[str, ...]:
        """The modalities of the kinds that it trains."""
        return tuple(name for name in self.model.config.modalities if MODALITIES[name].kind in self.options.kinds)

    def forward(self, batch: Batch, randomness: StepRandomness, share: Share | None = None) -> StepOutput:
        """The sum of the losses of the chosen kinds."""
        losses: dict[Kind, Callable[..., StepOutput]] = {"image": self._images, "text": self._texts}
        parts = [losses[kind](batch, randomness, share) for kind in self.options.kinds]
        logs = {name: value for part in parts for name, value in part.logs.items()}
        return StepOutput(torch.stack([part.loss for part in parts]).sum(), logs)

    # ---- images ------------------------------------------------------------------------------------------------
    def _images(self, batch: Batch, randomness: StepRandomness, share: Share | None) -> StepOutput:
        """L1 + edges + worst pixels + KL of all views at once, in units of the [-1, 1] range."""
        autoencoder, options = self._autoencoder("image"), self.options
        images, noises, weights = [], [], []
        for name in self._served("image", batch):
            values: Any = batch.contents[name]
            if options.crop_size is not None:
                values = random_crops(values, options.crop_size, randomness.uniform(f"autoencode/crop/{name}", 2))
            kept, weight = _kept(batch.present[name])
            shape = (autoencoder.latent_shape[0], *(side // autoencoder.config.factor for side in values.shape[-2:]))
            noise = randomness.normal(f"autoencode/noise/{name}", shape, values.device)
            images.append(values[kept])
            noises.append(noise[kept])
            weights.append(weight)
        x, weight = torch.cat(images), torch.cat(weights)
        mean, logvar = autoencoder.encode(x)
        painted = autoencoder.decode_unclamped(draw(mean, logvar, torch.cat(noises)))
        x = (2.0 * x - 1.0).expand_as(painted)
        error = (painted - x).abs().flatten(1)
        l1 = error.mean(1)
        hard = error.topk(max(1, round(options.hard_share * error.shape[1])), dim=1).values.mean(1)
        edges = edge_difference(painted, x, options.edge_scales)
        kl = kl_to_standard_normal(mean, logvar).flatten(1).mean(1)
        whole = each_weight(share, self._counted("image", batch))
        each = l1 + options.edge_weight * edges + options.hard_weight * hard + options.kl_weight * kl
        loss = mean_over_ranks(each, weight, whole)
        mse = (0.5 * (painted.detach() - x)).square().flatten(1).mean(1).clamp(min=1e-10)
        rows = {"l1": l1, "edges": edges, "hard": hard, "kl": kl, "psnr": -10.0 * torch.log10(mse)}
        return StepOutput(
            loss, {f"image/{name}": mean_over_ranks(value.detach(), weight, whole) for name, value in rows.items()}
        )

    # ---- reports -----------------------------------------------------------------------------------------------
    def _texts(self, batch: Batch, randomness: StepRandomness, share: Share | None) -> StepOutput:
        """Cross-entropy + cyclic beta times the KL above the free bits, nats per token."""
        autoencoder, options = self._autoencoder("text"), self.options
        beta = cyclic_beta(randomness.step, options)
        texts, noises, drops, weights = [], [], [], []
        for name in self._served("text", batch):
            values: Any = batch.contents[name]
            kept, weight = _kept(batch.present[name])
            noise = randomness.normal(f"autoencode/noise/{name}", autoencoder.latent_shape, weight.device)
            drop = randomness.uniform(f"autoencode/words/{name}", autoencoder.config.max_length) < options.word_dropout
            texts += [values[row] for row in kept.tolist()]
            noises.append(noise[kept])
            drops.append(drop[kept.cpu()])
            weights.append(weight)
        weight = torch.cat(weights)
        result = autoencoder.reconstruction_loss(
            texts,
            torch.cat(noises),
            beta=beta,
            free_bits=options.free_bits,
            dropped=torch.cat(drops) if options.word_dropout else None,
            token_weights=self._token_weights(),
        )
        rows = {"ce": result.ce, "kl": result.kl, "accuracy": result.accuracy.to(result.ce)}
        whole = each_weight(share, self._counted("text", batch))
        logs = {f"text/{name}": mean_over_ranks(value.detach(), weight, whole) for name, value in rows.items()}
        logs["text/beta"] = torch.tensor(beta, device=weight.device)
        loss = options.text_weight * mean_over_ranks(result.loss, weight, whole)
        if self.statements is not None:
            stated = self._stated(result, texts)
            logs["text/statements"] = mean_over_ranks(stated.detach(), weight, whole)
            stated = stated / result.num_tokens  # as the other terms: nats per token
            loss = loss + options.statement_weight * mean_over_ranks(stated, weight, whole)
        return StepOutput(loss, logs)

    def _stated(self, result: ReportLoss, texts: list[str]) -> Tensor:
        """Nats ``[B]`` by which a linear reading of each latent misses what its report states.

        A side is one word of a report, and words cost alike: left to the words alone, latents forget it long before a turn of phrase.
        """
        assert self.statements is not None
        truth = statement_truth(texts).to(result.z.device)
        with torch.autocast(result.z.device.type, enabled=False):
            return statement_loss(self.statements(result.z.float()), truth)

    def _token_weights(self) -> Tensor | None:
        """What each token of the report decoder counts; None where all count alike."""
        if self.options.side_weight == 1.0:
            return None
        tokenizer = self._autoencoder("text").decoder_tokenizer
        weights = torch.ones(tokenizer.vocab_size)
        weights[tokenizer.ids_of_words(SIDE_WORDS)] = self.options.side_weight
        return weights

    def _autoencoder(self, kind: Kind) -> Any:
        return self.model.autoencoders[kind]

    def _counted(self, kind: Kind, batch: Batch) -> Callable[[Rows], Tensor]:
        """Weight 1 for each present row of the modalities of one kind."""
        names = self._served(kind, batch)
        return lambda rows: torch.stack([rows.present[name] for name in names])

    def _served(self, kind: Kind, batch: Batch) -> list[str]:
        """The modalities of one kind that the batch has room for."""
        names = [name for name in in_table_order(batch.contents) if MODALITIES[name].kind == kind]
        if not names:
            raise TrainingError(f"the data hold no {kind} modality", fix=f"leave {kind!r} out of the stage's kinds")
        return names

    # ---- scale -------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """Measure mean and standard deviation of the latents and store the scale with the weights; with ``decoder_only`` both stay.

        Args:
            batches: Batches of whole training studies, on the model's device.

        Raises:
            TrainingError: If the latents do not vary, or the batches are empty.
        """
        if self.options.decoder_only:
            return
        self.eval()
        sums: dict[Kind, Tensor] = {}
        for batch in batches:
            for kind in self.options.kinds:
                for name in self._served(kind, batch):
                    found = self._moments(kind, batch.contents[name], batch.present[name])
                    sums[kind] = sums[kind] + found if kind in sums else found
        for kind in self.options.kinds:
            self._set_scale(kind, sums.get(kind))
        self.train()

    def _moments(self, kind: Kind, values: Any, present: Tensor) -> Tensor:
        """Count, sum and sum of squares of each channel of the present rows' latents: float64 ``[3, channels]``."""
        autoencoder = self._autoencoder(kind)
        rows = present.nonzero().flatten()
        chosen = values[rows] if isinstance(values, Tensor) else [values[row] for row in rows.tolist()]
        if not len(rows):
            return torch.zeros(3, autoencoder.latent_shape[0], dtype=torch.float64, device=present.device)
        mean = autoencoder.encode(chosen)[0].double().transpose(0, 1).flatten(1)  # [channels, rows * places]
        return torch.stack([torch.full_like(mean[:, 0], mean.shape[1]), mean.sum(1), mean.square().sum(1)])

    def _set_scale(self, kind: Kind, sums: Tensor | None) -> None:
        if sums is not None and num_ranks() > 1:
            dist.all_reduce(sums)
        if sums is None or not sums[0, 0]:
            raise TrainingError(
                f"no {kind} in the batches that the latent scale is to be measured on", expected="training data"
            )
        centre = sums[1] / sums[0]
        deviation = float((sums[2] / sums[0] - centre.square()).clamp(min=0).mean().sqrt())
        if not (math.isfinite(deviation) and deviation > 1e-8):
            raise TrainingError(
                f"the {kind} latents have a standard deviation of {deviation}",
                fix="train the autoencoder for longer, or at a lower rate",
            )
        self._autoencoder(kind).set_scale(1.0 / deviation, centre.float())


def _kept(present: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the present rows, and weight 1 for each; without any, row 0 with weight 0 keeps the graph whole."""
    kept = present.nonzero().flatten()
    if len(kept):
        return kept, torch.ones(len(kept), device=present.device)
    return torch.zeros(1, dtype=torch.long, device=present.device), torch.zeros(1, device=present.device)


def cyclic_beta(step: int, options: AutoencodeOptions) -> float:
    """Weight of the KL at a step: in each cycle it rises from 0 to ``options.beta``, then stays (Fu et al., 2019)."""
    place = (step % options.cycle_steps) / options.cycle_steps
    return options.beta * min(1.0, place / options.cycle_ramp)
