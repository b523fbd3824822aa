"""The config of a model: everything that fixes its shape, and how it generates best."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from medcodi.config import Count, Finite, config
from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.diffusion.sampling import check_sampler
from medcodi.errors import PromptError
from medcodi.modality import MODALITIES, STANDARD, in_table_order
from medcodi.model.generation_config import SAMPLING_FIELDS, GenerationConfig, with_new_names
from medcodi.networks.environment import EnvironmentConfig
from medcodi.networks.image_autoencoder import ImageAutoencoderConfig
from medcodi.networks.prompt_encoders import ImageTowerConfig, PromptEncodersConfig, TextTowerConfig
from medcodi.networks.records import RecordAutoencoderConfig, RecordTowerConfig
from medcodi.networks.report_autoencoder import ReportAutoencoderConfig
from medcodi.networks.unet import UNetConfig
from medcodi.record import RecordConfig

PAPER = GenerationConfig(
    sampler="ddim", num_inference_steps=50, guidance_scale=7.5, environment_guidance_scale=1.0, order="joint"
)


def _own_values(generation: GenerationConfig) -> GenerationConfig:
    """A model's own generation config: complete, because it is what a request falls back to."""
    if not generation.joint:
        raise ValueError("joint: false is a choice of a request, not of a model")
    if generation.weak is not None:
        raise ValueError("weak is a choice of a request, not of a model")
    return generation.filled_by(PAPER)


def _stored_values(generation: GenerationConfig) -> dict[str, Any]:
    values = {name: getattr(generation, name) for name in SAMPLING_FIELDS}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None
    }


def _written_by_any_version(values: Any) -> Any:
    """The values of a model's file under today's keys; a file of an older version needs no notice."""
    return with_new_names(values) if isinstance(values, dict) else values


@config
class RecordModelConfig(RecordConfig):
    """The fields of a model's records, and the size of the parts that serve them."""

    tower: RecordTowerConfig = RecordTowerConfig()  # prompt tower
    autoencoder: RecordAutoencoderConfig = RecordAutoencoderConfig()  # record <-> latent vector
    denoiser: UNetConfig  # of the latent vector


@config
class StudentConfig:
    """Students of a model, which stage ``distil`` adds: changes of its denoisers' weights for few steps without guidance."""

    steps: Count  # of DDIM, on trailing timesteps; a student can take no other number
    rank: Count  # of the change of each weight
    guidance_scale: Finite  # of the denoisers it was trained towards


@config
class ModelConfig:
    """Everything that fixes the shape of a model."""

    recipes: ClassVar[str] = "models"  # folder of configs/ with recipes for this config

    name: str  # of the model, in tables and provenance
    image_size: int  # pixels a side of its images
    vocab_size: int = 2048  # words of a fresh model's tokenizer
    modalities: tuple[str, ...] = STANDARD  # in the order of the table of modalities
    # what denoisers attend to: one pooled vector of each prompt, or all its tokens
    context: Literal["pooled", "tokens"] = "tokens"
    context_scale: Finite = 1.0  # the unit-norm encodings are multiplied by it; 1 is the paper
    environment_scale: Finite = 1.0  # so are the unit-norm environment vectors, before the other denoisers hear them
    prompt_encoders: PromptEncodersConfig
    image_autoencoder: ImageAutoencoderConfig
    report_autoencoder: ReportAutoencoderConfig
    image_denoiser: UNetConfig
    report_denoiser: UNetConfig
    environment: EnvironmentConfig
    # Of a model with records; left out of the stored config otherwise, so that models without keep their identity.
    record: Annotated[RecordModelConfig | None, Field(exclude_if=lambda value: value is None)] = None
    # Of a model with students; left out otherwise, for the same reason.
    student: Annotated[StudentConfig | None, Field(exclude_if=lambda value: value is None)] = None
    # self: each denoiser hears its own V alone, as the released weights do
    joint_attention: Literal["others", "self"] = "others"
    schedule: NoiseScheduleConfig = NoiseScheduleConfig()
    # How this model generates best; a request may set any of it.
    generation: Annotated[
        GenerationConfig,
        BeforeValidator(_written_by_any_version),
        AfterValidator(_own_values),
        PlainSerializer(_stored_values),
    ] = PAPER

    def __post_init__(self) -> None:
        if tuple(self.modalities) != in_table_order(self.modalities):
            raise ValueError(
                f"modalities {self.modalities} are not in table order, or one occurs twice: expected {in_table_order(self.modalities)}"
            )
        if (self.record is None) == any(MODALITIES[name].kind == "table" for name in self.modalities):
            raise ValueError(
                "the modality record needs the key record (its fields and sizes), and the key that modality"
            )
        if self.environment.kind == "features" and self.joint_attention == "self":
            raise ValueError(
                "joint_attention: self with environment: {kind: features}: a denoiser has its own features already"
            )
        self._check_latent_size()
        self._check_sampler()

    @property
    def records(self) -> RecordModelConfig:
        """:attr:`record` of a model that has the modality."""
        assert self.record is not None
        return self.record

    def _check_sampler(self) -> None:
        """Refuse a sampler of its own that is not for what its denoisers predict."""
        assert self.generation.sampler is not None
        try:
            check_sampler(self.generation.sampler, self.schedule.prediction_type)
        except PromptError as error:
            raise ValueError(f"generation: {error}") from None

    def _check_latent_size(self) -> None:
        """Refuse an image latent that the image denoiser cannot halve at each step down (the way up doubles it again)."""
        factor, num_halvings = self.image_autoencoder.factor, len(self.image_denoiser.multipliers) - 1
        if not any(MODALITIES[name].kind == "image" for name in self.modalities) or self.image_size % factor:
            return  # the image autoencoder refuses an image size that is no multiple of its factor
        side = self.image_size // factor
        if side % 2**num_halvings:
            raise ValueError(
                f"the image latent of {side} x {side} (image_size {self.image_size} / {factor}) cannot be halved {num_halvings} "
                f"times, as image_denoiser.multipliers {self.image_denoiser.multipliers} need: give an image_size that is a "
                f"multiple of {factor * 2**num_halvings}, or fewer multipliers"
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
        "generation": GenerationConfig(sampler="ddim", num_inference_steps=4, guidance_scale=2.0),
    }
    return ModelConfig(**{**sizes, **changes})
