"""The networks that benchmarks compare: ours and those of ``diffusers`` of the same configuration, with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel

from measuring import fill
from medcodi.config import load
from medcodi.data.sources.phantom import phantom_report
from medcodi.generation.pipeline import generate_batch
from medcodi.model import STAGES, MedCoDi, ModelConfig
from medcodi.model.components import component_specs, write_weights
from medcodi.model.files import write_index
from medcodi.model.generation_config import GenerationConfig
from medcodi.networks.attention import Context
from medcodi.networks.image_layers import ImageLayers
from medcodi.networks.tokenizer import ReportTokenizer
from medcodi.networks.unet import UNet
from medcodi.stages.dry_run import Operations

MODELS = Path(__file__).parents[2] / "configs/models"
SIZES: dict[str, tuple[Path, list[str]]] = {
    "full": (MODELS / "medcodi-m.yaml", []),
    "mid": (
        MODELS / "medcodi-m.yaml",
        [
            "name=mid",
            "prompt_encoders.embed_dim=512",
            "prompt_encoders.image.layers=1",  # not used here
            "prompt_encoders.text.width=512",
            "prompt_encoders.text.layers=6",
            "prompt_encoders.text.heads=8",
            "image_autoencoder.channels=[64, 128, 256, 256]",
            "image_denoiser.base_channels=128",
        ],
    ),
    "tiny": (MODELS / "tiny.yaml", []),
}
PROMPT, TARGET, GUIDANCE = "report", "frontal", 7.5
FILM_COMPONENTS = ("prompt_encoders", "autoencoder_image", "denoiser_frontal")  # of a report to a frontal


def model_config(size: str) -> ModelConfig:
    """The configuration of a size."""
    return load(ModelConfig, *SIZES[size])


# ---- ours --------------------------------------------------------------------------------------------------------
def our_model(config: ModelConfig, components: Iterable[str], device: str, dtype: torch.dtype) -> MedCoDi:
    """With random weights in some components; the others have no memory, and leave the module tree."""
    components = set(components)
    tokenizer = ReportTokenizer.train([phantom_report(seed=0, index=index) for index in range(64)], vocab_size=2048)
    with init_empty_weights(include_buffers=False):
        model = MedCoDi(config, tokenizer)
    for name in components:
        fill(model.components()[name], device=device, dtype=dtype)
    model.trained_stages = STAGES
    model.pending = set(model.components()) - components
    model.hide_components(model.pending)
    return model.eval()


def write_folder(config: ModelConfig, components: Iterable[str], folder: Path) -> None:
    """A model folder of random weights in bfloat16, one component in memory at a time; the others are named in its index only."""
    components = set(components)
    tokenizer = ReportTokenizer.train([phantom_report(seed=0, index=index) for index in range(64)], vocab_size=2048)
    with init_empty_weights(include_buffers=False):
        model = MedCoDi(config, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, dict[str, Any]] = {}
    for name, module in model.components().items():
        count = sum(parameter.numel() for parameter in module.parameters())
        entries[name] = {"file": f"{name}.safetensors", "sha256": "0" * 64, "num_parameters": count}
        if name in components:
            state = fill(module, dtype=torch.bfloat16).state_dict()
            specs = component_specs(module, torch.bfloat16)
            entries[name] |= write_weights(folder / f"{name}.safetensors", specs, state.__getitem__)
            del state
            module.to("meta")
    write_index(folder, config, model.tokenizers, entries, trained_stages=STAGES, provenance={"weights": "random"})


def our_denoiser(config: ModelConfig, device: str = "meta") -> nn.Module:
    """Of images, by default on the meta device, without the layers through which targets hear each other."""
    side = config.image_size // config.image_autoencoder.factor
    shape, unet = (config.image_autoencoder.latent_channels, side, side), config.image_denoiser
    with torch.device(device):
        return UNet(ImageLayers(shape, unet), unet, context_dim=config.prompt_encoders.embed_dim, environment_dim=None)


def denoiser_inputs(config: ModelConfig, batch: int, tokens: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Latents ``[B, C, H, W]``, timesteps ``[B]`` and prompts' tokens ``[B, L, D]``."""
    generator = torch.Generator().manual_seed(0)
    side = config.image_size // config.image_autoencoder.factor
    z = torch.randn(batch, config.image_autoencoder.latent_channels, side, side, generator=generator)
    prompts = torch.randn(batch, tokens, config.prompt_encoders.embed_dim, generator=generator)
    return z.to(device), torch.full((batch,), 500, device=device), prompts.to(device)


def context(tokens: Tensor) -> Context:
    """Context of one or several tokens, as generation makes it: logit offsets for several, projections kept from step to step."""
    several = tokens.shape[1] > 1
    return Context(tokens, torch.zeros(tokens.shape[:2], device=tokens.device) if several else None).remembering()


@lru_cache(maxsize=32)
def operations(config: ModelConfig, batch: int, tokens: int, *, backward: bool = False) -> float:
    """Floating-point operations of our image denoiser, one pass, or both; nothing is computed."""
    with torch.inference_mode(False), torch.set_grad_enabled(backward), FakeTensorMode():
        network = our_denoiser(config, "cpu")
        side = config.image_size // config.image_autoencoder.factor
        z = torch.zeros(batch, config.image_autoencoder.latent_channels, side, side)
        prompts = torch.zeros(batch, tokens, config.prompt_encoders.embed_dim)
        heard = Context(prompts, torch.zeros(prompts.shape[:2]) if tokens > 1 else None)
        with Operations() as counted:
            out = network(z, torch.zeros(batch, dtype=torch.long), heard)
            if backward:
                out.sum().backward()
    return float(counted.total)


def our_films(model: MedCoDi, batch: int, sampler: str, steps: int) -> np.ndarray:
    """Films of ``batch`` reports."""
    settings = GenerationConfig(sampler=sampler, num_inference_steps=steps, guidance_scale=GUIDANCE)
    prompts = [{PROMPT: phantom_report(seed=0, index=index)} for index in range(batch)]
    results = generate_batch(model, prompts, [TARGET], list(range(batch)), settings)
    films = np.stack([np.asarray(result[TARGET]) for result in results])
    assert np.isfinite(films).all()
    return films


# ---- theirs ------------------------------------------------------------------------------------------------------
def their_denoiser(config: ModelConfig, context_dim: int | None = None) -> UNet2DConditionModel:
    """The same shape in ``diffusers``, on the meta device."""
    unet = config.image_denoiser
    attends = [level in unet.attention_levels for level in range(len(unet.multipliers))]
    with init_empty_weights(include_buffers=False):
        return UNet2DConditionModel(
            sample_size=config.image_size // config.image_autoencoder.factor,
            in_channels=config.image_autoencoder.latent_channels,
            out_channels=config.image_autoencoder.latent_channels,
            down_block_types=tuple("CrossAttnDownBlock2D" if level else "DownBlock2D" for level in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if level else "UpBlock2D" for level in reversed(attends)),
            block_out_channels=tuple(unet.base_channels * multiplier for multiplier in unet.multipliers),
            layers_per_block=unet.num_res_blocks,
            norm_num_groups=unet.num_groups,
            attention_head_dim=unet.num_heads,
            cross_attention_dim=context_dim or config.prompt_encoders.embed_dim,
        )


def their_text_encoder(config: ModelConfig) -> nn.Module:
    """CLIP's text model of the size of our text tower, on the meta device."""
    text = config.prompt_encoders.text
    shape = CLIPTextConfig(
        vocab_size=text.vocab_size or 2048,
        hidden_size=text.width,
        intermediate_size=4 * text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        max_position_embeddings=text.context_length,
    )
    with init_empty_weights(include_buffers=False):
        return CLIPTextModel(shape)


def their_autoencoder(config: ModelConfig) -> nn.Module:
    """``AutoencoderKL`` of the size of ours, on the meta device; of an autoencoder on patches, behind the patches."""
    image = config.image_autoencoder
    levels, channels = len(image.channels), image.in_channels * image.patch_size**2
    with init_empty_weights(include_buffers=False):
        return AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=image.channels,
            layers_per_block=image.layers_per_block,
            latent_channels=image.latent_channels,
            norm_num_groups=image.norm_num_groups,
            sample_size=config.image_size,
        )


def their_pipeline(config: ModelConfig, device: str, dtype: torch.dtype) -> StableDiffusionPipeline:
    """``StableDiffusionPipeline`` without a safety checker, from components of the same configuration."""
    schedule = config.schedule
    text_encoder, vae = their_text_encoder(config), their_autoencoder(config)
    network = their_denoiser(config, config.prompt_encoders.text.width)
    for part in (text_encoder, vae, network):
        fill(part, device=device, dtype=dtype)
    scheduler = DDIMScheduler(
        num_train_timesteps=schedule.num_train_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    absent: dict[str, Any] = {"tokenizer": None, "safety_checker": None, "feature_extractor": None}
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, unet=network, scheduler=scheduler, requires_safety_checker=False, **absent
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def their_films(pipeline: StableDiffusionPipeline, config: ModelConfig, batch: int, steps: int) -> np.ndarray:
    """Images of ``batch`` prompts of full length."""
    length = config.prompt_encoders.text.context_length
    ids = torch.randint(1, 500, (2, length), generator=torch.Generator().manual_seed(0))
    prompt, null = pipeline.text_encoder(ids.to(pipeline.text_encoder.device))[0].chunk(2)
    made: Any = pipeline(
        prompt_embeds=prompt.expand(batch, -1, -1),
        negative_prompt_embeds=null.expand(batch, -1, -1),
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        height=config.image_size,
        width=config.image_size,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    )
    return made.images
