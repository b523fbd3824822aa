"""The examples of docs/PRIVACY.md: two sites that share adapters alone, and a site of a Flower federation."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from medcodi.model import MedCoDi

pytest.importorskip("dp_accounting")
pytestmark = pytest.mark.long
FOLDER = Path(__file__).resolve().parents[2] / "examples/federated"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> tuple[Path, dict[str, Any]]:
    """Two sites at tiny size, and what came of them."""
    out = tmp_path_factory.mktemp("federated") / "out"
    results = example("two_sites").main(out, str(untrained), patients=16, held_out=8, steps=6, epsilon=8.0)
    return out, results


def test_two_sites_make_one_model_without_sharing_a_study(sites: tuple[Path, dict[str, Any]], untrained: Path) -> None:
    out, results = sites
    assert json.loads((out / "results.json").read_text()) == results
    losses = results["losses"]
    assert set(losses) == {"base", "average", "adapter of site a", "adapter of site b"}
    assert all(np.isfinite(value) for by_site in losses.values() for value in by_site.values())
    assert len({round(by_site["a"], 9) for by_site in losses.values()}) == 4
    assert abs(losses["base"]["a"] - losses["base"]["b"]) > 1e-4  # the scanners differ
    model = MedCoDi.from_pretrained(out / "model", lazy=True)
    assert [each["share"] for each in model.provenance["adapters"]] == [0.5, 0.5]
    for entry in model.provenance["adapters"]:
        promise = entry["training"]["privacy"]
        assert promise["patients"] == 16 and 7.5 < promise["epsilon"] <= 8.0
    assert model.identity() != MedCoDi.from_pretrained(untrained, lazy=True).identity()


def test_a_round_of_flower_is_a_run(sites: tuple[Path, dict[str, Any]], untrained: Path, tmp_path: Path) -> None:
    """Our side of the client; Flower itself does not resolve beside our pinned packages."""
    settings = {
        "data": str(sites[0] / "a/data"),
        "steps": 2,
        "batch": {"global_size": 4},
        "optimizer": {"lr": 1e-3},
        "low_rank": {"rank": 2, "layers": ["attention"]},
        "privacy": {"noise": 1.0, "delta": 1e-3, "clip": 0.1},
        "tracking": {"tensorboard": False},
    }
    site = example("flower_client").Site(str(untrained), settings, tmp_path)
    parameters = site.get_parameters({})
    moved, patients, metrics = site.fit([value + np.float32(0.001) for value in parameters], {"round": 1})
    assert patients == 16 and metrics["epsilon"] > 0
    changed = [float(abs(new - old).max()) for new, old in zip(moved, parameters, strict=True)]
    assert min(changed) > 5e-4 and max(changed) > 1.1e-3  # what the server sent, and what the run added to it
