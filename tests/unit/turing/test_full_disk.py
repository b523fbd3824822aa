"""A full or read-only disk: export, import and analyze refuse by name, and leave nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medcodi.errors import DataError
from medcodi.turing.analysis.report import write_report
from medcodi.turing.answers.import_results import import_results
from medcodi.turing.answers.table import Answers
from medcodi.turing.bundle.export import export_bundle
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.real_arm import open_real
from tests.unit.storage.test_atomic import files_of_at_most
from tests.unit.turing.arms import tiny_study
from tests.unit.turing.result_files import answered

Write = Callable[[Path], Any]


@pytest.fixture
def commands(
    tmp_path_factory: pytest.TempPathFactory,
    bundle: Path,
    generated_folder: Path,
    answers: Answers,
    results: dict[str, Any],
) -> dict[str, Write]:
    """What each command writes, on inputs that are valid."""
    result, study = tmp_path_factory.mktemp("results") / "reader-01.json", tiny_study()
    result.write_text(json.dumps(answered(bundle, "reader-01")))
    real, made = (
        open_real("phantom", num_phantoms=4, image_size=64),
        open_generated(str(generated_folder), study.sampling, 0),
    )
    return {
        "export": lambda out: export_bundle(study, real, made, out),
        "import": lambda out: import_results([result], bundle / "custodian", out),
        "analyze": lambda out: write_report(results, answers, out),
    }


# 100 bytes stop the first file, 20,000 those that come last: the archive of a reader, the page of an analysis.
@pytest.mark.parametrize(
    ("name", "most_bytes"),
    [("export", 100), ("export", 20_000), ("import", 100), ("analyze", 100), ("analyze", 20_000)],
)
def test_a_full_disk_is_refused_and_leaves_nothing(
    name: str, most_bytes: int, commands: dict[str, Write], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with (
        files_of_at_most(most_bytes),
        pytest.raises(DataError, match=r"cannot be written: File too large.*make room") as full,
    ):
        commands[name](out)
    assert str(tmp_path) in str(full.value) and not list(tmp_path.iterdir())
    commands[name](out)  # with room, the same call succeeds
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["export", "import", "analyze"])
def test_a_place_that_cannot_be_written_is_refused(name: str, commands: dict[str, Write]) -> None:
    with pytest.raises(DataError, match=r"/proc/medcodi/\S+ cannot be written.*choose another folder"):
        commands[name](Path("/proc/medcodi/out"))
