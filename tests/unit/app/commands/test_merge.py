"""``medcodi merge``: adapters into the model that they change, models into their average."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medcodi.model import MedCoDi
from medcodi.model.adapter import Adapter, write_adapter

Run = Callable[..., int]


@pytest.fixture
def adapter(model_folder: str, tmp_path: Path) -> Path:
    base = MedCoDi.from_pretrained(model_folder, lazy=True)
    size = base.components()["denoiser_frontal"].get_submodule("time.in_proj").weight.shape
    assert isinstance(size, torch.Size)
    tensors = {
        "denoiser_frontal.down.time/in_proj": torch.ones(1, size[1]),
        "denoiser_frontal.up.time/in_proj": torch.full((size[0], 1), 0.5),
    }
    made = Adapter(base=base.identity(), base_name=base.config.name, stage="diffuse", tensors=tensors)
    return write_adapter(tmp_path / "adapter.safetensors", made)


def test_an_adapter_is_merged_and_models_are_averaged(
    run: Run, model_folder: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, half = tmp_path / "out", tmp_path / "half"
    assert run("merge", str(adapter), "--base", model_folder, "--out", str(out)) == 0
    assert "The model: " in capsys.readouterr().out
    assert run("merge", model_folder, str(out), "--weights", "1,1", "--out", str(half)) == 0
    base, moved, average = (
        MedCoDi.from_pretrained(folder).denoisers["frontal"].get_submodule("time.in_proj").weight
        for folder in (model_folder, out, half)
    )
    torch.testing.assert_close(moved, base + 0.5)
    torch.testing.assert_close(average, base + 0.25)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weights", "a"], "numbers joined by commas"),
        (["--weights", "1,2"], "weights 1, 2 for 1 sources"),
        (["--base", "demo"], "the model that it was trained on"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(
    run: Run,
    model_folder: str,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list,
    says: str,
) -> None:
    base = [] if "--base" in words else ["--base", model_folder]
    assert run("merge", str(adapter), "--out", str(tmp_path / "out"), *base, *words) == 2
    assert says in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "out").exists()
