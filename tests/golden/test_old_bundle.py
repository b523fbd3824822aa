"""The bundle of version 0.1 (schema 3): its figures and its page stay readable; a verification is refused, with the way out."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from medcodi.errors import DataError
from medcodi.evaluation.bundle import check_out
from medcodi.evaluation.recompute import rescore_bundle, verify_bundle
from medcodi.evaluation.report.page import sections
from medcodi.evaluation.report.summary import terminal_table, verdict
from medcodi.evaluation.studies import shards_of
from medcodi.evaluation.systems.contents import ContentFolder
from medcodi.study import Direction

BUNDLE = Path(__file__).parent / "version_0_1" / "bundle"


def never(*_: object) -> None:
    raise AssertionError("results of schema 3 do not say which studies are shown")


def test_every_file_is_what_the_index_lists() -> None:
    index = json.loads((BUNDLE / "bundle.json").read_text())
    assert index["schema_version"] == 3
    for name, digest in index["files"].items():
        assert hashlib.sha256((BUNDLE / name).read_bytes()).hexdigest() == digest, name


def test_its_figures_and_page_are_readable() -> None:
    results = json.loads((BUNDLE / "results.json").read_text())
    columns, rows = terminal_table(results)
    assert len(rows) == 4 and columns[0] == "direction" and any("tiny" in line for line in verdict(results))
    titles = [section.title for section in sections(results, never, never)]  # type: ignore[arg-type]
    assert {"The matrix", "Two prompts beside one", "Findings one by one", "How to repeat it"} <= set(titles)
    assert "<svg" in (BUNDLE / "page.html").read_text()


def test_its_contents_are_readable() -> None:
    direction = Direction.parse("frontal->lateral+report")
    contents = ContentFolder(BUNDLE / "generated/tiny").read_rows(direction, shards_of(range(10), 5), [2, 7])
    assert contents[2]["lateral"].shape == (32, 32) and isinstance(contents[7]["report"], str)


@pytest.mark.parametrize("recompute", [verify_bundle, rescore_bundle])
def test_another_schema_is_refused_with_the_fix(recompute, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(BUNDLE, tmp_path / "copy"))
    with pytest.raises(DataError, match=r"has schema version 3.*Expected 4.*evaluate again into the same folder"):
        recompute(copy)
    check_out(copy, {})  # into the same folder: accepted
