"""Checkpoints come back bit for bit, are whole or not there, and say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medcodi.errors import CheckpointError
from medcodi.training import checkpoint
from medcodi.training.checkpoint import Checkpoint


def made(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    weights = {"a.weight": torch.randn(3, 4, generator=generator), "b": torch.randn((), generator=generator)}
    return Checkpoint({"weights": weights, "buffers": {}}, {"step": step, "means": [{"loss": [0.1 + 0.2, 1.0]}]})


def test_load_gives_back_the_same_bits(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, made(7), keep=2)
    back = checkpoint.load(path)
    assert back.step == 7 and back.state == made(7).state
    assert all(back.tensors["weights"][name].equal(value) for name, value in made(7).tensors["weights"].items())
    assert back.tensors["buffers"] == {}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, made(step), keep=2)
    assert [path.name for path in checkpoint.finished(tmp_path)] == ["step-00000002", "step-00000010"]


def test_those_of_every_so_many_steps_stay_as_well(tmp_path: Path) -> None:
    for step in range(1, 12):
        checkpoint.save(tmp_path, made(step), keep=2, keep_every=4)
    assert [checkpoint.load(path).step for path in checkpoint.finished(tmp_path)] == [4, 8, 10, 11]


def test_what_is_written_is_the_newest_and_later_ones_never_cost_it(tmp_path: Path) -> None:
    for step in (4, 6, 8):
        checkpoint.save(tmp_path, made(step), keep=3)
    for step in (6, 8):
        (tmp_path / f"step-{step:08d}/weights.safetensors").write_bytes(b"damaged")
    assert checkpoint.load_latest(tmp_path, lambda text: None).step == 4  # type: ignore[union-attr]
    checkpoint.save(tmp_path, made(5), keep=1)
    assert checkpoint.load_latest(tmp_path, pytest.fail).step == 5  # type: ignore[union-attr]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_a_sector_that_cannot_be_read_is_damage(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(1), keep=2)
    path = checkpoint.save(tmp_path, made(2), keep=2)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["weights.safetensors"]["bytes"] = 0
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "weights.safetensors").unlink()
    (path / "weights.safetensors").symlink_to("/proc/self/mem")  # a file of 0 bytes that gives an error when it is read
    said: list[str] = []
    assert checkpoint.load_latest(tmp_path, said.append).step == 1  # type: ignore[union-attr]
    assert "cannot be read, Input/output error; going back" in said[0]


def test_what_a_killed_save_left_is_not_found_and_is_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(1), keep=2)
    partial = tmp_path / ".step-00000002.partial"
    partial.mkdir()
    (partial / "weights.safetensors").write_bytes(b"half")
    assert checkpoint.load_latest(tmp_path, pytest.fail).step == 1  # type: ignore[union-attr]
    checkpoint.save(tmp_path, made(3), keep=2)
    assert not partial.exists()


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(tmp_path: Path, harm: str) -> None:
    checkpoint.save(tmp_path, made(1), keep=3)
    path = checkpoint.save(tmp_path, made(2), keep=3)
    file = path / "weights.safetensors"
    content = bytearray(file.read_bytes())
    if harm == "truncate":
        file.write_bytes(content[:-5])
    elif harm == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    elif harm == "remove":
        file.unlink()
    else:
        (path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="step-00000002"):
        checkpoint.load(path)
    said: list[str] = []
    latest = checkpoint.load_latest(tmp_path, said.append)
    assert latest is not None and latest.step == 1
    assert "going back to the one before" in said[0]


def test_all_damaged_is_an_error_and_none_at_all_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path / "absent", pytest.fail) is None
    path = checkpoint.save(tmp_path, made(1), keep=1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="whole"):
        checkpoint.load_latest(tmp_path, lambda text: None)
