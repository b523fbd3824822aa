"""What stands around the package: the image is linted and gets what it needs, and workflows name only what exists."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import medcodi
from medcodi.app.cli import app

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ON_RUNNERS = {"docker", "gh"}  # programs of the machines that workflows run on
SHELL = {"cd", "export", "if", "fi", "echo", "exit", "exit;"}


def steps(workflow: Path) -> list[dict[str, Any]]:
    """Every step of every job."""
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


def programs(script: str) -> list[list[str]]:
    """The words of every line; expressions of the workflow stand for a word, assignments are left out."""
    lines = re.sub(r"\$\{\{.*?\}\}", "value", script).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and not re.match(r"\w+=", line[0])]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.stem)
def test_the_steps_of_a_workflow_exist(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    known, installed = set(typer.main.get_command(app).commands), set()  # type: ignore[attr-defined]
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), step["uses"]  # GitHub's own, at a version
            continue
        for first, *rest in programs(step["run"]):
            name = Path(first).name
            if name == "pip" and rest[0] == "install":
                installed |= set(rest)
            found = shutil.which(name) or (Path(sys.executable).parent / name).exists()
            assert found or name in ON_RUNNERS | SHELL | installed, f"{workflow.name}: {first}"
            if name == "make":
                assert set(rest) <= targets
            if name == "medcodi":
                assert rest[0] in known


def test_a_release_needs_one_version_everywhere(tmp_path: Path) -> None:
    script = next(
        step["run"] for step in steps(ROOT / ".github/workflows/release.yml") if "version" in step.get("name", "")
    )
    for name in ("medcodi/__init__.py", "CITATION.cff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(f"## [Unreleased]\n\n## [{medcodi.__version__}] - today\n")

    def code(tag: str) -> int:
        return subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env={**os.environ, "GITHUB_REF_NAME": tag}
        ).returncode

    assert code(f"v{medcodi.__version__}") == 0 and code("v99.0.0") == 1
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n")
    assert code(f"v{medcodi.__version__}") == 1


# ---- the image -------------------------------------------------------------------------------------------------------
def test_the_image_gets_what_the_wheel_is_built_from_and_no_more() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"],
        *project["project"]["license-files"],
    }
    needed |= {
        project["project"]["readme"],
        "pyproject.toml",
        "constraints.txt",
        "tools/container_steps.sh",
        "tools/wheels.sh",
        "wheels",
    }
    assert allowed == needed
    # Every step that the Dockerfile takes is one of the script.
    taken = re.findall(r"container_steps\.sh (\w+)", (ROOT / "Dockerfile").read_text())
    script = (ROOT / "tools/container_steps.sh").read_text()
    assert set(taken) == {"install", "user"} and all(f"\n{step}() {{" in script for step in (*taken, "check"))


def test_the_dockerfile_is_linted() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed (extra dev)")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- a folder of wheels ----------------------------------------------------------------------------------------------
def wheels(folder: Path, version: str = medcodi.__version__) -> Path:
    """A folder as tools/wheels.sh leaves it, with a file of a few bytes for a wheel."""
    folder.mkdir()
    wheel = folder / f"medcodi-{version}-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(b'wheel').hexdigest()}  {wheel.name}\n")
    return folder


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ROOT / "tools/wheels.sh"), "--check", str(folder)], capture_output=True, text=True)


def test_an_old_or_damaged_folder_of_wheels_is_refused_with_the_fix(tmp_path: Path) -> None:
    good = wheels(tmp_path / "good")
    assert checked(good).returncode == 0 and "1 files, unchanged" in checked(good).stdout
    damaged = wheels(tmp_path / "damaged")
    next(damaged.glob("*.whl")).write_bytes(b"whale")
    (tmp_path / "empty").mkdir()
    elsewhere = wheels(tmp_path / "elsewhere")
    (elsewhere / "PLATFORM").write_text("Python 3.9 on plan9 vax\n")
    for folder, words in {
        elsewhere: "is for Python 3.9 on plan9 vax, and ",
        damaged: "is damaged (medcodi-",
        wheels(tmp_path / "old", "0.0.9"): "holds medcodi-0.0.9-py3-none-any.whl",
        tmp_path / "empty": "has no SHA256SUMS",
    }.items():
        done = checked(folder)
        assert done.returncode == 2 and words in done.stderr and "Expected: " in done.stderr and "Fix: " in done.stderr
