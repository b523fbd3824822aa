"""Throughput: the device's peak is measured once; memory; utilisation is what it says it is made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from medcodi.training.monitoring.step_log import Utilisation, matmul_peak, memory
from tests.unit.training.toy import toy_config


def test_the_peak_is_measured_once() -> None:
    peak = matmul_peak(torch.device("cpu"), "fp32")
    assert peak > 1e8 and matmul_peak(torch.device("cpu"), "fp32") == peak


def test_the_most_memory_is_no_less_than_the_memory_now() -> None:
    values = memory(torch.device("cpu"))
    assert set(values) == {"cpu_gib", "cpu_peak_gib"} and 0 < values["cpu_gib"] <= values["cpu_peak_gib"] + 1e-3


def utilisation(**tracking: Any) -> Utilisation:
    config = toy_config(tracking={"mfu_after": 0.0, "peak_tflops": 2.0, **tracking})
    return Utilisation(config, torch.device("cpu"), world_size=4)


def test_utilisation_is_operations_over_peak() -> None:
    measured = utilisation()
    measured._flops = 4e9  # counted before
    model: Any = SimpleNamespace(config=None)
    values = measured.measure(model, studies_per_second=100.0)
    assert values == {"mfu": 100.0 * 4e9 / (2e12 * 4), "gflops_per_study": 4.0, "peak_tflops": 2.0}
    assert "MFU 5.0%: 4 GFLOP per study" in measured.explain(values) and "tracking.peak_tflops" in measured.explain(
        values
    )


def test_it_is_not_measured_where_it_is_off_or_early() -> None:
    model: Any = None
    assert utilisation(mfu=False).measure(model, 1.0) == {} == utilisation(mfu_after=60.0).measure(model, 1.0)
    assert utilisation(mfu=False).explain({}) == ""
