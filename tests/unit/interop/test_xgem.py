"""The import as a whole: what it writes, what it refuses, and what is left when it is stopped."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import medcodi
from medcodi.data.domain import REAL, Domain
from medcodi.errors import CheckpointError, MedCoDiError
from medcodi.interop.xgem import REPORT, Imported, import_xgem
from medcodi.interop.xgem_layout import LayoutConfig
from medcodi.model import STAGES, MedCoDi
from medcodi.storage import atomic
from tests.golden.xgem.outputs import word_tokenizer
from tests.unit.interop.published import MINI_LAYOUT, published_checkpoint

LAYOUT = LayoutConfig(**MINI_LAYOUT)
ROOT = Path(medcodi.__file__).parents[1]
FRONTAL = "model.diffusion_model.unet_frontal."
WTE, LM_HEAD = "optimus.decoder.transformer.wte.weight", "optimus.decoder.lm_head.weight"


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    return published_checkpoint()


@pytest.fixture(scope="module")
def file(whole, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("published") / "model.safetensors"
    save_file(whole, path)
    return path


@pytest.fixture(scope="module")
def imported(file, tmp_path_factory) -> Imported:
    return import_xgem(file, tmp_path_factory.mktemp("imported") / "model", layout=LAYOUT)


def changed(whole: dict[str, Tensor], path: Path, **changes: Tensor | None) -> Path:
    """The checkpoint with some tensors replaced, or (None) removed."""
    tensors = {**whole, **{key: value for key, value in changes.items() if value is not None}}
    save_file({key: value for key, value in tensors.items() if changes.get(key, value) is not None}, path)
    return path


# ---- what is written -------------------------------------------------------------------------------------------------
def test_weights_are_where_they_belong(imported, whole) -> None:
    denoiser = load_file(imported.folder / "denoiser_frontal.safetensors")
    assert torch.equal(denoiser["stem.weight"], whole[f"{FRONTAL}input_blocks.0.0.weight"])
    proj = whole[f"{FRONTAL}input_blocks.1.1.proj_in.weight"]
    assert torch.equal(denoiser["down.0.attention.proj_in.weight"], proj[:, :, 0, 0])
    environment = load_file(imported.folder / "environment_frontal.safetensors")
    assert torch.equal(environment["time.in_proj.weight"], whole[f"{FRONTAL}time_embed.0.weight"])
    prompts = load_file(imported.folder / "prompt_encoders.safetensors")
    block = "clip.model.vision_model.encoder.layers.1.self_attn"
    joined = torch.cat([whole[f"{block}.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(prompts["image_tower.transformer.resblocks.1.attn.in_proj_weight"], joined)
    assert torch.equal(prompts["image_tower.proj"], whole["clip.model.visual_projection.weight"].T)
    assert torch.equal(prompts["logit_scale"], whole["clip.model.logit_scale"])
    assert load_file(imported.folder / "autoencoder_image.safetensors")["scale"] == pytest.approx(0.18215)
    assert load_file(imported.folder / "autoencoder_text.safetensors")["scale"] == pytest.approx(4.3108)


def test_the_model_loads_with_its_quirks(imported) -> None:
    model = MedCoDi.from_pretrained(imported.folder)
    assert model.config == imported.config
    assert model.config.joint_attention == "self"
    assert model.config.image_denoiser.deepest_skip == model.config.report_denoiser.deepest_skip == "published"
    assert model.config.generation.sampler == "ddim-published"
    assert model.trained_stages == STAGES
    assert model.provenance["imported_from"][0]["file"] == "model.safetensors"
    domain = Domain.of(model.provenance)
    assert domain is not None and (domain.origin, domain.agreement) == (REAL, "mimic-cxr")
    assert not list(imported.folder.glob("*progress*")) and not imported.folder.with_name("model.unfinished").exists()


def test_the_report_names_every_key(imported, whole) -> None:
    report = json.loads((imported.folder / REPORT).read_text())
    assert report == imported.report
    assert report["keys"].keys() == whole.keys()
    assert report["counts"]["all"] == len(whole) and report["counts"]["unknown"] == 0
    assert report["keys"][f"{FRONTAL}time_embed.0.bias"]["to"] == [
        "denoiser_frontal/time.in_proj.bias",
        "environment_frontal/time.in_proj.bias",
    ]
    dropped = report["keys"][f"{FRONTAL}middle_block.0.1.temporal_attn.to_q.weight"]
    assert dropped["status"] == "dropped" and "video" in dropped["why"]


def test_a_torch_file_gives_the_same_bytes(whole, imported, tmp_path) -> None:
    torch.save({"state_dict": {f"module.{key}": value for key, value in whole.items()}}, tmp_path / "model.pt")
    again = import_xgem(tmp_path / "model.pt", tmp_path / "model", layout=LAYOUT)
    for path in sorted(imported.folder.glob("*.safetensors")):
        assert (again.folder / path.name).read_bytes() == path.read_bytes()


def test_stored_in_half_the_bytes(file, imported, tmp_path) -> None:
    import_xgem(file, tmp_path / "model", layout=LAYOUT, dtype="bfloat16")
    stored = load_file(tmp_path / "model" / "autoencoder_image.safetensors")
    assert stored["net.quant_conv.weight"].dtype == torch.bfloat16 and stored["scale"].dtype == torch.float32
    assert MedCoDi.from_pretrained(tmp_path / "model").config == imported.config


# ---- what is refused -------------------------------------------------------------------------------------------------
Q_BIAS = "autokl.quant_conv.bias"
REFUSALS = {
    "missing": ({Q_BIAS: None}, "lacks what 1 tensors of autoencoder_image .*net.quant_conv.bias"),
    "missing part of a joined one": ({"clip.model.text_model.encoder.layers.0.self_attn.k_proj.bias": None}, "lacks"),
    "missing size": ({"autokl.post_quant_conv.weight": None}, "has no autokl.post_quant_conv.weight"),
    "missing UNet": ({f"{FRONTAL}time_embed.0.weight": None}, "has no .*unet_frontal.time_embed"),
    "misshapen": ({Q_BIAS: torch.ones(9)}, r"misshapen: autokl.quant_conv.bias is \[9\] and not \[8\]"),
    "turned": ({"clip.model.visual_projection.weight": torch.ones(16, 12)}, r"is \[16, 12\] and not \[12, 16\]"),
    "NaN": ({Q_BIAS: torch.tensor([1.0] * 7 + [float("nan")])}, "quant_conv.bias holds 1 numbers that are not finite"),
    "infinite": ({Q_BIAS: torch.full((8,), float("inf"))}, "8 numbers that are not finite"),
    "half": ({Q_BIAS: torch.ones(8).half()}, "not float32: autokl.quant_conv.bias is float16.*--allow-half"),
    "integer": ({Q_BIAS: torch.ones(8, dtype=torch.int64)}, "autokl.quant_conv.bias is int64"),
    "untied": ({LM_HEAD: torch.ones(30, 8)}, "lm_head.weight differs from its definition"),
    "other mask": ({"optimus.decoder.transformer.h.1.attn.bias": torch.ones(1, 1, 24, 24)}, "a causal mask"),
    "other positions": ({"clip.model.text_model.embeddings.position_ids": torch.ones(1, 10).long()}, "0, 1, 2"),
    "other schedule": (
        {"alphas_cumprod": torch.linspace(1, 0, 1000)},
        "alphas_cumprod does not follow a scaled-linear",
    ),
    "no schedule": ({"betas": torch.linspace(1, 0, 1000)}, "betas are not a noise schedule"),
    "too deep": ({f"{FRONTAL}input_blocks.9.0.0.emb_layers.1.bias": torch.ones(8)}, "has no .*input_blocks.4"),
    "views differ": ({"model.diffusion_model.unet_lateral.time_embed.0.weight": torch.ones(16, 4)}, "differ in size"),
    "stray layer": ({"optimus.encoder.encoder.layer.7.output.dense.bias": torch.ones(16)}, "lacks what"),
    "stray connector": (
        {"model.diffusion_model.unet_text.output_block_connecters_in.9.0.norm.bias": torch.ones(8)},
        "1 tensors belong to no layer",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_checkpoints_are_refused_and_nothing_is_left(case, whole, tmp_path) -> None:
    changes, words = REFUSALS[case]
    source = changed(whole, tmp_path / "model.safetensors", **changes)
    with pytest.raises(CheckpointError, match=words):
        import_xgem(source, tmp_path / "model", layout=LAYOUT)
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "model.unfinished").exists()


def test_half_precision_is_taken_when_it_is_asked_for(whole, tmp_path) -> None:
    halves = {key: value.half() for key, value in whole.items() if value.is_floating_point() and "." in key}
    source = changed(whole, tmp_path / "model.safetensors", **halves)
    done = import_xgem(source, tmp_path / "model", layout=LAYOUT, allow_half=True)
    stored = load_file(done.folder / "autoencoder_image.safetensors")["net.quant_conv.weight"]
    assert torch.equal(stored, whole["autokl.quant_conv.weight"].half().float())
    assert done.report["settings"]["allow_half"] is True


def test_numbers_too_large_for_the_stored_precision_are_refused(whole, tmp_path) -> None:
    source = changed(whole, tmp_path / "model.safetensors", **{Q_BIAS: torch.full((8,), 1e6)})
    with pytest.raises(CheckpointError, match="quant_conv.bias holds numbers too large for torch.float16"):
        import_xgem(source, tmp_path / "model", layout=LAYOUT, dtype="float16")


@pytest.mark.parametrize("stays", [WTE, LM_HEAD])
def test_either_of_the_tied_tensors_is_enough(stays, whole, imported, tmp_path) -> None:
    source = changed(whole, tmp_path / "model.safetensors", **{LM_HEAD if stays == WTE else WTE: None})
    done = import_xgem(source, tmp_path / "model", layout=LAYOUT)
    name = "autoencoder_text.safetensors"
    assert (done.folder / name).read_bytes() == (imported.folder / name).read_bytes()


def test_checkpoints_without_what_can_be_derived(whole, imported, tmp_path) -> None:
    derived = {key: None for key in whole if "." not in key or key.endswith((".attn.bias", "position_ids"))}
    done = import_xgem(changed(whole, tmp_path / "model.safetensors", **derived), tmp_path / "model", layout=LAYOUT)
    assert done.config == imported.config and done.counts["derivable"] == 0


def test_another_noise_schedule_is_read(whole, tmp_path) -> None:
    betas = np.linspace(0.001**0.5, 0.02**0.5, 500) ** 2
    changes: dict = {key: None for key in whole if "." not in key}
    changes |= {
        "betas": torch.from_numpy(betas.astype(np.float32)),
        "alphas_cumprod": torch.from_numpy(np.cumprod(1 - betas).astype(np.float32)),
    }
    done = import_xgem(changed(whole, tmp_path / "model.safetensors", **changes), tmp_path / "model", layout=LAYOUT)
    schedule = done.config.schedule
    assert (schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end) == (500, 0.001, 0.02)


def test_heads_and_groups_that_cannot_be(file, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="--text-heads"):
        import_xgem(file, tmp_path / "model", layout=LayoutConfig(**{**MINI_LAYOUT, "text_heads": None}))
    with pytest.raises(MedCoDiError, match="num_groups=32"):
        import_xgem(file, tmp_path / "model", layout=LayoutConfig(**{**MINI_LAYOUT, "norm_groups": 32}))


def test_a_folder_that_is_taken_is_left_alone(file, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        import_xgem(file, tmp_path / "model", layout=LAYOUT)
    (tmp_path / "fresh.unfinished").mkdir()
    (tmp_path / "fresh.unfinished" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="fresh.unfinished is not empty, and does not hold an unfinished import"):
        import_xgem(file, tmp_path / "fresh", layout=LAYOUT)
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"


# ---- stopped half-way ------------------------------------------------------------------------------------------------
KILLED = """
import os, signal, sys
from medcodi.interop.xgem import import_xgem
from medcodi.interop.xgem_layout import LayoutConfig
from tests.unit.interop.published import MINI_LAYOUT

def die(name, done, total, was_there):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

import_xgem(sys.argv[1], sys.argv[2], layout=LayoutConfig(**MINI_LAYOUT), on_component=die)
"""


def test_a_killed_import_goes_on_where_it_was(file, imported, tmp_path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file), str(tmp_path / "model")], cwd=ROOT, check=False)
    staging = tmp_path / "model.unfinished"
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "model").exists()
    assert len(list((staging / "shards").iterdir())) == 3
    first, second, third = (staging / f"content/{name}.safetensors" for name in list(imported.report["components"])[:3])
    second.write_bytes(second.read_bytes()[:-1])  # damaged since
    atomic.partial_path(staging / "content/denoiser_frontal.safetensors").write_bytes(b"half")
    untouched = first.stat().st_mtime_ns, third.stat().st_mtime_ns
    seen: dict[str, bool] = {}
    done = import_xgem(
        file, tmp_path / "model", layout=LAYOUT, on_component=lambda name, done, total, was: seen.update({name: was})
    )
    assert [name for name, was_there in seen.items() if was_there] == [first.stem, third.stem]
    assert ((done.folder / first.name).stat().st_mtime_ns, (done.folder / third.name).stat().st_mtime_ns) == untouched
    for path in imported.folder.glob("*.safetensors"):
        assert (done.folder / path.name).read_bytes() == path.read_bytes()
    assert not staging.exists() and not list(done.folder.glob("*partial"))


def _stop(*_: object) -> None:
    raise InterruptedError


def test_an_unfinished_import_of_another_checkpoint_is_begun_anew(file, whole, tmp_path) -> None:
    with pytest.raises(InterruptedError):
        import_xgem(file, tmp_path / "model", layout=LAYOUT, on_component=_stop)
    assert list((tmp_path / "model.unfinished/content").glob("*.safetensors"))
    other = changed(whole, tmp_path / "other.safetensors", **{Q_BIAS: torch.full((8,), 7.0)})
    seen: list[bool] = []
    import_xgem(other, tmp_path / "model", layout=LAYOUT, on_component=lambda *args: seen.append(args[3]))
    assert not any(seen)
    assert load_file(tmp_path / "model" / "autoencoder_image.safetensors")["net.quant_conv.bias"][0] == 7.0


def test_a_disk_that_fills_up_half_way(file, imported, tmp_path) -> None:
    """The kernel refuses to write beyond a limit: what a full disk does, without filling one."""
    largest = max(path.stat().st_size for path in imported.folder.glob("*.safetensors"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1000, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot be written.*room for"):
            import_xgem(file, tmp_path / "model", layout=LAYOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "model").exists()
    staging = tmp_path / "model.unfinished"
    assert not list(staging.rglob("*partial")) and not (staging / "content/model_index.json").exists()
    finished = list(staging.glob("content/*.safetensors"))
    assert 0 < len(finished) < len(imported.report["components"])
    import_xgem(file, tmp_path / "model", layout=LAYOUT)  # with room it goes on
    assert MedCoDi.from_pretrained(tmp_path / "model").config == imported.config


def test_too_little_room_is_said_before_anything_is_written(file, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(CheckpointError, match="are needed in .* 0.0 GiB are free"):
        import_xgem(file, tmp_path / "model", layout=LAYOUT)
    assert not list(tmp_path.iterdir())


# ---- vocabularies ----------------------------------------------------------------------------------------------------
def vocabularies(folder: Path, decoder: int = 30) -> Path:
    folder.mkdir(exist_ok=True)
    specials = {"<PAD>": 27, "<BOS>": 28, "<EOS>": 29} if decoder == 30 else {}
    word_tokenizer(40, {"<|startoftext|>": 38, "<|endoftext|>": 39}).save(str(folder / "prompts.json"))
    word_tokenizer(20, {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2}).save(str(folder / "report.json"))
    word_tokenizer(decoder, specials).save(str(folder / "decoder.json"))
    return folder


def test_vocabularies_come_along(file, tmp_path) -> None:
    done = import_xgem(file, tmp_path / "model", layout=LAYOUT, tokenizers=vocabularies(tmp_path / "words", 27))
    tokenizers = MedCoDi.from_pretrained(done.folder).tokenizers
    ids, _ = tokenizers.decoder.encode(["W3 w4"], 10)  # the decoder's special tokens were added, texts are lower-cased
    assert ids.tolist() == [[28, 3, 4, 29]]
    assert tokenizers.report.encode(["w5"], 10)[0].tolist() == [[1, 5, 2]]
    assert tokenizers.prompts.encode([""], 10)[0].tolist() == [[38, 39]]


def test_vocabularies_of_another_size_are_refused(file, tmp_path) -> None:
    folder = vocabularies(tmp_path / "words")
    word_tokenizer(21, {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2}).save(str(folder / "report.json"))
    with pytest.raises(CheckpointError, match="report.json has 21 tokens.*Expected 20"):
        import_xgem(file, tmp_path / "model", layout=LAYOUT, tokenizers=folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        import_xgem(file, tmp_path / "model", layout=LAYOUT, tokenizers=tmp_path / "none")


def test_without_vocabularies_images_still_come_from_images(imported) -> None:
    chest = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    out = medcodi.generate({"frontal": chest}, ["lateral"], model=imported.folder, num_inference_steps=2)
    assert out.images["lateral"].shape == (16, 16) and np.isfinite(out.images["lateral"]).all()
    with pytest.raises(CheckpointError, match="--tokenizers"):
        medcodi.generate("w1 w2", ["frontal"], model=imported.folder, num_inference_steps=2)
