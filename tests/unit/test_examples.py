"""Examples are notebooks in the form of scripts, and skills are short: their cells and commands are read, not run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import jupytext
import pytest
import yaml
from typer.testing import CliRunner

from medcodi.app.cli import app

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
SKILLS = sorted((ROOT / "skills").glob("*/SKILL.md"))
LONGEST = 60  # lines of a skill


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_is_a_notebook(script: Path) -> None:
    cells = jupytext.read(script).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert len(code) >= 4
    for source in code:
        compile(source, str(script), "exec")


def test_every_example_has_a_row_in_the_documents() -> None:
    page = (ROOT / "docs/EXAMPLES.md").read_text(encoding="utf-8")
    assert re.findall(r"\(\.\./examples/(\w+)\.py\)", page) and len(SCRIPTS) == 6
    assert [script.name for script in SCRIPTS if f"../examples/{script.name}" not in page] == []


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", SKILLS, ids=lambda page: page.parent.name)
def test_a_skill_is_short_and_its_commands_parse(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---")[1])
    assert header["name"] == f"medcodi-{page.parent.name}" and len(header["description"].split()) >= 10
    assert len(text.splitlines()) <= LONGEST
    lines = commands(page)
    assert len(lines) >= 5
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "medcodi", line
        result = CliRunner().invoke(app, [*arguments, "--help"])
        assert result.exit_code == 0 and "Usage: " in result.output, line
