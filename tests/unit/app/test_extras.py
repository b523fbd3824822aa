"""A command that needs a package of an extra names the extra, before it has written anything."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., int]
TINY_STUDIES = ["data={source: phantom, split: test, num_studies: 8, image_size: 32}", "device=cpu"]
EVALUATE = ["evaluate", "--model", "{model}", "--out", "out", *TINY_STUDIES]
TRAIN = ["train", "--config", "tiny/align", "init={model}", "out=out"]
PRIVATE = [
    "train",
    "--config",
    "tiny/diffuse",
    "init={model}",
    "out=out",
    "low_rank={rank: 2}",
    "tracking.tensorboard=false",
]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one DICOM file by its name, a manifest and a reader study's answers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward/chest.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "prompts.csv").write_text("id,report\na,Normal chest.\n")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "chest.png")
    return tmp_path


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("pydicom", "dicom", ["generate", "--model", "{model}", "--prompt", "frontal=ward/chest.dcm", "--out", "out"]),
        ("pydicom", "dicom", ["generate", "--model", "{model}", "--target", "frontal", "--format", "dicom", "--out", "out"]),
        ("pydicom", "dicom", ["synthesize", "--model", "{model}", "--manifest", "prompts.csv", "--format", "dicom", "--out", "out"]),
        ("pydicom", "dicom", ["generate", "--model", "{model}", "--target", "frontal", "--outbox", "outbox", "--out", "out"]),
        ("dicomweb_client", "dicom", ["dicom", "fetch", "https://host/dicom-web", "--study", "1.2", "--out", "out"]),
        ("pynetdicom", "dicom", ["generate", "--model", "{model}", "--dicom-store", "dicom://host:104/THEM", "--out", "out"]),
        ("pydicom", "dicom", ["data", "prepare", "--source", "dicom", "--out", "out", "path=ward"]),
        ("pycocoevalcap", "eval", EVALUATE),
        ("torch_fidelity", "eval", [*EVALUATE, "extractors=[inception]", "metrics=[frechet]"]),
        ("torchxrayvision", "eval", [*EVALUATE, "image_reader=xrv", "metrics=[findings]"]),
        ("radeval", "radeval", [*EVALUATE, "labeler=chexbert"]),
        ("radeval", "radeval", [*EVALUATE, "report_scorers=[radgraph]"]),
        ("c2pa", "c2pa", ["sign-mark", "chest.png", "--key", "key.pem", "--certificates", "chain.pem"]),
        ("presidio_analyzer", "phi", ["audit", "--config", "small", "--model", "{model}", "--out", "out", "presidio=true"]),
        ("tensorboard", "tracking", TRAIN),
        ("wandb", "tracking", [*TRAIN, "tracking.tensorboard=false", "tracking.wandb={project: x}"]),
        ("dp_accounting", "privacy", [*PRIVATE, "privacy={noise: 1, delta: 1e-3}"]),
        ("deepspeed", "deepspeed", [*TRAIN, "engine.name=deepspeed"]),
        ("xformers", "xformers", ["generate", "--model", "{model}", "--out", "out", "--execution", "attention=xformers"]),
    ],
)  # fmt: skip
def test_a_missing_package_names_its_extra(
    run: Run,
    elsewhere: Path,
    model_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
    extra: str,
    arguments: list[str],
) -> None:
    for module in [name for name in sys.modules if re.match(rf"(torch\.utils\.)?{package}(\.|$)", name)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails, as if it were not installed
    code = run(*(text.replace("{model}", model_folder) for text in arguments))
    assert code == 2 and f"pip install 'medcodi[{extra}]'" in " ".join(capsys.readouterr().err.split())
    assert not (elsewhere / "out").exists() or not any((elsewhere / "out").iterdir())


def test_the_analysis_of_a_reader_study_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from medcodi.errors import MissingExtraError
    from medcodi.turing.statistics.agreement import inter_rater

    monkeypatch.setitem(sys.modules, "statsmodels.stats", None)
    with pytest.raises(MissingExtraError, match=r"medcodi\[turing\]"):
        inter_rater()
