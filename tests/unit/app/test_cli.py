from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import medcodi
from medcodi.app.cli import REFUSED, main
from medcodi.errors import PromptError

Run = Callable[..., int]


def test_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"medcodi {medcodi.__version__}"


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("demo",),
        ("doctor",),
        ("data",),
        ("data", "prepare"),
        ("train",),
        ("generate",),
        ("dicom", "send"),
        ("dicom", "fetch"),
        ("evaluate",),
        ("audit",),
        ("card",),
        ("parameters",),
    ],
)
def test_help_teaches(run: Run, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    said = capsys.readouterr().out
    assert "Usage: medcodi" in said
    if command not in ((), ("data",)):
        assert f"medcodi {' '.join(command)}" in said.split("Example", 1)[1]


def test_a_launchers_local_rank_is_taken_from_anywhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert run("--local_rank=1", "--version") == 0 and os.environ["LOCAL_RANK"] == "1"
    # What the launcher has set in the environment stays.
    assert run("--version", "--local-rank=3") == 0 and os.environ["LOCAL_RANK"] == "1"


NO_TORCH = """
import sys
from medcodi.app.cli import main
try:
    main(["--help"])
except SystemExit:
    assert not {"torch", "pydantic", "yaml"} & set(sys.modules)
"""


# A refusal of a path is there in seconds, because what takes longer is not loaded before; the first line, before anything is.
NO_NETWORKS = """
import sys
from medcodi.app.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert stop.code == 2, stop.code
    assert not {"diffusers", "open_clip", "transformers", "accelerate", "sklearn"} & set(sys.modules), sys.modules.keys()
"""


@pytest.mark.parametrize(
    ("arguments", "loading"),
    [
        (["train", "--config", "tiny/autoencode", "data=no/such/data"], "Loading the run of tiny/autoencode ..."),
        (["evaluate", "--data", "no/such/data"], "Loading"),
    ],
)
def test_a_path_that_is_not_there_is_refused_before_libraries_are_loaded(
    arguments: list[str], loading: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", NO_NETWORKS, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr.startswith(loading), done.stderr
    assert "no/such" in done.stderr and "Fix:" in done.stderr and not list(tmp_path.iterdir())


def test_help_does_not_wait_for_torch() -> None:
    subprocess.run([sys.executable, "-c", NO_TORCH], check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("plot", "demo"), ["the shipped model demo carries no log"]),
        (("generate", "--prompt", "frontl=x.png"), ["unknown modality 'frontl'", "did you mean 'frontal'"]),
        (
            ("generate", "--prompt", "report=x", "--target", "report"),
            ["report is both prompt and target", "leave it out"],
        ),
        (("generate", "--prompt", "frontal=no.png", "--target", "lateral"), ["no.png"]),
        (
            ("generate", "--prompt", "frontal=no.png", "--model", "no/such/folder"),
            ["no image file at no.png"],
        ),  # before the model
        (("generate", "--prompt", "report=", "--target", "frontal"), ["report"]),
        (("generate", "--prompt", "report=x", "--weight", "report=-1"), ["-1"]),
        (("generate", "--prompt", "report=x", "--steps", "0"), ["0"]),
        (("generate", "--prompt", "report=x", "--sampler", "dimm"), ["unknown sampler 'dimm'", "did you mean 'ddim'"]),
        (("generate", "--target", "frontal", "--model", "no/such/folder"), ["no model at no/such/folder"]),
        (("generate", "--target", "frontal", "--model", "weights.ckpt"), ["pickle"]),
        (("generate", "--target", "frontal", "--device", "cuda:99"), ["the device 'cuda:99' cannot be used"]),
        (("generate", "--target", "frontal", "--device", "gpu"), ["the device 'gpu' cannot be used"]),
        (("train", "--config", "no.yaml"), ["no configuration file at no.yaml"]),
        (("evaluate", "--config", "no.yaml"), ["no configuration file at no.yaml"]),
        (("parameters", "no.yaml"), ["no configuration file at no.yaml"]),
    ],
)
def test_a_refusal_is_one_message_on_stderr_and_exit_code_2(
    run: Run,
    arguments: tuple[str, ...],
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == REFUSED
    said = capsys.readouterr()
    assert not said.out
    for text in ("Error:", *expected):
        assert text in said.err
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_names_the_nearest(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "--targt", "frontal") == 2
    assert "--target" in capsys.readouterr().err


def test_debug_shows_where_it_came_from() -> None:
    with pytest.raises(PromptError):
        main(["generate", "--prompt", "frontl=x", "--debug"])
