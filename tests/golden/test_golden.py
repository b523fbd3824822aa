"""Pinned numbers: what a phantom study looks like and says. ``make golden`` writes them anew; look at the diff before you commit it."""

import json
import os
from pathlib import Path

import pytest

from medcodi.data.sources.phantom import phantom_study

FILE = Path(__file__).parent / "phantom.json"
STUDIES = [(0, 0), (0, 3), (0, 8), (7, 20_000_000)]


def summary(seed: int, index: int) -> dict:
    """Mean, spread and a coarse picture of each film, the report and the findings."""
    study = phantom_study(seed, index, size=64)
    films = {
        name: {
            "mean": round(float(film.mean()), 5),
            "std": round(float(film.std()), 5),
            "coarse": film.reshape(4, 16, 4, 16).mean(axis=(1, 3)).round(4).tolist(),
        }
        for name, film in study.images.items()
    }
    findings = [[finding.label, finding.side, finding.location, finding.size] for finding in study.findings]
    return {"films": films, "report": study.report, "findings": findings}


@pytest.fixture(scope="module")
def pinned() -> dict:
    found = {f"{seed}/{index}": summary(seed, index) for seed, index in STUDIES}
    if os.environ.get("MEDCODI_WRITE_GOLDEN"):
        FILE.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(FILE.read_text())


@pytest.mark.parametrize(("seed", "index"), STUDIES)
def test_phantoms_stay_what_they_are(pinned, seed, index):
    expected, found = pinned[f"{seed}/{index}"], summary(seed, index)
    assert found["report"] == expected["report"] and found["findings"] == expected["findings"]
    for name, film in expected["films"].items():
        assert found["films"][name]["mean"] == pytest.approx(film["mean"], abs=1e-3)
        assert found["films"][name]["std"] == pytest.approx(film["std"], abs=1e-3)
        for row, other in zip(found["films"][name]["coarse"], film["coarse"], strict=True):
            assert row == pytest.approx(other, abs=2e-3)
