from __future__ import annotations

import re
from pathlib import Path

import pytest

import medcodi
from medcodi import model
from medcodi.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]


def test_the_public_face_loads_on_first_use() -> None:
    from medcodi.generation.pipeline import generate
    from medcodi.model import MedCoDi

    assert medcodi.generate is generate
    assert medcodi.MedCoDi is MedCoDi
    assert {"generate", "MedCoDi", "__version__"} <= set(dir(medcodi))
    with pytest.raises(AttributeError, match="'Medcodi'"):
        _ = medcodi.Medcodi  # type: ignore[attr-defined]


def test_the_demo_checkpoint_is_found_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, repository = tmp_path / "shipped", tmp_path / "checkpoints"
    monkeypatch.setattr(model, "_DEMO_FOLDERS", (wheel, repository))
    with pytest.raises(CheckpointError, match="make demo-train"):
        model.demo_checkpoint()
    repository.mkdir()
    (repository / "model_index.json").write_text("{}")
    assert model.demo_checkpoint() == repository


def test_constraints_hold_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines)
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"].startswith("2.12.") and pins["torchvision"].startswith("0.27.")


def test_version_is_the_same_everywhere() -> None:
    assert f"version: {medcodi.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
