"""Streaming: generations for a long list of requests, in the same order, each as soon as its batches are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcodi.errors import DataError, PromptError
from medcodi.generation.contexts import PromptContexts
from medcodi.generation.domain import warn_outside_domain
from medcodi.generation.pipeline import generate_batch, load
from medcodi.generation.request import check_batch, check_modalities, check_request, read_prompt, truncations
from medcodi.generation.result import Generation, Sample, provenance
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.model.generation_config import GenerationConfig
from medcodi.model.identity import model_identity
from medcodi.study import Content, Direction

WINDOW = 4  # at most this many batches of samples wait, before the first request is run in a smaller batch


@dataclass(frozen=True)
class Request:
    """One request, as :func:`medcodi.generate` takes it."""

    prompts: Mapping[str, Any] | str = field(default_factory=dict)  # a plain str is a report; empty: unconditional
    targets: tuple[str, ...] | list[str] | str | None = None  # None: every modality that is not a prompt
    seed: int = 0  # sample i has seed + i
    num_samples: int = 1
    weights: Mapping[str, float] | None = None  # absent ones are 1; 0 equals absence


def generate_many(
    requests: Iterable[Request | Mapping[str, Any] | str],
    *,
    model: MedCoDi | str | Path | None = None,
    batch_size: int = 8,
    preset: str | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    sampler: str | None = None,
    order: str | None = None,
    sequence: Sequence[str] | None = None,
    watermark: bool = False,
    device: str | None = None,
    execution: ExecutionConfig = ExecutionConfig(),
    on_batch: Callable[[int], None] | None = None,
) -> Iterator[Generation]:
    """Generate for a long list of requests, in batches, with constant memory.

    Requests with the same targets share batches, whatever their prompts. A batch is run when it is full, or when
    ``4 * batch_size`` samples wait for the oldest request. A prompt that occurs again is not encoded again. A sample depends
    on its own prompts and seed only, up to rounding (about 1e-6 of the image range); :func:`synthesize` gives the same bytes
    whatever else is in the batch.

    Args:
        requests: Any iterable, read as results are drawn. A mapping is a request's prompts, a str its report.
        model: A model, its folder, or a hub repository; None: the shipped demo.
        batch_size: Samples denoised together.
        preset: As for :func:`medcodi.generate`.
        guidance_scale: As for :func:`medcodi.generate`.
        num_inference_steps: As for :func:`medcodi.generate`.
        sampler: As for :func:`medcodi.generate`.
        order: As for :func:`medcodi.generate`.
        sequence: As for :func:`medcodi.generate`.
        watermark: As for :func:`medcodi.generate`.
        device: ``"cpu"``, ``"cuda"`` …; None: a GPU where there is one.
        execution: As for :func:`medcodi.generate`.
        on_batch: Called after every batch with the number of samples done so far.

    Yields:
        One generation for each request, in order.

    Raises:
        PromptError: If the batch size or a request is invalid; names the request's position in the list, from 0. Results of
            earlier requests are yielded first.
        DataError: If a prompt cannot be read; as above.
        CheckpointError: If the model cannot be loaded.
    """
    check_batch("batch_size", batch_size)
    config = GenerationConfig(
        preset=preset,
        sampler=sampler,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        order=order,
        sequence=None if sequence is None else tuple(sequence),
        watermark=watermark,
    )
    execution.check(device)

    # A generator of its own, so that invalid arguments are refused at the call, not at the first result.
    def stream() -> Iterator[Generation]:
        yield from _Stream(load(model, device, execution.weights_dtype), batch_size, config, execution, on_batch).run(
            requests
        )

    return stream()


@dataclass
class _Pending:
    """A request whose samples are not all generated."""

    direction: Direction
    prompts: dict[str, Content]
    weights: dict[str, float]
    seeds: list[int]
    outside: dict[str, list[str]]  # how it leaves the training domain, for its provenance
    samples: dict[int, Sample] = field(default_factory=dict)  # by position among the request's samples


class _Stream:
    """The state of one :func:`generate_many`."""

    def __init__(
        self,
        model: MedCoDi,
        batch_size: int,
        config: GenerationConfig,
        execution: ExecutionConfig,
        on_batch: Callable[[int], None] | None,
    ) -> None:
        self.model, self.batch_size, self.execution, self.on_batch = model, batch_size, execution, on_batch
        self.config = config.resolved(model)
        self._contexts, self._identity = PromptContexts(model), model_identity(model)
        self._pending: deque[_Pending] = deque()  # in the order of the requests
        self._queues: dict[tuple[str, ...], deque[tuple[_Pending, int]]] = {}  # targets -> samples to be generated
        self._num_done = 0

    def run(self, requests: Iterable[Request | Mapping[str, Any] | str]) -> Iterator[Generation]:
        """Read requests, run batches, yield results in order."""
        for number, request in enumerate(requests):
            try:
                pending = self._read(request if isinstance(request, Request) else Request(request))
            except (PromptError, DataError) as error:
                yield from self._run_rest()
                kind = PromptError if isinstance(error, PromptError) else DataError
                raise kind(f"request {number}: {error.failed}", expected=error.expected, fix=error.fix) from None
            self._pending.append(pending)
            targets = pending.direction.targets
            queue = self._queues.setdefault(targets, deque())
            queue.extend((pending, position) for position in range(len(pending.seeds)))
            # Full batches of these targets.
            while len(queue) >= self.batch_size:
                self._run_batch(targets)
            yield from self._finished()
            # The oldest request in a smaller batch, if too many samples wait for it.
            while sum(len(waiting.seeds) for waiting in self._pending) > WINDOW * self.batch_size:
                self._run_batch(self._pending[0].direction.targets)
                yield from self._finished()
        yield from self._run_rest()

    def _run_rest(self) -> Iterator[Generation]:
        while self._pending:
            self._run_batch(self._pending[0].direction.targets)
            yield from self._finished()

    def _finished(self) -> Iterator[Generation]:
        while self._pending and len(self._pending[0].samples) == len(self._pending[0].seeds):
            done = self._pending.popleft()
            origin = provenance(
                self._identity,
                done.direction,
                done.prompts,
                done.weights,
                self.config,
                done.seeds,
                self.execution.arithmetic,
                truncations(self.model, done.prompts),
            )
            samples = [done.samples[position] for position in range(len(done.seeds))]
            yield Generation(done.direction, samples, {**origin, **done.outside})

    def _read(self, request: Request) -> _Pending:
        direction, used, weights = check_request(
            request.prompts, request.targets, request.weights, request.num_samples, request.seed
        )
        check_modalities(self.model, direction)
        self.config.sequence_of(direction.targets)  # refuses one that lacks a target
        prompts = {name: read_prompt(name, value, self.model.config) for name, value in used.items()}
        outside = warn_outside_domain(self.model, direction, used)
        seeds = [request.seed + index for index in range(request.num_samples)]
        return _Pending(direction, prompts, weights, seeds, outside)

    def _run_batch(self, targets: tuple[str, ...]) -> None:
        queue = self._queues[targets]
        batch = [queue.popleft() for _ in range(min(self.batch_size, len(queue)))]
        seeds = [pending.seeds[position] for pending, position in batch]
        prompted = {name for pending, _ in batch for name in pending.direction.prompts}
        with self.execution.running(
            self.model, self.model.components_for(prompted, targets, student=self.config.student)
        ):
            results = generate_batch(
                self.model,
                [pending.prompts for pending, _ in batch],
                targets,
                seeds,
                self.config,
                weights=[pending.weights for pending, _ in batch],
                contexts=self._contexts,
            )
        for (pending, position), seed, contents in zip(batch, seeds, results, strict=True):
            pending.samples[position] = Sample(seed=seed, contents=contents)
        self._num_done += len(batch)
        if self.on_batch is not None:
            self.on_batch(self._num_done)
