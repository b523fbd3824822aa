"""Two ranks, for real: a step whose loss or gradient is not finite on one of them is left out on both, and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .test_ranks import free_port

SCRIPT = Path(__file__).with_name("poisoned_ranks.py")
HARMED = [[], ["study12", "study13", "study14", "study15"], ["study20", "study21", "study22", "study23"], [], []]


@pytest.mark.parametrize(
    "words",
    [
        "engine.name=plain",
        "engine.name=deepspeed engine.zero_stage=2",
        pytest.param("engine.name=deepspeed engine.zero_stage=0", marks=pytest.mark.faults),
        pytest.param("engine.name=deepspeed engine.zero_stage=1 precision=bf16", marks=pytest.mark.faults),
        pytest.param("engine.name=deepspeed engine.zero_stage=3", marks=pytest.mark.faults),
    ],
)
def test_what_is_not_finite_on_one_rank_is_left_out_on_both(tmp_path: Path, words: str) -> None:
    if "deepspeed" in words:
        pytest.importorskip("deepspeed")
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, str(SCRIPT), str(tmp_path / "out.json"), *words.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads((tmp_path / "out.json").read_text())
    for number, ((skipped, suspects, same, finite), (skipped_too, suspects_there, _, _)) in enumerate(steps):
        assert skipped == skipped_too == same == (number in (1, 2, 3)), number  # left out, and nothing changed
        assert finite and not suspects and suspects_there == HARMED[number], number
