"""Components in files and in memory: our writer against the safetensors library, the fit, placeholders."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from medcodi.errors import CheckpointError
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.components import Placeholder, check_fit, empty_parameters, open_weights, unwrapped, write_weights

TENSORS = {
    "wide": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "flags": torch.tensor([True, False, True]),
    "half": torch.linspace(0, 1, 5).bfloat16(),
    "number": torch.tensor(7),
}
SPECS = {key: (tuple(value.shape), value.dtype) for key, value in TENSORS.items()}


def test_the_safetensors_library_reads_what_is_written(tmp_path):
    entry = write_weights(tmp_path / "some.safetensors", SPECS, TENSORS.__getitem__)
    loaded = load_file(tmp_path / "some.safetensors")
    assert loaded.keys() == TENSORS.keys() and all(torch.equal(loaded[key], TENSORS[key]) for key in TENSORS)
    stored = open_weights(tmp_path / "some.safetensors", entry["sha256"])
    assert all(torch.equal(stored[key].read(), TENSORS[key]) for key in TENSORS)
    assert all(stored[key].offset % value.element_size() == 0 for key, value in TENSORS.items())  # aligned


def test_a_tensor_of_another_shape_leaves_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"wide is \(2, 3\)"):
        write_weights(tmp_path / "some.safetensors", {**SPECS, "wide": ((3, 2), torch.float32)}, TENSORS.__getitem__)
    assert not list(tmp_path.iterdir())


def test_a_file_must_fit_its_module(tmp_path):
    entry = write_weights(tmp_path / "some.safetensors", SPECS, TENSORS.__getitem__)
    stored = open_weights(tmp_path / "some.safetensors", entry["sha256"])
    check_fit(tmp_path / "some.safetensors", stored, TENSORS)
    with pytest.raises(CheckpointError, match="1 tensors missing"):
        check_fit(tmp_path / "some.safetensors", stored, {**TENSORS, "more": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"half is \(5,\)"):
        check_fit(tmp_path / "some.safetensors", stored, {**TENSORS, "half": torch.ones(4)})


def test_a_placeholder_is_used_like_its_module_and_hides_it():
    module = nn.Linear(3, 2)
    parent = nn.ModuleDict({"part": Placeholder(module)})
    x = torch.randn(4, 3)
    assert torch.equal(parent["part"](x), module(x)) and parent["part"].in_features == 3
    assert not list(parent.parameters()) and not parent.state_dict()
    assert unwrapped(parent["part"]) is module and unwrapped(module) is module


def test_empty_parameters_keep_buffers():
    module = nn.BatchNorm1d(4)
    empty_parameters(module)
    assert all(parameter.is_meta for parameter in module.parameters()) and not module.running_mean.is_meta


def test_hidden_and_unloaded_components_are_read_again(tmp_path):
    built = tiny_model(seed=0).eval()
    model = MedCoDi.from_pretrained(built.save_pretrained(tmp_path / "model"), lazy=True)
    model.hide_components(["prompt_encoders", "denoiser_report"])
    assert not any(name.startswith("prompt_encoders") for name, _ in model.named_parameters())
    encoded = [m.encode_prompts("report", ["Clear."]).pooled for m in (built, model)]
    assert torch.equal(*encoded) and "prompt_encoders" not in model.pending
    model.unload_components(["prompt_encoders"])
    assert "prompt_encoders" in model.pending
    assert torch.equal(model.encode_prompts("report", ["Clear."]).pooled, encoded[0])
    with pytest.raises(CheckpointError, match="built in memory"):
        built.unload_components(["prompt_encoders"])
