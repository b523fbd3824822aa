"""``medcodi verify-mark`` and ``sign-mark``: what they print, and their exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.trust.marks.certificates import write_key


def test_files_are_listed_and_the_exit_code_says_whether_all_are_marked(
    run, model_folder: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("generate", "--model", model_folder, "--steps", "1", "--out", "out", "--target", "frontal,report") == 0
    capsys.readouterr()
    assert run("verify-mark", "out") == 0
    printed = capsys.readouterr().out
    assert "marked     out/frontal.png" in printed and "2 marked" in printed and "MedCoDi model tiny" in printed

    # Signed, with a key of one's own.
    key, chain = write_key(tmp_path / "key")
    assert run("sign-mark", "out", "--key", str(key), "--certificates", str(chain)) == 0
    assert capsys.readouterr().out == "out/frontal.c2pa\n"
    assert run("sign-mark", "out", "--key", str(chain), "--certificates", str(chain)) == 2

    # One file without a mark.
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save("out/other.png")
    capsys.readouterr()
    assert run("verify-mark", "out") == 1
    printed = capsys.readouterr().out
    assert "unmarked   out/other.png" in printed and "C2PA: signed by Test Hospital" in printed and "Fix: " in printed
    assert run("verify-mark", "nowhere") == 2
