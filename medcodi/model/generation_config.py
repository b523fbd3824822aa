"""How to sample: sampler, steps, guidance, order of the targets, presets. A model, a request, an evaluation and a reader study hold the same class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import ArgsKwargs

from medcodi.config import Finite, config
from medcodi.errors import PromptError, one_of
from medcodi.modality import in_table_order, modality

if TYPE_CHECKING:
    from medcodi.model.config import ModelConfig
    from medcodi.model.medcodi import MedCoDi

# The orders in which several targets are generated.
ORDERS = {
    "joint": "all targets at one t, each hears the others",
    "staggered": "each target at its own t, some steps after the one before it; each hears the others",
    "chained": "one target after the other; what is finished is a prompt of the next",
}
# The values that a preset, a model and a request may each give; the first that is not None counts.
SAMPLING_FIELDS = (
    "sampler", "num_inference_steps", "guidance_scale", "environment_guidance_scale", "order", "sequence", "lag",
)  # fmt: skip
MIN_WATERMARKED_SIDE = 64  # pixels: the band of the watermark needs 52
RENAMED = {"joint_guidance_scale": "environment_guidance_scale"}  # keys of version 0.1, which are still read
# Chosen by measurement: docs/PERFORMANCE.md, "Few steps". A preset leaves guidance and order to the model.
PRESETS: dict[str, dict[str, Any]] = {
    "reference": {"sampler": "ddim", "num_inference_steps": 50},  # the paper's
    "fast": {"sampler": "dpm++", "num_inference_steps": 20},
    "faster": {"sampler": "unipc", "num_inference_steps": 10},
    "interactive": {"student": True},  # as the model's students were trained: see GenerationConfig.as_student
}


def with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    """Values under today's keys, whichever version wrote them; a key that is given under both names stays, and is refused."""
    return {RENAMED.get(key, key) if RENAMED.get(key) not in values else key: value for key, value in values.items()}


def read_old_names(values: Any) -> Any:
    """Before validation: accept the old name of a key, and say the new one."""
    given = values.kwargs if isinstance(values, ArgsKwargs) else values
    if not isinstance(given, dict) or not set(RENAMED) & set(given):
        return values
    for old in sorted(set(RENAMED) & set(given)):
        warnings.warn(f"{old} is called {RENAMED[old]} now; the old name is still read", FutureWarning, stacklevel=2)
    renamed = with_new_names(given)
    return ArgsKwargs(values.args, renamed) if isinstance(values, ArgsKwargs) else renamed


@config
class WeakModelConfig:
    """Autoguidance: predictions go away from those of a weaker model, smaller or trained for less time."""

    model: str  # its folder or hub repository; all but its denoisers must be those of the model that it guides
    scale: Finite = 2.0  # 1 is no guidance, 1.5 to 3 are usual
    everywhere: bool = False  # also where something prompts; else only targets that nothing prompts
    sha256: str | None = None  # its identity; filled in when a request is resolved

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise PromptError(
                f"weak.scale is {self.scale}", expected="a number >= 0", fix="1 is no guidance, 2 is usual"
            )


@config
class GenerationConfig:
    """How to sample. A field that is None takes the preset's value, else the model's own."""

    preset: str | None = None  # A key of ``PRESETS``
    sampler: str | None = None  # A key of ``medcodi.diffusion.sampling.SAMPLERS``
    num_inference_steps: int | None = None  # Denoiser evaluations for each sample
    # Classifier-free guidance over the context: 0 ignores the prompts, 1 is no guidance
    guidance_scale: float | None = None
    # Guidance over what targets hear of each other, of requests without a prompt; 1 is the paper
    environment_guidance_scale: float | None = None
    order: str | None = None  # A key of ``ORDERS``
    # The targets of ``staggered`` and ``chained``, first to last; further modalities are passed over. None: table order
    sequence: tuple[str, ...] | None = None
    # Of ``staggered``, the steps by which a target follows the one before it. None: half of all steps
    lag: int | None = None
    joint: bool = True  # False: the targets do not hear each other (an ablation)
    # Guidance by a weaker model; None: without
    weak: Annotated[WeakModelConfig | None, Field(exclude_if=lambda value: value is None)] = None
    # Few steps without guidance, by the students of stage ``distil``; of several targets one after the other
    student: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    # Mark films invisibly (docs/PRIVACY.md). A model's own config cannot turn it on: a reader study must stay blind
    watermark: Annotated[bool, Field(exclude_if=lambda value: not value)] = False

    _old_names = model_validator(mode="before")(read_old_names)

    def __post_init__(self) -> None:
        if self.preset is not None:
            one_of("preset", self.preset, PRESETS, PromptError)
        if self.sampler is not None:
            from medcodi.diffusion.sampling import SAMPLERS  # here, so that a study file is read without torch

            one_of("sampler", self.sampler, SAMPLERS, PromptError)
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise PromptError(
                f"num_inference_steps is {self.num_inference_steps}",
                expected="at least 1",
                fix="20 to 50 serve most uses",
            )
        for name in ("guidance_scale", "environment_guidance_scale"):
            scale = getattr(self, name)
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise PromptError(
                    f"{name} is {scale}", expected="a finite number >= 0", fix="1 is no guidance, 2 to 8 are usual"
                )
        if self.order is not None:
            one_of("order", self.order, ORDERS, PromptError)
        self._check_sequence()

    def _check_sequence(self) -> None:
        """Refuse a sequence or lag that no order could follow, or not this one."""
        for name in self.sequence or ():
            modality(name)
            if self.sequence is not None and self.sequence.count(name) > 1:
                raise PromptError(
                    f"the sequence {'+'.join(self.sequence)} names {name} twice",
                    expected="each target once",
                    fix="sequence " + "+".join(dict.fromkeys(self.sequence)),
                )
        if self.lag is not None and self.lag < 1:
            raise PromptError(f"lag is {self.lag}", expected="at least 1 step", fix="order joint has no lag")
        # What the order that is given does not use. An order that is not given is the model's: see `resolved`.
        if self.sequence is not None and self.order == "joint":
            raise PromptError(
                f"a sequence ({'+'.join(self.sequence)}) of order joint, which has none",
                expected="order chained or staggered with a sequence",
                fix="order chained, or leave the sequence out",
            )
        if self.lag is not None and self.order not in (None, "staggered"):
            raise PromptError(f"a lag of order {self.order}", expected="order staggered with a lag", fix="leave it out")

    @classmethod
    def from_fields(cls, other: Any) -> GenerationConfig:
        """The generation config whose fields another config holds among its own (it may lack some)."""
        names = GenerationConfig.__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
        return GenerationConfig(**{name: getattr(other, name) for name in names if hasattr(other, name)})

    def filled_by(self, defaults: GenerationConfig) -> GenerationConfig:
        """None replaced by the preset's values, then by those of ``defaults``; the result names no preset."""
        preset = PRESETS[self.preset] if self.preset is not None else {}
        own = {name: getattr(self, name) for name in SAMPLING_FIELDS}
        filled = {
            name: value if value is not None else preset.get(name, getattr(defaults, name))
            for name, value in own.items()
        }
        # The default sequence and lag belong to the default order.
        if filled["order"] != defaults.order:
            filled |= {name: own[name] for name in ("sequence", "lag")}
        student = self.student or preset.get("student", False)
        own_choices = {"joint": self.joint, "weak": self.weak, "watermark": self.watermark}
        return GenerationConfig(**filled, **own_choices, student=student)

    def resolved(self, model: MedCoDi) -> GenerationConfig:
        """The values that ``model`` samples with: no preset, and no None but a ``sequence`` or ``lag`` of the order's own.

        Raises:
            PromptError: If the sampler is not for what the model predicts, its noise schedule has fewer steps, its order does not have
                the sequence or lag that is given, it has no students, or students of other steps, its films are too small for a
                watermark, or the weak model does not fit.
            CheckpointError: If the weak model cannot be found.
        """
        resolved, size = self.filled_by(model.config.generation), model.config.image_size
        if resolved.watermark and size < MIN_WATERMARKED_SIDE:
            raise PromptError(
                f"a watermark of films of {size} pixels",
                expected=f"films of at least {MIN_WATERMARKED_SIDE} pixels",
                fix="leave watermark out: PNG and DICOM files are marked in their metadata anyway",
            )
        if resolved.student:
            return self._as_student(model.config)
        from medcodi.diffusion.sampling import check_sampler

        assert resolved.sampler is not None
        check_sampler(resolved.sampler, model.config.schedule.prediction_type)
        limit, num_steps = model.config.schedule.num_train_timesteps, resolved.num_inference_steps or 1
        if num_steps > limit:
            raise PromptError(
                f"num_inference_steps is {num_steps}", expected=f"at most {limit}", fix="20 to 50 steps serve most uses"
            )
        if resolved.weak is None:
            return resolved
        return replace(resolved, weak=replace(resolved.weak, sha256=model.checked_identity_of(resolved.weak)))

    def _as_student(self, model: ModelConfig) -> GenerationConfig:
        """How a student samples, which nothing but the sequence of the targets can change."""
        student = model.student
        if student is None:
            raise PromptError(
                "this model has no students, which the preset interactive needs",
                expected="a model that was trained by stage distil",
                fix="the preset faster, or medcodi train --config distil",
            )
        if self.weak is not None:
            raise PromptError(
                f"the weak model {self.weak.model} for students, which have guidance built in",
                fix="leave weak out, or choose another preset",
            )
        sampler = "euler" if model.schedule.prediction_type == "velocity" else "ddim"
        fixed = {"sampler": sampler, "num_inference_steps": student.steps, "guidance_scale": 1.0, "order": "chained"}
        for name, value in fixed.items():
            if getattr(self, name) not in (None, value):
                built_in = f", and guidance {student.guidance_scale:g} built in" if name == "guidance_scale" else ""
                raise PromptError(
                    f"{name} is {getattr(self, name)} for students, which were trained for {value} alone{built_in}",
                    expected=f"{name} {value}",
                    fix=f"leave {name} out, or choose another preset",
                )
        others = {"sequence": self.sequence, "watermark": self.watermark}
        return GenerationConfig(**fixed, **others, environment_guidance_scale=1.0, student=True)

    def ordered(self, order: str | None) -> GenerationConfig:
        """The same in another order (None: as it is), without a sequence or lag that this order does not have."""
        if order is None:
            return self
        sequence = None if order == "joint" else self.sequence
        return replace(self, order=order, sequence=sequence, lag=self.lag if order == "staggered" else None)

    def sequence_of(self, targets: Sequence[str]) -> tuple[str, ...]:
        """The targets of a request, first to last.

        Raises:
            PromptError: If the sequence that is given does not name one of them.
        """
        missing = (
            [] if self.sequence is None else [name for name in in_table_order(targets) if name not in self.sequence]
        )
        if self.sequence is not None and missing:
            raise PromptError(
                f"the sequence {'+'.join(self.sequence)} does not name the target {missing[0]}",
                expected="every target once",
                fix="sequence " + "+".join([*self.sequence, *missing]),
            )
        return tuple(name for name in self.sequence or in_table_order(targets) if name in targets)

    def groups_of(self, targets: Sequence[str]) -> list[tuple[str, ...]]:
        """The targets that are denoised together, group after group: one group, or of ``chained`` one for each target."""
        sequence = self.sequence_of(targets)
        return [(name,) for name in sequence] if self.order == "chained" else [sequence]

    def delays_of(self, group: Sequence[str]) -> dict[str, int]:
        """The steps that each target of a group waits before its first one."""
        lag = self.lag if self.lag is not None else math.ceil((self.num_inference_steps or 1) / 2)
        return {name: place * lag if self.order == "staggered" else 0 for place, name in enumerate(group)}
