"""The documentation builds as a site, without a broken link, and its reference holds every public name."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import medcodi

ROOT = Path(__file__).resolve().parents[2]


def public_names(room: str) -> list[str]:
    """Classes and functions of a room, with their modules; names and modules that begin with ``_`` are private."""
    place = ROOT / "medcodi" / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    names = []
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
        defined = (node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef))
        names += [f"{module}.{name}" for name in defined if not name.startswith("_")]
    return names


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
    # So has every room: its page names each class and function.
    reference = tmp_path / "site" / "reference"
    rooms = {path.name for path in reference.iterdir()} - {"medcodi"}
    assert {path.parent.name for path in (ROOT / "medcodi").glob("*/__init__.py")} <= rooms
    for room in sorted(rooms):
        page = (reference / room / "index.html").read_text()
        assert (names := public_names(room)) or room == "app", room
        assert [name for name in names if f'id="{name}"' not in page] == []
    # Every page of docs/ is there.
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert [name for name in sorted(pages) if not (tmp_path / "site" / name / "index.html").is_file()] == []
