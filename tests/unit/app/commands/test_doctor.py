from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from medcodi import model as models
from medcodi.app.commands.doctor import CHECKS, Check, check_checkpoint, examine, print_checks
from medcodi.model import MedCoDi


def printed(checks: list[Check]) -> str:
    buffer = io.StringIO()
    print_checks(checks, Console(file=buffer, width=120))
    return buffer.getvalue()


def test_every_check_comes_back_and_every_miss_has_its_fix() -> None:
    checks = examine()
    assert [check.name for check in checks][:2] == ["Python", "PyTorch"]
    assert len(checks) == len(CHECKS)
    for check in checks:
        assert check.seen
        assert bool(check.fix) == (check.state != "ok"), check


def test_a_table_without_misses_says_ready() -> None:
    text = printed([Check("Python", "ok", "3.11")])
    assert "3.11" in text and "Ready." in text


def test_misses_are_named_with_their_fixes() -> None:
    text = printed(
        [
            Check("Python", "missing", "3.8", fix="install Python 3.11"),
            Check("DICOM", "optional", "absent", fix="pip install 'medcodi[dicom]'"),
        ]
    )
    assert "Not ready: Python." in text
    assert "fix: install Python 3.11" in text
    assert "pip install 'medcodi[dicom]'" in text


def test_a_missing_checkpoint_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_DEMO_FOLDERS", (tmp_path / "a", tmp_path / "b"))
    check = check_checkpoint()
    assert check.state == "missing" and str(tmp_path / "b") in check.seen and "make demo-train" in check.fix


def test_a_truncated_checkpoint_is_a_miss(tiny_model: MedCoDi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(models, "_DEMO_FOLDERS", (folder, folder))
    assert check_checkpoint().state == "ok"
    file = next(folder.glob("denoiser_*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    check = check_checkpoint()
    assert check.state == "missing" and "truncated" in check.seen and check.fix
