"""A bundle as it is copied to the machine that serves it, and a server of it on a free port."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcodi.turing.serving.server import StudyServer, study_server


@pytest.fixture(scope="session")
def served(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle without its key. Read only."""
    folder = tmp_path_factory.mktemp("machine") / "served"
    shutil.copytree(bundle / "readers", folder / "readers", ignore=shutil.ignore_patterns("*.zip"))
    shutil.copy(bundle / "bundle.json", folder)
    return folder


@pytest.fixture
def server(served: Path, tmp_path: Path) -> Iterator[StudyServer]:
    with study_server(served, tmp_path / "answers", "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
