"""A model on disk: ``model_index.json``, ``tokenizer.json`` and one safetensors file for each component."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medcodi.config import from_dict, to_dict
from medcodi.errors import CheckpointError
from medcodi.networks.tokenizer import ReportTokenizer

if TYPE_CHECKING:
    from medcodi.model import MedCoDi

FORMAT_VERSION = 1
INDEX = "model_index.json"
TOKENIZER = "tokenizer.json"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def save_model(model: MedCoDi, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        model: What to save.
        folder: Made, or replaced when it holds a model already.
        dtype: Precision of the stored weights (buffers and single numbers, such as scales, stay as they are); None keeps what is there.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the folder exists and holds something other than a model.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder} exists and holds no model", expected="a new or empty folder", mend="choose another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        components: dict[str, Any] = {}
        for name, module in model.components().items():
            weights = dict(module.named_parameters())
            state = {
                key: _stored(value, dtype if key in weights else None) for key, value in module.state_dict().items()
            }
            save_file(state, staging / f"{name}.safetensors")
            components[name] = {
                "file": f"{name}.safetensors",
                "sha256": file_hash(staging / f"{name}.safetensors"),
                "num_parameters": sum(parameter.numel() for parameter in module.parameters()),
            }
        model.tokenizer.save(staging / TOKENIZER)
        index = {
            "format": FORMAT_VERSION,
            "config": to_dict(model.config),
            "trained_stages": list(model.trained_stages),
            "tokenizer_sha256": file_hash(staging / TOKENIZER),
            "components": components,
            "provenance": model.provenance,
        }
        (staging / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        _replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _replace(staging: Path, folder: Path) -> None:
    """Put the new files where the old ones were; files that are not the model's (cards, evaluators) stay."""
    staging.chmod(0o755)
    if not folder.exists():
        staging.rename(folder)
        return
    if (folder / INDEX).is_file():
        named = json.loads((folder / INDEX).read_text(encoding="utf-8")).get("components", {})
        for old in (folder / entry["file"] for entry in named.values()):
            if not (staging / old.name).exists():
                old.unlink(missing_ok=True)
    for new in sorted(
        staging.iterdir(), key=lambda file: file.name == INDEX
    ):  # the index last: it vouches for the rest
        new.replace(folder / new.name)


def _stored(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.to(dtype) if dtype is not None and value.is_floating_point() and value.dim() else value.clone()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_index(source: str | Path) -> tuple[Path, dict[str, Any]]:
    """Find a model folder (on disk, else on the hub) and read its index.

    Raises:
        CheckpointError: If there is none, it is a pickle, or its index cannot be read.
    """
    folder = Path(source)
    if folder.suffix in _PICKLES:
        raise CheckpointError(
            f"{folder} is a pickle by its name, and a pickle can run code",
            expected="a model folder of safetensors",
            mend="convert it first, or use the folder that save_pretrained wrote",
        )
    if not folder.exists():
        folder = _from_hub(str(source))
    if not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder} holds no {INDEX}",
            expected="a folder written by save_pretrained",
            mend="give the model folder itself",
        )
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{folder / INDEX} cannot be read: {error}", mend="fetch or train the model again"
        ) from None
    if index.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format {index.get('format')!r}",
            expected=f"format {FORMAT_VERSION}",
            mend="use the MedCoDi version that wrote it",
        )
    return folder, index


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise CheckpointError(
            f"no model at {repository}",
            expected="a model folder, or a hub repository owner/name",
            mend="check the path; the demo model is checkpoints/demo",
        )
    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"no model at {repository}, and the hub did not give one ({type(error).__name__})",
            expected="a model folder, or a hub repository that can be reached",
            mend="check the path; the demo model is checkpoints/demo",
        ) from None


def load_model(source: str | Path, *, device: str | torch.device = "cpu") -> MedCoDi:
    """Load a model folder or a hub repository; weights become float32.

    Raises:
        CheckpointError: If a file is missing, truncated, changed since it was saved, a pickle, or does not fit the config.
    """
    from medcodi.model import MedCoDi, ModelConfig

    folder, index = read_index(source)
    config = from_dict(ModelConfig, index["config"], source=str(folder / INDEX))
    with torch.random.fork_rng(devices=[]):
        model = MedCoDi(config, ReportTokenizer.load(folder / TOKENIZER))
    for name, module in model.components().items():
        entry = index["components"].get(name)
        if entry is None:
            raise CheckpointError(f"{folder} has no component {name!r}", expected=", ".join(model.components()))
        state = _read_weights(folder / entry["file"], entry["sha256"])
        _check_fit(folder / entry["file"], state, module.state_dict())
        module.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        )
    model.trained_stages = tuple(index["trained_stages"])
    model.provenance = index.get("provenance", {})
    return model.to(device).eval()


def _read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing", expected="every file that the index names", mend="fetch or train the model again"
        )
    if file_hash(path) != sha256:
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated or was changed since it was saved",
            expected=f"SHA-256 {sha256}",
            mend="fetch or train the model again",
        )
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a safetensors file: {error}", mend="fetch or train the model again"
        ) from None


def _check_fit(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"{path} does not fit its config: {len(missing)} tensors missing {missing[:3]}, {len(extra)} unknown {extra[:3]}",
            expected="the tensors of the model that model_index.json describes",
        )
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise CheckpointError(
                f"{path}: {name} is {tuple(found[name].shape)}",
                expected=f"{tuple(value.shape)}, as model_index.json says",
            )
        if not torch.isfinite(found[name].float()).all():
            raise CheckpointError(
                f"{path}: {name} holds numbers that are not finite", mend="fetch or train the model again"
            )
