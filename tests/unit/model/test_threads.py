"""One model in several threads gives each the result that it has alone."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi import generate
from medcodi.generation import pipeline
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.execution import ExecutionConfig
from medcodi.model.threads import ModelLock

NUM_THREADS = 4
FLOAT32, BFLOAT16 = ExecutionConfig(), ExecutionConfig(precision="bfloat16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    model = tiny_model(seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.denoisers.parameters():  # what starts at zero would hide a difference
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.save_pretrained(tmp_path_factory.mktemp("threads") / "model")


def together(calls: Sequence[Callable[[], np.ndarray]]) -> list[np.ndarray]:
    """The results of calls that start at the same moment, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], np.ndarray]) -> np.ndarray:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def frontal(model: MedCoDi | Path, seed: int, execution: ExecutionConfig = FLOAT32) -> np.ndarray:
    result = generate(
        "Left effusion.", "frontal", model=model, seed=seed, num_inference_steps=2, device="cpu", execution=execution
    )
    return result.frontal


@pytest.mark.parametrize("round_", range(3))
def test_the_first_use_of_a_folder_from_four_threads(folder: Path, round_: int) -> None:
    pipeline._load_folder.cache_clear()
    alone = [frontal(MedCoDi.from_pretrained(folder), seed) for seed in range(NUM_THREADS)]
    results = together([lambda seed=seed: frontal(folder, seed) for seed in range(NUM_THREADS)])
    assert all(np.array_equal(result, expected) for result, expected in zip(results, alone, strict=True))
    assert pipeline._load_folder.cache_info().currsize == 1  # one model for all


def test_models_loaded_beside_each_other_have_their_weights(folder: Path) -> None:
    expected = MedCoDi.from_pretrained(folder).fingerprint()
    results = together([lambda: np.array(MedCoDi.from_pretrained(folder).fingerprint())] * NUM_THREADS)
    assert {str(result) for result in results} == {expected}


def test_float32_beside_bfloat16_on_one_model(folder: Path) -> None:
    model = MedCoDi.from_pretrained(folder)
    calls = [(seed, execution) for seed in range(2) for execution in (FLOAT32, BFLOAT16)]
    alone = [frontal(model, seed, execution) for seed, execution in calls]
    assert not np.array_equal(alone[0], alone[1])  # the precision shows in the result
    for _ in range(3):
        results = together([lambda call=call: frontal(model, *call) for call in calls])
        assert all(np.array_equal(result, expected) for result, expected in zip(results, alone, strict=True))


def test_another_thread_waits_until_the_context_ends(folder: Path) -> None:
    model = MedCoDi.from_pretrained(folder)
    weight = model.denoisers["frontal"].stem.weight
    with ThreadPoolExecutor(1) as pool:
        with BFLOAT16.running(model):
            other = pool.submit(frontal, model, 0)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.3)
            assert weight.dtype == torch.bfloat16
        assert np.array_equal(other.result(timeout=60), frontal(model, 0))


def test_a_copied_model_has_a_lock_of_its_own(folder: Path) -> None:
    model = MedCoDi.from_pretrained(folder)
    duplicate = copy.deepcopy(model)
    assert isinstance(duplicate.lock, ModelLock)
    with model.lock, ThreadPoolExecutor(1) as pool:
        assert np.array_equal(pool.submit(frontal, duplicate, 0).result(timeout=60), frontal(model, 0))
