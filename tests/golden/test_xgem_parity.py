"""An imported model computes what the published code does: every output of the fixture, after the real importer."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medcodi.interop.xgem import Imported, import_xgem
from medcodi.interop.xgem_layout import LayoutConfig
from medcodi.model import MedCoDi
from medcodi.networks.prompt_encoders import ImageTowerConfig, PromptEncodersConfig
from medcodi.networks.tokenizer import AbsentTokenizer
from tests.golden.xgem.outputs import PARTS, Case, stopped_ids, word_tokenizer
from tests.golden.xgem.weights import HERE, published_weights

TOLERANCE = 1e-4  # of the largest value; what is reached is below TIGHT
TIGHT = 1e-5
LOOSE = ("ddim_", "e2e")  # five guided steps multiply the rounding of each
SHARED = os.environ.get("MEDCODI_XGEM_FIXTURES")
SETS = ["g32", *(["small"] if SHARED else [])]
SPECIALS = {
    "prompts": (99, {"<|startoftext|>": 97, "<|endoftext|>": 98}),
    "report": (120, {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2}),
    "decoder": (130, {"<PAD>": 127, "<BOS>": 128, "<EOS>": 129}),
}


@dataclass(frozen=True)
class Parity:
    """Both sides of the comparison."""

    imported: Imported
    case: Case
    found: dict[str, Tensor]
    expected: dict[str, Tensor]


@pytest.fixture(scope="module", params=SETS)
def parity(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parity:
    home = HERE if request.param == "g32" else Path(str(SHARED))
    folder, work = home / request.param, tmp_path_factory.mktemp(request.param)
    settings = json.loads((folder / "config.json").read_text())
    checkpoint = folder / "model.safetensors"
    if not checkpoint.is_file():
        checkpoint = work / "model.safetensors"
        arrays = published_weights(folder, settings["seed"])
        save_file({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}, checkpoint)
    imported = import_xgem(checkpoint, work / "model", tokenizers=write_tokenizers(work), layout=layout(settings))
    checkpoint.unlink() if checkpoint.is_relative_to(work) else None
    model = MedCoDi.from_pretrained(work / "model")
    case = Case(model, load_file(folder / "inputs.safetensors"), settings["test"]["guidance"])
    with torch.inference_mode():
        found = {name: value for part in PARTS for name, value in part(case)}
    return Parity(imported, case, found, load_file(folder / "outputs.safetensors"))


def layout(settings: dict) -> LayoutConfig:
    """What the shapes of the fixture do not tell."""
    heads = dict.fromkeys(("text_heads", "image_heads", "report_heads", "decoder_heads"), 4)
    return LayoutConfig(
        image_size=128,
        num_heads=settings["unet_frontal"]["num_heads"],
        norm_groups=settings["unet_norm_groups"],
        max_report_tokens=20,
        **heads,
    )


def write_tokenizers(work: Path) -> Path:
    """Vocabularies of the fixture's sizes, as files."""
    for role, (size, specials) in SPECIALS.items():
        word_tokenizer(size, specials).save(str(work / f"{role}.json"))
    return work


def outputs() -> list[str]:
    """Names of the fixture's outputs, the same in both sets; two are integers of their own kind."""
    names = load_file(HERE / "g32" / "outputs.safetensors")
    return [name for name in names if "_stop" not in name]


@pytest.mark.parametrize("name", outputs())
def test_output_is_the_published_codes(parity: Parity, name: str) -> None:
    found, expected = parity.found[name], parity.expected[name]
    if not expected.is_floating_point():
        assert torch.equal(found, expected)
        return
    assert found.shape == expected.shape and found.dtype == torch.float32
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error <= (TOLERANCE if name.startswith(LOOSE) else TIGHT), f"{name}: {error:.1e} of the largest value"


def test_reports_stop_at_the_end_token(parity: Parity) -> None:
    expected = parity.expected["optimus/greedy_ids_stop"]
    with torch.inference_mode():
        assert torch.equal(stopped_ids(parity.case, parity.expected["optimus/greedy_stop_token"]), expected)


def test_the_quirks_matter(parity: Parity) -> None:
    """The two quirks are reproduced, not within the tolerance of each other."""
    for name in ("frontal", "lateral", "text"):
        quirk, ordinary = (parity.expected[f"{case}/{name}/eps"] for case in ("single", "diag_unit_forward"))
        assert float((quirk - ordinary).abs().max() / quirk.abs().max()) > 100 * TOLERANCE
    own, swapped = (parity.expected[f"joint_{rule}/frontal+text/text/eps"] for rule in ("own", "swapped"))
    assert float((own - swapped).abs().max() / own.abs().max()) > TOLERANCE
    assert parity.case.model.config.joint_attention == "self"
    assert parity.case.model.config.image_denoiser.deepest_skip == "published"


def test_own_environment_does_not_depend_on_the_partner(parity: Parity) -> None:
    groups = ("frontal+lateral", "frontal+text", "frontal+lateral+text")
    first, *others = (parity.found[f"joint_own/{group}/frontal/eps"] for group in groups)
    assert all(torch.equal(first, other) for other in others)


def test_every_key_is_accounted_for(parity: Parity) -> None:
    counts = parity.imported.counts
    assert counts["all"] == len(parity.imported.report["keys"]) == 4840
    assert counts["used"] + counts["kept"] + counts["dropped"] + counts["derivable"] == 4840
    assert counts["unknown"] == 0


def test_weights_of_the_recipe_are_the_fixtures() -> None:
    settings = json.loads((HERE / "g32" / "config.json").read_text())
    weights = published_weights(HERE / "g32", settings["seed"])
    lines = (HERE / "g32" / "keys.csv").read_text().splitlines()[1:]
    expected = {line.split(",")[0]: line.rsplit(",", 1)[1] for line in lines}
    assert {key: hashlib.sha256(value.tobytes()).hexdigest() for key, value in weights.items()} == expected


@pytest.mark.parametrize(("index", "size"), [(0, 32), (1, 28), (2, 30)])
def test_clip_preprocessing_is_the_published_one(index: int, size: int) -> None:
    pixels = load_file(HERE / "clip_preprocess.safetensors")
    tower = ImageTowerConfig(
        image_size=size,
        patch_size=size // 2,
        width=8,
        layers=1,
        heads=1,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        preprocessing="clip",
    )
    encoders = PromptEncodersConfig(embed_dim=8, image=tower).build(AbsentTokenizer(16, "prompts"), image_size=64)
    found, expected = encoders.preprocess(pixels[f"{index}/image01_1ch"]), pixels[f"{index}/pixel_values_size{size}"]
    assert torch.allclose(found, expected, atol=1e-5)
