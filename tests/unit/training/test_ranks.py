"""Two ranks, for real: DDP and ZeRO take the steps that one rank takes, and go on bit for bit after a restore."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.integration.forked import built
from tests.unit.training.toy import ToyStage

SCRIPT = Path(__file__).with_name("ranks.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def trained(out: Path, ranks: int, *words: str) -> dict[str, Tensor]:
    launcher = (
        ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", str(free_port())]
        if ranks > 1
        else []
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(out), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trained(tmp_path_factory.mktemp("one") / "out.safetensors", 1)


@pytest.mark.parametrize(
    "words",
    [
        "engine.name=plain batch.micro_size=1",
        "engine.name=deepspeed engine.zero_stage=2 batch.micro_size=1",
        "engine.name=deepspeed engine.zero_stage=3",
    ],
)
def test_two_ranks_take_the_steps_of_one(tmp_path: Path, one_rank: dict[str, Tensor], words: str) -> None:
    if "deepspeed" in words:
        pytest.importorskip("deepspeed")
    two = trained(tmp_path / "out.safetensors", 2, *words.split())
    torch.testing.assert_close(two["losses"], one_rank["losses"], rtol=0, atol=1e-5)
    for name, value in one_rank.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    same_after_restore(two)


@pytest.mark.faults
@pytest.mark.parametrize("offload", ["optimizer=cpu engine.offload_parameters=cpu", "optimizer=nvme"])
def test_weights_worth_a_disk_take_the_same_steps_from_there(tmp_path: Path, offload: str) -> None:
    if not built("async_io") and "nvme" in offload:
        pytest.skip("DeepSpeed's async_io op is not built here")
    words = ["wide", "optimizer.lr=3e-3", "optimizer.eps=1e-4"]  # or rounding would choose the sign of a step
    engine = f"engine.name=deepspeed engine.zero_stage=3 engine.offload_{offload} engine.nvme_path={tmp_path / 'swap'}"
    one = trained(tmp_path / "plain.safetensors", 1, *words)
    two = trained(tmp_path / "offloaded.safetensors", 2, *words, *engine.split())
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    start = {name: value for name, value in ToyStage(width=40_001).named_parameters() if value.requires_grad}
    assert all((one[f"whole/weights/{name}"] - value).abs().max() > 1e-4 for name, value in start.items())
    same_after_restore(two)
    files = {path.name.split("-")[0] for path in tmp_path.glob("swap/*/zero_stage_3/optimizer/rank1/*.swp")}
    assert ("nvme" in offload) == ({"exp_avg", "exp_avg_sq"} <= files)


@pytest.mark.parametrize(
    "words", ["engine.name=plain absent dropout", "engine.name=deepspeed engine.zero_stage=2 absent dropout"]
)
def test_batches_that_reach_different_parts_on_two_ranks(tmp_path: Path, words: str) -> None:
    if "deepspeed" in words:
        pytest.importorskip("deepspeed")
    same_after_restore(trained(tmp_path / "out.safetensors", 2, *words.split()))


def same_after_restore(tensors: dict[str, Tensor]) -> None:
    names = [name.removeprefix("whole/") for name in tensors if name.startswith("whole/")]
    assert any(name.startswith("moments/exp_avg_sq.") for name in names)
    different = [name for name in names if not tensors[f"whole/{name}"].equal(tensors[f"resumed/{name}"])]
    assert different == []
