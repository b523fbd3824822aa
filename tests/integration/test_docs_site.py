"""The documentation builds as a site, without a broken link, and its reference holds every public name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import medcodi

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_the_site_builds_strictly_and_has_every_public_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, (
        done.stdout + done.stderr
    )  # a link or an anchor that leads nowhere is a warning, so an error
    page = (tmp_path / "site" / "reference" / "medcodi" / "index.html").read_text()
    names = [name for name in medcodi.__all__ if not name.startswith("__")]
    assert [name for name in names if f'id="medcodi.{name}"' not in page] == []
    # Every page of docs/ is there.
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert [name for name in sorted(pages) if not (tmp_path / "site" / name / "index.html").is_file()] == []
