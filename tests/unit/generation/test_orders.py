"""Orders of several targets: joint, staggered and chained, with the real classes at tiny size; the laws, and what is refused."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

import medcodi
from medcodi.app.cli import REFUSED
from medcodi.errors import PromptError
from medcodi.generation.bulk.job import SynthesisConfig, synthesize
from medcodi.generation.pipeline import generate, generate_batch
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.generation_config import ORDERS, GenerationConfig
from tests.unit.model.test_generation_config import run

REPORT = "FINDINGS: Large left pleural effusion. IMPRESSION: Large left effusion."
ALL = ("frontal", "lateral", "report")


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    """A model whose targets hear each other: outputs and connectors that start at zero are not."""
    model = tiny_model(seed=0).eval()
    for parameter in (*model.denoisers.parameters(), *model.environment.parameters()):
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


def test_a_chain_gives_exactly_what_is_generated_by_hand(model: MedCoDi) -> None:
    for sequence in (("frontal", "lateral", "report"), ("report", "lateral", "frontal")):
        chain = generate({}, ALL, model=model, order="chained", sequence=sequence, seed=3)
        prompts: dict[str, object] = {}
        for target in sequence:
            by_hand = generate(prompts, [target], model=model, seed=3).samples[0].contents[target]
            np.testing.assert_array_equal(chain.samples[0].contents[target], by_hand)
            prompts[target] = by_hand


@pytest.mark.parametrize("prompts", [{}, {"report": REPORT}], ids=["nothing", "report"])
def test_the_orders_differ_and_one_target_is_the_same_in_each(model: MedCoDi, prompts: dict[str, str]) -> None:
    pairs, single = {}, {}
    for order in ORDERS:
        pairs[order] = generate(prompts, ["frontal", "lateral"], model=model, order=order).images
        single[order] = generate(prompts, ["lateral"], model=model, order=order).images["lateral"]
    for first, second in itertools.combinations(ORDERS, 2):
        np.testing.assert_array_equal(single[first], single[second])
        assert np.abs(pairs[first]["lateral"] - pairs[second]["lateral"]).max() > 1e-4
    # The first of a chain depends on the prompts alone; the others are not its prompts.
    alone = generate(prompts, ["frontal"], model=model).images["frontal"]
    np.testing.assert_array_equal(pairs["chained"]["frontal"], alone)


@pytest.mark.parametrize("order", ["staggered", "chained"])
def test_a_sample_depends_on_its_own_prompts_and_seed_only(model: MedCoDi, order: str) -> None:
    config = GenerationConfig(order=order, sequence=("report", "frontal", "lateral"))
    together = generate_batch(model, [{"report": "Clear."}, {"report": REPORT}], ALL[:2], [1, 2], config)
    alone = generate_batch(model, [{"report": REPORT}], ALL[:2], [2], config)
    for name in ALL[:2]:
        np.testing.assert_allclose(together[1][name], alone[0][name], atol=5e-5)


def test_steps_are_counted_over_the_whole_order(model: MedCoDi) -> None:
    for order, num_steps in {"joint": 4, "staggered": 6, "chained": 8}.items():  # of the tiny model's 4
        seen: list[tuple[int, int]] = []
        generate(REPORT, model=model, order=order, on_step=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen == [(step + 1, num_steps) for step in range(num_steps)]


def test_a_report_without_a_word_is_no_prompt_of_the_chain(model: MedCoDi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        model, "decode", lambda name, z, decode=model.decode: ["."] if name == "report" else decode(name, z)
    )
    chain = generate({}, ["frontal", "report"], model=model, order="chained", sequence=["report", "frontal"])
    np.testing.assert_array_equal(chain.images["frontal"], generate({}, ["frontal"], model=model).images["frontal"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"order": "chain"}, "did you mean 'chained'"),
        ({"order": "chained", "sequence": ["frontal", "latral"]}, "did you mean 'lateral'"),
        ({"order": "chained", "sequence": ["frontal", "lateral", "frontal"]}, r"names frontal twice.*frontal\+lateral"),
        ({"order": "chained", "sequence": ["lateral"]}, r"does not name the target frontal.*lateral\+frontal"),
        ({"order": "joint", "sequence": ["lateral", "frontal"]}, "of order joint, which has none"),
    ],
)
def test_an_order_that_cannot_be_followed_is_refused_before_a_model_is_needed(values: dict, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        generate(REPORT, model="nowhere", **values)


def test_the_models_own_order_is_used_and_its_sequence_belongs_to_it(model: MedCoDi) -> None:
    own = GenerationConfig(order="chained", sequence=("report", "lateral", "frontal"))
    filled = GenerationConfig().filled_by(own)
    assert (filled.order, filled.sequence_of(ALL)) == ("chained", ("report", "lateral", "frontal"))
    assert filled.sequence_of(["frontal", "lateral"]) == ("lateral", "frontal")
    assert GenerationConfig(order="joint").filled_by(own).sequence is None
    with pytest.raises(PromptError, match="of order joint, which has none"):  # the tiny model's
        GenerationConfig(sequence=("lateral", "frontal")).resolved(model)
    with pytest.raises(PromptError, match="lag of order chained"):
        GenerationConfig(order="chained", lag=3)
    with pytest.raises(PromptError, match="lag is 0"):
        GenerationConfig(order="staggered", lag=0)


def test_a_manifest_names_the_order_of_each_row(model: MedCoDi, tmp_path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("id,seed,order,targets\na,1,chained,frontal+lateral\nb,1,joint,\nc,1,chian,\nd,1,,report\n")
    config = SynthesisConfig(
        batch_size=2, generation=GenerationConfig(order="chained", sequence=("lateral", "frontal"))
    )
    outcome = synthesize(manifest, tmp_path / "out", model=model, config=config)
    # Row c is misspelt; the report of row d is not in the sequence.
    assert (outcome.made, outcome.num_failed) == (2, 2)
    assert "did you mean 'chained'" in outcome.failed[0].message and "target report" in outcome.failed[1].message
    records = {name: json.loads((tmp_path / f"out/studies/00000/{name}/result.json").read_text()) for name in "ab"}
    assert [records[name]["provenance"]["settings"]["order"] for name in "ab"] == ["chained", "joint"]
    assert [records[name]["provenance"]["settings"]["sequence"] for name in "ab"] == [["lateral", "frontal"], None]


def test_long_lists_and_the_command_line_take_an_order(model: MedCoDi, tmp_path) -> None:
    streamed = next(medcodi.generate_many([REPORT], model=model, order="chained", sequence=["lateral", "frontal"]))
    single = generate(REPORT, ["lateral"], model=model)
    np.testing.assert_allclose(streamed.images["lateral"], single.images["lateral"], atol=5e-5)
    folder = str(model.save_pretrained(tmp_path / "model"))
    command = ("generate", "--model", folder, "--order", "chained", "--sequence", "report+lateral+frontal")
    assert run(*command, "--out", str(tmp_path / "out")) == 0
    settings = json.loads((tmp_path / "out/provenance.json").read_text())["settings"]
    assert (settings["order"], settings["sequence"]) == ("chained", ["report", "lateral", "frontal"])
    assert run(*command, "--sequence", "report", "--out", str(tmp_path / "none")) == REFUSED
