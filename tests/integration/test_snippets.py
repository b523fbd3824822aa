"""Every shell and Python snippet of README and docs runs as written, page by page, where its names stand for small things.

A snippet whose first line is ``# not tested here: REASON`` is not run; those are counted. A page's snippets run in order in one
folder, which holds what :func:`place` writes: a sample, DICOM files, other systems' output, a manifest, a small trained model.
``medcodi`` and Python run in processes that have imported everything before (preloaded.py): 45 times 5 s of one core less.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from medcodi.config import load
from medcodi.data.image_files import read_image
from medcodi.data.preparation.prepare import PrepareConfig, prepare
from medcodi.data.sample import write_sample
from tests.integration.preloaded import program

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_TESTED = "# not tested here: "
MOST_NOT_TESTED = 11  # a further one needs a reason as good as a cluster, a licence, a server or hours
SHELL = ["bash", "-euo", "pipefail", "-c"]
LANGUAGES = {"sh": SHELL, "bash": SHELL, "python": ["medcodi", "-c"]}  # our program of preloaded.py runs Python too
COMMAND = re.compile(r"^(medcodi|python|torchrun|deepspeed|make|pip) ", re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """One fenced block of a page."""

    page: Path
    line: int  # of its first line
    language: str
    text: str

    @property
    def reason(self) -> str:
        """Why it is not run; "": it is."""
        first = self.text.partition("\n")[0]
        return first.removeprefix(NOT_TESTED) if first.startswith(NOT_TESTED) else ""


def snippets(page: Path) -> list[Snippet]:
    """The fenced blocks of a page."""
    found, start, language = [], 0, ""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.startswith("```"):
            continue
        if not start:
            start, language = number, line[3:].strip()
        else:
            found.append(Snippet(page, start + 1, language, "\n".join(lines[start : number - 1])))
            start = 0
    return found


ALL = {page: snippets(page) for page in PAGES}
RUN = {
    page: [snippet for snippet in found if snippet.language in LANGUAGES and not snippet.reason]
    for page, found in ALL.items()
}


def test_few_snippets_are_not_run_and_say_why() -> None:
    left_out = [snippet for found in ALL.values() for snippet in found if snippet.reason]
    assert len(left_out) <= MOST_NOT_TESTED, [f"{snippet.page.name}:{snippet.line}" for snippet in left_out]
    assert all(len(snippet.reason.split()) >= 2 for snippet in left_out)


def test_commands_are_in_snippets_that_are_run() -> None:
    """A block without a language is for output: commands in it would never be tested."""
    for found in ALL.values():
        for snippet in found:
            if snippet.language in ("", "text") and not snippet.text.startswith("$ "):
                assert not COMMAND.search(snippet.text), (
                    f"{snippet.page.name}:{snippet.line} holds commands: name it sh"
                )


# ---- the folder in which they run ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What names in the documents stand for, written once: a sample, DICOM files, a dataset, a model, other systems' files."""
    root = tmp_path_factory.mktemp("things")
    table = write_sample(root / "sample", 24)
    with table.open(encoding="utf-8", newline="") as file:
        studies = list(csv.DictReader(file))
    _write_dicom(root, studies)
    (root / "prompts.csv").write_text("id,report\nfirst,Large left pleural effusion.\n", encoding="utf-8")
    # A prepared dataset, and a fresh model that is as large.
    columns = {"source": "csv", "path": str(table), "out": str(root / "data/mine")}
    prepare(PrepareConfig(**columns))
    from medcodi.model import ModelConfig, build_model, tiny_model

    model = tiny_model(image_size=128)
    model.trained_stages = ("autoencode", "align", "diffuse", "join")
    folder = model.save_pretrained(root / "runs/mine/model")
    for file in (ROOT / "checkpoints/demo").glob("finding_classifier.*"):
        shutil.copy(file, folder)
    # A model with records, fresh too.
    recipe = replace(load(ModelConfig, "models/tiny-record"), image_size=128)
    with_records = build_model(recipe, ["The heart is large. No effusion."])
    with_records.trained_stages = model.trained_stages
    with_records.save_pretrained(root / "models/demo-record")
    _write_theirs(root, [study for study in studies if study["split"] == "test"])
    return root


def _write_dicom(root: Path, studies: list[dict[str, str]]) -> None:
    """The sample as DICOM files, a folder a study."""
    import pydicom

    from medcodi.data.dicom.writing import write_dicom

    for number, study in enumerate(studies):
        folder = root / "dicom" / study["study_id"]
        folder.mkdir(parents=True)
        provenance = {"direction": "", "model": {"name": "sample", "sha256": ""}, "prompts": {}, "settings": {}}
        for view in ("frontal", "lateral"):
            file = folder / f"{view}.dcm"
            write_dicom(read_image(root / "sample" / study[view]), file, view, {**provenance, "seeds": [number]})
            dataset = pydicom.dcmread(file)
            dataset.PatientID = study["patient_id"]
            dataset.save_as(file)
            (folder / f"{view}.txt").write_text(study["report"], encoding="utf-8")


def _write_theirs(root: Path, studies: list[dict[str, str]]) -> None:
    """Another system's frontals: a folder and a table."""
    lines = ["study_id,direction,frontal"]
    for study in studies:
        file = Path("theirs/report_to_frontal") / study["study_id"] / "frontal.png"
        (root / file).parent.mkdir(parents=True)
        shutil.copy(root / "sample" / study["frontal"], root / file)
        lines.append(f"{study['study_id']},report->frontal,{file}")
    (root / "others.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


# What a page writes itself is not there before.
WRITES = {
    "QUICKSTART.md": ["sample", "data", "runs"],
    "CLI.md": ["sample", "data"],
    "DATA.md": ["data/mine"],
    "TRAINING.md": ["runs"],
}


def place(page: Path, things: Path, folder: Path) -> Path:
    """A folder for the snippets of one page."""
    shutil.copytree(things, folder, dirs_exist_ok=True)
    for name in WRITES.get(page.name, []):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("configs", "launch", "eval", "checkpoints", "medcodi"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def environment(*folders: Path) -> Mapping[str, str]:
    """The programs of these folders first, then this interpreter's; this tree's modules, no GPU."""
    path = os.pathsep.join(map(str, (*folders, Path(sys.executable).parent, os.environ["PATH"])))
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def variables() -> Iterator[Mapping[str, str]]:
    """Of a snippet's shell. ``medcodi`` does not import torch for every command; ``python``, ``torchrun`` and ``deepspeed`` do."""
    with program(environment()) as medcodi:
        yield environment(medcodi.parent)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]], ids=lambda page: page.name)
def test_snippets_run_as_written(page: Path, things: Path, variables: Mapping[str, str], tmp_path: Path) -> None:
    folder = place(page, things, tmp_path / "here")
    for snippet in RUN[page]:
        command = [*LANGUAGES[snippet.language], snippet.text]  # found in the PATH of its variables
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, (
            f"{page.name}:{snippet.line}\n{snippet.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
