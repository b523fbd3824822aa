"""All four stages by plain python: what they leave behind, and what the command refuses."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medcodi.config import load, read_yaml
from medcodi.model import MedCoDi
from medcodi.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("autoencode", "align", "diffuse", "join")


def launched(*words: str) -> subprocess.CompletedProcess[str]:
    """``python launch/train.py`` with these words."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "launch/train.py", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_each_stage_leaves_a_model_that_has_been_through_it(tiny_runs: dict[str, Path]) -> None:
    for done, stage in enumerate(STAGES, start=1):
        model = MedCoDi.from_pretrained(tiny_runs[stage] / "model")
        assert model.trained_stages == STAGES[:done]
        assert model.provenance["training"][stage]["steps"] == 8


def test_the_model_holds_the_averaged_weights_of_the_last_checkpoint(tiny_runs: dict[str, Path]) -> None:
    run = tiny_runs["diffuse"]
    ema = load_file(run / "checkpoints/step-00000008/ema.safetensors")
    weights = load_file(run / "checkpoints/step-00000008/weights.safetensors")
    state = {f"model.{name}": value for name, value in MedCoDi.from_pretrained(run / "model").state_dict().items()}
    assert ema and all(state[name].equal(value) for name, value in ema.items())
    assert any(not weights[name].equal(value) for name, value in ema.items())


def test_a_stage_changes_what_it_trains_and_nothing_else(tiny_runs: dict[str, Path]) -> None:
    before = MedCoDi.from_pretrained(tiny_runs["align"] / "model").state_dict()
    after = MedCoDi.from_pretrained(tiny_runs["diffuse"] / "model").state_dict()
    changed = {name.split(".")[0] for name, value in before.items() if not after[name].equal(value)}
    assert changed == {"denoisers"}


def test_the_latents_of_the_result_have_unit_scale(tiny_runs: dict[str, Path]) -> None:
    config = load(TrainConfig, tiny_runs["autoencode"] / "config.yaml")
    model, dataset = MedCoDi.from_pretrained(tiny_runs["autoencode"] / "model"), config.data.build()
    images = torch.stack([torch.from_numpy(dataset[i].images["frontal"])[None] for i in range(16)])
    with torch.no_grad():
        assert 0.3 < float(model.latent("frontal", images).std()) < 3.0


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_tells_what_it_did(tiny_runs: dict[str, Path], stage: str) -> None:
    run = tiny_runs[stage]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    assert any("validation/loss" in line for line in lines)
    assert all(line["timing"]["studies_per_second"] > 0 for line in lines if "loss" in line)
    assert list((run / "tensorboard").glob("events.*"))
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000004", "step-00000008"]
    if stage != "align":  # which has nothing to show
        assert (run / "samples/step-00000008.png").stat().st_size > 500


def test_the_command_prints_its_config_and_help_and_refuses_with_code_2() -> None:
    config = "configs/train/tiny/align.yaml"
    done = launched("--config", config, "--print-config", "optimizer.lr=0.5", "--local_rank=0")
    assert done.returncode == 0 and "lr: 0.5" in done.stdout
    done = launched("--help")
    assert done.returncode == 0 and "--resume latest" in done.stdout and "torchrun" in done.stdout
    done = launched("--config", config, "optimizer.lr=-1")
    assert done.returncode == 2 and "lr is -1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "configs/train/tiny/align.yaml", "optimiser.lr=1"], "did you mean 'optimizer'"),
        (["--config", "configs/train/tiny/algin.yaml"], "no configuration file"),
        (["--config", "configs/train/tiny/align.yaml", "stage.name=algin", "init={model}", "out={out}"], "'align'"),
        (["--config", "configs/train/tiny/align.yaml", "--resum", "latest"], "unknown option"),
        (["--config", "configs/train/tiny/diffuse.yaml", "init={model}", "out={out}"], "has not been through 'align'"),
        (["--config", "configs/train/tiny/align.yaml", "init={out}", "out={out}"], "no model"),
        (["--config", "configs/train/tiny/align.yaml", "init={model}", "out=/proc/none"], "cannot be written"),
        (["--config", "configs/train/tiny/autoencode.yaml", "out={run}"], "holds a run already"),
    ],
)
def test_refusals_are_one_line_with_code_2(
    tiny_runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(ROOT)
    main = runpy.run_path(str(ROOT / "launch/train.py"))["main"]
    run = tiny_runs["autoencode"]
    values = {"model": run / "model", "run": run, "out": tmp_path / "out"}
    assert main([word.format(**values) for word in words]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_ready_configs_can_be_read() -> None:
    paths = [path for path in (ROOT / "configs/train").rglob("*.yaml")]
    assert {path.stem for path in (ROOT / "configs/train/tiny").glob("*.yaml")} == set(STAGES)
    for path in paths:
        assert load(TrainConfig, path).stage.name == read_yaml(path)["stage"]["name"]
