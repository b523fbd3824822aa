from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medcodi
from medcodi.app.cli import REFUSED, main
from medcodi.config import to_yaml
from medcodi.errors import PromptError
from medcodi.model import MedCoDi, tiny_config


def run(*arguments: str) -> int:
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code or 0  # type: ignore[return-value]


@pytest.fixture(scope="module")
def model_folder(tiny_model: MedCoDi, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model.save_pretrained(tmp_path_factory.mktemp("model") / "tiny"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
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
        ("evaluate",),
        ("parameters",),
    ],
)
def test_help_teaches(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    said = capsys.readouterr().out
    assert "Usage: medcodi" in said
    if command not in ((), ("data",)):
        assert f"medcodi {' '.join(command)}" in said.split("Example", 1)[1]


NO_TORCH = """
import sys
from medcodi.app.cli import main
try:
    main(["--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""


def test_help_does_not_wait_for_torch() -> None:
    subprocess.run([sys.executable, "-c", NO_TORCH], check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
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


def test_an_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "--targt", "frontal") == 2
    assert "--target" in capsys.readouterr().err


def test_debug_shows_where_it_came_from() -> None:
    with pytest.raises(PromptError):
        main(["generate", "--prompt", "frontl=x", "--debug"])


def test_generate_writes_what_it_says(model_folder: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = [
        "--model",
        model_folder,
        "--steps",
        "2",
        "--num-samples",
        "2",
        "--out",
        str(out),
        "--seed",
        "5",
        "--device",
        "cpu",
    ]
    assert run("generate", "--prompt", "report=Large left pleural effusion.", *options) == 0
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["0/frontal.png", "0/lateral.png", "1/frontal.png", "1/lateral.png", "provenance.json"]
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["direction"] == "report->frontal+lateral"
    assert provenance["seeds"] == [5, 6]
    assert run("generate", "--prompt", "report=x", *options) == REFUSED  # never on top of an earlier one


def test_a_generated_report_is_printed(model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", model_folder, "--steps", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert run("generate", "--target", "report", *options) == 0
    said = capsys.readouterr().out
    assert "report, sample 0" in said and str(tmp_path / "out" / "report.txt") in said


def test_parameters_of_a_recipe_and_of_a_folder_agree(
    model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model: MedCoDi
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(tiny_config()))
    totals = []
    for source in (str(recipe), model_folder):
        assert run("parameters", source, "--json") == 0
        totals.append(json.loads(capsys.readouterr().out)["parameters"])
    assert totals[1] == sum(parameter.numel() for parameter in tiny_model.parameters())
    assert abs(totals[0] - totals[1]) / totals[1] < 0.25  # the recipe's vocabulary is an upper bound


def test_demo_writes_one_page_of_twelve_directions(
    model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert run("demo", "--model", model_folder, "--steps", "2", "--out", str(out), "--device", "cpu") == 0
    assert str(out / "index.html") in capsys.readouterr().out
    html = (out / "index.html").read_text()
    assert html.count("<section id=") == 12
    assert html.count('alt="') == html.count("<img ") == html.count("data:image/png;base64,") >= 24
    assert "http" not in html.replace("http-equiv", "")  # self-contained
    assert [path.name for path in out.iterdir()] == ["index.html"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three studies of two patients: images of odd sizes, and one report."""
    lines = ["study_id,patient_id,image,view,report"]
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(f"s{number},p{number // 2},{number}.png,{'PA' if number else 'LATERAL'},Clear lungs.")
    path = tmp_path / "studies.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_prepare_prints_the_ledger(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table.parent / "prepared"
    assert run("data", "prepare", "--source", "csv", "--out", str(out), f"path={table}", "image_size=32", "val=0") == 0
    assert "Ledger" in capsys.readouterr().out
    assert (out / "ledger.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--source", "cvs"), ["unknown source 'cvs'", "did you mean 'csv'"]),
        (("--source", "csv", "options.columns.image=imag"), ["no column 'imag'", "did you mean 'image'"]),
        (("--source", "csv", "imagesize=32"), ["unknown key 'imagesize'", "did you mean 'image_size'"]),
        (("--source", "csv", "image_size=big"), ["image_size = 'big'"]),
    ],
)
def test_prepare_refuses_and_leaves_nothing(
    arguments: tuple[str, ...], expected: list[str], table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(table.parent.iterdir())
    assert run("data", "prepare", "--out", str(table.parent / "prepared"), f"path={table}", *arguments) == REFUSED
    said = capsys.readouterr().err
    for text in expected:
        assert text in said
    assert sorted(table.parent.iterdir()) == before
