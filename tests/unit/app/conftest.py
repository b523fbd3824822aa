"""What the tests of commands share: running one, and a small model folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medcodi.app.cli import main
from medcodi.model import MedCoDi


@pytest.fixture
def run() -> Callable[..., int]:
    """Run the command line; returns its exit code."""

    def run_command(*arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        return caught.value.code or 0  # type: ignore[return-value]

    return run_command


@pytest.fixture(scope="session")
def model_folder(tiny_model: MedCoDi, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model.save_pretrained(tmp_path_factory.mktemp("model") / "tiny"))
