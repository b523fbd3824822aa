from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcodi.app.cli import main
from medcodi.config import from_dict, to_dict
from medcodi.errors import ConfigError, DataError
from medcodi.evaluation.recompute import Verification
from medcodi.model import MedCoDi
from medcodi.trust.privacy.config import AuditConfig, CanariesConfig, ControlsConfig
from medcodi.trust.privacy.controls import control_config
from medcodi.trust.privacy.job import audit
from medcodi.trust.privacy.measure import Subject, directions_left_out
from medcodi.trust.privacy.results import BUNDLE, RESULTS, TOLERANCE, verify_audit
from tests.integration.forked import FORKS, free_port

CONTROLS = ControlsConfig(run=False)


@pytest.fixture(scope="module")
def model_folder(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return subject.model.save_pretrained(tmp_path_factory.mktemp("model") / "overfitted")


OWN = control_config(ControlsConfig(num_studies=24))


def config_of(model: Path, out: Path, **changes: Any) -> AuditConfig:
    """An audit of the overfitted model, without controls, to be quick."""
    own = OWN
    values: dict[str, Any] = {
        "model": str(model),
        "members": replace(own.members, num_studies=20),
        "non_members": replace(own.non_members, num_studies=20),
        "directions": ("report->frontal",),
        "timesteps": (0.2,),
        "num_inference_steps": 2,
        "canaries": CanariesConfig(repetitions=(0, 1), of_each=1, candidates=15),
        "controls": CONTROLS,
        "pictures": 1,
        "out": str(out),
        **changes,
    }
    return replace(own, **values)


@pytest.fixture(scope="module")
def bundle(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit") / "bundle"
    audit(config_of(model_folder, out), quiet=True)
    return out


def test_the_bundle_says_that_controls_and_training_list_are_missing_and_what_fails(bundle: Path) -> None:
    results = json.loads((bundle / RESULTS).read_text(encoding="utf-8"))
    lines = results["verdict"]["lines"]
    assert results["verdict"]["outcome"] == "fails" and results["controls"] is None
    assert lines[0].startswith("The controls were not run") and "training list of this model is unknown" in lines[1]
    assert any("AUROC of the main membership attack is" in line and "above the limit 0.55" in line for line in lines)
    assert results["limits_sha256"] == json.loads((bundle / "audit.json").read_text())["identity"]["limits_sha256"]
    page = (bundle / "page.html").read_text(encoding="utf-8")
    assert "Privacy audit of positive-control" in page and "data:image/png" in page and "http://" not in page
    assert "AUROC" in (bundle / "methods.md").read_text() and "**fails**" in (bundle / "card.md").read_text()


def test_an_audit_verifies_and_what_was_changed_does_not(bundle: Path, tmp_path: Path) -> None:
    check = verify_audit(bundle)
    assert check.holds and check.num_figures > 50 and check.num_files > 8
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    # A figure that was improved, and a score that was.
    results = json.loads((copy / RESULTS).read_text())
    results["membership"]["main"]["auroc"]["value"] = 0.5
    (copy / RESULTS).write_text(json.dumps(results))
    (copy / "methods.md").unlink()
    (copy / "new.md").touch()
    lines = [str(difference) for difference in verify_audit(copy).differences]
    for start in ("file results.json: ", "results / membership / main / auroc / value: 0.5 in the bundle, "):
        assert any(line.startswith(start) for line in lines)
    assert any(line.startswith("file methods.md: ") and line.endswith(", no file found") for line in lines)
    assert any(line.startswith("file new.md: no file in the bundle, ") for line in lines)
    # Limits that were moved after the run.
    index = json.loads((copy / "audit.json").read_text())
    index["identity"]["config"]["limits"]["membership_auroc"] = 0.99
    (copy / "audit.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="the limits were changed after they were declared"):
        verify_audit(copy)
    (copy / BUNDLE).unlink()
    with pytest.raises(DataError, match="the complete bundle of an audit"):
        verify_audit(copy)


def test_a_killed_audit_resumes_to_the_same_results(
    model_folder: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "resumed"
    shutil.copytree(bundle, out)
    before = (bundle / RESULTS).read_bytes()
    # What a kill leaves: no index, no results, a shard and a generation missing.
    for name in (BUNDLE, RESULTS, "shards/losses-00000.json", "generated/report_to_frontal/00000.npz"):
        (out / name).unlink()
    calls: list[int] = []
    original = MedCoDi.decode
    monkeypatch.setattr(MedCoDi, "decode", lambda self, *values: calls.append(1) or original(self, *values))
    audit(config_of(model_folder, out), quiet=True)
    assert (out / RESULTS).read_bytes() == before and len(calls) == 1  # one shard was generated again
    # Other limits are another audit.
    moved = replace(OWN.limits, membership_auroc=0.99)
    with pytest.raises(ConfigError, match="limits.membership_auroc was 0.55, is 0.99"):
        audit(config_of(model_folder, out, limits=moved), quiet=True)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_ranks_write_the_results_of_one(model_folder: Path, bundle: Path, tmp_path: Path) -> None:
    port, config = str(free_port()), to_dict(config_of(model_folder, tmp_path / "ranks"))
    workers = [FORKS.Process(target=_rank, args=(rank, port, config), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    first, second = (json.loads((folder / RESULTS).read_text()) for folder in (bundle, tmp_path / "ranks"))
    verification = Verification()
    verification.compare("results", first, second, TOLERANCE)
    assert verification.holds  # equal but for rounding
    assert json.loads((tmp_path / "ranks/run.json").read_text())["ranks"] == 2
    assert verify_audit(tmp_path / "ranks").holds


def _rank(rank: int, port: str, config: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(variables, LOCAL_RANK=str(rank))
    audit(from_dict(AuditConfig, config), quiet=True)


def test_directions_that_the_model_lacks_are_left_out_by_name(subject: Subject) -> None:
    lacking = replace(subject.config, directions=("report->lateral", "frontal->report"))
    assert directions_left_out(lacking, subject.model, subject.studies) == [
        {"figure": "report->lateral", "reason": "the model has no lateral"}
    ]


def test_what_cannot_be_audited_is_refused_before_anything_is_written(tiny_model: MedCoDi, tmp_path: Path) -> None:
    out, model_folder = tmp_path / "out", tiny_model.save_pretrained(tmp_path / "model")
    inside = replace(OWN.members, num_studies=20)
    with pytest.raises(DataError, match="members and non-members are the same studies"):
        audit(config_of(model_folder, out, non_members=inside), quiet=True)
    large = replace(OWN.members, image_size=64)
    with pytest.raises(ConfigError, match="64 pixels a side, the model makes 32"):
        audit(config_of(model_folder, out, members=large, non_members=replace(large, split="test")), quiet=True)
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="does not hold an audit"):
        audit(config_of(model_folder, full), quiet=True)
    assert not out.exists() and [path.name for path in full.iterdir()] == ["thesis.txt"]
    # A model whose index says that it was trained on the non-members.
    model = MedCoDi.from_pretrained(model_folder)
    held_out = replace(OWN.non_members, num_studies=20).build()
    model.provenance = {"training": {"diffuse": {"data": held_out.fingerprint}}}
    trained = model.save_pretrained(tmp_path / "trained")
    with pytest.raises(DataError, match="the model was trained on the non-members"):
        audit(config_of(trained, out), quiet=True)


def test_the_command_exits_with_4_and_verifies(
    model_folder: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from medcodi.config import to_yaml

    out = tmp_path / "again"
    shutil.copytree(bundle, out)
    file = tmp_path / "audit.yaml"
    file.write_text(to_yaml(config_of(model_folder, out)))
    with pytest.raises(SystemExit) as exit_:
        main(["audit", "--config", str(file)])
    assert exit_.value.code == 4
    assert "Verdict: fails" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main(["audit", "--verify", str(bundle)])
    assert exit_.value.code == 0 and "no difference" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main(["audit", "--out", str(tmp_path / "none")])
    assert exit_.value.code == 2 and "no members are named" in capsys.readouterr().err


def test_the_results_have_no_number_that_json_lacks(bundle: Path) -> None:
    text = (bundle / RESULTS).read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert np.isfinite(json.loads(text)["populations"]["bias_floor"]["value"])
