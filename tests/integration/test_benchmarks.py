"""The benchmarks beside peers and at full size run from end to end at tiny size; what is not installed is skipped by name, and nothing is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("peers.py", ("== contrastive: a contrastive step", "== dicom", "== features", "== reports", "== loop")),
        ("full_size.py", ('generate {"size": "tiny"', "align {", "diffuse {")),
        ("denoiser.py", ("float32, 77 tokens", "fp32: diffusers, channels_last", "bf16: diffusers cast")),
    ],
)
def test_a_dry_run_measures_every_part(script: str, shown: tuple[str, ...]) -> None:
    results = {path: path.stat().st_mtime_ns for path in (ROOT / "benchmarks/results").glob("*.json")}
    words = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / script), "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(text in done.stdout for text in shown) and "written" not in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "benchmarks/results").glob("*.json")} == results
