"""Stage ``autoencode``: images, reports and records learn their latents, whose scale is measured at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from einops import rearrange
from pydantic import model_validator
from torch import Tensor, nn

from medcodi.config import config
from medcodi.errors import TrainingError
from medcodi.modality import MODALITIES, Kind
from medcodi.stages.dry_run import DryRun, image_reconstruction, record_reconstruction, report_reconstruction
from medcodi.stages.stage import Stage
from medcodi.stages.statements import STATEMENTS, statement_loss, statement_truth
from medcodi.stages.step import Step, Where, num_ranks
from medcodi.stages.tower_features import TowerFeatures
from medcodi.transfer import to_device

if TYPE_CHECKING:
    from medcodi.data.loading import Batch

SIDE_WORDS = ("left", "right", "bilateral", "bilaterally", "both")
_REPORTS_TOGETHER = 16  # of like length, in one pass of the report autoencoder


@config
class AutoencodeConfig:
    """Config of stage ``autoencode``."""

    # of modalities whose autoencoders are trained, where the model has them
    kinds: tuple[Kind, ...] = ("image", "text", "table")
    decoder_only: bool = False  # the encoder and its latents stay as they are, so denoisers trained on them still fit
    # Train on random crops of this many pixels a side; None: whole images. End with whole images: norms see other statistics in crops.
    crop_size: int | None = None
    kl_weight: float = 1e-4  # of the image latents' KL, nats per latent element
    edge_weight: float = 1.0  # of the gradient term
    edge_scales: int = 3  # resolutions it is taken at, each half the one before
    hard_weight: float = 0.0  # of the mean error over each image's worst pixels: small bright things are few pixels
    hard_share: float = 0.05  # share of the pixels that are the worst
    # of holding the image latents to the aligned image tower's features (VA-VAE, arXiv 2501.01423); 0: not held
    tower_weight: float = 0.0
    text_weight: float = 1.0  # of the reports' loss beside the images'
    beta: float = 0.1  # highest weight of the report latents' KL
    cycle_steps: int = 1000  # steps of one beta cycle (Fu et al., 2019)
    cycle_ramp: float = 0.5  # share of a cycle in which beta rises from 0
    free_bits: float = 0.05  # nats per report latent dimension that cost nothing
    word_dropout: float = 0.0  # share of input tokens the report decoder does not see
    side_weight: float = 1.0  # of words that name a side, in a report's cross-entropy; other words have 1
    record_weight: float = 1.0  # of the records' loss beside the others
    record_beta: float = 1e-3  # weight of the record latents' KL
    statement_weight: float = 0.0  # of predicting from a report's latent which findings it states, and on which side

    @model_validator(mode="after")
    def _check(self) -> AutoencodeConfig:
        if not self.kinds:
            raise ValueError("kinds must name at least one of image, text, table")
        images = (self.kl_weight, self.edge_weight, self.hard_weight, self.tower_weight)
        reports = (self.text_weight, self.beta, self.free_bits, self.side_weight, self.statement_weight)
        if min(*images, *reports, self.record_weight, self.record_beta) < 0:
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
    """Trains the autoencoders of the chosen kinds."""

    name = "autoencode"
    Config = AutoencodeConfig
    config: AutoencodeConfig

    def __init__(self, model: Any, config: AutoencodeConfig | None = None) -> None:
        chosen = (config or self.Config()).kinds
        self.kinds: tuple[Kind, ...] = tuple(kind for kind in chosen if kind in model.autoencoders)
        if not self.kinds:
            raise TrainingError(
                f"kinds are {', '.join(chosen)}, the model has none of them",
                expected=f"at least one of {', '.join(model.autoencoders)}",
                fix="correct stage.options.kinds",
            )
        super().__init__(model, config)
        self.statements: nn.Linear | None = None  # predicts statements from a report's latent
        if self.config.statement_weight and "text" in self.kinds:
            self.statements = nn.Linear(model.autoencoders["text"].latent_shape[0], len(STATEMENTS))
            for parameter in self.statements.parameters():
                nn.init.zeros_(parameter)
        self.tower: TowerFeatures | None = None  # what image latents are held to
        if self.config.tower_weight and "image" in self.kinds:
            self._check_tower()
            self.tower = TowerFeatures(model.autoencoders["image"].latent_shape[0], model)
        crop = self.config.crop_size
        if "image" in self.kinds and crop is not None:
            factor, size = model.autoencoders["image"].config.factor, model.config.image_size
            if crop % factor or crop > size:
                raise TrainingError(
                    f"crop_size = {crop} does not fit", expected=f"a multiple of {factor}, at most {size} pixels"
                )

    def _check_tower(self) -> None:
        """Refuse to hold latents to a tower that is untrained, that sees other pixels, or whose latents stay as they are."""
        weight = f"tower_weight = {self.config.tower_weight}"
        if "align" not in self.model.trained_stages:
            raise TrainingError(
                f"{weight} holds latents to the image tower, and the model has not been through 'align'",
                fix="train 'align' first, and start from the model folder it wrote (init)",
            )
        if self.config.crop_size is not None or self.config.decoder_only:
            raise TrainingError(
                f"{weight} needs whole images and an encoder that is trained",
                fix="leave crop_size and decoder_only out, or tower_weight=0",
            )

    def parts(self) -> dict[str, list[nn.Module]]:
        """The autoencoder of each kind, or its decoder."""
        chosen = {kind: self._autoencoder(kind) for kind in self.kinds}
        decoder_only = self.config.decoder_only
        return {kind: module.decoder_parts() if decoder_only else [module] for kind, module in chosen.items()}

    def needs(self) -> tuple[str, ...]:
        """The modalities of the chosen kinds."""
        return tuple(name for name in self.model.config.modalities if MODALITIES[name].kind in self.kinds)

    def components(self, *, cached: bool = False) -> tuple[str, ...]:
        """The autoencoders of the chosen kinds, and the tower that latents are held to."""
        tower = () if self.tower is None else ("prompt_encoders",)
        return (*(f"autoencoder_{kind}" for kind in self.kinds), *tower)

    def dry_run(self, *, cached: bool = False) -> DryRun:
        """The chosen autoencoders."""
        passes = {
            "image": image_reconstruction(self.model, self.config.crop_size),
            "text": report_reconstruction(self.model),
            "table": record_reconstruction(self.model),
        }
        return DryRun(tuple(passes[kind] for kind in self.kinds))

    def loss(self, batch: Batch, step: Step) -> Tensor:
        """The sum of the losses of the chosen kinds."""
        losses = {"image": self._image_loss, "text": self._report_loss, "table": self._record_loss}
        return torch.stack([losses[kind](batch, step) for kind in self.kinds]).sum()

    # ---- images ------------------------------------------------------------------------------------------------
    def _image_loss(self, batch: Batch, step: Step) -> Tensor:
        """L1 + edges + worst pixels + KL of all views at once (:meth:`ImageAutoencoder.reconstruction_terms`)."""
        autoencoder, config = self._autoencoder("image"), self.config

        # Collect the present images of every view, cropped, and the noise of their posteriors.
        parts, noises, weights = [], [], []
        for name in self._modalities("image", batch):
            values: Any = batch.contents[name]
            if config.crop_size is not None:
                values = random_crops(values, config.crop_size, step.draws.uniform(f"autoencode/crop/{name}", 2))
            rows, weight = _present_rows(batch.present[name])
            shape = (autoencoder.latent_shape[0], *(side // autoencoder.config.factor for side in values.shape[-2:]))
            noise = step.draws.normal(f"autoencode/noise/{name}", shape, values.device)
            parts.append(values[rows])
            noises.append(noise[rows])
            weights.append(weight)
        images, weight = torch.cat(parts), torch.cat(weights)  # [N, 1, H, W], [N]

        # Reconstruct them, and weigh the terms, each [N].
        terms, latents = autoencoder.reconstruction_terms(
            images, torch.cat(noises), edge_scales=config.edge_scales, hard_share=config.hard_share
        )
        total = (
            terms["l1"]
            + config.edge_weight * terms["edges"]
            + config.hard_weight * terms["hard"]
            + config.kl_weight * terms["kl"]
        )

        # Hold the latents, before they are drawn, to the features that the tower sees in the same images.
        if self.tower is not None:
            with torch.no_grad():
                seen = self.model.encode_prompts(self._modalities("image", batch)[0], images)
            terms["tower"] = self.tower.distance(latents, seen)
            total = total + config.tower_weight * terms["tower"]

        # Average over the present images of the global batch.
        where = self._where("image", batch)
        loss = step.mean(total, where, weight)
        for name, value in terms.items():
            step.mean(value.detach(), where, weight, log=f"image/{name}")
        return loss

    # ---- reports -----------------------------------------------------------------------------------------------
    def _report_loss(self, batch: Batch, step: Step) -> Tensor:
        """Cross-entropy + cyclic beta times the KL above the free bits, nats per token."""
        autoencoder, config = self._autoencoder("text"), self.config

        # The present reports, the noise of their posteriors, and the words that are dropped.
        texts, noise, weight = self._present_values("text", batch, step)
        drops = []
        for name in self._modalities("text", batch):
            u = step.draws.uniform(f"autoencode/words/{name}", autoencoder.config.max_length)
            drops.append((u < config.word_dropout)[_present_rows(batch.present[name])[0].cpu()])

        # Reconstruct them, in as many passes on every rank, however many of its reports are absent.
        slots = sum(len(batch.present[name]) for name in self._modalities("text", batch))
        beta = cyclic_beta(step.draws.step, config)
        result = autoencoder.reconstruction_loss(
            texts,
            noise,
            beta=beta,
            free_bits=config.free_bits,
            dropped=torch.cat(drops) if config.word_dropout else None,
            token_weights=self._token_weights(),
            num_groups=max(1, slots // _REPORTS_TOGETHER),
        )

        # Average over the present reports of the global batch.
        where = self._where("text", batch)
        loss = config.text_weight * step.mean(result.loss, where, weight)
        step.logs["text/beta"] = torch.tensor(beta, device=weight.device)
        for name, value in {"ce": result.ce, "kl": result.kl, "accuracy": result.accuracy.to(result.ce)}.items():
            step.mean(value.detach(), where, weight, log=f"text/{name}")

        # Predict the statements of each report from its latent. A side is one word of a report, and words cost alike: without
        # this, latents lose it long before a turn of phrase.
        if self.statements is not None:
            truth = to_device(statement_truth(texts), result.z.device)
            with torch.autocast(result.z.device.type, enabled=False):
                nats = statement_loss(self.statements(result.z.float()), truth)  # [N]
            step.mean(nats.detach(), where, weight, log="text/statements")
            per_token = nats / result.num_tokens  # in the unit of the other terms
            loss = loss + config.statement_weight * step.mean(per_token, where, weight)
        return loss

    def _token_weights(self) -> Tensor | None:
        """Weight of each token of the report decoder; None where all have 1."""
        if self.config.side_weight == 1.0:
            return None
        tokenizer = self._autoencoder("text").decoder_tokenizer
        weights = torch.ones(tokenizer.vocab_size)
        weights[tokenizer.ids_of_words(SIDE_WORDS)] = self.config.side_weight
        return weights

    # ---- records -----------------------------------------------------------------------------------------------
    def _record_loss(self, batch: Batch, step: Step) -> Tensor:
        """Squared error of numbers + cross-entropy of categories + the weighted KL (:meth:`RecordAutoencoder.reconstruction_loss`)."""
        records, noise, weight = self._present_values("table", batch, step)
        result = self._autoencoder("table").reconstruction_loss(records, noise, beta=self.config.record_beta)

        # Average over the present records of the global batch.
        where = self._where("table", batch)
        for term, value in {"numbers": result.numbers, "categories": result.categories, "kl": result.kl}.items():
            step.mean(value.detach(), where, weight, log=f"table/{term}")
        return self.config.record_weight * step.mean(result.loss, where, weight)

    # ---- all ---------------------------------------------------------------------------------------------------
    def _present_values(self, kind: Kind, batch: Batch, step: Step) -> tuple[list[Any], Tensor, Tensor]:
        """The N present reports or records of a batch, the noise of their posteriors ``[N, ...]``, and their weights ``[N]``."""
        present, noises, weights = [], [], []
        for name in self._modalities(kind, batch):
            values: Any = batch.contents[name]
            rows, weight = _present_rows(batch.present[name])
            shape = self._autoencoder(kind).latent_shape
            noise = step.draws.normal(f"autoencode/noise/{name}", shape, weight.device)
            present += [values[row] for row in rows.tolist()]
            noises.append(noise[rows])
            weights.append(weight)
        return present, torch.cat(noises), torch.cat(weights)

    def _autoencoder(self, kind: Kind) -> Any:
        return self.model.autoencoders[kind]

    def _modalities(self, kind: Kind, batch: Batch) -> list[str]:
        """The model's modalities of one kind that the batch has room for."""
        names = [
            name for name in self.model.config.modalities if name in batch.contents and MODALITIES[name].kind == kind
        ]
        if not names:
            raise TrainingError(f"the data have no {kind} modality", fix=f"leave {kind!r} out of the stage's kinds")
        return names

    def _where(self, kind: Kind, batch: Batch) -> Where:
        """Weight 1 for each present row of the modalities of one kind."""
        names = self._modalities(kind, batch)
        return lambda rows: torch.stack([rows.present[name] for name in names])

    # ---- scale -------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def finish(self, batches: Iterable[Batch]) -> None:
        """Measure mean and standard deviation of the latents of whole training studies, and store the scale with the weights.

        With ``decoder_only`` the scale stays.

        Raises:
            TrainingError: If the latents do not vary, or the batches are empty.
        """
        if self.config.decoder_only:
            return
        self.eval()
        sums: dict[Kind, Tensor] = {}
        for batch in batches:
            for kind in self.kinds:
                for name in self._modalities(kind, batch):
                    moments = self._moments(kind, batch.contents[name], batch.present[name])
                    sums[kind] = sums[kind] + moments if kind in sums else moments
        for kind in self.kinds:
            self._set_scale(kind, sums.get(kind))
        self.train()

    def _moments(self, kind: Kind, values: Any, present: Tensor) -> Tensor:
        """Count, sum and sum of squares of each channel of the present rows' latents: float64 ``[3, C]``."""
        autoencoder = self._autoencoder(kind)
        rows = present.nonzero().flatten()
        chosen = values[rows] if isinstance(values, Tensor) else [values[row] for row in rows.tolist()]
        if not len(rows):
            return torch.zeros(3, autoencoder.latent_shape[0], dtype=torch.float64, device=present.device)
        mean = rearrange(autoencoder.encode(chosen)[0].double(), "b c ... -> c (b ...)")
        return torch.stack([torch.full_like(mean[:, 0], mean.shape[1]), mean.sum(1), mean.square().sum(1)])

    def _set_scale(self, kind: Kind, sums: Tensor | None) -> None:
        if sums is not None and num_ranks() > 1:
            dist.all_reduce(sums)
        if sums is None or not sums[0, 0]:
            raise TrainingError(
                f"no {kind} in the batches that the latent scale is measured on", expected="training data"
            )
        # Var = E[z^2] - E[z]^2 in each channel; one scale for all channels.
        centre = sums[1] / sums[0]
        deviation = float((sums[2] / sums[0] - centre.square()).clamp(min=0).mean().sqrt())
        if not (math.isfinite(deviation) and deviation > 1e-8):
            raise TrainingError(
                f"the {kind} latents have a standard deviation of {deviation}",
                fix="train the autoencoder for longer, or at a lower rate",
            )
        self._autoencoder(kind).set_scale(1.0 / deviation, centre.float())


def _present_rows(present: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the present rows, and weight 1 for each; without any, row 0 with weight 0 keeps the graph whole."""
    rows = present.nonzero().flatten()
    if len(rows):
        return rows, torch.ones(len(rows), device=present.device)
    return torch.zeros(1, dtype=torch.long, device=present.device), torch.zeros(1, device=present.device)


def cyclic_beta(step: int, config: AutoencodeConfig) -> float:
    """Weight of the KL at a step: in each cycle it rises from 0 to ``config.beta``, then stays (Fu et al., 2019)."""
    progress = (step % config.cycle_steps) / config.cycle_steps
    return config.beta * min(1.0, progress / config.cycle_ramp)


def random_crops(images: Tensor, size: int, draws: Tensor) -> Tensor:
    """Crops ``[B, 1, size, size]`` of images ``[B, 1, H, W]``, placed by ``draws`` ``[B, 2]`` in [0, 1), down and right."""
    height, width = images.shape[-2:]
    corners = (draws.cpu() * torch.tensor([height - size + 1, width - size + 1])).long().tolist()
    return torch.stack(
        [image[:, top : top + size, left : left + size] for image, (top, left) in zip(images, corners, strict=True)]
    )
