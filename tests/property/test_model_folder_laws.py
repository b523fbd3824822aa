"""Model folders and torch files with random damage: loaded as they were saved, or refused; never a traceback.

``MEDCODI_FUZZ=2000`` runs that many examples of each law; by default a few dozen.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from medcodi.errors import CheckpointError
from medcodi.interop.xgem_checkpoint import tensors_in
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.files import read_index
from medcodi.model.index import INDEX
from medcodi.networks.tokenizer import ReportTokenizer
from medcodi.storage.tensors import tensors_in_safetensors

MANY = settings(max_examples=int(os.environ.get("MEDCODI_FUZZ", "30")))
# Values that no index, header or tokenizer of ours has.
STRANGE = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        2**70,
        10**400,
        1.5,
        1e300,
        float("nan"),
        float("inf"),
        "",
        "..",
        "/",
        "\ud800",
        "0",
    ]
) | st.sampled_from([[], {}, [[]], [None], {"": 0}, ["x"] * 50, "x" * 300])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model(seed=0).save_pretrained(tmp_path_factory.mktemp("laws") / "model")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within a value of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, inner in list(items) for pair in ((value, key), *places(inner))]


def refused_or(call: Callable[[], Any]) -> bool:
    """Whether a call succeeds; a refusal has a message that a terminal can print, any other exception fails the test."""
    try:
        call()
    except CheckpointError as refusal:
        str(refusal).encode()
        return False
    return True


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@MANY
@given(data=st.data())
def test_an_index_with_a_strange_value(folder: Path, data: st.DataObject) -> None:
    whole = (folder / INDEX).read_bytes()
    index = json.loads(whole)
    parent, key = data.draw(st.sampled_from(places(index)))
    parent[key] = data.draw(STRANGE)
    (folder / INDEX).write_text(json.dumps(index))
    try:
        refused_or(lambda: MedCoDi.from_pretrained(folder, lazy=True))
    finally:
        (folder / INDEX).write_bytes(whole)


@MANY
@given(data=st.data())
def test_an_index_with_strange_bytes(folder: Path, data: st.DataObject) -> None:
    whole = (folder / INDEX).read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / INDEX).write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        refused_or(lambda: read_index(folder))
    finally:
        (folder / INDEX).write_bytes(whole)


@MANY
@given(data=st.data())
def test_a_safetensors_header_with_a_strange_value(scratch: Path, data: st.DataObject) -> None:
    path = scratch / "a.safetensors"
    save_file({"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}, path, metadata={"format": "pt"})
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    parent, key = data.draw(st.sampled_from(places(header)))
    parent[key] = data.draw(STRANGE)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    refused_or(lambda: [tensor.read() for tensor in tensors_in_safetensors(path).values()])


@MANY
@given(content=st.binary(max_size=64), length=st.integers(0, 2**64 - 1) | st.integers(0, 64))
def test_bytes_that_are_no_safetensors_file(scratch: Path, content: bytes, length: int) -> None:
    path = scratch / "b.safetensors"
    path.write_bytes(struct.pack("<Q", length) + content)
    refused_or(lambda: tensors_in_safetensors(path))


@MANY
@given(data=st.data())
def test_a_tokenizer_with_a_strange_value(folder: Path, scratch: Path, data: st.DataObject) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    outer = [place for place in places(tokenizer) if place[0] is not tokenizer["model"]["vocab"]]
    parent, key = data.draw(st.sampled_from(outer))
    parent[key] = data.draw(STRANGE)
    (scratch / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused_or(lambda: ReportTokenizer.load(scratch / "tokenizer.json").encode(["Left effusion."], 16))


@MANY
@given(data=st.data())
def test_a_torch_file_with_strange_bytes(scratch: Path, data: st.DataObject) -> None:
    path = scratch / "a.pt"
    torch.save({"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(4).half()}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    refused_or(lambda: [tensor.read() for tensor in tensors_in(path).values()])
