"""What every test stands on: one thread, no network, random numbers that do not depend on the tests before it."""

from __future__ import annotations

import os
import socket
from zlib import crc32

# Before anything imports torch or a hub client.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "house", deadline=None, max_examples=50, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")

_connect = socket.socket.connect


def _connect_at_home(self: socket.socket, address: object) -> object:
    """Connections to this machine only: ranks of one run talk to each other, and nothing is downloaded."""
    host = address[0] if isinstance(address, tuple) else ""
    if host in ("", "localhost", "::1") or str(host).startswith("127."):
        return _connect(self, address)  # type: ignore[arg-type]
    raise ConnectionRefusedError(f"a test tried to reach {address!r}: tests do not use the network")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine, and name them."""
    monkeypatch.setattr(socket.socket, "connect", _connect_at_home)


# ---- torch's global generator: by the test's name alone, so that a tolerance holds in every order and on every worker -------
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fixtures of a module draw the same numbers whichever of its tests comes first."""
    torch.manual_seed(crc32(item.nodeid.partition("::")[0].encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """A test draws the same numbers whether or not it was the first to need a fixture."""
    torch.manual_seed(crc32(item.nodeid.encode()))


@pytest.fixture(scope="session")
def tiny_model():
    """The real classes at tiny size, with random weights. Read only: tests that train build their own."""
    from medcodi.model import tiny_model as build

    return build(seed=0).eval()
