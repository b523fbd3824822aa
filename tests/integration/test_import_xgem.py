"""A checkpoint in the published layout, from the command line to generated studies, in several directions."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import medcodi
from medcodi.app.cli import REFUSED, main
from medcodi.model import MedCoDi
from tests.golden.xgem.outputs import word_tokenizer
from tests.unit.interop.published import published_checkpoint

SHARED = os.environ.get("MEDCODI_XGEM_FIXTURES")
# Image size, options for what shapes do not tell, and ids of the vocabularies: (size, special tokens).
SETS = {
    "mini": (
        32,
        "--num-heads 2 --norm-groups 4 --vae-norm-groups 4 --text-heads 2 --image-heads 2 --report-heads 2 --decoder-heads 2",
        {"prompts": (40, (38, 39)), "report": (20, (0, 1, 2)), "decoder": (30, (27, 28, 29))},
    ),
    "small": (
        128,
        "--num-heads 4 --norm-groups 8 --text-heads 4 --image-heads 4 --report-heads 4 --decoder-heads 4",
        {"prompts": (99, (97, 98)), "report": (120, (0, 1, 2)), "decoder": (130, (127, 128, 129))},
    ),
}
SPECIALS = {
    "prompts": ("<|startoftext|>", "<|endoftext|>"),
    "report": ("[PAD]", "[CLS]", "[SEP]"),
    "decoder": ("<PAD>", "<BOS>", "<EOS>"),
}


def run(*arguments: str) -> int:
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code or 0  # type: ignore[return-value]


@pytest.fixture(scope="module", params=["mini", *(["small"] if SHARED else [])])
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command wrote from a ``.pt`` file."""
    work = tmp_path_factory.mktemp(request.param)
    size, options, words = SETS[request.param]
    small = Path(str(SHARED)) / "small" / "model.safetensors"
    torch.save(load_file(small) if request.param == "small" else published_checkpoint(), work / "MedCoDi-M.pt")
    for role, (count, ids) in words.items():
        specials = dict(zip(SPECIALS[role], ids, strict=True))
        word_tokenizer(count, specials).save(str(work / f"{role}.json"))
    settings = [*options.split(), "--image-size", str(size), "--max-report-tokens", "12"]
    source, out = work / "MedCoDi-M.pt", work / "model"
    assert (
        run(
            "import-xgem", str(source), str(out), "--tokenizers", str(work), "--report", str(work / "r.json"), *settings
        )
        == 0
    )
    report = json.loads((work / "r.json").read_text())
    assert report["counts"]["unknown"] == 0 and report["counts"]["all"] == len(report["keys"]) > 2000
    return out


@pytest.mark.parametrize(
    ("prompts", "targets"),
    [
        (("frontal",), ("lateral",)),
        (("report",), ("frontal",)),
        (("lateral",), ("report",)),
        (("frontal",), ("lateral", "report")),
        (("frontal", "report"), ("lateral",)),
        (("report",), ("frontal", "lateral")),
        ((), ("frontal", "lateral", "report")),
    ],
    ids=lambda names: "+".join(names) or "nothing",
)
def test_imported_weights_generate(imported: Path, tmp_path: Path, prompts: tuple, targets: tuple) -> None:
    chest = tmp_path / "chest.png"
    wave = np.sin(np.linspace(0, 9, 64))
    Image.fromarray((127 + 100 * wave[:, None] * wave).astype(np.uint8)).save(chest)
    values = {"frontal": chest, "lateral": chest, "report": "w5 w7 w9"}
    given = {name: values[name] for name in prompts}
    one = medcodi.generate(given, targets, model=imported, num_inference_steps=3, seed=1)
    again = medcodi.generate(given, targets, model=imported, num_inference_steps=3, seed=1)
    size = MedCoDi.from_pretrained(imported, lazy=True).config.image_size
    for target in targets:
        if target == "report":
            assert isinstance(one.report, str) and one.report == again.report
            assert all(word.startswith("w") for word in one.report.split())
        else:
            image = one.images[target]
            assert image.shape == (size, size) and np.isfinite(image).all() and image.std() > 0
            assert np.array_equal(image, again.images[target])
    assert "ddim-published" in json.dumps(one.provenance, default=str)


def test_refusals_of_the_command(imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import-xgem", str(tmp_path / "nothing.pt"), str(tmp_path / "out")) == REFUSED
    assert "no checkpoint at" in capsys.readouterr().err
    assert run("import-xgem", str(imported.parent / "MedCoDi-M.pt"), str(imported)) == REFUSED
    assert "not empty" in capsys.readouterr().err
    assert (
        run("import-xgem", str(imported.parent / "MedCoDi-M.pt"), str(tmp_path / "out"), "--dtype", "flaot16")
        == REFUSED
    )
    assert "did you mean 'float16'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
