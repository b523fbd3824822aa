"""``model_index.json`` checked as data before anything is built from it: types, ranges, and names of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from medcodi.errors import CheckpointError
from medcodi.model import named_model
from medcodi.storage.checked_json import parse_json, shown
from medcodi.storage.names import plain_name

FORMAT_VERSION = 1
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
INDEX = "model_index.json"
MAX_BYTES = 16 * 2**20  # of the index; ours have a few KiB

# Bounds of the config's numbers: a config beyond them would take hours or all memory to build, and describes no model.
MAX_SIZE, MAX_VOCABULARY, MAX_REPEATS, MAX_ITEMS, MAX_SCALE = 2**14, 2**20, 128, 16, 1e6
_REPEATS = ("layers", "num_res_blocks", "layers_per_block")  # ends of the keys that count layers
# Components that a model of ours can have; their files are the ones that saving over a folder may remove.
_COMPONENTS = ("prompt_encoders", "autoencoder_", "denoiser_", "environment_", "student_")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)


class _Component(_Entry):
    file: str
    sha256: Sha256
    num_parameters: Count = 0


class _Tokenizer(_Entry):
    file: str
    sha256: Sha256
    lowercase: bool


class _NoTokenizer(_Entry):
    file: None
    vocab_size: Annotated[int, Field(ge=3, le=MAX_VOCABULARY)]


class _Tokenizers(_Entry):
    prompts: _Tokenizer | _NoTokenizer
    report: _Tokenizer | _NoTokenizer
    decoder: _Tokenizer | _NoTokenizer


class _Index(_Entry):
    config: dict[str, Any]
    trained_stages: list[Annotated[str, Field(max_length=64)]]
    components: dict[str, _Component]
    tokenizer_sha256: Sha256 | None = None  # one tokenizer for all roles
    tokenizers: _Tokenizers | None = None  # or one for each
    provenance: dict[str, Any] = {}


def read_index(source: str | Path) -> tuple[Path, dict[str, Any]]:
    """Locate a model folder (``"demo"``: the shipped one; on disk, else on the hub) and read its index.

    Raises:
        CheckpointError: If there is none, it is a pickle, or its index is invalid.
    """
    source = named_model(source)
    folder = Path(source)
    if folder.suffix in _PICKLES:
        raise CheckpointError(
            f"{folder} is a pickle by its name, and a pickle can run code",
            expected="a model folder of safetensors",
            fix="for a checkpoint in the published layout: medcodi import-xgem; else the folder that save_pretrained wrote",
        )
    if not folder.exists():
        folder = _from_hub(str(source))
    if not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder} holds no {INDEX}",
            expected="a folder written by save_pretrained",
            fix="give the model folder itself",
        )
    return folder, parse_index(folder / INDEX)


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise CheckpointError(
            f"no model at {repository}",
            expected="a model folder, or a hub repository owner/name",
            fix="check the path; the shipped model is named demo",
        )
    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"no model at {repository}, and the hub did not provide one ({type(error).__name__})",
            expected="a model folder, or a hub repository that can be reached",
            fix="check the path; the shipped model is named demo",
        ) from None


def parse_index(path: Path) -> dict[str, Any]:
    """Read and check a ``model_index.json``; unknown keys are ignored.

    Raises:
        CheckpointError: Naming the file, the key and the value that is invalid.
    """
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes", expected=f"at most {MAX_BYTES:,}")
    index = parse_json(path.read_bytes(), str(path), CheckpointError)
    # The format first: another version may have other keys.
    version = index.get("format") if isinstance(index, dict) else None
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise CheckpointError(
            f"{path} has format {shown(version)}",
            expected=f"format {FORMAT_VERSION}",
            fix="use the MedCoDi version that wrote it",
        )
    _check_types(index, path)
    # Names of files stay inside the folder; numbers of the config stay within what can be built.
    for name, entry in index["components"].items():
        _weights_name(entry["file"], f"{path}, components.{shown(name)[1:-1]}.file")
    for role, entry in (index.get("tokenizers") or {}).items():
        if entry["file"] is not None:
            plain_name(entry["file"], f"{path}, tokenizers.{role}.file", CheckpointError)
    for key, value in _numbers("config", index["config"]):
        _check_number(path, key, value)
    return index


def replaceable_files(index: dict[str, Any]) -> Iterator[str]:
    """Names of the files of components of ours: saving a model over this one may remove them."""
    for name, entry in index["components"].items():
        if name.startswith(_COMPONENTS) and entry["file"] == f"{name}.safetensors":
            yield entry["file"]


def _check_types(index: dict[str, Any], path: Path) -> None:
    try:
        TypeAdapter(_Index).validate_python(index)
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(shown(str(part))[1:-1] for part in item["loc"] if not str(part).startswith("_"))
        value = "" if item["type"] == "missing" else f" = {shown(item['input'])}"
        raise CheckpointError(
            f"{path}: {key}{value} is invalid: {item['msg']}",
            expected="an index as save_pretrained writes it",
            fix="fetch or train the model again",
        ) from None
    hashes = [key for key in ("tokenizer_sha256", "tokenizers") if key in index]
    if len(hashes) != 1 or index[hashes[0]] is None:
        raise CheckpointError(
            f"{path} has {' and '.join(f'{key} = {shown(index[key])}' for key in hashes) or 'no hash of a tokenizer'}",
            expected="either tokenizer_sha256 or tokenizers: the hash of every tokenizer file",
        )


def _weights_name(name: str, source: str) -> None:
    plain_name(name, source, CheckpointError)
    if not name.endswith(".safetensors"):
        raise CheckpointError(f"{source} is {shown(name)}", expected="the name of a safetensors file")


def _numbers(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every list and number of the config, under its dotted key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(f"{key}.{name}", inner)
    elif isinstance(value, list):
        yield key, value
        for inner in value:
            yield from _numbers(key, inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value


def _check_number(path: Path, key: str, value: Any) -> None:
    if isinstance(value, list):
        low, high, size = 0, MAX_ITEMS, len(value)
    elif isinstance(value, float):
        low, high, size = -MAX_SCALE, MAX_SCALE, value
    else:
        limit = MAX_VOCABULARY if key.endswith("vocab_size") else MAX_REPEATS if key.endswith(_REPEATS) else MAX_SIZE
        low, high, size = 0, limit, value
    if not low <= size <= high:
        what = f"has {size:,} items" if isinstance(value, list) else f"is {shown(value)}"
        raise CheckpointError(
            f"{path}: {shown(key, 100)[1:-1]} {what}",
            expected=f"{low:,} to {high:,}",
            fix="fetch or train the model again; do not use it if its author is unknown",
        )
