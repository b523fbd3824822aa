"""The cost of a stage, counted without running it: parameters, activations, floating-point operations (FLOPs).

Networks run on fake tensors (shapes and precisions, no numbers): what autograd saves for the backward pass is added up, and
operations are counted; no memory is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from medcodi.config import from_dict, load
from medcodi.model import STAGES, MedCoDi, ModelConfig
from medcodi.model.files import read_index
from medcodi.networks.tokenizer import AbsentTokenizer, Tokenizers
from medcodi.stages import build_stage
from medcodi.stages.dry_run import DryRun, Forward
from medcodi.stages.stage import Stage
from medcodi.training.config import TrainConfig


@dataclass(frozen=True)
class Cost:
    """Costs of a stage that do not depend on the hardware."""

    trained: int  # parameters with gradient
    frozen: int  # parameters without gradient that are in memory; none that the cache replaces
    fixed_activations: float  # bytes saved for the backward pass for any batch (weights cast by autocast)
    study_activations: float  # bytes saved for the backward pass, per study of the micro-batch
    study_transient: (
        float  # bytes of the frozen networks' largest intermediate results, per study; freed before the rest
    )
    study_flops: float  # floating-point operations per study, forward and backward


def stage_cost(run: TrainConfig, model: ModelConfig | None = None) -> Cost:
    """Count parameters, activations and operations of a run's stage, by default with the model that the run names."""
    model = model or _model_config(run)
    with FakeTensorMode(allow_non_fake_inputs=True):
        stage, passes = _build(run, model)
        # Parameters: all components are in memory, for samples and for the end, unless studies come from the cache.
        trained = sum(p.numel() for p in stage.parameters() if p.requires_grad)
        parts = stage.model.components()
        names = stage.components() if run.cache is not None else tuple(parts)
        in_memory = sum(p.numel() for name in names for p in parts[name].parameters())

        # Activations of one study and of two: the difference is that of each study, the rest is fixed.
        one, two = (_saved_bytes(passes.trained, stage, run, studies) for studies in (1, 2))
        with torch.no_grad():
            transient = max((_largest_result(forward, stage, run) for forward in passes.frozen), default=0.0)
        flops = _operations(passes)
    return Cost(trained, max(0, in_memory - trained), max(0.0, 2 * one - two), two - one, transient, flops)


def _build(run: TrainConfig, config: ModelConfig) -> tuple[Stage, DryRun]:
    """A run's stage around a model without numbers, and its forward passes; call it where tensors are fake."""
    model = MedCoDi(config, empty_vocabularies(config))
    model.trained_stages = STAGES
    stage = build_stage(run.stage.name, model, run.stage.options)
    return stage, stage.dry_run(cached=run.cache is not None)


def _model_config(run: TrainConfig) -> ModelConfig:
    if run.model is not None:
        return load(ModelConfig, run.model)
    folder, index = read_index(str(run.init))
    return from_dict(ModelConfig, index["config"], source=str(folder))


def empty_vocabularies(config: ModelConfig) -> Tokenizers:
    """Tokenizers with vocabularies of the right sizes, without words."""
    sizes = {
        "prompts": config.prompt_encoders.text.vocab_size,
        "report": config.report_autoencoder.encoder_vocab_size,
        "decoder": config.report_autoencoder.decoder_vocab_size,
    }
    default = config.vocab_size
    return Tokenizers(**{role: AbsentTokenizer(size or default, role) for role, size in sizes.items()})


def _autocast(run: TrainConfig) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=run.precision != "fp32")


def _saved_bytes(passes: Iterable[Forward], stage: nn.Module, run: TrainConfig, studies: int) -> float:
    """Bytes that autograd saves for the backward pass: each storage once, without parameters."""
    own = {parameter.untyped_storage()._cdata for parameter in stage.parameters()}
    saved: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # referenced, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _autocast(run):
        results = [forward(studies) for forward in passes]
    total = float(sum(storage.nbytes() for storage in saved.values()))
    del results
    return total


class _Largest(TorchDispatchMode):
    """Finds the largest result of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                size = tensor.numel() * tensor.element_size()
                self.bytes = max(
                    self.bytes, min(size, tensor.untyped_storage().nbytes())
                )  # an expanded view is no larger than its storage
        return result


def _largest_result(forward: Forward, stage: nn.Module, run: TrainConfig) -> float:
    """Bytes of three times the largest result for one study: an operation's input, its output, and one beside them."""
    with _Largest() as largest, _autocast(run):
        forward(1)
    return 3.0 * largest.bytes


class Operations(TorchDispatchMode):
    """Adds up the floating-point operations of matrix products, convolutions and attention, in both passes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)  # pyright: ignore[reportFunctionMemberAccess]
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def study_flops(run: TrainConfig, model: ModelConfig) -> float:
    """Floating-point operations of a training step per study, forward and backward, without recomputed activations."""
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True):
        return _operations(_build(run, model)[1])


def _operations(passes: DryRun) -> float:
    """Floating-point operations of one study, where tensors are fake."""
    with Operations() as frozen, torch.no_grad():
        for forward in passes.frozen:
            forward(1)
    with Operations() as trained, torch.enable_grad():
        for forward in passes.trained:
            ends = [result.float().sum() for result in forward(1) if result.requires_grad]
            torch.stack(ends).sum().backward()
    return frozen.total + passes.drawn * trained.total
