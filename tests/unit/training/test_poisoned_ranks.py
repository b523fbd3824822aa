"""Two ranks, for real: a step whose loss or gradient is not finite on one of them is left out on both, and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.forked import FORKS, free_port
from tests.unit.training.poisoned_ranks import rank

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
    port, out = free_port(), tmp_path / "out.json"
    ranks = [FORKS.Process(target=rank, args=(number, port, out, words.split())) for number in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ranks] == [0, 0], (tmp_path / "rank0.txt").read_text()[-3000:]
    steps = json.loads(out.read_text())
    for number, ((skipped, suspects, same, finite), (skipped_too, suspects_there, _, _)) in enumerate(steps):
        assert skipped == skipped_too == same == (number in (1, 2, 3)), number  # left out, and nothing changed
        assert finite and not suspects and suspects_there == HARMED[number], number
