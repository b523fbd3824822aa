"""The execution settings, and the context in which a model runs by them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from medcodi.config import config, to_dict
from medcodi.errors import ConfigError, one_of
from medcodi.model.medcodi import MedCoDi
from medcodi.model.offload import DiskStore, MemoryStore, Placement, Store, check_folder
from medcodi.networks.attention import Attention
from medcodi.networks.attention_backends import attention_backend
from medcodi.networks.unet import UNet


@config
class ExecutionConfig:
    """How to run a model. What it computes stays, up to the rounding of the precision asked for.

    Weights are cast, not autocast, unless asked: on a CPU, autocast casts all of them again at every call, which costs more
    than the bfloat16 arithmetic (docs/PERFORMANCE.md).
    """

    precision: Literal["float32", "bfloat16", "float16"] | None = None  # None: as the weights were loaded
    cast: Literal["weights", "autocast"] = "weights"
    channels_last: bool = False  # of images and their convolutions' weights; what makes bfloat16 fast on a CPU
    compile: bool = False  # torch.compile of the denoisers: minutes at the first step, for runs of many
    attention: str = "sdpa"  # a row of ATTENTION_BACKENDS
    offload: Literal["none", "cpu", "disk"] = "none"  # where components rest while they are not used
    offload_folder: str | None = None
    device: str | None = None  # where components run; None: where the model is
    device_map: dict[str, str] | None = None  # component -> device, for those that run elsewhere
    # Offloading: how much of a device the components may hold at a time. None: four fifths of what a GPU has free; on a
    # CPU, one component.
    max_memory_gib: float | None = None

    def __post_init__(self) -> None:
        attention_backend(self.attention)
        if self.offload_folder is not None and self.offload != "disk":
            raise ConfigError(
                f"offload_folder {self.offload_folder} with offload: {self.offload}",
                expected="offload: disk with it",
                fix="say offload: disk, or leave the folder out",
            )
        if self.offload == "disk" and self.offload_folder is None:
            raise ConfigError("offload: disk without offload_folder", expected="a folder that can be written")
        if self.max_memory_gib is not None and self.offload == "none":
            raise ConfigError("max_memory_gib without offload", expected="offload: cpu or disk with it")
        if self.max_memory_gib is not None and not self.max_memory_gib > 0:
            raise ConfigError(f"max_memory_gib is {self.max_memory_gib}", expected="a number > 0")
        if self.compile and (self.offload != "none" or self.device_map):
            raise ConfigError(
                "compile together with offload or device_map",
                expected="one of them: compiled code holds on to the weights that offloading moves",
                fix="leave compile out where memory is short",
            )
        for place in (self.device or "cpu", *(self.device_map or {}).values()):
            _device(place)

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision as PyTorch names it; None: as the weights were loaded."""
        return None if self.precision is None else getattr(torch, self.precision)

    @property
    def arithmetic(self) -> dict[str, Any]:
        """What can change the last digits of a result, where it differs from running plainly: for provenance."""
        own, plain = to_dict(self), to_dict(ExecutionConfig())
        names = ("precision", "cast", "channels_last", "compile", "attention")
        return {name: own[name] for name in names if own[name] != plain[name]}

    @property
    def changes_nothing(self) -> bool:
        """Whether a model runs by these as it would without."""
        return self == ExecutionConfig()

    def check(self, device: torch.device | str | None = None) -> None:
        """Refuse what cannot work on this machine; to be called before anything is loaded.

        Args:
            device: Where the model will run, if these settings do not say so.

        Raises:
            ConfigError: For a device or kernel that is not here, or an offload folder that cannot be written.
            MissingExtraError: For a package that is not installed.
        """
        places = {
            _device(self.device or str(device or "cpu")),
            *(_device(place) for place in (self.device_map or {}).values()),
        }
        for place in places:
            if place.type == "cuda" and not torch.cuda.is_available():
                raise ConfigError(f"device {place}, and PyTorch sees no GPU", expected="a device of this machine")
            attention_backend(self.attention).require(place, self.dtype or torch.float32)
            if self.compile:
                _require_compiler(place)
        if self.offload_folder is not None:
            check_folder(self.offload_folder)

    def prepare(self, network: nn.Module) -> nn.Module:
        """Cast, lay out and compile one network for good, for use outside of a model; returns it.

        What a network is prepared for is inference: the layout is not one to train in.
        """
        with torch.no_grad(), ExitStack() as stack:
            self._prepare(network, stack, keep=False)
            stack.pop_all()
        return network

    @contextmanager
    def running(self, model: MedCoDi, components: Iterable[str] | None = None) -> Iterator[MedCoDi]:
        """A context in which the model runs by these settings; afterwards it is as it was.

        Components that are not loaded yet are loaded; those that offloading loads are let go of afterwards. Weights that are
        cast are kept beside: where memory is short, load the model in that precision (``from_pretrained(dtype=...)``). Within
        the context of another call with equal settings nothing is done: whoever generates often opens it once around it all.

        Args:
            model: Changed in place: do not train it, save it, or use it from another thread meanwhile.
            components: Names of those that will be used; None: all.

        Raises:
            ConfigError: As :meth:`check`; for an unknown component; for other settings within this context.
        """
        outer = _RUNNING.get(model)
        if outer is not None and outer != self:
            raise ConfigError(
                "the model runs by other execution settings already", expected="equal ones", fix="leave that context"
            )
        if outer is not None or self.changes_nothing:
            model.load_components(components)
            yield model
            return
        self.check(model.device)
        for name in self.device_map or {}:
            one_of("component", name, model.components(), ConfigError)
        with ExitStack() as stack:
            # Weights outlive the inference that they are changed for.
            with torch.inference_mode(False), torch.no_grad():
                self._enter(model, list(model.components() if components is None else components), stack)
            if self.cast == "autocast" and self.dtype is not None:
                stack.enter_context(torch.autocast(model.device.type, self.dtype))
            _RUNNING[model] = self
            stack.callback(_RUNNING.pop, model)
            yield model

    def _enter(self, model: MedCoDi, names: list[str], stack: ExitStack) -> None:
        """Change what has to be changed, component by component, with the way back on the stack."""
        home = torch.device(self.device) if self.device else model.device
        moves = self.offload != "none" or bool(self.device_map) or home != model.device
        placement = Placement(home, self._budget) if moves else None
        stored_home = model.home
        for name in names:
            module, pending = model.components()[name], name in model.pending
            model.load_components([name])
            temporary = pending and self.offload != "none"
            if temporary:
                _later(stack, model.unload_components, [name])
            self._prepare(module, stack, keep=not temporary)
            if placement is not None:
                placement.add(
                    name,
                    module,
                    torch.device((self.device_map or {}).get(name, home)),
                    self._store(module, name, temporary),
                )
                _later(stack, placement.remove, name)
        if placement is not None:
            _later(stack, setattr, model, "home", stored_home)
            model.home = home

    def _prepare(self, module: nn.Module, stack: ExitStack, *, keep: bool) -> None:
        """Cast, lay out, choose kernels, compile; ``keep``: the weights as they were come back when the context ends."""
        if self.cast == "weights" and self.dtype is not None:
            _cast(module, self.dtype, stack if keep else None)
        if self.channels_last:
            if keep:
                _later(stack, _set_layout, module, torch.contiguous_format)
            _set_layout(module, torch.channels_last)
        for part in module.modules():
            if isinstance(part, Attention):
                _later(stack, setattr, part, "backend", part.backend)
                part.backend = self.attention
            if isinstance(part, UNet) and self.compile:
                part.predict = torch.compile(part.predict)  # pyright: ignore[reportAttributeAccessIssue]
                _later(stack, delattr, part, "predict")

    def _store(self, module: nn.Module, name: str, temporary: bool) -> Store | None:
        if self.offload == "disk":
            assert self.offload_folder is not None
            return DiskStore(module, self.offload_folder, name, discard=temporary)
        return MemoryStore(module) if self.offload == "cpu" else None

    def _budget(self, device: torch.device) -> int:
        if self.max_memory_gib is not None:
            return int(self.max_memory_gib * 2**30)
        return int(0.8 * torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else 0


_RUNNING: WeakKeyDictionary[MedCoDi, ExecutionConfig] = WeakKeyDictionary()


def _later(stack: ExitStack, undo: Callable[..., Any], *arguments: Any) -> None:
    """Undo something when the context ends, as ordinary weights rather than as an inference's."""

    def call() -> None:
        with torch.inference_mode(False), torch.no_grad():
            undo(*arguments)

    stack.callback(call)


def _cast(module: nn.Module, dtype: torch.dtype, stack: ExitStack | None) -> None:
    """Cast the weights; buffers and single numbers keep their precision, as in model files."""
    for parameter in module.parameters():
        if parameter.dim() and parameter.is_floating_point() and parameter.dtype != dtype:
            if stack is not None:
                _later(stack, setattr, parameter, "data", parameter.data)
            parameter.data = parameter.data.to(dtype)


def _set_layout(module: nn.Module, layout: torch.memory_format) -> None:
    """Lay the weights of 2-D convolutions out, one at a time."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            laid_out = part.weight.data.contiguous(memory_format=layout)
            # Into the memory the weight has: new memory for each would leave the old in pieces too small to use again.
            part.weight.data = part.weight.data.as_strided(laid_out.shape, laid_out.stride()).copy_(laid_out)


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r}", expected="a device such as cpu, cuda or cuda:1") from None


def _require_compiler(device: torch.device) -> None:
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("compile needs the package triton on a GPU", fix="pip install triton, or leave compile out")
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")
    if device.type == "cpu" and not any(shutil.which(name) for name in compilers):
        raise ConfigError(
            "compile on a CPU without a C++ compiler", expected="g++ or clang++ on the path", fix="leave compile out"
        )
