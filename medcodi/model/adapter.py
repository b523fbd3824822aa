"""An adapter: low-rank changes of one model in a small safetensors file, which names that model and fits no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcodi.errors import CheckpointError
from medcodi.model.components import write_weights
from medcodi.model.low_rank import LowRank, layer_name
from medcodi.storage.atomic import sha256_file
from medcodi.storage.checked_json import foreign, parse_json, shown
from medcodi.storage.tensors import tensors_in_safetensors

ADAPTER = "adapter.safetensors"
FORMAT = 1
_HEADER = "medcodi_adapter"  # the text in the file's header that describes it
_EXPECTED, _FIX = "an adapter that a run with low_rank wrote", "fetch or train it again"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Changes of some components of a model, and where they come from."""

    base: str  # identity of the model that it changes
    base_name: str  # its name, for people
    stage: str  # that trained it
    tensors: Mapping[str, Tensor]  # "<component>.down.<layer>" and "<component>.up.<layer>"
    training: dict[str, Any] = field(default_factory=dict)  # steps, seed, studies and data of the run; its privacy
    provenance: dict[str, Any] = field(default_factory=dict)  # the domain of its studies
    sha256: str = ""  # of the file; empty before it is written

    def changes(self) -> dict[str, dict[str, Tensor]]:
        """Component -> name of a layer -> B A ``[C_out, C_in k k]``, in float32."""
        changes: dict[str, dict[str, Tensor]] = {}
        for name, up in self.tensors.items():
            component, kind, key = name.split(".", 2)
            if kind == "up":
                down = self.tensors[f"{component}.down.{key}"]
                changes.setdefault(component, {})[layer_name(key)] = up.float() @ down.float()
        return changes

    @property
    def num_parameters(self) -> int:
        """Numbers that it holds."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def tensors_of(adapters: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """The tensors of an adapter: component -> its changes."""
    return {
        f"{component}.{name}": tensor
        for component, changes in adapters.items()
        for name, tensor in changes.state_dict().items()
    }


def write_adapter(path: Path, adapter: Adapter) -> Path:
    """Write an adapter, whole or not at all; an existing file is replaced.

    Raises:
        CheckpointError: If it cannot be written, or holds numbers that are not finite.
    """
    if bad := _not_finite(adapter.tensors):
        raise CheckpointError(f"{bad} holds numbers that are not finite", fix="train it again, at a lower optimizer.lr")
    header = {
        "format": FORMAT,
        "base": adapter.base,
        "base_name": adapter.base_name,
        "stage": adapter.stage,
        "training": adapter.training,
        "provenance": adapter.provenance,
        "tensors": _digest(adapter.tensors),
    }
    specs = {name: (tuple(tensor.shape), torch.float32) for name, tensor in adapter.tensors.items()}
    write_weights(path, specs, adapter.tensors.__getitem__, metadata={_HEADER: json.dumps(header, sort_keys=True)})
    return path


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter and check every number of it.

    Raises:
        CheckpointError: If it is missing, cut, changed since it was written, or no adapter.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no adapter at {path}", expected=f"a file such as runs/mine/{ADAPTER}", fix="check it")
    # The header, as data that anyone may have written.
    stored = tensors_in_safetensors(path)
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(_HEADER)
    if text is None:
        raise CheckpointError(f"{path} holds tensors, and names no model that they change", expected=_EXPECTED)
    header = parse_json(text.encode(), f"the header of {path}", CheckpointError)
    with foreign(str(path), CheckpointError, expected=_EXPECTED, fix=_FIX):
        if header["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {shown(header['format'])}",
                expected=f"format {FORMAT}",
                fix="use the MedCoDi version that wrote it",
            )
        texts = {name: str(header[name]) for name in ("base", "base_name", "stage")}
        training, provenance = dict(header["training"]), dict(header["provenance"])

        # The tensors, in pairs of matrices that fit each other.
        tensors = {name: each.read() for name, each in stored.items()}
        for name in tensors:
            component, kind, key = name.split(".", 2)
            up, down = (tensors[f"{component}.{side}.{key}"] for side in ("up", "down"))
            if kind not in ("up", "down") or up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
                raise ValueError(f"{name} is no half of a change")
    if _digest(tensors) != header.get("tensors") or _not_finite(tensors):
        raise CheckpointError(f"{path} was changed since it was written", expected=_EXPECTED, fix=_FIX)
    return Adapter(**texts, training=training, provenance=provenance, tensors=tensors, sha256=sha256_file(path))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of a tensor with numbers that are not finite; empty: there is none."""
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), "")


def promises(provenance: Mapping[str, Any]) -> str:
    """The promise of each training to its patients, in words; empty where none made one."""
    # Trainings of the model, of the adapters in it, and of the models that it is the average of.
    histories = [provenance, *provenance.get("averaged", ())]
    records = [pair for history in histories for pair in dict(history.get("training", {})).items()]
    records += [(each["stage"], each["training"]) for history in histories for each in history.get("adapters", ())]
    texts, private = [], False
    for stage, record in records:
        promise = record.get("privacy") or {}
        private |= promise.get("epsilon") is not None
        words = "no promise"
        if promise.get("epsilon") is not None:
            words = (
                f"ε = {promise['epsilon']:.3g} at δ = {promise['delta']:g} for each of {promise['patients']:,} patients"
            )
        texts.append(f"{stage} on {record.get('studies', 0):,} studies: {words}")
    return "; ".join([*dict.fromkeys(texts), "a patient of several trainings: the sum"]) if private else ""
