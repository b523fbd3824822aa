"""Every example runs as it stands, from an empty folder, without network or data, in at most three minutes of one core."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_snippets import environment

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
LONGEST = 180  # seconds of processor time; by the clock a busy machine takes longer


def processor_seconds() -> float:
    """Processor time of all children so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    # What it writes into temporary folders goes where pytest removes it.
    variables = {**environment(), "TMPDIR": str(tmp_path)}
    command, before = [sys.executable, "-W", "ignore", str(script)], processor_seconds()
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.stdout.strip() and processor_seconds() - before <= LONGEST
