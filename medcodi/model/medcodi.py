"""MedCoDi: prompt encoders, autoencoders, denoisers and environment encoders, assembled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcodi.diffusion.objective import Schedule
from medcodi.diffusion.prompts import mix_pooled, mix_tokens
from medcodi.modality import MODALITIES, Kind, in_table_order
from medcodi.model.components import LazyComponents, unwrapped
from medcodi.model.config import ModelConfig, StudentConfig
from medcodi.model.files import load_model, save_model
from medcodi.model.generation_config import WeakModelConfig
from medcodi.model.identity import check_weak, model_sha256, weights_sha256
from medcodi.model.low_rank import LowRank, Weights, call_with
from medcodi.model.threads import ModelLock
from medcodi.networks.attention import Context
from medcodi.networks.environment import EnvironmentConfig, EnvironmentEncoder
from medcodi.networks.hearing import Connectors, lockstep
from medcodi.networks.image_layers import ImageLayers
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.networks.tokenizer import ReportTokenizer, Tokenizers
from medcodi.networks.unet import Layers, UNet, UNetConfig
from medcodi.networks.vector_layers import VectorLayers
from medcodi.record import RecordValue

Values = Tensor | list[str] | list[dict[str, RecordValue]]  # images [B, 1, H, W] in [0, 1], B texts, or B records
Times = Tensor | Mapping[str, Tensor]  # timesteps [B] that all targets share, or target -> its own [B]
STAGES = ("autoencode", "align", "diffuse", "join")  # that every model goes through; "distil" may follow


@dataclass(frozen=True)
class KindParts:
    """The parts that serve one kind of modality."""

    autoencoder: Callable[[ModelConfig, Tokenizers], nn.Module]
    layers: Callable[[tuple[int, ...], UNetConfig], Layers]
    denoiser: Callable[[ModelConfig], UNetConfig]


KIND_PARTS: dict[Kind, KindParts] = {
    "image": KindParts(lambda c, _: c.image_autoencoder.build(c.image_size), ImageLayers, lambda c: c.image_denoiser),
    "text": KindParts(
        lambda c, t: c.report_autoencoder.build(t.report, t.decoder), VectorLayers, lambda c: c.report_denoiser
    ),
    "table": KindParts(lambda c, _: c.records.autoencoder.build(c.records), VectorLayers, lambda c: c.records.denoiser),
}


class MedCoDi(LazyComponents):
    """The any-to-any generator; the comments in ``__init__`` describe its attributes."""

    def __init__(self, config: ModelConfig, tokenizers: Tokenizers | ReportTokenizer) -> None:
        super().__init__()
        tokenizers = Tokenizers.one(tokenizers) if isinstance(tokenizers, ReportTokenizer) else tokenizers
        self.config, self.tokenizers = config, tokenizers
        self.trained_stages: tuple[str, ...] = ()  # in order
        self.provenance: dict[str, Any] = {}  # where the weights come from
        self.lock = ModelLock()  # held by the thread that runs the model
        self.home: torch.device | None = None  # the device that inputs are made on; None: that of the weights

        # Prompt encoders (modality -> shared latent space); an autoencoder for each kind.
        record = config.record and (config.record.tower, config.record)
        self.prompt_encoders: Any = config.prompt_encoders.build(tokenizers.prompts, config.image_size, record)
        kinds: list[Kind] = list(dict.fromkeys(MODALITIES[name].kind for name in config.modalities))
        self.autoencoders = nn.ModuleDict({kind: KIND_PARTS[kind].autoencoder(config, tokenizers) for kind in kinds})

        # For each modality a denoiser, and what hears the others: an environment encoder V_m, or connectors to their maps.
        self.denoisers, self.environment = nn.ModuleDict(), nn.ModuleDict()
        for name in config.modalities:
            parts = KIND_PARTS[MODALITIES[name].kind]
            unet = parts.denoiser(config)
            layers = parts.layers(self.latent_shape(name), unet)
            by_vector = config.environment.kind == "vector"
            self.denoisers[name] = UNet(
                layers,
                unet,
                context_dim=config.prompt_encoders.embed_dim,
                environment_dim=config.environment.dim if by_vector else None,
            )
            if by_vector:
                self.environment[name] = EnvironmentEncoder(layers, config.environment)
        if config.environment.kind == "features":
            self.environment.update(self.fresh_connectors())

        # For each denoiser the changes of its weights by which it generates in few steps.
        self.students = nn.ModuleDict()
        if config.student is not None:
            self.add_students(config.student)

    @cached_property
    def schedule(self) -> Schedule:
        """The forward process. Built at first use: that of velocities cannot be among fake tensors, with which a run's cost is counted."""
        return self.config.schedule.build()

    def add_students(self, config: StudentConfig) -> None:
        """Give every denoiser a fresh student, which changes nothing yet; a model that has students of this config keeps them."""
        if self.students and self.config.student == config:
            return
        self.config = replace(self.config, student=config)
        self.pending -= {f"student_{name}" for name in self.denoisers}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same on all ranks
            self.students.update({name: LowRank(denoiser, config.rank) for name, denoiser in self.denoisers.items()})

    def fresh_connectors(self) -> dict[str, Connectors]:
        """Modality -> connectors of its denoiser to the others, untrained (``environment: {kind: features}``)."""
        maps = {name: denoiser.shared_maps for name, denoiser in self.denoisers.items()}
        sizes = {name: KIND_PARTS[MODALITIES[name].kind].denoiser(self.config) for name in maps}
        return {name: Connectors(name, maps, num_heads=sizes[name].num_heads) for name in maps}  # pyright: ignore

    # ---- components --------------------------------------------------------------------------------------------
    @property
    def device(self) -> torch.device:
        """The device that inputs are made on."""
        return self.home or next((p.device for p in self.parameters() if p.device.type != "meta"), torch.device("cpu"))

    def autoencoder(self, modality: str) -> Any:
        """The autoencoder that serves a modality."""
        kind = MODALITIES[modality].kind
        self.load_components([f"autoencoder_{kind}"])
        return self.autoencoders[kind]

    def latent_shape(self, modality: str) -> tuple[int, ...]:
        """Shape of one diffusion latent of a modality, without the batch."""
        return tuple(self.autoencoders[MODALITIES[modality].kind].latent_shape)  # pyright: ignore[reportArgumentType]

    def components(self) -> dict[str, nn.Module]:
        """Name -> component; each is saved in a file of its own."""
        parts = {
            "prompt_encoders": self.prompt_encoders,
            **{f"autoencoder_{kind}": module for kind, module in self.autoencoders.items()},
            **{f"denoiser_{name}": module for name, module in self.denoisers.items()},
            **{f"environment_{name}": module for name, module in self.environment.items()},
            **{f"student_{name}": module for name, module in self.students.items()},
        }
        return {name: unwrapped(module) for name, module in parts.items()}

    def components_for(
        self, prompts: Iterable[str], targets: Iterable[str], *, student: bool = False
    ) -> tuple[str, ...]:
        """Names of the components that a direction needs; ``environment_*`` only if targets hear each other, which students do not."""
        targets = in_table_order(targets)
        kinds = dict.fromkeys(MODALITIES[name].kind for name in targets)
        return (
            "prompt_encoders",
            *(f"autoencoder_{kind}" for kind in kinds),
            *(f"denoiser_{name}" for name in targets),
            *(f"environment_{name}" for name in targets if len(targets) > 1 and not student),
            *(f"student_{name}" for name in targets if student),
        )

    # ---- latents -----------------------------------------------------------------------------------------------
    def latent(self, modality: str, values: Values, noise: Tensor | None = None) -> Tensor:
        """Values -> diffusion latents ``[B, *latent_shape]`` of about unit variance; ``noise`` None: the posterior's mean."""
        return self.autoencoder(modality).latent(values, noise)

    def latent_moments(self, modality: str, values: Values) -> tuple[Tensor, Tensor]:
        """Values -> mean and standard deviation of the latent's posterior, each ``[B, *latent_shape]``."""
        autoencoder = self.autoencoder(modality)
        mean, logvar = autoencoder.encode(values)
        return (mean - autoencoder.shift) * autoencoder.factors, (0.5 * logvar).exp() * autoencoder.factors

    def decode(self, modality: str, z: Tensor) -> Values:
        """Diffusion latents -> images ``[B, 1, H, W]`` in [0, 1], texts, or records."""
        return self.autoencoder(modality).decode(z)

    # ---- prompts -----------------------------------------------------------------------------------------------
    def encode_prompts(self, modality: str, values: Values) -> PromptEncoding:
        """Values -> shared latent space."""
        self.load_components(["prompt_encoders"])
        return self.prompt_encoders.encode(MODALITIES[modality].kind, values)

    def null_prompts(self, modality: str, batch: int) -> PromptEncoding:
        """``batch`` times the null prompt (empty report, black image)."""
        self.load_components(["prompt_encoders"])
        return self.prompt_encoders.null(MODALITIES[modality].kind, batch)

    def context(self, encodings: Mapping[str, PromptEncoding], weights: Mapping[str, Tensor]) -> Context:
        """Mix prompts into the context that the denoisers attend to: one token, or all prompts' tokens, ``[B, L, D]``.

        Args:
            encodings: Modality -> encoding of ``B`` prompts.
            weights: Modality -> ``[B]``, >= 0; 0 is absence. Every row has a positive one.
        """
        names = in_table_order(encodings)  # whatever the order of the prompts
        ordered = [encodings[name] for name in names]
        stacked = torch.stack([weights[name] for name in names], dim=1).to(ordered[0].pooled.device)  # [B, M]
        scale = self.config.context_scale
        # pooled: c = sum of w_m c_m / sum of w_m; tokens: each token is attended to by its prompt's weight.
        if self.config.context == "pooled":
            return Context(mix_pooled([e.pooled for e in ordered], stacked) * scale)
        tokens, log_weight = mix_tokens([e.tokens for e in ordered], [e.mask for e in ordered], stacked)
        return Context(tokens * scale, log_weight)

    def null_context(self, names: Sequence[str], batch: int) -> Context:
        """The context of the null prompts of some modalities, equally weighted."""
        ones = torch.ones(batch, device=self.device)
        return self.context({name: self.null_prompts(name, batch) for name in names}, dict.fromkeys(names, ones))

    # ---- denoising ---------------------------------------------------------------------------------------------
    def environments(self, latents: Mapping[str, Tensor], t: Times) -> dict[str, Tensor]:
        """V_m(z_t^m, t_m) of every target: unit vectors ``[B, E]``."""
        self.load_components(f"environment_{name}" for name in latents)
        times = _times_of(latents, t)
        return {
            name: self.environment[name](z.to(_dtype_of(self.environment[name])), times[name]).float()
            for name, z in latents.items()
        }

    def denoise(
        self,
        latents: Mapping[str, Tensor],
        t: Times,
        context: Context,
        *,
        heard: Mapping[str, Tensor] | None = None,
        weights: Mapping[str, Weights] | None = None,
    ) -> dict[str, Tensor]:
        """Predict eps, v or velocity of every target; several targets hear each other: environment vectors, or feature maps.

        Args:
            latents: Target -> noisy latents ``[B, *latent_shape]``.
            t: Timesteps ``[B]`` of all targets, or target -> its own.
            context: The mixed prompts.
            heard: Environment vectors ``[B, E]``; empty: the targets do not hear each other; None: computed from ``latents``.
            weights: Target -> weights in place of its denoiser's, from :meth:`student_weights`; only where nothing is heard.
        """
        self.load_components(f"denoiser_{name}" for name in latents)
        times = _times_of(latents, t)
        if self.config.environment.kind == "features" and heard is None and len(latents) > 1:
            return self._denoise_in_lockstep(latents, times, context)
        assert self.config.environment.kind == "vector" or not heard, "feature maps are heard in lockstep only"
        environments = heard if heard is not None else self.environments(latents, times) if len(latents) > 1 else {}
        predictions = {}
        for name, z in latents.items():
            # The environments that this denoiser hears, [B, K, E]: the others', or with joint_attention: self its own.
            own = self.config.joint_attention == "self"
            vectors = [environments[other] for other in in_table_order(environments) if (other == name) == own]
            environment = Context(torch.stack(vectors, dim=1) * self.config.environment_scale) if vectors else None
            # Run it in the precision of its weights.
            dtype = _dtype_of(self.denoisers[name])
            environment = environment.to(dtype) if environment is not None else None
            inputs = z.to(dtype), times[name], context.to(dtype), environment
            predictions[name] = call_with(self.denoisers[name], (weights or {}).get(name), *inputs).to(z.dtype)
        return predictions

    def student_weights(self, names: Iterable[str]) -> dict[str, Weights]:
        """Target -> the weights with which its denoiser generates in few steps, without guidance."""
        names = list(names)
        self.load_components(f"{part}_{name}" for part in ("denoiser", "student") for name in names)
        return {name: self.students[name].weights(self.denoisers[name]) for name in names}  # pyright: ignore

    def _denoise_in_lockstep(
        self, latents: Mapping[str, Tensor], times: Mapping[str, Tensor], context: Context
    ) -> dict[str, Tensor]:
        """As :meth:`denoise`, block by block: the denoisers hear each other's feature maps."""
        self.load_components(f"environment_{name}" for name in latents)
        names = in_table_order(latents)  # whatever the order of the targets
        denoisers: dict[str, Any] = {name: self.denoisers[name] for name in names}
        passes = {}
        for name in names:
            dtype = _dtype_of(denoisers[name])
            passes[name] = denoisers[name].begin(latents[name].to(dtype), times[name], context.to(dtype))
        predictions = lockstep(denoisers, passes, {name: self.environment[name] for name in names})
        return {name: predictions[name].to(z.dtype) for name, z in latents.items()}

    # ---- identity, saving, loading -------------------------------------------------------------------------------
    def identity(self) -> str:
        """The :func:`~medcodi.model.identity.model_sha256` that names this model everywhere."""
        return model_sha256(self)

    def checked_identity_of(self, weak: WeakModelConfig) -> str:
        """The identity of a weak model that may guide this one, or the refusals of :func:`~medcodi.model.identity.check_weak`."""
        return check_weak(self, weak)

    def fingerprint(self, components: Iterable[str] | None = None) -> str:
        """SHA-256 over names and bytes of the weights of some components (None: all), which are loaded."""
        names = list(self.components() if components is None else components)
        with self.lock:
            self.load_components(names)
            return weights_sha256(self.components(), names)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write a model folder, as :func:`medcodi.model.files.save_model` does, and its card."""
        from medcodi.model.card import CARD, model_card, write_card

        with self.lock:  # not while another thread runs it in another precision
            saved = save_model(self, folder, dtype=dtype)
        write_card(model_card(saved), saved / CARD)
        return saved

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = True,
        attested_by: str | None = None,
        evaluation: str | Path | None = None,
        audit: str | Path | None = None,
    ) -> str:
        """Upload it with its card, as :func:`medcodi.model.hub.push_to_hub` does."""
        from medcodi.model.hub import push_to_hub

        return push_to_hub(
            self, repository, private=private, attested_by=attested_by, evaluation=evaluation, audit=audit
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        lazy: bool = False,
        environment: EnvironmentConfig | None = None,
    ) -> MedCoDi:
        """Load a model folder or a hub repository, as :func:`medcodi.model.files.load_model` does."""
        return load_model(cls, source, device=device, dtype=dtype, lazy=lazy, environment=environment)


def _dtype_of(module: nn.Module) -> torch.dtype:
    return next(unwrapped(module).parameters()).dtype


def _times_of(latents: Mapping[str, Tensor], t: Times) -> Mapping[str, Tensor]:
    """Target -> timesteps ``[B]``."""
    return dict.fromkeys(latents, t) if isinstance(t, Tensor) else t
