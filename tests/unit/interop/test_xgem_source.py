"""A checkpoint in one file or many: shards, parts, wrappers, older names; each key ends where the whole file has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medcodi.errors import CheckpointError
from medcodi.interop.xgem_keys import UNET_ROOT
from medcodi.interop.xgem_source import Checkpoint, open_checkpoint
from tests.unit.interop.published import published_checkpoint

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole() -> Tensors:
    return published_checkpoint()


def under(tensors: Tensors, root: str) -> Tensors:
    """The tensors of one part, without its root: a module's own state_dict."""
    return {key.removeprefix(root): value for key, value in tensors.items() if key.startswith(root)}


def assert_same(checkpoint: Checkpoint, expected: Tensors) -> None:
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
