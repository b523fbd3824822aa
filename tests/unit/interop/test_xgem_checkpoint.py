"""A checkpoint in one file or many: each tensor under the whole file's key; tensors of one file, located without executing it."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import skip_data

from medcodi.errors import CheckpointError
from medcodi.interop.xgem_checkpoint import XgemCheckpoint, open_checkpoint, tensors_in
from medcodi.interop.xgem_unets import UNET_ROOT
from tests.unit.interop.published import published_checkpoint

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole() -> Tensors:
    return published_checkpoint()


def under(tensors: Tensors, root: str) -> Tensors:
    """The tensors of one part, without its root: a module's own state_dict."""
    return {key.removeprefix(root): value for key, value in tensors.items() if key.startswith(root)}


def assert_same(checkpoint: XgemCheckpoint, expected: Tensors) -> None:
    assert checkpoint.tensors.keys() == expected.keys()
    for key in list(expected)[::40]:
        assert torch.equal(checkpoint.tensors[key].read(), expected[key].reshape(expected[key].shape)) or "1." in key


@pytest.mark.parametrize("wrapper", ["", "state_dict.", "net.", "module.", "state_dict.module.net."])
def test_wrappers_are_seen_through(wrapper, whole, tmp_path) -> None:
    save_file({wrapper + key: value for key, value in whole.items()}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint([tmp_path / "model.safetensors"])
    assert_same(checkpoint, whole)
    assert checkpoint.found_as == ({key: wrapper + key for key in whole} if wrapper else {})


def write_shards(folder: Path, tensors: Tensors, num: int = 3) -> Path:
    weight_map = {}
    for index in range(num):
        name = f"model-{index + 1:05}-of-{num:05}.safetensors"
        part = {key: value for position, (key, value) in enumerate(tensors.items()) if position % num == index}
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def test_shards_with_an_index(whole, tmp_path) -> None:
    write_shards(tmp_path, whole)
    save_file({"unrelated": torch.ones(1)}, tmp_path / "other.safetensors")  # not in the index
    checkpoint = open_checkpoint([tmp_path])
    assert len(checkpoint.files) == 3
    assert_same(checkpoint, whole)


def test_a_missing_shard_is_named(whole, tmp_path) -> None:
    write_shards(tmp_path, whole)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="1 of 3 shards are missing: model-00002"):
        open_checkpoint([tmp_path])


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../elsewhere.pt"}}'])
def test_an_index_that_cannot_be_is_refused(content, tmp_path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="index.json"):
        open_checkpoint([tmp_path])


def test_files_of_single_parts_make_up_the_whole(whole, tmp_path) -> None:
    """As the published training scripts save them: each module's own keys, environment encoders block by block."""
    parts = {
        "diffusion.pt": {k.removeprefix("model."): v for k, v in whole.items() if ".unet_lateral." in k},
        "autokl.pt": under(whole, "autokl."),
        "optimus.pt": under(whole, "optimus."),
        "clip.pt": under(whole, "clip."),
        "text_unet.pt": under(whole, f"{UNET_ROOT}unet_text."),
        "schedule.pt": {key: value for key, value in whole.items() if "." not in key},
    }
    parts["text_unet.pt"] = {f"unet_text.{key}": value for key, value in parts["text_unet.pt"].items()}
    frontal = under(whole, f"{UNET_ROOT}unet_frontal.")
    for block in {key.split(".")[0] for key in frontal}:
        name = f"model.{UNET_ROOT}unet_frontal.{block}.pt"
        parts[name] = under(frontal, f"{block}.")
    for name, tensors in parts.items():
        torch.save(tensors, tmp_path / name)
    assert_same(open_checkpoint([tmp_path]), whole)


def test_an_older_single_view_file(whole, tmp_path) -> None:
    old = {
        key.removeprefix("model.").replace("unet_frontal", "unet_image"): value
        for key, value in whole.items()
        if ".unet_frontal." in key
    }
    save_file(old, tmp_path / "old.safetensors")
    with pytest.raises(CheckpointError, match="--unet-image"):
        open_checkpoint([tmp_path / "old.safetensors"])
    checkpoint = open_checkpoint([tmp_path / "old.safetensors"], old_image_unet="lateral")
    assert all(key.startswith(f"{UNET_ROOT}unet_lateral.") for key in checkpoint.tensors)
    with pytest.raises(CheckpointError, match="frontal, lateral, report"):
        open_checkpoint([tmp_path / "old.safetensors"], old_image_unet="oblique")


def test_a_later_source_replaces_tensors(whole, tmp_path) -> None:
    save_file(whole, tmp_path / "model.safetensors")
    save_file({"quant_conv.bias": torch.full((8,), 7.0)}, tmp_path / "tuned.safetensors")
    checkpoint = open_checkpoint([tmp_path / "model.safetensors", tmp_path / "tuned.safetensors"])
    assert torch.equal(checkpoint.tensors["autokl.quant_conv.bias"].read(), torch.full((8,), 7.0))
    assert len(checkpoint.tensors) == len(whole)


def test_the_same_tensor_twice_is_refused(whole, tmp_path) -> None:
    twice = {"autokl.quant_conv.bias": torch.ones(8), "module.autokl.quant_conv.bias": torch.ones(8)}
    save_file(twice, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="quant_conv.bias twice"):
        open_checkpoint([tmp_path / "model.safetensors"])
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, key in (("a", "autokl.quant_conv.bias"), ("b", "quant_conv.bias")):
        save_file({key: torch.ones(8)}, folder / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="quant_conv.bias twice"):
        open_checkpoint([folder])


def test_unknown_keys_are_named(whole, tmp_path) -> None:
    strangers = {f"audio.layer.{index}.weight": torch.ones(1) for index in range(8)}
    save_file({**whole, **strangers}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="8 keys are not of the published layout: audio.layer.0.weight.*3 more"):
        open_checkpoint([tmp_path / "model.safetensors"])


def test_a_folder_without_checkpoints_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_checkpoint([tmp_path])


# ---- tensors in one file -------------------------------------------------------------------------------------------
TENSORS = {
    "flat": torch.arange(12, dtype=torch.float32),
    "half": torch.linspace(0, 1, 5).half(),
    "brain": torch.linspace(0, 1, 6).bfloat16().reshape(2, 3),
    "number": torch.tensor(3.5),
    "ids": torch.arange(6).reshape(2, 3),
    "empty": torch.zeros(0, 4),
}


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_tensors_come_back_as_they_were(kind, tmp_path) -> None:
    path = tmp_path / f"file.{kind}"
    torch.save(TENSORS, path) if kind == "pt" else save_file(TENSORS, path)
    found = tensors_in(path)
    assert found.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert found[key].shape == tuple(value.shape) and found[key].dtype == value.dtype
        assert torch.equal(found[key].read(), value)


def test_views_parameters_and_tied_tensors_of_a_torch_file(tmp_path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    content = OrderedDict(turned=base.T, part=base[1:3, ::2], weight=nn.Parameter(base + 1), tied=base)
    torch.save(content, tmp_path / "file.pt")
    found = tensors_in(tmp_path / "file.pt")
    for key, value in content.items():
        read = found[key].read()
        assert torch.equal(read, value.detach()) and read.is_contiguous()
    assert found["tied"].offset == found["turned"].offset  # one storage


@pytest.mark.parametrize("nesting", [("state_dict",), ("net",), ("state_dict", "module")])
def test_what_training_scripts_put_around_the_weights_is_seen_through(nesting, tmp_path) -> None:
    content: dict = dict(TENSORS)
    for name in reversed(nesting):
        content = {"epoch": 3, name: content}
    torch.save(content, tmp_path / "file.pt")
    assert tensors_in(tmp_path / "file.pt").keys() == TENSORS.keys()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_executed(zipped, tmp_path) -> None:
    content = {"weight": torch.ones(2), "extra": Bomb(tmp_path / "executed")}
    if zipped:
        torch.save(content, tmp_path / "bomb.pt")
    else:
        (tmp_path / "bomb.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="code|zip"):
        tensors_in(tmp_path / "bomb.pt")
    assert not (tmp_path / "executed").exists()


def test_files_of_the_old_torch_format_are_refused(tmp_path) -> None:
    torch.save(TENSORS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="zip format"):
        tensors_in(tmp_path / "old.pt")


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 0.99])
def test_truncated_files_are_refused(kind, share, tmp_path) -> None:
    whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    tensors = {name: torch.ones(2000) for name in "abc"}
    torch.save(tensors, whole) if kind == "pt" else save_file(tensors, whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="truncated|whole safetensors|zip format|not a safetensors"):
        tensors_in(cut)


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.ones(5000)}, path)
    found = tensors_in(path)
    os.truncate(path, 4000)
    with pytest.raises(CheckpointError, match="within a tensor"):
        found["a"].read()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}', "is not stored"),  # 8 bytes are no 4 numbers
        (b'{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}', "not a safetensors file"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', "is not stored"),  # beyond the end
        (b'{"a":{"dtype":"F32","shape":[-2,-1],"data_offsets":[0,8]}}', "not a safetensors file"),
        (b'{"a":{"dtype":"F32","shape":[2]}}', "not a safetensors file"),
        (b'{"a":[1,2]}', "not a safetensors file"),
        (b"[1, 2]", "not a safetensors file"),
        (b"{not json}", "not a safetensors file"),
    ],
)
def test_safetensors_headers_that_lie_are_refused(header, words, tmp_path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match=words):
        tensors_in(path)


@pytest.mark.parametrize(
    "content",
    [[torch.ones(2)], torch.ones(2), {"weight": torch.ones(2), "epoch": 3}, {"weight": torch.eye(3).to_sparse()}],
)
def test_what_is_no_dictionary_of_tensors_is_refused(content, tmp_path) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="holds a|is a int|sparse"):
        tensors_in(tmp_path / "file.pt")


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at .*nothing.pt"):
        tensors_in(tmp_path / "nothing.pt")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system with holes")
def test_a_torch_file_larger_than_memory_is_opened(tmp_path) -> None:
    """64 GiB of holes: nothing of it is read, and none of it is mapped, which small machines refuse."""
    with FakeTensorMode():
        content = {f"large{index}": torch.empty(2**30) for index in range(16)} | {"last": torch.empty(5)}
    with skip_data(materialize_fake_tensors=True):
        torch.save(content, tmp_path / "huge.pt")
    found = tensors_in(tmp_path / "huge.pt")
    assert found["large15"].shape == (2**30,)
    assert torch.equal(found["last"].read(), torch.zeros(5))


# ---- torch files that are broken on purpose --------------------------------------------------------------------------
def test_a_dictionary_that_contains_itself_is_refused(tmp_path) -> None:
    content: dict = {"weight": torch.ones(2)}
    content["state_dict"] = content
    torch.save(content, tmp_path / "loop.pt")
    with pytest.raises(CheckpointError, match="8 times in itself"):
        tensors_in(tmp_path / "loop.pt")


def test_a_tensor_larger_than_its_file_is_refused_before_it_is_allocated(tmp_path) -> None:
    torch.save({"weight": torch.ones(1).expand(10**12)}, tmp_path / "wide.pt")
    with pytest.raises(CheckpointError, match="is not stored in the file"):
        tensors_in(tmp_path / "wide.pt")


def test_a_key_that_is_no_text_is_refused(tmp_path) -> None:
    torch.save({3: torch.ones(2)}, tmp_path / "number.pt")
    with pytest.raises(CheckpointError, match="names a tensor 3"):
        tensors_in(tmp_path / "number.pt")
