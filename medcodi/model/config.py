"""Everything that fixes the shape of a model, and how it generates best."""

from __future__ import annotations

from typing import Any, Literal

from medcodi.config import config
from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.modality import MODALITIES, in_table_order
from medcodi.networks.environment import EnvironmentConfig
from medcodi.networks.image_autoencoder import ImageAutoencoderConfig
from medcodi.networks.prompt_encoders import ImageTowerConfig, PromptEncodersConfig, TextTowerConfig
from medcodi.networks.report_autoencoder import ReportAutoencoderConfig
from medcodi.networks.unet import UNetConfig


@config
class GenerationDefaults:
    """How this model generates best; every call may say otherwise."""

    sampler: str = "ddim"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    joint_guidance_scale: float = 1.0  # of targets generated together without a prompt; 1 is the paper


@config
class ModelConfig:
    """Everything that fixes the shape of a model."""

    name: str
    image_size: int
    vocab_size: int = 2048
    modalities: tuple[str, ...] = tuple(MODALITIES)
    context: Literal["pooled", "tokens"] = "tokens"
    context_scale: float = 1.0  # the unit-norm encodings are multiplied by it; 1 is the paper
    environment_scale: float = 1.0  # so are the unit-norm environment vectors, before the other denoisers hear them
    prompt_encoders: PromptEncodersConfig
    image_autoencoder: ImageAutoencoderConfig
    report_autoencoder: ReportAutoencoderConfig
    image_denoiser: UNetConfig
    report_denoiser: UNetConfig
    environment: EnvironmentConfig
    joint_attention: Literal["others", "self"] = (
        "others"  # self: each denoiser hears its own V alone, as the released weights do
    )
    schedule: NoiseScheduleConfig = NoiseScheduleConfig()
    generation: GenerationDefaults = GenerationDefaults()

    def __post_init__(self) -> None:
        if tuple(self.modalities) != in_table_order(self.modalities):
            raise ValueError(
                f"modalities {self.modalities} are not in table order, or doubled: expected {in_table_order(self.modalities)}"
            )


def tiny_config(**changes: Any) -> ModelConfig:
    """The smallest model made of the real classes, for tests and dry runs: 32 x 32 images, seconds on a CPU."""
    unet = UNetConfig(
        base_channels=16, multipliers=(1, 2), num_res_blocks=1, attention_levels=(0, 1), num_heads=2, num_groups=8
    )
    sizes: dict[str, Any] = {
        "name": "tiny",
        "image_size": 32,
        "vocab_size": 512,
        "prompt_encoders": PromptEncodersConfig(
            embed_dim=32,
            image=ImageTowerConfig(patch_size=8, width=32, layers=1, heads=2, stem="conv"),
            text=TextTowerConfig(context_length=96, width=32, layers=1, heads=2),
        ),
        "image_autoencoder": ImageAutoencoderConfig(channels=(8, 16, 16)),
        "report_autoencoder": ReportAutoencoderConfig(
            latent_dim=32, width=32, encoder_layers=1, decoder_layers=1, heads=2, max_length=96
        ),
        "image_denoiser": unet,
        "report_denoiser": unet,
        "environment": EnvironmentConfig(dim=16, base_channels=8, multipliers=(1, 2)),
        "generation": GenerationDefaults(sampler="ddim", num_inference_steps=4, guidance_scale=2.0),
    }
    return ModelConfig(**{**sizes, **changes})
