"""Adapters: a small file that names its model, is checked to the last number, and is merged into that model alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medcodi.errors import CheckpointError, PromptError
from medcodi.generation import generate
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.adapter import ADAPTER, Adapter, read_adapter, tensors_of, write_adapter
from medcodi.model.card import model_card
from medcodi.model.low_rank import LowRankConfig
from medcodi.model.merging import merge
from medcodi.stages import Stage, build_stage
from tests.unit.stages.batches import drawn, phantom_batch

PRIVACY = {"epsilon": 8.0, "delta": 1e-5, "unit": "patient", "patients": 900, "noise": 0.7}
DOMAIN = {
    "domain": {
        "origin": "phantom",
        "sources": ["ward"],
        "modalities": ["frontal", "lateral"],
        "findings": [],
        "agreement": "",
    }
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(seed=0)
    model.trained_stages = ("autoencode", "align")
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "base")


def trained_stage(base: Path, name: str = "diffuse", seed: int = 0, **options: Any) -> Stage:
    """A stage whose low-rank changes are somewhere, as after training."""
    stage = build_stage(name, MedCoDi.from_pretrained(base), options)
    stage.train_low_rank(LowRankConfig(rank=2), seed)
    with torch.no_grad():
        for index, parameter in enumerate(stage.adapters.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + index)) * 0.05)
    return stage


def written(stage: Stage, path: Path) -> Path:
    adapter = Adapter(
        base=stage.model.identity(),
        base_name="tiny",
        stage=stage.name,
        tensors=tensors_of(stage.adapters),  # pyright: ignore[reportArgumentType]
        training={"steps": 3, "studies": 900, "privacy": PRIVACY},
        provenance=DOMAIN,
    )
    return write_adapter(path, adapter)


@pytest.fixture(scope="module")
def stage(base: Path) -> Stage:
    return trained_stage(base)


@pytest.fixture(scope="module")
def file(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(stage, tmp_path_factory.mktemp("adapter") / ADAPTER)


def losses(stage: Stage) -> Tensor:
    batch = phantom_batch(0, 1)
    with torch.no_grad():
        return stage.study_losses(stage.study_inputs(batch, drawn(batch)))


def test_merged_and_unmerged_are_the_same_and_differ_from_the_base(base: Path, stage: Stage, file: Path) -> None:
    merged = merge([file], base=base)
    torch.testing.assert_close(losses(build_stage("diffuse", merged)), losses(stage), rtol=0, atol=1e-5)
    assert (losses(build_stage("diffuse", MedCoDi.from_pretrained(base))) - losses(stage)).abs().min() > 1e-3
    prompts, settings = (
        {"frontal": np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)},
        {"num_inference_steps": 2, "seed": 1},
    )
    ours = generate(prompts, ["lateral"], model=merged, **settings).images["lateral"]
    unmerged = generate(prompts, ["lateral"], model=stage.model.eval(), **settings).images["lateral"]
    stage.train()
    assert abs(ours - unmerged).max() < 1e-5
    # It is a model of its own, which says where it comes from.
    assert merged.identity() != stage.model.identity() and "diffuse" in merged.trained_stages
    (entry,) = merged.provenance["adapters"]
    assert entry["base"] == stage.model.identity() and entry["training"]["privacy"] == PRIVACY and entry["share"] == 1


def test_a_merged_model_is_saved_and_loaded_as_any_other(base: Path, file: Path, tmp_path: Path) -> None:
    merged = merge([file], base=base)
    loaded = MedCoDi.from_pretrained(merged.save_pretrained(tmp_path / "merged"))
    promise = (
        "| differential privacy | diffuse on 900 studies: ε = 8 at δ = 1e-05 for each of 900 patients; a patient of"
    )
    assert promise in model_card(tmp_path / "merged")
    assert loaded.identity() == merged.identity()
    assert loaded.provenance == json.loads(json.dumps(merged.provenance))
    with pytest.raises(CheckpointError, match="the adapter changes 'tiny'.*the model that it was trained on"):
        merge([file], base=tmp_path / "merged")


def test_the_file_is_small_and_holds_changes_alone(stage: Stage, base: Path, file: Path) -> None:
    adapter = read_adapter(file)
    assert set(adapter.changes()) == {"denoiser_frontal", "denoiser_lateral", "denoiser_report"}
    assert file.stat().st_size < 0.5 * sum(path.stat().st_size for path in base.glob("denoiser*"))
    frozen = {name for name, parameter in stage.named_parameters() if parameter.requires_grad}
    assert frozen and all(name.startswith("adapters.") for name in frozen)
    assert not any("connector" in name for name in frozen)  # diffuse trains none


def test_align_trains_changes_of_its_towers(base: Path, tmp_path: Path) -> None:
    stage = trained_stage(base, "align")
    batch = phantom_batch(0, 1)
    loss = stage(batch, drawn(batch)).loss
    loss.backward()
    assert all(parameter.grad is not None for name, parameter in stage.adapters.named_parameters() if ".up." in name)
    merged = build_stage("align", merge([written(stage, tmp_path / ADAPTER)], base=base))
    assert abs(float(merged(batch, drawn(batch)).loss.detach()) - float(loss.detach())) < 1e-5


def test_adapters_of_sites_are_averaged_as_changes_not_as_factors(
    base: Path, stage: Stage, file: Path, tmp_path: Path
) -> None:
    other = trained_stage(base, seed=7)
    merged = merge([file, written(other, tmp_path / "b.safetensors")], base=base, weights=[3, 1])
    name = "time.in_proj"
    own = MedCoDi.from_pretrained(base).denoisers["frontal"].get_submodule(name).weight
    parts = [each.model.denoisers["frontal"].get_submodule(name).weight for each in (stage, other)]
    expected = 0.75 * parts[0] + 0.25 * parts[1]
    result = merged.denoisers["frontal"].get_submodule(name).weight
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert (result - own).abs().max() > 1e-3
    assert [entry["share"] for entry in merged.provenance["adapters"]] == [0.75, 0.25]


def test_models_are_averaged_weight_by_weight(base: Path, file: Path, tmp_path: Path) -> None:
    moved = merge([file], base=base).save_pretrained(tmp_path / "moved")
    average = merge([base, moved], weights=[1, 3])
    names = ("denoisers.frontal.time.in_proj.weight", "autoencoders.image.scale")
    first, second = (MedCoDi.from_pretrained(folder).state_dict() for folder in (base, moved))
    result = average.state_dict()
    for name in names:
        torch.testing.assert_close(result[name], 0.25 * first[name] + 0.75 * second[name])
    assert [entry["share"] for entry in average.provenance["averaged"]] == [0.25, 0.75]
    assert average.provenance["averaged"][1]["adapters"] and "adapters" not in average.provenance
    assert "averaged" in average.provenance
    index = json.loads((moved / "model_index.json").read_text())
    index["config"]["context"] = "pooled"
    (moved / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="differ in context"):
        merge([base, moved])


@pytest.mark.parametrize(
    ("sources", "weights", "error", "says"),
    [
        (["a.safetensors", "folder"], None, CheckpointError, "adapters and models together"),
        (["a.safetensors"], [1, 2], PromptError, "weights 1, 2 for 1 sources"),
        (["a.safetensors", "b.safetensors"], [1, -1], PromptError, "a number from 0 for each"),
        (["a.safetensors", "b.safetensors"], [0, 0], PromptError, "not all 0"),
        ([], None, PromptError, "nothing to merge"),
        (["missing.safetensors"], None, CheckpointError, "no adapter at missing.safetensors"),
    ],
)
def test_what_cannot_be_merged_is_refused(sources: list, weights: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        merge(sources, weights=weights)


def test_broken_and_foreign_files_are_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    path = tmp_path / ADAPTER
    for broken in (whole[:-1], whole[:-4] + b"\x00\x00\x80\x3f", b"no tensors at all", whole[:40]):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError):
            read_adapter(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="names no model that they change"):
        read_adapter(path)
    header = {"format": 2}
    save_file({"weight": torch.zeros(2)}, path, metadata={"medcodi_adapter": json.dumps(header)})
    with pytest.raises(CheckpointError, match="has format 2"):
        read_adapter(path)
    header = {"format": 1, "base": "", "base_name": "", "stage": "", "training": {}, "provenance": {}}
    save_file({"a.up.b": torch.zeros(2, 1)}, path, metadata={"medcodi_adapter": json.dumps(header)})
    with pytest.raises(CheckpointError, match="invalid values"):
        read_adapter(path)
    bad = replace(read_adapter(file), tensors={"a.up.b": torch.full((1, 1), torch.nan)})
    with pytest.raises(CheckpointError, match="not finite"):
        write_adapter(path, bad)
