"""Streaming: a long list of requests in, generations out in the same order, each as soon as its batch is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcodi.errors import DataError, PromptError
from medcodi.generation.pipeline import check_request, generate_batch, load, read_prompt
from medcodi.generation.prompts import PromptContexts, Value
from medcodi.generation.result import Generation, Sample, model_identity, provenance
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction

WINDOW = 4  # batches' worth of samples that are held, made or not, before the first of them is made in a smaller batch


@dataclass(frozen=True)
class Request:
    """One request, as :func:`medcodi.generate` takes it.

    Attributes:
        prompts: Modality -> value; a plain str is a report; empty: unconditional.
        targets: What to generate; None: every modality that is no prompt.
        seed: Of the first sample; sample i has seed ``seed + i``.
        num_samples: How many.
        weights: Modality -> weight of its prompt; absent ones weigh 1, 0 equals absence.
    """

    prompts: Mapping[str, Any] | str = field(default_factory=dict)
    targets: tuple[str, ...] | list[str] | str | None = None
    seed: int = 0
    num_samples: int = 1
    weights: Mapping[str, float] | None = None


def generate_many(
    requests: Iterable[Request | Mapping[str, Any] | str],
    *,
    model: MedCoDi | str | Path | None = None,
    batch_size: int = 8,
    preset: str | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    sampler: str | None = None,
    device: str | None = None,
    execution: ExecutionConfig = ExecutionConfig(),
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Generation]:
    """Generate for a long list of requests, in batches, with constant memory.

    Requests with the same targets share batches, whatever their prompts; a batch is run when it is full, or when
    ``4 * batch_size`` samples are held back by one that waits. A prompt that occurs again is not encoded again. A sample depends on its own prompts
    and seed only, up to rounding (about 1e-6 of the image range); for the same bytes whatever stands beside it, see
    :func:`synthesize`.

    Args:
        requests: Any iterable, drawn from as results are asked for. A mapping is a request's prompts, a str its report.
        model: A model, its folder, or a hub repository; None: the shipped demo.
        batch_size: Samples denoised together.
        preset: As for :func:`medcodi.generate`.
        guidance_scale: As for :func:`medcodi.generate`.
        num_inference_steps: As for :func:`medcodi.generate`.
        sampler: As for :func:`medcodi.generate`.
        device: ``"cpu"``, ``"cuda"`` …; None: a GPU where there is one.
        execution: As for :func:`medcodi.generate`; in force until the last result has been drawn.
        on_batch: Called with the number of samples done so far, after every batch.

    Yields:
        One generation for each request, in order.

    Raises:
        PromptError: If a request, or the batch size, cannot be; names the request's place in the list, from 0. What was
            asked before it is yielded first.
        DataError: If a prompt cannot be read; as above.
        CheckpointError: If the model cannot be loaded.
    """
    if batch_size < 1:
        raise PromptError(f"batch_size is {batch_size}", expected="at least 1", fix="4 to 64, as memory allows")
    settings = GenerationConfig(
        preset=preset, sampler=sampler, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
    )
    execution.check(device)
    return _stream(requests, model, device, batch_size, settings, execution, on_batch)


def _stream(
    requests: Iterable[Request | Mapping[str, Any] | str],
    model: MedCoDi | str | Path | None,
    device: str | None,
    batch_size: int,
    settings: GenerationConfig,
    execution: ExecutionConfig,
    on_batch: Callable[[int], None] | None,
) -> Iterator[Generation]:
    """The generator apart, so that what is wrong with the settings is said at the call, not at the first result."""
    yield from _Stream(load(model, device), batch_size, settings, execution, on_batch).run(requests)


@dataclass
class _Open:
    """A request under way."""

    direction: Direction
    prompts: dict[str, Value]
    weights: dict[str, float]
    seeds: list[int]
    samples: dict[int, Sample] = field(default_factory=dict)  # by place among the request's own


class _Stream:
    """The state of one :func:`generate_many`."""

    def __init__(
        self,
        model: MedCoDi,
        batch_size: int,
        settings: GenerationConfig,
        execution: ExecutionConfig,
        on_batch: Callable[[int], None] | None,
    ) -> None:
        self.model, self.batch_size, self.execution, self.on_batch = model, batch_size, execution, on_batch
        self.settings = settings.resolved(model)
        self._contexts, self._identity = PromptContexts(model), model_identity(model)
        self._open: deque[_Open] = deque()
        self._waiting: dict[tuple[str, ...], deque[tuple[_Open, int]]] = {}  # targets -> samples to be made
        self._num_done = 0

    def run(self, requests: Iterable[Request | Mapping[str, Any] | str]) -> Iterator[Generation]:
        """Draw, batch, yield."""
        for number, request in enumerate(requests):
            try:
                one = self._opened(request if isinstance(request, Request) else Request(request))
            except (PromptError, DataError) as error:
                yield from self._rest()
                kind = PromptError if isinstance(error, PromptError) else DataError
                raise kind(f"request {number}: {error.failed}", expected=error.expected, fix=error.fix) from None
            self._open.append(one)
            group = self._waiting.setdefault(one.direction.targets, deque())
            group.extend((one, place) for place in range(len(one.seeds)))
            while len(group) >= self.batch_size:
                self._batch(one.direction.targets)
            yield from self._finished()
            while sum(len(waiting.seeds) for waiting in self._open) > WINDOW * self.batch_size:
                self._batch(self._open[0].direction.targets)
                yield from self._finished()
        yield from self._rest()

    def _rest(self) -> Iterator[Generation]:
        while self._open:
            self._batch(self._open[0].direction.targets)
            yield from self._finished()

    def _finished(self) -> Iterator[Generation]:
        while self._open and len(self._open[0].samples) == len(self._open[0].seeds):
            one = self._open.popleft()
            told = provenance(
                self._identity,
                one.direction,
                one.prompts,
                one.weights,
                self.settings,
                one.seeds,
                self.execution.arithmetic,
            )
            yield Generation(one.direction, [one.samples[place] for place in range(len(one.seeds))], told)

    def _opened(self, asked: Request) -> _Open:
        direction, used, weights = check_request(
            asked.prompts, asked.targets, asked.weights, asked.num_samples, asked.seed
        )
        check_modalities(self.model, direction)
        size = self.model.config.image_size
        prompts = {name: read_prompt(name, value, size) for name, value in used.items()}
        return _Open(direction, prompts, weights, [asked.seed + index for index in range(asked.num_samples)])

    def _batch(self, targets: tuple[str, ...]) -> None:
        group = self._waiting[targets]
        batch = [group.popleft() for _ in range(min(self.batch_size, len(group)))]
        seeds = [one.seeds[place] for one, place in batch]
        prompted = {name for one, _ in batch for name in one.direction.prompts}
        with self.execution.running(self.model, self.model.components_for(prompted, targets)):
            made = generate_batch(
                self.model,
                [one.prompts for one, _ in batch],
                targets,
                seeds,
                self.settings,
                weights=[one.weights for one, _ in batch],
                contexts=self._contexts,
            )
        for (one, place), seed, contents in zip(batch, seeds, made, strict=True):
            one.samples[place] = Sample(seed=seed, contents=contents)
        self._num_done += len(batch)
        if self.on_batch is not None:
            self.on_batch(self._num_done)


def check_modalities(model: MedCoDi, direction: Direction) -> None:
    """Refuse a direction that names a modality which the model lacks.

    Raises:
        PromptError: Naming it.
    """
    missing = set(direction.prompts + direction.targets) - set(model.config.modalities)
    if missing:
        raise PromptError(
            f"the model {model.config.name!r} has no {', '.join(sorted(missing))}",
            expected=", ".join(model.config.modalities),
        )


def check_steps(model: MedCoDi, settings: GenerationConfig) -> None:
    """Refuse more steps than the model's noise schedule has, before anything is made.

    Raises:
        PromptError: Naming both numbers.
    """
    limit, steps = model.config.schedule.num_train_timesteps, settings.num_inference_steps or 1
    if steps > limit:
        raise PromptError(
            f"num_inference_steps is {steps}", expected=f"at most {limit}", fix="20 to 50 steps serve most uses"
        )
