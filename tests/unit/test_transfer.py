"""Copies to a device."""

from __future__ import annotations

import pytest
import torch

from medcodi.transfer import to_device


def test_nothing_is_copied_on_a_cpu() -> None:
    values = torch.arange(3)
    assert to_device(values, "cpu") is values and to_device(values, torch.device("cpu")) is values
    assert to_device(values, "meta").device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_that_nobody_waits_for_arrive() -> None:
    """Also where their page-locked memory is used again before the card has read it."""
    copies = [to_device(torch.full((1 << 16,), float(index)), "cuda") for index in range(64)]
    assert [float(copy.mean()) for copy in copies] == list(range(64))
    assert to_device(copies[3], "cpu").tolist() == [3.0] * (1 << 16)
