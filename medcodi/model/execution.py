"""How a model is executed: precision, memory layout, kernels, compilation, offloading; and the context in which it is."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from medcodi.config import config, to_dict
from medcodi.errors import ConfigError, one_of
from medcodi.model.offload import DiskStore, MemoryStore, Placement, Store, check_folder
from medcodi.networks.attention import Attention
from medcodi.networks.attention_backends import attention_backend
from medcodi.networks.hearing import Connector
from medcodi.networks.unet import UNet

if TYPE_CHECKING:
    from medcodi.model.medcodi import MedCoDi


@config
class ExecutionConfig:
    """How to run a model; results are the same up to the rounding of the precision."""

    precision: Literal["float32", "bfloat16", "float16"] | None = None  # None: as the weights were loaded
    # On a CPU, autocast casts all weights again at every call, which costs more than bfloat16 saves (docs/PERFORMANCE.md).
    cast: Literal["weights", "autocast"] = "weights"
    channels_last: bool = False  # layout of images and convolution weights; it makes bfloat16 fast on a CPU
    compile: bool = False  # torch.compile of the denoisers: minutes at the first step, for runs of many
    attention: str = "sdpa"  # a row of ATTENTION_BACKENDS
    offload: Literal["none", "cpu", "disk"] = "none"  # the place of components that are not in use
    offload_folder: str | None = None  # where offload: disk writes the components
    device: str | None = None  # device of the components; None: that of the model
    device_map: dict[str, str] | None = None  # component -> device, for those that run elsewhere
    # Offloading: memory that components may use on a device. None: 80 % of a GPU's free memory; on a CPU, one component.
    max_memory_gib: float | None = None

    def __post_init__(self) -> None:
        attention_backend(self.attention)
        if self.offload_folder is not None and self.offload != "disk":
            raise ConfigError(
                f"offload_folder {self.offload_folder} with offload: {self.offload}",
                expected="offload: disk with it",
                fix="set offload: disk, or leave the folder out",
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
        for name in (self.device or "cpu", *(self.device_map or {}).values()):
            _device(name)

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision as a PyTorch type; None: as the weights were loaded."""
        return None if self.precision is None else getattr(torch, self.precision)

    @property
    def weights_dtype(self) -> torch.dtype:
        """The precision to read weights in, so that no others are held beside those that are cast."""
        return self.dtype if self.dtype is not None and self.cast == "weights" else torch.float32

    @property
    def arithmetic(self) -> dict[str, Any]:
        """The settings that can change the last digits of a result, if they differ from the default: for provenance."""
        own, default = to_dict(self), to_dict(ExecutionConfig())
        names = ("precision", "cast", "channels_last", "compile", "attention")
        return {name: own[name] for name in names if own[name] != default[name]}

    @property
    def changes_nothing(self) -> bool:
        """Whether these are the default settings."""
        return self == ExecutionConfig()

    def check(self, device: torch.device | str | None = None) -> None:
        """Refuse settings that cannot work on this machine, before anything is loaded.

        Args:
            device: The model's device, if these settings do not name one.

        Raises:
            ConfigError: For a device or kernel that is not available, or an offload folder that cannot be written.
            MissingExtraError: For a package that is not installed.
        """
        names = (self.device or str(device or "cpu"), *(self.device_map or {}).values())
        for used in {_device(name) for name in names}:
            if used.type == "cuda" and not torch.cuda.is_available():
                raise ConfigError(f"device {used}, and PyTorch sees no GPU", expected="a device of this machine")
            attention_backend(self.attention).require(used, self.dtype or torch.float32)
            if self.compile:
                _require_compiler(used)
        if self.offload_folder is not None:
            check_folder(self.offload_folder)

    def prepare(self, network: nn.Module) -> nn.Module:
        """Cast, lay out and compile a network permanently, for inference outside of a model; returns it."""
        with torch.no_grad(), ExitStack() as stack:
            self._prepare(network, stack, keep=False)
            stack.pop_all()
        return network

    @contextmanager
    def running(self, model: MedCoDi, components: Iterable[str] | None = None) -> Iterator[MedCoDi]:
        """A context in which the model runs by these settings; afterwards it is as it was.

        Pending components are loaded; those that offloading loads are unloaded afterwards. Cast weights take memory beside
        the original ones: where it is short, load the model in that precision (``from_pretrained(dtype=...)``). Nested
        contexts of equal settings cost nothing. Other threads that run the model wait until the context ends.

        Args:
            model: Changed in place: do not train or save it meanwhile.
            components: Names of the components that will be used; None: all.

        Raises:
            ConfigError: As :meth:`check`; for an unknown component; for other settings within this context.
        """
        with model.lock:
            yield from self._running(model, components)

    def _running(self, model: MedCoDi, components: Iterable[str] | None) -> Iterator[MedCoDi]:
        """The context, of the thread that holds the model's lock."""
        # Nothing to do: default settings, or within the context of equal ones.
        outer = _RUNNING.get(model)
        if outer is not None and outer != self:
            raise ConfigError(
                "the model runs by other execution settings already", expected="equal ones", fix="leave that context"
            )
        if outer is not None or self.changes_nothing:
            model.load_components(components)
            yield model
            return

        # Change the model, with the way back on a stack.
        self.check(model.device)
        for name in self.device_map or {}:
            one_of("component", name, model.components(), ConfigError)
        with ExitStack() as stack:
            # Not as inference tensors: weights outlive this context.
            with torch.inference_mode(False), torch.no_grad():
                self._enter(model, list(model.components() if components is None else components), stack)
            if self.cast == "autocast" and self.dtype is not None:
                stack.enter_context(torch.autocast(model.device.type, self.dtype))
            _RUNNING[model] = self
            stack.callback(_RUNNING.pop, model)
            yield model

    def _enter(self, model: MedCoDi, names: list[str], stack: ExitStack) -> None:
        """Change the components one by one; the way back is pushed on the stack."""
        home = torch.device(self.device) if self.device else model.device
        moves = self.offload != "none" or bool(self.device_map) or home != model.device
        placement = Placement(home, self._budget) if moves else None
        stored_home = model.home
        for name in names:
            module, pending = model.components()[name], name in model.pending
            model.load_components([name])
            # A component that was pending can be read again: with offloading it is unloaded at the end.
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
        """Cast, lay out, choose kernels, compile; ``keep``: restore the weights when the context ends."""
        if self.cast == "weights" and self.dtype is not None:
            _cast(module, self.dtype, stack if keep else None)
        if self.channels_last:
            if keep:
                _later(stack, _set_layout, module, torch.contiguous_format)
            _set_layout(module, torch.channels_last)
        for part in module.modules():
            if isinstance(part, (Attention, Connector)):
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
    """Undo something when the context ends, outside of inference mode."""

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
    """Change the memory layout of the weights of 2-D convolutions, one at a time."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            laid_out = part.weight.data.contiguous(memory_format=layout)
            # Into the weight's own memory: new memory for each would fragment the old.
            part.weight.data = part.weight.data.as_strided(laid_out.shape, laid_out.stride()).copy_(laid_out)


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r}", expected="a device such as cpu, cuda or cuda:1") from None


def _require_compiler(device: torch.device) -> None:
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("compile needs the package triton on a GPU", fix="pip install triton, or leave compile out")
    # Triton builds the launchers of its kernels with a C compiler, which images for running lack.
    c_compilers = (os.environ.get("CC", "gcc"), "gcc", "clang")
    if device.type == "cuda" and not any(shutil.which(name) for name in c_compilers):
        raise ConfigError(
            "compile on a GPU without a C compiler", expected="gcc or clang on the path", fix="leave compile out"
        )
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")
    if device.type == "cpu" and not any(shutil.which(name) for name in compilers):
        raise ConfigError(
            "compile on a CPU without a C++ compiler", expected="g++ or clang++ on the path", fix="leave compile out"
        )
