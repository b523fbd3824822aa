"""Offloading: components stay in CPU memory or on disk, and move to their device when they are used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medcodi.errors import ConfigError
from medcodi.model.components import move_buffers

# The methods through which a component's weights are used.
ENTRIES = ("encode", "decode", "latent", "null", "encode_ids", "generate_ids", "logits", "begin", "advance")


class Store(Protocol):
    """The place where one component's weights stay while they are not used."""

    def rest(self) -> None:
        """Free the device's memory."""
        ...

    def bring(self, device: torch.device) -> None:
        """Put the weights on a device."""
        ...

    def close(self) -> None:
        """Put the weights back where they were, and remove everything else."""
        ...


class MemoryStore:
    """Weights that stay in the memory they were in."""

    def __init__(self, module: nn.Module) -> None:
        self._home = {parameter: parameter.data for parameter in module.parameters()}

    def rest(self) -> None:
        """Point back at the copy in that memory."""
        for parameter, value in self._home.items():
            parameter.data = value

    def bring(self, device: torch.device) -> None:
        """Copy to a device, if they are not there already."""
        for parameter, value in self._home.items():
            parameter.data = value.to(device)

    def close(self) -> None:
        """As :meth:`rest`."""
        self.rest()


class DiskStore:
    """Weights that stay in a safetensors file, which is removed at the end."""

    def __init__(self, module: nn.Module, folder: str, name: str, *, discard: bool) -> None:
        """Write the weights; ``discard``: they are not read back at the end, because the model's own files hold them."""
        self._module, self._discard = module, discard
        self._device = next(module.parameters()).device
        self._formats = {key: _format(value) for key, value in module.named_parameters()}
        self._path = Path(folder) / f"{name}.safetensors"
        size, free = num_bytes(module), shutil.disk_usage(folder).free
        try:
            if size > free:
                raise OSError(f"{free / 2**30:.1f} GiB are free")
            save_file({key: value.detach().contiguous() for key, value in module.named_parameters()}, self._path)
        except (OSError, SafetensorError) as error:
            self._path.unlink(missing_ok=True)
            raise ConfigError(
                f"{name} ({size / 2**30:.2f} GiB) cannot be offloaded to {folder}: {error}",
                expected="room for every component used",
                fix="give an offload_folder on a larger disk",
            ) from None

    def rest(self) -> None:
        """Free the memory; the file stays."""
        for parameter in self._module.parameters():
            parameter.data = torch.empty((), dtype=parameter.dtype).expand(parameter.shape)  # one number

    def bring(self, device: torch.device) -> None:
        """Read the file."""
        with safe_open(self._path, framework="pt", device=str(device)) as file:
            for key, parameter in self._module.named_parameters():
                parameter.data = file.get_tensor(key).contiguous(memory_format=self._formats[key])

    def close(self) -> None:
        """Read the weights back unless they are to be discarded, and remove the file."""
        if not self._discard:
            self.bring(self._device)
        self._path.unlink(missing_ok=True)


def _format(value: Tensor) -> torch.memory_format:
    if value.is_contiguous() or value.dim() != 4:
        return torch.contiguous_format
    return torch.channels_last


def num_bytes(module: nn.Module) -> int:
    """Memory of a module's parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def check_folder(folder: str | Path) -> None:
    """Refuse a folder that cannot be created or written, before anything is loaded."""
    probe = Path(folder) / ".medcodi-can-write"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"the offload folder {folder} cannot be written: {error.strerror or error}",
            expected="a folder that can be created and written",
            fix="choose another offload_folder",
        ) from None


class Placement:
    """The components on each device; the ones unused for longest leave when another one needs room."""

    def __init__(self, home: torch.device, budget: Callable[[torch.device], int]) -> None:
        """Start without components; ``budget``: device -> bytes for its components with a store (a single one may use more)."""
        self.home, self._budget = home, budget  # results are returned to home
        self.resident: list[str] = []  # components on their device, the most recently used last
        self._parts: dict[
            str, tuple[nn.Module, torch.device, Store | None, int]
        ] = {}  # component, device, store, bytes
        self._origin: dict[str, torch.device] = {}

    def add(self, name: str, module: nn.Module, device: torch.device, store: Store | None) -> None:
        """Manage a component: with a store it moves when it is used; without, it moves to its device at once."""
        from accelerate.hooks import add_hook_to_module

        # Where it is, where it shall run, and its way back.
        self._parts[name] = (module, device, store, num_bytes(module))
        self._origin[name] = next(module.parameters()).device
        if store is None:
            module.to(device)
        else:
            store.rest()
            move_buffers(module, device)
        # Its forward, and every other method that uses its weights, goes through the hook.
        hook = _hook(self, name)
        add_hook_to_module(module, hook)
        for entry in ENTRIES:
            if hasattr(module, entry):
                setattr(module, entry, _through(hook, module, getattr(module, entry)))

    def remove(self, name: str) -> None:
        """Stop managing a component: it is where and as it was."""
        from accelerate.hooks import remove_hook_from_module

        module, _, store, _ = self._parts.pop(name)
        remove_hook_from_module(module)
        for entry in ("forward", *ENTRIES):
            module.__dict__.pop(entry, None)
        if store is None:
            module.to(self._origin[name])
        else:
            store.close()
            move_buffers(module, self._origin[name])
        if name in self.resident:
            self.resident.remove(name)

    def need(self, name: str) -> torch.device:
        """Bring a component to its device, after making room there: the ones unused for longest leave first."""
        _, device, store, size = self._parts[name]
        if store is None:
            return device
        if name in self.resident:
            self.resident.remove(name)
        else:
            # Those on the same device, the least recently used first.
            neighbours = [other for other in self.resident if self._parts[other][1] == device]
            used = sum(self._parts[other][3] for other in neighbours)
            while neighbours and used + size > self._budget(device):
                oldest = neighbours.pop(0)
                oldest_store = self._parts[oldest][2]
                assert oldest_store is not None
                oldest_store.rest()
                self.resident.remove(oldest)
                used -= self._parts[oldest][3]
            store.bring(device)
        self.resident.append(name)
        return device


def _hook(placement: Placement, name: str) -> Any:
    """The ``accelerate`` hook of one component: weights and arguments to its device, results home."""
    from accelerate.hooks import ModelHook
    from accelerate.utils import send_to_device

    class Hook(ModelHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            # Not as inference tensors: weights outlive the inference that they are brought for.
            with torch.inference_mode(False), torch.no_grad():
                device = placement.need(name)
            return send_to_device(args, device), send_to_device(kwargs, device)

        def post_forward(self, module: nn.Module, output: Any) -> Any:
            return send_to_device(output, placement.home)

    return Hook()


def _through(hook: Any, module: nn.Module, entry: Callable[..., Any]) -> Callable[..., Any]:
    """A component's method, called through its hook."""

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = hook.pre_forward(module, *args, **kwargs)
        return hook.post_forward(module, entry(*args, **kwargs))

    return call
