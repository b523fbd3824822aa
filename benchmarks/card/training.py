"""Training steps at full size: ``diffuse`` from the cache and ``align``, through the engine and the average of a real run."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from measuring import seconds_per_call, wait
from measuring.networks import SIZES, context, denoiser_inputs, model_config, our_model
from torch import nn

from card import Row, Setup, attempt, free_memory
from card.machine import peak
from medcodi.config import load
from medcodi.data.loading import Batch
from medcodi.data.sources.phantom import phantom_report
from medcodi.distributed import Ranks, join_ranks
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.model.execution import ExecutionConfig
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.stages.encoded import EncodedBatch
from medcodi.training.config import TrainConfig
from medcodi.training.cost import GIB, Cost, Hardware, estimate, stage_cost
from medcodi.training.ema import Ema
from medcodi.training.engine import build_engine
from medcodi.training.execution import blocks_of, choose_attention

RECIPES = Path(__file__).parents[2] / "configs/train"
ALONE = ["init=null", "validation=null", "tracking.validate_every=0", "engine.name=plain"]  # without data and ranks
TARGET = "frontal"


def recipe(setup: Setup, name: str, studies: int, **changes: Any) -> TrainConfig:
    """A full-size recipe with the model of this size and a global batch, for one process."""
    model, _ = SIZES[setup.size]
    settings = {"model": model, "batch.global_size": studies, **changes}
    return load(TrainConfig, RECIPES / name, [*ALONE, *(f"{key}={value}" for key, value in settings.items())])


class Steps:
    """A run's steps on one batch that stays in the host's memory: engine, keyed draws, moving average."""

    def __init__(self, run: TrainConfig, model: MedCoDi, batch: Batch | EncodedBatch, ranks: Ranks) -> None:
        self.stage = build_stage(run.stage.name, model, run.stage.options)
        choose_attention(self.stage, run.precision, ranks.device)
        self.engine = build_engine(self.stage, run, ranks, "python")
        self.ema = Ema(self.engine.shards(), run.ema)
        self.batches: list[Any] = [batch] * run.batch.accumulation(1)
        self.num_studies, self.number = run.batch.global_size, 0

    def __call__(self) -> None:
        """One optimiser step."""
        draws = [StepRandomness(seed=0, step=self.number, samples=batch.samples) for batch in self.batches]
        self.result = self.engine.run_step(self.batches, draws)
        self.ema.update(self.number)
        self.number += 1

    def close(self) -> None:
        """Restore the blocks that were compiled or checkpointed: the next steps are taken with the same network."""
        for block in blocks_of(self.stage):
            block.__dict__.pop("forward", None)
        self.stage.zero_grad(set_to_none=True)


def significant(value: float) -> float:
    """Four significant digits: a tiny model's memory in GiB is no 0."""
    return float(f"{value:.4g}")


def measured(
    setup: Setup, run: TrainConfig, model: MedCoDi, batch: Any, cost: Cost | None = None, ranks: Ranks | None = None
) -> Row:
    """Studies per second, utilisation and memory of a run's steps, beside what ``--estimate`` says."""
    steps = Steps(run, model, batch, ranks or Ranks(device=torch.device(setup.device)))
    try:
        if setup.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_per_call(steps, setup.device, budget=setup.budget)
        loss = float(steps.result.losses[-1])
        assert loss == loss and abs(loss) < float("inf"), f"the loss is {loss}"
        rate = steps.num_studies / seconds["median"]
        row = {"seconds": seconds, "studies_per_second": significant(rate), "loss": round(loss, 4)}
        if cost is not None:
            row["mfu"] = significant(rate * cost.study_flops / peak(setup, run.precision))
        if setup.on_gpu:
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
        if cost is not None and not (run.engine.activation_checkpointing or run.engine.name == "deepspeed"):
            plan = estimate(run, Hardware(gpus=1), cost).plans[0]
            row["estimated_gib"] = significant(plan.peak(len(batch)) / GIB)
        return row
    finally:
        steps.close()
        del steps
        free_memory()


def halved(measure: Callable[[int], Row], largest: int) -> Iterator[Row]:
    """Rows of micro-batches from the largest, halved where memory does not suffice, until three are measured."""
    num_measured, micro = 0, largest
    while micro and num_measured < 3:
        row = attempt({"micro_batch": micro}, partial(measure, micro))
        num_measured += "seconds" in row
        yield row
        micro //= 2


# ---- diffuse ---------------------------------------------------------------------------------------------------------
def encoded_batch(model: MedCoDi, studies: int) -> EncodedBatch:
    """Random encodings of complete studies, as the cache holds them."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    names, dim = config.modalities, config.prompt_encoders.embed_dim
    length = 0 if config.context == "pooled" else 77  # a cache for pooled contexts stores no tokens

    def prompts(rows: int) -> PromptEncoding:
        tokens = torch.randn(rows, length, dim if length else 1, generator=generator)
        pooled = nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=1)
        return PromptEncoding(pooled, tokens, torch.ones(rows, length, dtype=torch.bool))

    means = {name: torch.randn(studies, *model.latent_shape(name), generator=generator) for name in names}
    return EncodedBatch(
        means=means,
        stds={name: torch.full_like(mean, 0.1) for name, mean in means.items()},
        prompts={name: prompts(studies) for name in names},
        present={name: torch.ones(studies, dtype=torch.bool) for name in names},
        study_ids=[f"study {index}" for index in range(studies)],
        patient_ids=[f"patient {index}" for index in range(studies)],
        samples=tuple(range(studies)),
        nulls={name: prompts(1) for name in names},
    )


class Diffuse:
    """The frontal's denoiser at this size, and the rows of its training."""

    def __init__(self, setup: Setup, cost: Cost | None = None) -> None:
        self.setup, self.config = setup, model_config(setup.size)
        self.model = our_model(self.config, (f"denoiser_{TARGET}",), setup.device, torch.float32)
        self.cost = cost or stage_cost(self.run(1), self.config, device=setup.device)

    def run(self, studies: int, **changes: Any) -> TrainConfig:
        """The recipe's run of one target from the cache."""
        changes = {"stage.options.targets": f"[{TARGET}]", **changes}
        return recipe(self.setup, "medcodi-m/3-diffuse.yaml", studies, **changes)

    def row(self, studies: int, ranks: Ranks | None = None, **changes: Any) -> Row:
        """A measurement with one micro-batch a step."""
        batch = encoded_batch(self.model, studies)
        return measured(self.setup, self.run(studies, **changes), self.model, batch, self.cost, ranks)


def diffuse(setup: Setup) -> Iterator[Row]:
    """The best micro-batch; where a step waits for the card; settings one at a time; fp16's loss scale; the optimiser alone."""
    part = Diffuse(setup)
    tflop = float(f"{part.cost.study_flops / 1e12:.4g}")
    yield {"what": "diffuse", "trained": part.cost.trained, "tflop_per_study": tflop}

    # The best micro-batch.
    rows = []
    for row in halved(part.row, setup.of_size(256 if setup.on_gpu else 8, 4)):
        rows.append({"what": "diffuse", "precision": "bf16", **row})
        yield rows[-1]
    rates = {row["micro_batch"]: row["studies_per_second"] for row in rows if "seconds" in row}
    micro = max(rates, key=lambda size: rates[size], default=1)
    yield attempt({"what": "waits of a step for the card"}, lambda: waits(part, micro))

    # One setting at a time.
    torch.backends.cudnn.benchmark = True
    yield attempt({"what": "diffuse", "setting": "cudnn.benchmark", "micro_batch": micro}, lambda: part.row(micro))
    torch.backends.cudnn.benchmark = False
    ExecutionConfig(channels_last=True).prepare(part.model.denoisers[TARGET])
    if setup.on_gpu:  # a CPU's GroupNorm is slow in this layout
        yield attempt({"what": "diffuse", "setting": "channels_last", "micro_batch": micro}, lambda: part.row(micro))
    part.model.denoisers[TARGET].to(memory_format=torch.contiguous_format)
    yield attempt({"what": "diffuse", "precision": "fp16", "micro_batch": micro}, lambda: loss_scaling(part, micro))
    yield from optimizers(setup, part.model.denoisers[TARGET])


def waits(part: Diffuse, micro: int) -> Row:
    """Places at which the host waits for the card within a step, as PyTorch warns of them."""
    if not part.setup.on_gpu:
        return {"skipped": "nothing is asynchronous on a CPU"}
    steps = Steps(part.run(micro), part.model, encoded_batch(part.model, micro), Ranks(device=torch.device("cuda")))
    for _ in range(2):
        steps()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        steps()
    torch.cuda.set_sync_debug_mode("default")
    steps.close()
    places = [f"{Path(warning.filename).name}:{warning.lineno}" for warning in caught]
    return {"number": len(places), "places": sorted(set(places))}


def loss_scaling(part: Diffuse, micro: int) -> Row:
    """A far too large loss scale: steps are skipped and it is halved until gradients are finite; then the speed."""
    run = part.run(micro, precision="fp16")
    steps = Steps(run, part.model, encoded_batch(part.model, micro), Ranks(device=torch.device(part.setup.device)))
    start = 2.0**40
    steps.engine.load_scalars({"scale": start, "_growth_tracker": 0})
    num_skipped = 0
    for _ in range(60):
        steps()
        if not steps.result.skipped:
            break
        num_skipped += 1
    scale = steps.engine.scalars()["scale"]
    assert scale * 2.0**num_skipped == start, (scale, num_skipped)
    steps.close()
    del steps
    free_memory()
    return {"scale_at_start": start, "steps_skipped": num_skipped, "scale": scale, **part.row(micro, precision="fp16")}


def optimizers(setup: Setup, network: nn.Module) -> Iterator[Row]:
    """AdamW in its three forms, the gradient norm and the average on the denoiser's parameters: bytes per second."""
    parameters = [parameter.requires_grad_(True) for parameter in network.parameters()]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-4)
    size = 4 * sum(parameter.numel() for parameter in parameters)
    average = [parameter.detach().clone() for parameter in parameters]
    forms = {"fused": {"fused": True}, "foreach": {"foreach": True}, "one by one": {"foreach": False}}
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "gradient norm": (size, lambda: nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])),
        "average": (3 * size, lambda: torch._foreach_lerp_(average, parameters, 1e-3)),
    }
    for name, form in forms.items():
        calls[f"AdamW, {name}"] = (7 * size, torch.optim.AdamW(parameters, lr=1e-5, **form).step)
    for name, (num_bytes, call) in calls.items():

        def rate(num_bytes: int = num_bytes, call: Callable[[], Any] = call) -> Row:
            with torch.no_grad():
                seconds = seconds_per_call(call, setup.device, budget=setup.budget / 2)
            return {"seconds": seconds, "gb_per_second": float(f"{num_bytes / seconds['median'] / 1e9:.4g}")}

        yield attempt({"what": "optimiser", "part": name}, rate)
    for parameter in parameters:
        parameter.grad = None
    free_memory()


# ---- align -----------------------------------------------------------------------------------------------------------
def align(setup: Setup) -> Iterator[Row]:
    """Both towers: the best micro-batch, and a step of two micro-batches, whose features are computed twice."""
    config = model_config(setup.size)
    model = our_model(config, ("prompt_encoders",), setup.device, torch.float32)
    name = "medcodi-m/2-align.yaml"
    cost = stage_cost(recipe(setup, name, 1), config, device=setup.device)

    def row(micro: int, accumulation: int = 1) -> Row:
        changes = {"batch.micro_size": micro}
        run = recipe(setup, name, micro * accumulation, **changes)
        return measured(setup, run, model, study_batch(config.modalities, config.image_size, micro), cost)

    best, rate = 1, 0.0
    for result in halved(row, setup.of_size(128 if setup.on_gpu else 4, 4)):
        yield {"what": "align", "precision": "bf16", "accumulation": 1, **result}
        if result.get("studies_per_second", 0.0) > rate:
            best, rate = result["micro_batch"], result["studies_per_second"]
    result = attempt({"micro_batch": best}, lambda: row(best, 2))
    yield {"what": "align", "precision": "bf16", "accumulation": 2, **result}


def study_batch(modalities: Sequence[str], side: int, studies: int) -> Batch:
    """Complete studies: films of noise, reports of the phantom."""
    generator = torch.Generator().manual_seed(0)
    values: dict[str, Callable[[], Any]] = {
        "image": lambda: torch.rand(studies, 1, side, side, generator=generator),
        "text": lambda: [phantom_report(seed=0, index=index) for index in range(studies)],
        "table": lambda: [{} for _ in range(studies)],
    }
    return Batch(
        contents={name: values[MODALITIES[name].kind]() for name in modalities},
        present={name: torch.ones(studies, dtype=torch.bool) for name in modalities},
        labels=torch.full((studies, 14), torch.nan),
        study_ids=[f"study {index}" for index in range(studies)],
        patient_ids=[f"patient {index}" for index in range(studies)],
        samples=tuple(range(studies)),
    )


# ---- variants --------------------------------------------------------------------------------------------------------
def variants(setup: Setup) -> Iterator[Row]:
    """What takes longer to start: activation checkpointing, ZeRO with the optimiser on the host, compiled networks."""
    part = Diffuse(setup)
    micro = setup.of_size(64 if setup.on_gpu else 4, 2)
    for studies in (micro, 4 * micro):
        row = {"what": "diffuse", "setting": "activation checkpointing", "micro_batch": studies}
        change = {"engine.activation_checkpointing": "true"}
        yield attempt(row, lambda studies=studies, change=change: part.row(studies, **change))
    row = {"what": "diffuse", "setting": "ZeRO-2, optimiser on the host", "micro_batch": micro}
    yield attempt(row, lambda: offloaded(part, micro))
    part = Diffuse(setup, part.cost)  # DeepSpeed leaves its hooks on the other one's weights
    yield from compiled_sampling(setup, part)
    row = {"what": "diffuse", "setting": "compiled blocks, the warm-up not counted", "micro_batch": micro}
    if setup.size == "tiny":
        yield row | {"skipped": "compilers take minutes; tests/unit/training/test_execution.py compiles one block"}
    else:
        yield attempt(row, lambda: part.row(micro, compile="true"))


def offloaded(part: Diffuse, micro: int) -> Row:
    """The same steps under DeepSpeed, as the only rank of a group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port}",
    }
    try:
        ranks = join_ranks() if part.setup.on_gpu else Ranks(device=torch.device("cpu"))
        if not dist.is_initialized():
            dist.init_process_group("gloo", rank=0, world_size=1)
        changes = {"engine.name": "deepspeed", "engine.zero_stage": 2, "engine.offload_optimizer": "cpu"}
        return part.row(micro, ranks, **changes)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


def compiled_sampling(setup: Setup, part: Diffuse) -> Iterator[Row]:
    """One step of guided sampling of 16 films, compiled by each mode; the first call by itself."""
    network = part.model.denoisers[TARGET].to(torch.bfloat16)
    images = setup.of_size(16, 1)
    z, t, tokens = denoiser_inputs(part.config, 2 * images, 1, setup.device)
    z, heard = z.to(torch.bfloat16), context(tokens.to(torch.bfloat16))
    modes = {"default": {}, "reduce-overhead": {"mode": "reduce-overhead"}}
    modes["max-autotune-no-cudagraphs"] = {"mode": "max-autotune-no-cudagraphs"}
    for mode, settings in modes.items():

        def step(network: nn.Module = network) -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad():
                return network(z, t, heard)

        def compiled(settings: dict[str, Any] = settings, step: Callable[[], Any] = step) -> Row:
            ExecutionConfig(compile=True).check(setup.device)
            backend = setup.of_size(settings, {"backend": "eager"})  # a dry run traces, and builds nothing
            network.predict = torch.compile(network.predict, **backend)  # pyright: ignore[reportAttributeAccessIssue]
            began = time.perf_counter()
            step()
            wait(setup.device)
            first = round(time.perf_counter() - began, 2)
            return {"first_call_seconds": first, "seconds": seconds_per_call(step, setup.device, budget=setup.budget)}

        yield attempt({"what": "forward", "compiled": mode, "images": images, "tokens": 1}, compiled)
        network.__dict__.pop("predict", None)
    part.model.denoisers[TARGET].to(torch.float32)
    torch._dynamo.reset()
    free_memory()
