"""The wheel suffices: built, installed into a virtual environment elsewhere, and used from an empty folder without the repository.

So that it takes minutes and needs no registry, the environment holds nothing but our package: a .pth file lets it see the dependencies
that are installed here. (Such a file adds a folder, and does not read the .pth files within, so the repository stays out of sight.)
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from medcodi.recipes import recipe_names
from tests.integration.forked import free_port

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
QUICK = ("tracking.tensorboard=false", "tracking.samples_every=0", "tracking.validate_every=0", "steps=2")
LARGEST = 100e6  # bytes of a file that PyPI takes by default


@dataclass(frozen=True)
class Installed:
    """An environment that the wheel is installed in, and an empty folder to work in."""

    wheel: Path
    python: Path
    folder: Path

    def run(self, *words: str, expected: int = 0) -> str:
        """Run ``python WORDS`` in the folder; what it printed."""
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LOCAL_RANK")}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        done = subprocess.run(
            [str(self.python), *words], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == expected, (done.stdout + done.stderr)[-4000:]
        return done.stdout + done.stderr

    def medcodi(self, *words: str, expected: int = 0) -> str:
        """Run the installed program ``medcodi``."""
        return self.run(str(self.python.with_name("medcodi")), *words, expected=expected)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # Build; where hatchling is installed (extra dev), without the registry.
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(home / "dist"), str(ROOT)]
    subprocess.run([*build, *(["--no-build-isolation"] if find_spec("hatchling") else [])], check=True, timeout=600)
    (wheel,) = (home / "dist").glob("medcodi-*.whl")
    # Install into an environment of its own.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "venv")], check=True, timeout=120)
    python = home / "venv/bin/python"
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=300)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home / "venv")}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (home / "empty").mkdir()
    return Installed(wheel, python, home / "empty")


def test_the_wheel_holds_recipes_and_the_shipped_model(installed: Installed) -> None:
    assert installed.wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(installed.wheel) as archive:
        files = set(archive.namelist())
    assert {f"medcodi/shipped/configs/{name}.yaml" for name in recipe_names()} <= files
    assert "medcodi/shipped/demo/model_index.json" in files and "medcodi/app/templates/demo.html" in files
    assert {file.split("/")[0] for file in files if not file.startswith("medcodi-")} == {"medcodi"}
    # It is the wheel's package that runs, with its own recipes and model.
    code = "import medcodi.model, medcodi.recipes; print(medcodi.recipes.recipes_folder(), medcodi.model.demo_checkpoint())"
    assert installed.run("-c", code).split() == [
        str(
            Path(sysconfig.get_path("purelib", vars={"base": str(installed.python.parents[1])}))
            / "medcodi/shipped"
            / name
        )
        for name in ("configs", "demo")
    ]


def test_help_doctor_and_recipes(installed: Installed) -> None:
    assert "Usage: medcodi" in installed.medcodi("--help")
    assert "Ready." in installed.run("-m", "medcodi", "doctor")
    listed = installed.medcodi("config", "list")
    assert [name for name in recipe_names() if name not in listed] == []
    assert "# optimiser steps of the whole run" in installed.medcodi("config", "show", "train/tiny/align")
    assert "did you mean 'align'" in installed.medcodi("train", "--config", "algin", expected=2).replace("\n", " ")


def test_the_demo(installed: Installed) -> None:
    installed.medcodi("demo", "--steps", "2", "--device", "cpu")
    assert (installed.folder / "demo/index.html").stat().st_size > 100_000
    # The folder that it wrote is called demo; the name is still the shipped model's.
    installed.medcodi("generate", "--model", "demo", "--target", "report", "--steps", "2", "--out", "generated")
    assert (installed.folder / "generated/report.txt").is_file()


def test_a_tiny_training_under_three_launchers(installed: Installed) -> None:
    # A copied recipe, and the shipped ones by name.
    installed.medcodi("config", "copy", "train/tiny/autoencode", "mine.yaml")
    assert "runs/one" in installed.medcodi("train", "--config", "mine.yaml", "out=runs/one", *QUICK)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "medcodi", "train")
    said = installed.run(*torchrun, "--config", "tiny/align", "init=runs/one/model", "out=runs/two", *QUICK)
    assert "2 (ranks)" in said and said.count("The run: runs/two") == 1
    assert (installed.folder / "runs/two/model/model_index.json").is_file()
    if find_spec("deepspeed"):
        # A port of its own: DeepSpeed's is always the same, and another worker's test may use it.
        deepspeed = ("-m", "deepspeed.launcher.runner", "--num_accelerators", "1", "--master_port", str(free_port()))
        deepspeed += ("--module", "medcodi", "train")
        said = installed.run(*deepspeed, "--config", "tiny/diffuse", "init=runs/two/model", "out=runs/three", *QUICK)
        assert "engine DeepSpeed" in said
    assert "The page" in installed.medcodi("plot", "runs/one", "runs/two", "--out", "curves.html")
