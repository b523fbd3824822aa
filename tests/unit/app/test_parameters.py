"""The parameter table: against the published checkpoint's layout, to the last parameter."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from medcodi.app.cli import REFUSED, main
from medcodi.app.commands.parameters import (
    PUBLISHED,
    ParameterCount,
    count_parameters,
    parameter_table,
    reckoning,
)
from medcodi.config import load, to_dict, to_yaml
from medcodi.modality import STANDARD
from medcodi.model import MedCoDi, ModelConfig, tiny_config

ROOT = Path(__file__).parents[3]
FEATURES = ROOT / "configs/models/medcodi-m-features.yaml"
FULL, TOKENS = ROOT / "configs/models/medcodi-m.yaml", ROOT / "configs/models/medcodi-m-tokens.yaml"
TOTAL, RUNS, STORED = 5_119_049_136, 5_112_897_455, 6_675_152_326
UNET = "model.diffusion_model.unet_{}."
NAMES = {"frontal": "frontal", "lateral": "lateral", "report": "text"}  # ours -> theirs
OURS = {  # part -> the prefixes of the published layout that it is made of
    "prompt_encoders.image_tower": ("clip.model.vision_model.", "clip.model.visual_projection"),
    "prompt_encoders.text_tower": ("clip.model.text_model.", "clip.model.text_projection"),
    "prompt_encoders.logit_scale": ("clip.model.logit_scale",),
    "autoencoder_image": ("autokl.",),
    "autoencoder_text": ("optimus.",),
    **{
        f"denoiser_{ours}": tuple(
            UNET.format(theirs) + part
            for part in ("time_embed", "input_blocks", "middle_block", "output_blocks", "out")
        )
        for ours, theirs in NAMES.items()
    },
    **{
        f"denoiser_{ours}.connectors": tuple(
            UNET.format(theirs) + part for part in ("input_block_connecters_in", "output_block_connecters_in")
        )
        for ours, theirs in NAMES.items()
    },
    **{f"environment_{ours}": (UNET.format(theirs) + "connecters_out",) for ours, theirs in NAMES.items()},
}


@pytest.fixture(scope="module")
def full() -> ParameterCount:
    return count_parameters(FULL)


@pytest.fixture(scope="module")
def prefixes() -> dict[str, list[int]]:
    golden = ROOT / "tests/golden/xgem_prefixes.json"
    return json.loads(golden.read_text(encoding="utf-8"))["prefixes"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code or 0  # type: ignore[return-value]


def test_published_numbers_are_those_of_the_layout(prefixes: dict[str, list[int]]) -> None:
    taken: set[str] = set()
    for part, chosen in OURS.items():
        mine = {
            name
            for name in prefixes
            for prefix in chosen
            if name == prefix or (prefix[-1] == "." and name.startswith(prefix))
        }
        assert mine and not mine & taken, part
        taken |= mine
        assert PUBLISHED[part].stored == sum(prefixes[name][1] for name in mine), part
        assert PUBLISHED[part].live == sum(prefixes[name][2] for name in mine), part
    assert set(PUBLISHED) == set(OURS)
    assert set(prefixes) - taken == {"(noise-schedule buffers)"}


def test_full_size_model_is_the_published_one_to_the_last_parameter(
    full: ParameterCount, prefixes: dict[str, list[int]]
) -> None:
    assert full.total == TOTAL
    assert sum(live for _, _, live in prefixes.values()) == RUNS
    assert sum(stored for _, stored, _ in prefixes.values()) == STORED
    time = prefixes["model.diffusion_model.unet_frontal.time_embed"][1]
    differing = {
        part: number - PUBLISHED[part].live if part in PUBLISHED else number for part, number in full.parts.items()
    }
    assert {part: number for part, number in differing.items() if number} == {
        "prompt_encoders.logit_scale": 1,
        **{f"environment_{name}.time": time for name in STANDARD},
    }
    assert RUNS + 3 * time + 1 == TOTAL


@pytest.mark.parametrize("path", [FULL, TOKENS])
def test_every_difference_is_named_and_adds_up(path: Path) -> None:
    lines = reckoning(count_parameters(path).parts)
    sums = [line.parameters for line in lines if line.kind == "sum"]
    assert sums == [STORED, RUNS, TOTAL + (137_472 if path == TOKENS else 0)]
    so_far = lines[0].parameters
    for line in lines[1:]:
        if line.kind == "sum":
            assert line.parameters == so_far, line
        else:
            assert line.parameters != 0
            so_far += line.parameters
    assert lines[1].parameters == -1_562_254_870
    named = " ".join(line.what for line in lines)
    assert ("prompt_encoders.text_tower" in named) == (path == TOKENS)  # the only part that is not theirs


def test_tokens_recipe_differs_in_context_and_report_tower_only() -> None:
    pooled, tokens = (to_dict(load(ModelConfig, path)) for path in (FULL, TOKENS))
    assert tokens["context"] == "tokens"
    assert tokens["prompt_encoders"]["text"].pop("context_length") == 256
    assert pooled["prompt_encoders"]["text"].pop("context_length") == 77
    for recipe in (pooled, tokens):
        recipe.pop("name"), recipe.pop("context")
    assert tokens == pooled


def test_features_recipe_differs_from_tokens_in_the_environment_only() -> None:
    count = count_parameters(FEATURES)
    connectors = sum(row.parameters for row in count.rows if row.component.startswith("environment_"))
    assert connectors == 225_589_440 and count.total == 4_406_487_408
    tokens, features = (to_dict(load(ModelConfig, path)) for path in (TOKENS, FEATURES))
    assert features.pop("environment")["kind"] == "features" and tokens.pop("environment")["kind"] == "vector"
    assert {**tokens, "name": ""} == {**features, "name": ""}


def test_stages_come_from_the_stages(full: ParameterCount) -> None:
    stages = {(row.component, row.trained_in) for row in full.rows}
    expected = {
        ("prompt_encoders", ("align",)),
        ("autoencoder_image", ("autoencode",)),
        ("autoencoder_text", ("autoencode",)),
    }
    for name in STANDARD:
        expected |= {
            (f"denoiser_{name}", ("diffuse",)),
            (f"denoiser_{name}", ("join",)),
            (f"environment_{name}", ("join",)),
        }
    assert stages == expected
    joined = {row.component: row.parameters for row in full.rows if row.trained_in == ("join",)}
    assert all(joined[f"denoiser_{name}"] == 243_947_200 for name in STANDARD)
    assert sum(row.share for row in full.rows) == pytest.approx(1)
    assert sum(row.parameters for row in full.rows) == full.total
    assert all(row.bytes == {"fp32": 4 * row.parameters, "bf16": 2 * row.parameters} for row in full.rows)
    assert sum(row.published or 0 for row in full.rows) == STORED


def _peak_kib() -> int:
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be set back here")
def test_counting_takes_seconds_and_no_memory(full: ParameterCount) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident (proc(5))
    before, started = _peak_kib(), time.process_time()
    assert count_parameters(FULL).total == full.total  # everything is imported: what is measured is the counting
    assert _peak_kib() - before < 100 * 1024  # the weights alone would take 19 GiB
    assert time.process_time() - started < 20


def test_a_folder_counts_as_the_model_that_wrote_it(tiny_model: MedCoDi, tmp_path: Path) -> None:
    count = count_parameters(tiny_model.save_pretrained(tmp_path / "tiny"))
    assert count.total == sum(parameter.numel() for parameter in tiny_model.parameters())
    for component, module in tiny_model.components().items():
        assert sum(row.parameters for row in count.rows if row.component == component) == sum(
            parameter.numel() for parameter in module.parameters()
        )
    assert not count.is_comparable
    assert [str(column.header) for column in parameter_table(count).columns][-1] == "bf16 MiB"


def test_the_docs_show_this_table(full: ParameterCount) -> None:
    page = (ROOT / "docs" / "FULL_SIZE.md").read_text(encoding="utf-8")
    for row in full.rows:
        assert f"| {', '.join(row.trained_in)} | {row.parameters:,} |" in page, row.component
    for line in reckoning(full.parts):
        assert f"{abs(line.parameters):,}" in page, line


def test_another_size_is_not_set_beside_the_published_one(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(tiny_config()))
    values = count_parameters(recipe).to_dict()
    assert "published_to_here" not in values
    assert all(row["published"] is None for row in values["rows"])


def test_command_prints_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("parameters", "--config", str(FULL)) == 0
    said = capsys.readouterr().out
    for figure in (f"{TOTAL:,}", f"{RUNS:,}", f"{STORED:,}", "-1,562,254,870", "6.77 B", "19.07", "9.53", "autoencode"):
        assert figure in said, figure
    assert "…" not in said  # nothing is cut
    assert run("parameters", str(FULL), "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["parameters"] == TOTAL and values["paper"] == 6.77e9
    assert sum(row["parameters"] for row in values["rows"]) == TOTAL


def test_two_models_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("parameters", str(FULL), "--config", str(TOKENS)) == REFUSED
    assert "two models" in capsys.readouterr().err
