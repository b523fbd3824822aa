from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.app.page import finding_words, write_page
from medcodi.errors import DataError
from medcodi.study import Finding


def test_finding_in_words() -> None:
    assert finding_words(Finding(label="Pleural Effusion", side="left", size="large")) == "large left Pleural Effusion"
    assert finding_words(Finding(label="Lung Lesion", side="right", location="upper")) == "right upper Lung Lesion"


def test_a_page_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for text in ("old", "new"):
        assert write_page(text, tmp_path / "page" / "index.html").read_text() == text
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_page("x", tmp_path / "file" / "index.html")
