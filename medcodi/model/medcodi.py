"""MedCoDi: prompt encoders, autoencoders, denoisers and environment encoders, assembled; saved and loaded as safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medcodi.diffusion.prompts import mix_pooled, mix_tokens
from medcodi.errors import CheckpointError
from medcodi.modality import MODALITIES, Kind, in_table_order
from medcodi.model.config import ModelConfig, tiny_config
from medcodi.model.placeholder import Aside, inside
from medcodi.networks.attention import Context
from medcodi.networks.environment import EnvironmentEncoder
from medcodi.networks.image_layers import ImageLayers
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.networks.tokenizer import ReportTokenizer, Tokenizers
from medcodi.networks.unet import Layers, UNet, UNetConfig
from medcodi.networks.vector_layers import VectorLayers

if TYPE_CHECKING:
    from medcodi.model.components import ComponentFiles

Values = Tensor | list[str]  # images [B, 1, H, W] in [0, 1], or B texts
STAGES = ("autoencode", "align", "diffuse", "join")


@dataclass(frozen=True)
class KindParts:
    """How a kind of modality is served: one row for each kind."""

    autoencoder: Callable[[ModelConfig, Tokenizers], nn.Module]
    layers: Callable[[tuple[int, ...], UNetConfig], Layers]
    denoiser: Callable[[ModelConfig], UNetConfig]


KIND_PARTS: dict[Kind, KindParts] = {
    "image": KindParts(lambda c, _: c.image_autoencoder.build(c.image_size), ImageLayers, lambda c: c.image_denoiser),
    "text": KindParts(
        lambda c, speak: c.report_autoencoder.build(speak.report, speak.decoder),
        VectorLayers,
        lambda c: c.report_denoiser,
    ),
}


class MedCoDi(nn.Module):
    """The any-to-any generator.

    Attributes:
        config: What fixes its shape.
        tokenizers: Of the text tower and the report autoencoder; one and the same in our own models.
        prompt_encoders: Modality -> shared latent space.
        autoencoders: Kind -> autoencoder of its latent.
        denoisers: Modality -> UNet.
        environment: Modality -> V_m.
        trained_stages: The stages this model has been through, in order.
        files: Where components are read from that have not been needed yet; None for a model made in memory.
        pending: Those components: their parameters are on the meta device.
        home: The device that inputs are made on; None: where the weights are.
    """

    def __init__(self, config: ModelConfig, tokenizers: Tokenizers | ReportTokenizer) -> None:
        super().__init__()
        tokenizers = Tokenizers.one(tokenizers) if isinstance(tokenizers, ReportTokenizer) else tokenizers
        self.config, self.tokenizers = config, tokenizers
        self.files: ComponentFiles | None = None
        self.pending: set[str] = set()
        self.home: torch.device | None = None
        self.trained_stages: tuple[str, ...] = ()
        self.provenance: dict[str, Any] = {}
        self.schedule = config.schedule.build()
        self.prompt_encoders: Any = config.prompt_encoders.build(tokenizers.prompts, image_size=config.image_size)
        kinds: list[Kind] = list(dict.fromkeys(MODALITIES[name].kind for name in config.modalities))
        self.autoencoders = nn.ModuleDict({kind: KIND_PARTS[kind].autoencoder(config, tokenizers) for kind in kinds})
        self.denoisers, self.environment = nn.ModuleDict(), nn.ModuleDict()
        for name in config.modalities:
            parts = KIND_PARTS[MODALITIES[name].kind]
            unet = parts.denoiser(config)
            layers = parts.layers(self.latent_shape(name), unet)
            self.denoisers[name] = UNet(
                layers, unet, context_dim=config.prompt_encoders.embed_dim, environment_dim=config.environment.dim
            )
            self.environment[name] = EnvironmentEncoder(layers, config.environment)

    # ---- parts -------------------------------------------------------------------------------------------------
    @property
    def device(self) -> torch.device:
        """Where the weights are, and inputs are made."""
        if self.home is not None:
            return self.home
        return next((p.device for p in self.parameters() if p.device.type != "meta"), torch.device("cpu"))

    def autoencoder(self, modality: str) -> Any:
        """The autoencoder that serves a modality."""
        kind = MODALITIES[modality].kind
        self.load_components([f"autoencoder_{kind}"])
        return self.autoencoders[kind]

    def latent_shape(self, modality: str) -> tuple[int, ...]:
        """Shape of one diffusion latent of a modality."""
        module: Any = self.autoencoders[MODALITIES[modality].kind]
        return tuple(module.latent_shape)

    def components(self) -> dict[str, nn.Module]:
        """The parts that are saved in files of their own, by name."""
        parts = {
            "prompt_encoders": self.prompt_encoders,
            **{f"autoencoder_{kind}": module for kind, module in self.autoencoders.items()},
            **{f"denoiser_{name}": module for name, module in self.denoisers.items()},
            **{f"environment_{name}": module for name, module in self.environment.items()},
        }
        return {name: inside(module) for name, module in parts.items()}

    def components_for(self, prompts: Iterable[str], targets: Iterable[str]) -> tuple[str, ...]:
        """Names of the components that a direction needs; environment encoders only where targets hear each other."""
        targets = in_table_order(targets)
        kinds = dict.fromkeys(MODALITIES[name].kind for name in targets)
        return (
            "prompt_encoders",
            *(f"autoencoder_{kind}" for kind in kinds),
            *(f"denoiser_{name}" for name in targets),
            *(f"environment_{name}" for name in targets if len(targets) > 1),
        )

    def load_components(self, names: Iterable[str] | None = None) -> None:
        """Read components that are still on disk only (None: all of them); what is there already stays as it is.

        Every method loads what it needs; calling this first makes the wait, and a refusal of damaged files, come first.

        Raises:
            CheckpointError: If a file is missing, damaged, or does not fit the config.
        """
        wanted = [name for name in (self.pending if names is None else names) if name in self.pending]
        if not wanted:
            return
        assert self.files is not None, "components are pending, but there are no files to read them from"
        modules = self.components()
        for name in sorted(wanted):
            with torch.inference_mode(False):  # weights outlive the inference that they are first needed in
                self.files.read_into(modules[name], name)
            self.pending.discard(name)

    def unload_components(self, names: Iterable[str]) -> None:
        """Give the memory of components back; they are read again when they are needed.

        Raises:
            CheckpointError: If this model has no files to read them from again.
        """
        names = set(names)
        if self.files is None:
            raise CheckpointError(
                f"{', '.join(sorted(names))} cannot be unloaded: this model was made in memory",
                expected="a model loaded by from_pretrained",
                fix="save it first and load it again",
            )
        for name, module in self.components().items():
            if name in names:
                empty_parameters(module)
                self.pending.add(name)

    def set_aside(self, names: Iterable[str]) -> None:
        """Take components that are still on disk out of the tree of modules: no engine moves, shares out or saves them.

        They are read when they are needed, as before, and can be unloaded again.
        """
        names = set(names)
        assert names <= self.pending, f"{sorted(names - self.pending)} are in memory, and belong in the tree"
        if "prompt_encoders" in names:
            self.prompt_encoders = _aside(self.prompt_encoders)
        for what, parts in (
            ("autoencoder", self.autoencoders),
            ("denoiser", self.denoisers),
            ("environment", self.environment),
        ):
            for key in list(parts):
                if f"{what}_{key}" in names:
                    parts[key] = _aside(parts[key])

    # ---- latents -----------------------------------------------------------------------------------------------
    def latent(self, modality: str, values: Values, noise: Tensor | None = None) -> Tensor:
        """Values -> diffusion latents ``[B, *latent_shape]``, scaled to about unit variance; ``noise`` None: the mean."""
        return self.autoencoder(modality).latent(values, noise)

    def latent_moments(self, modality: str, values: Values) -> tuple[Tensor, Tensor]:
        """Values -> mean and standard deviation of the scaled latent's posterior, each ``[B, *latent_shape]``."""
        autoencoder = self.autoencoder(modality)
        mean, logvar = autoencoder.encode(values)
        return (mean - autoencoder.shift) * autoencoder.scale, (0.5 * logvar).exp() * autoencoder.scale

    def decode(self, modality: str, z: Tensor) -> Values:
        """Diffusion latents -> images ``[B, 1, H, W]`` in [0, 1], or texts."""
        return self.autoencoder(modality).decode(z)

    # ---- prompts -----------------------------------------------------------------------------------------------
    def encode_prompts(self, modality: str, values: Values) -> PromptEncoding:
        """Values -> shared latent space."""
        self.load_components(["prompt_encoders"])
        return self.prompt_encoders.encode(MODALITIES[modality].kind, values)

    def null_prompts(self, modality: str, batch: int) -> PromptEncoding:
        """The null prompt (empty report, black image), ``batch`` times."""
        self.load_components(["prompt_encoders"])
        return self.prompt_encoders.null(MODALITIES[modality].kind, batch)

    def context(self, encodings: Mapping[str, PromptEncoding], weights: Mapping[str, Tensor]) -> Context:
        """Mix prompts into what the denoisers attend to.

        Args:
            encodings: Modality -> encoding of ``B`` prompts.
            weights: Modality -> ``[B]``, >= 0; 0 is absence. Every row has a positive one.

        Returns:
            One token (``context: pooled``) or all prompts' tokens, ``[B, L, D]``.
        """
        names = in_table_order(encodings)  # so the order of the prompts cannot matter
        chosen = [encodings[name] for name in names]
        stacked = torch.stack([weights[name] for name in names], dim=1).to(chosen[0].pooled.device)
        pooled = [encoding.pooled for encoding in chosen]
        scale = self.config.context_scale
        if self.config.context == "pooled":
            return Context(mix_pooled(pooled, stacked) * scale)
        tokens, log_weight = mix_tokens([e.tokens for e in chosen], [e.mask for e in chosen], stacked)
        return Context(tokens * scale, log_weight)

    def null_context(self, names: Sequence[str], batch: int, weights: Mapping[str, Tensor] | None = None) -> Context:
        """The context of no prompt at all: the null prompts of ``names``, mixed as those prompts would be.

        Args:
            names: The modalities prompted with; empty: every modality of the model.
            batch: Number of rows.
            weights: As for :meth:`context`; None: equal.
        """
        names = list(names) or list(self.config.modalities)
        equal = {name: torch.ones(batch, device=self.device) for name in names}
        return self.context({name: self.null_prompts(name, batch) for name in names}, weights or equal)

    # ---- denoising ---------------------------------------------------------------------------------------------
    def environments(self, latents: Mapping[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        """V_m(z_t^m, t) of every target: unit vectors ``[B, E]``."""
        self.load_components(f"environment_{name}" for name in latents)
        return {
            name: self.environment[name](z.to(dtype_of(self.environment[name])), t).float()
            for name, z in latents.items()
        }

    def denoise(
        self, latents: Mapping[str, Tensor], t: Tensor, context: Context, *, heard: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Predict eps (or v) of every target; with two targets or more, each hears the environments of the others.

        With ``joint_attention: self`` each hears its own instead, which is what the released MedCoDi-M weights were trained with.

        Args:
            latents: Target -> noisy latents ``[B, *latent_shape]``, all at the same ``t``.
            t: Timesteps ``[B]``.
            context: The mixed prompts.
            heard: Environments already computed; empty: the targets do not hear each other; None: compute them.
        """
        self.load_components(f"denoiser_{name}" for name in latents)
        environments = heard if heard is not None else self.environments(latents, t) if len(latents) > 1 else {}
        predictions = {}
        for name, z in latents.items():
            own = self.config.joint_attention == "self"
            spoken = [environments[other] for other in in_table_order(environments) if (other == name) == own]
            environment = Context(torch.stack(spoken, dim=1) * self.config.environment_scale) if spoken else None
            dtype = dtype_of(self.denoisers[name])
            heeded = environment.to(dtype) if environment is not None else None
            predictions[name] = self.denoisers[name](z.to(dtype), t, context.to(dtype), heeded).to(z.dtype)
        return predictions

    # ---- identity, saving, loading -------------------------------------------------------------------------------
    def fingerprint(self, parts: Iterable[str] | None = None) -> str:
        """SHA-256 over names and bytes of all weights (or of the named components'), as hexadecimal."""
        chosen = self.components()
        names = sorted(chosen if parts is None else parts)
        self.load_components(names)
        digest = hashlib.sha256()
        for part in names:
            for name, value in sorted(chosen[part].state_dict().items()):
                digest.update(f"{part}.{name}".encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def identity(self) -> str:
        """What names this model in provenance: a SHA-256 over its files' hashes, or :meth:`fingerprint` if it has none."""
        return self.fingerprint() if self.files is None else self.files.identity()

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write a model folder; see :func:`medcodi.model.files.save_model`."""
        from medcodi.model.files import save_model

        return save_model(self, folder, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        lazy: bool = False,
    ) -> MedCoDi:
        """Load a model folder, or a hub repository; see :func:`medcodi.model.files.load_model`."""
        from medcodi.model.files import load_model

        return load_model(source, device=device, dtype=dtype, lazy=lazy)


def dtype_of(module: nn.Module) -> torch.dtype:
    """Precision of a module's weights."""
    return next(inside(module).parameters()).dtype


def _aside(module: nn.Module) -> nn.Module:
    return module if isinstance(module, Aside) else Aside(module.requires_grad_(False))


def empty_parameters(module: nn.Module) -> None:
    """Put a module's parameters on the meta device, where they need no memory; buffers stay."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad))


def build_model(config: ModelConfig, texts: Sequence[str], *, seed: int = 0) -> MedCoDi:
    """A fresh model with random weights and a tokenizer trained on ``texts``; the same for the same seed and texts."""
    tokenizer = ReportTokenizer.train(texts, vocab_size=config.vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MedCoDi(config, tokenizer)


def tiny_model(seed: int = 0, **changes: Any) -> MedCoDi:
    """A model of :func:`tiny_config` with random weights and a tokenizer trained on phantom reports."""
    from medcodi.data.sources.phantom import phantom_report

    texts = [phantom_report(seed=0, index=index) for index in range(64)]
    return build_model(tiny_config(**changes), texts, seed=seed)
