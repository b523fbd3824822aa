"""Requests of a page, checked before they wait for their turn, and what a page shows of their results. Imports no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medcodi.errors import PromptError
from medcodi.generation.request import check_request, read_prompt
from medcodi.modality import MODALITIES, names
from medcodi.model.generation_config import GenerationConfig
from medcodi.web.config import Limits

Panel = dict[str, Any]  # slot, title, kind, and film (a key), before and after (keys) or text; note: a line below


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to sample, as the page's form holds it."""

    preset: str | None = None
    num_inference_steps: int | None = None  # None: the preset's
    guidance_scale: float | None = None  # None: the model's
    order: str | None = None  # None: the model's
    seed: int = 0

    def check(self, limits: Limits) -> None:
        """Refuse what no queue should wait for."""
        GenerationConfig(
            preset=self.preset,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            order=self.order,
        )
        if (self.num_inference_steps or 0) > limits.max_steps:
            raise PromptError(
                f"{self.num_inference_steps} steps", expected=f"at most {limits.max_steps} on this server"
            )


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One request to generate."""

    prompts: Mapping[str, Any]  # modality -> path of a film, text, or fields of a record
    targets: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    num_samples: int = 1
    settings: Settings = Settings()

    def check(self, limits: Limits) -> None:
        """Refuse an invalid request before it waits for its turn; films were checked when they came."""
        if not self.targets:
            raise PromptError("nothing is to be generated", expected="at least one target", fix="tick what to generate")
        if self.num_samples > limits.max_samples:
            raise PromptError(f"{self.num_samples} samples", expected=f"at most {limits.max_samples} on this server")
        check_request(self.prompts, self.targets, dict(self.weights), self.num_samples, self.settings.seed)
        _check_texts(self.prompts)
        self.settings.check(limits)


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One edit of a study."""

    study: Mapping[str, Any]  # modality -> path of a film, or text
    statements: str  # about findings
    strength: float | None = None  # in (0, 1]; None: as it was measured best
    settings: Settings = Settings()

    def check(self, limits: Limits) -> None:
        """Refuse an invalid request before it waits for its turn."""
        if not any(MODALITIES[name].kind == "image" for name in self.study):
            raise PromptError(
                "the study has no film", expected="a film to edit", fix="drop one, or edit a result of Generate"
            )
        if not self.statements.strip():
            raise PromptError(
                "no change is named",
                expected="statements about findings",
                fix="such as: Large left pleural effusion. No pneumothorax.",
            )
        _check_texts({**self.study, names("text")[0]: self.statements})
        if self.strength is not None and not 0 < self.strength <= 1:
            raise PromptError(f"strength is {self.strength:g}", expected="a number above 0, and at most 1")
        self.settings.check(limits)


def _check_texts(contents: Mapping[str, Any]) -> None:
    for name, value in contents.items():
        if MODALITIES[name].kind != "image":
            read_prompt(name, value, None)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A result as a page shows it."""

    key: str  # of the generation that can be downloaded
    panels: list[Panel]
    notes: list[str]  # what the model does not know, what it has not read, what the result is not
    contents: dict[str, Any]  # an examination to edit: modality -> path of a film, or text
