"""The tests that need a card, by pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from card import Row, Setup

ROOT = Path(__file__).resolve().parents[2]


def measure(setup: Setup) -> Iterator[Row]:
    """Number of tests by outcome, and the end of pytest's output where one failed."""
    files = [path for path in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    outcomes = re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    row: Row = {"what": "tests", **{outcome: int(number) for number, outcome in outcomes}}
    yield row if done.returncode == 0 else row | {"error": (done.stdout + done.stderr)[-3000:]}
