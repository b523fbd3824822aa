"""A model folder is checked as data: each broken one is refused by a CheckpointError that names the file and the value."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medcodi.errors import CheckpointError
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.config import StudentConfig
from medcodi.model.index import INDEX, parse_index, replaceable_files
from medcodi.storage.atomic import sha256_file

Index = dict[str, Any]
COMPONENT = "denoiser_frontal"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return tiny_model(seed=0).save_pretrained(tmp_path_factory.mktemp("index") / "model")


@pytest.fixture()
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def put(key: str, value: Any) -> Callable[[Index], None]:
    """A mutation that sets the value at a dotted key."""

    def mutate(index: Index) -> None:
        *parents, last = key.split(".")
        for parent in parents:
            index = index[parent]
        index[last] = value

    return mutate


def drop(key: str) -> Callable[[Index], None]:
    """A mutation that removes a key."""

    def mutate(index: Index) -> None:
        *parents, last = key.split(".")
        for parent in parents:
            index = index[parent]
        del index[last]

    return mutate


FILE = f"components.{COMPONENT}.file"
MUTATIONS = [
    # Names that are no plain names.
    (put(FILE, "../denoiser_frontal.safetensors"), "names the file '../denoiser_frontal"),
    (put(FILE, "/etc/passwd"), "names the file '/etc/passwd'"),
    (put(FILE, "a\\b.safetensors"), "names the file"),
    (put(FILE, "CON.safetensors"), "names the file 'CON.safetensors'"),
    (put(FILE, "weights.bin"), "is 'weights.bin'. Expected the name of a safetensors file"),
    (put(FILE, 3), f"{FILE} = 3 is invalid"),
    (put("tokenizers", dict.fromkeys(("prompts", "report", "decoder"))), "tokenizers"),
    # Types and missing keys.
    (put("format", 2), "has format 2"),
    (put("format", True), "has format True"),
    (drop("config"), "config is invalid: Field required"),
    (put("config", []), "config = \\[\\] is invalid"),
    (drop("components"), "components is invalid: Field required"),
    (put("components", [1]), "components = \\[1\\]"),
    (put(f"components.{COMPONENT}", "x"), f"components.{COMPONENT} = 'x'"),
    (drop(f"components.{COMPONENT}"), f"no component '{COMPONENT}'"),
    (drop(f"components.{COMPONENT}.sha256"), "sha256 is invalid: Field required"),
    (put(f"components.{COMPONENT}.sha256", "0" * 63), "sha256 = '0+… .65 characters. is invalid"),
    (put(f"components.{COMPONENT}.num_parameters", -1), "num_parameters = -1"),
    (put(f"components.{COMPONENT}.num_parameters", 1.5), "num_parameters = 1.5"),
    (put("trained_stages", "join"), "trained_stages = 'join'"),
    (put("trained_stages", [1]), "trained_stages.0 = 1"),
    (put("provenance", 1), "provenance = 1"),
    (drop("tokenizer_sha256"), "no hash of a tokenizer"),
    (put("tokenizer_sha256", None), "tokenizer_sha256 = None"),
    (put("tokenizers", None), "tokenizer_sha256 = .* and tokenizers = None"),
    # Numbers.
    (put("config.context_scale", float("nan")), "config.context_scale is nan: not a finite number"),
    (put("config.environment_scale", float("inf")), "config.environment_scale is inf"),
    (put("config.context_scale", 1e300), "config.context_scale is 1e\\+300"),
    (put("config.schedule.num_train_timesteps", 0), "num_train_timesteps is 0, must be at least 1"),
    (put("config.schedule.beta_start", 2.0), "betas must rise"),
    (put("config.image_size", 10**12), "config.image_size is 1000000000000. Expected 0 to 16,384"),
    (put("config.image_size", 10**400), "config.image_size is 1000.*401 characters.*beyond 64 bits"),
    (put("config.image_size", -32), "config.image_size is -32"),
    (put("config.image_size", "big"), "image_size = 'big'"),
    (put("config.image_size", 33), "does not divide into patches"),
    (put("config.vocab_size", 10**9), "config.vocab_size is 1000000000. Expected 0 to 1,048,576"),
    (put("config.prompt_encoders.text.layers", 10**4), "layers is 10000. Expected 0 to 128"),
    (put("config.prompt_encoders.image.heads", 0), "heads = 0"),
    (put("config.prompt_encoders.text.heads", 0), "the values cannot be computed with"),
    (put("config.prompt_encoders.image.std", [0.5, 0.0, 0.5]), "std \\(0.5, 0.0, 0.5\\)"),
    (put("config.image_denoiser.multipliers", [1] * 40), "multipliers has 40 items"),
    (put("config.image_denoiser.num_heads", 0), "the values cannot be computed with"),
    (put("config.environment.multipliers", [0]), "its config describes no model"),
    (put("config.modalities", ["frontal", "ct"]), "ct"),
    (put("config.surprise", 1), "unknown key 'surprise'"),
    # Texts.
    (put("provenance", {"by": "\ud800"}), "provenance.by is '.ud800': no Unicode text"),
    (put("provenance", {"\udfff": 1}), "the key '.udfff' is no Unicode text"),
]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("mutate", "message"), MUTATIONS, ids=[message[:40] for _, message in MUTATIONS])
def test_a_broken_index_is_refused_by_name(folder: Path, mutate: Callable[[Index], None], message: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    mutate(index)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message) as refusal:
        MedCoDi.from_pretrained(folder, lazy=True)
    assert str(folder) in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"[1]", "format None"),
        (b"null", "format None"),
        (b"\xff\xfe{", "can't decode"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b"[" * 70 + b"]" * 70, "nested deeper than 64"),
        (b'{"format": 1, "format": 1}', "the key 'format' occurs twice"),
        (b'{"format": 1e999}', "format is inf"),
        (b'{"format": ' + b"1" * 10_000 + b"}", "4300"),
        (b" " * (16 * 2**20 + 1), "bytes. Expected at most 16,777,216"),
    ],
    ids=str,
)
def test_an_index_that_is_no_json_object_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as refusal:
        MedCoDi.from_pretrained(folder)
    assert str(folder / INDEX) in str(refusal.value)


def rewrite_weights(folder: Path, write: Callable[[Path], None]) -> None:
    """Change a component's file, with its hash in the index: only its content is wrong."""
    index = json.loads((folder / INDEX).read_text())
    write(folder / f"{COMPONENT}.safetensors")
    index["components"][COMPONENT]["sha256"] = sha256_file(folder / f"{COMPONENT}.safetensors")
    (folder / INDEX).write_text(json.dumps(index))


def with_header(path: Path, change: Callable[[Index], None]) -> None:
    """Change the header of a safetensors file; the tensors stay."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def first(header: Index) -> Index:
    return header[min(key for key in header if key != "__metadata__")]


HEADERS = {
    "an unknown dtype": lambda header: first(header).update(dtype="F4"),
    "a dtype that is a list": lambda header: first(header).update(dtype=["F32"]),
    "a negative side": lambda header: first(header).update(shape=[-1, -1]),
    "a side that is a fraction": lambda header: first(header).update(shape=[1.5]),
    "a side that is true": lambda header: first(header).update(shape=[True]),
    "more dimensions than PyTorch has": lambda header: first(header).update(shape=[1] * 65),
    "a shape that overflows": lambda header: first(header).update(shape=[2**62, 2**62]),
    "offsets that turn back": lambda header: first(header).update(data_offsets=[8, 0]),
    "offsets beyond the file": lambda header: first(header).update(data_offsets=[10**15, 10**15 + 4], shape=[1]),
    "three offsets": lambda header: first(header).update(data_offsets=[0, 4, 8]),
    "an entry that is null": lambda header: header.update({min(header): None}),
    "metadata that is a number": lambda header: header.update(__metadata__=3),
    "tensors that overlap": lambda header: header.update(
        {key: {"dtype": "U8", "shape": [8], "data_offsets": [start, start + 8]} for key, start in (("a", 0), ("b", 4))}
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_broken_safetensors_header_is_refused(folder: Path, name: str) -> None:
    rewrite_weights(folder, lambda path: with_header(path, HEADERS[name]))
    with pytest.raises(CheckpointError, match=rf"{COMPONENT}\.safetensors"):
        MedCoDi.from_pretrained(folder)


def test_a_double_that_single_precision_cannot_hold_is_refused(folder: Path) -> None:
    def widen(path: Path) -> None:
        state = load_file(path)
        key = next(key for key, value in state.items() if value.dim() == 2)
        state[key] = torch.full_like(state[key], 1e300, dtype=torch.float64)
        save_file(state, path)

    rewrite_weights(folder, widen)
    with pytest.raises(CheckpointError, match="not finite in torch.float32"):
        MedCoDi.from_pretrained(folder)


def test_weights_too_large_for_half_precision_are_not_saved_as_infinite(tmp_path: Path) -> None:
    model = tiny_model(seed=0)
    model.denoisers["frontal"].stem.weight.data.fill_(1e6)
    with pytest.raises(CheckpointError, match="not finite in torch.float16"):
        model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()


# ---- tokenizers ------------------------------------------------------------------------------------------------------
def test_a_swapped_tokenizer_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["l"], words["r"] = words["r"], words["l"]  # reads and writes "right" as "lighr"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json .* was changed since it was saved"):
        MedCoDi.from_pretrained(folder)


def test_a_tokenizer_is_refused_for_its_content_under_a_hash_of_its_own(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    data = json.dumps(tokenizer).encode()
    (folder / "tokenizer.json").write_bytes(data)
    index = json.loads((folder / INDEX).read_text())
    index["tokenizer_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json .*\(a\+\)\+"):
        MedCoDi.from_pretrained(folder)


# ---- saving over a folder --------------------------------------------------------------------------------------------
def test_saving_over_a_folder_whose_index_names_other_files_removes_none(saved: Path, folder: Path) -> None:
    thesis = folder.parent / "thesis.safetensors"
    inside = folder / "thesis.safetensors"
    for file in (thesis, inside):
        file.write_bytes(b"years of work")
    index = json.loads((folder / INDEX).read_text())
    model = MedCoDi.from_pretrained(saved)
    # Outside of the folder: the index is refused.
    for name in ("../thesis.safetensors", str(thesis)):
        index["components"]["thesis"] = {"file": name, "sha256": "0" * 64, "num_parameters": 1}
        (folder / INDEX).write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match="names the file"):
            model.save_pretrained(folder)
    # Inside, under a name that no component of ours has: the file stays.
    index["components"]["thesis"]["file"] = inside.name
    (folder / INDEX).write_text(json.dumps(index))
    model.save_pretrained(folder)
    assert thesis.read_bytes() == inside.read_bytes() == b"years of work"
    assert MedCoDi.from_pretrained(folder).fingerprint() == model.fingerprint()


def test_saving_over_a_broken_index_is_refused(saved: Path, folder: Path) -> None:
    (folder / INDEX).write_text("{}")
    with pytest.raises(CheckpointError, match="has format None"):
        MedCoDi.from_pretrained(saved).save_pretrained(folder)
    assert (folder / INDEX).read_text() == "{}"


def test_students_without_a_successor_are_removed(folder: Path) -> None:
    model = tiny_model(seed=0)
    model.add_students(StudentConfig(steps=4, rank=2, guidance_scale=2.0))
    model.save_pretrained(folder)
    assert (folder / "student_frontal.safetensors").exists()
    tiny_model(seed=0).save_pretrained(folder)
    assert not list(folder.glob("student_*"))


def test_components_without_a_successor_are_removed(folder: Path, tmp_path: Path) -> None:
    assert set(replaceable_files(parse_index(folder / INDEX))) >= {"denoiser_lateral.safetensors"}
    tiny_model(seed=0, modalities=("frontal", "report")).save_pretrained(folder)
    assert not (folder / "denoiser_lateral.safetensors").exists()
    assert (folder / "denoiser_frontal.safetensors").exists()
