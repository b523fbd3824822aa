"""Results: shortcuts to the first sample, files of every format, provenance without the prompts."""

import json

import numpy as np
import pytest
from PIL import Image

from medcodi.errors import DataError
from medcodi.generation.result import Generation, Sample, image_format, provenance, to_pil
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction

IMAGE = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
DIRECTION = Direction(("lateral",), ("frontal", "report"))


def generation(num_samples: int) -> Generation:
    samples = [
        Sample(seed=seed, contents={"frontal": IMAGE, "report": f"Report {seed}."}) for seed in range(num_samples)
    ]
    return Generation(DIRECTION, samples, {"seeds": list(range(num_samples)), "notice": "Synthetic."})


def test_targets_are_attributes_of_the_first_sample():
    result = generation(2)
    assert (
        result.report == "Report 0." and isinstance(result.frontal, Image.Image) and result.images["frontal"] is IMAGE
    )
    with pytest.raises(AttributeError, match="no 'lateral'; its targets are frontal, report"):
        result.lateral
    with pytest.raises(AttributeError, match="no 'reprot'$"):
        result.reprot


def test_a_generation_prints_in_one_line():
    assert repr(generation(3)) == (
        "Generation(lateral->frontal+report by unknown: Sample(seed=0, frontal [4, 4], report 'Report 0.') and 2 more)"
    )
    long = Sample(seed=1, contents={"report": "word " * 500})
    assert len(repr(long)) < 100


def test_images_are_rounded_to_eight_bits():
    pixels = np.asarray(to_pil(np.array([[0.0, 1.0, 0.5, -1.0, 2.0]], np.float32)))
    assert pixels.tolist() == [[0, 255, 128, 0, 255]]


def test_one_sample_has_files_and_several_have_folders(tmp_path):
    one, two = generation(1).save(tmp_path / "one"), generation(2).save(tmp_path / "two", "png16")
    assert sorted(path.name for path in one.iterdir()) == ["frontal.png", "provenance.json", "report.txt"]
    assert (two / "1" / "report.txt").read_text() == "Report 1.\n"
    assert np.allclose(np.asarray(Image.open(two / "0" / "frontal.png")) / 65535, IMAGE, atol=1e-5)
    assert json.loads((two / "provenance.json").read_text())["seeds"] == [0, 1]


def test_nothing_is_left_when_saving_fails(tmp_path):
    with pytest.raises(DataError, match="did you mean 'png'"):
        generation(1).save(tmp_path / "out", "pgn")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file"):
        generation(1).save(tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_suffixes():
    assert (image_format("png").suffix, image_format("png16").suffix) == (".png", ".png")


def test_provenance_names_everything_but_the_prompts():
    identity = {"name": "tiny", "sha256": "0" * 64, "trained_stages": []}
    config = GenerationConfig(sampler="ddim", num_inference_steps=4, guidance_scale=2.0, environment_guidance_scale=1.0)
    entry = provenance(
        identity, DIRECTION, {"lateral": IMAGE}, {"lateral": 0.5}, config, [3], {"precision": "bfloat16"}
    )
    assert entry["model"] == identity and entry["seeds"] == [3] and entry["execution"] == {"precision": "bfloat16"}
    assert entry["prompts"]["lateral"]["weight"] == 0.5 and len(entry["prompts"]["lateral"]["sha256"]) == 64
    assert entry["settings"]["num_inference_steps"] == 4 and "torch" in entry["versions"]
    assert "execution" not in provenance(identity, DIRECTION, {}, {}, config, [3])
