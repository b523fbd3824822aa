"""The dry run of benchmarks/ablations.py: two rows are trained, judged and written; what is there is read, not run again."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_the_dry_run_writes_a_table_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    main = runpy.run_path(str(FOLDER / "ablations.py"))["main"]
    out = tmp_path / "ablations.json"
    arguments = ["--dry-run", "--seconds", "0.3", "--seeds", "0", "--work", str(tmp_path), "--out", str(out), "--rows"]
    main([*arguments, "baseline"])
    first = json.loads(out.read_text())

    # The second row is trained beside the first, whose run is read: its losses are the same to the last digit.
    main([*arguments, "baseline", "velocity-shifted"])
    baseline, velocity = json.loads(out.read_text())["rows"]
    assert baseline == first["rows"][0] and baseline["steps"][0] >= 1 and baseline["validation_loss"][0] > 0
    assert velocity["validation_loss"] is None  # of another prediction
    for direction in ("report->frontal", "lateral+report->frontal"):
        difference = velocity[direction]["minus_baseline"]["value"]
        assert difference == pytest.approx(
            velocity[direction]["finding_f1"]["value"] - baseline[direction]["finding_f1"]["value"], abs=1e-6
        )
    assert len(list((tmp_path / "runs").rglob("*.json"))) == 2
