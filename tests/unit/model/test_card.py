"""The card of a model: what its folder says, and the figures of bundles that judged this very model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from medcodi.data.domain import PHANTOM, Domain
from medcodi.errors import CheckpointError, DataError
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.card import CARD, is_generated, model_card, write_card
from medcodi.model.hub import write_publication

DOMAIN = Domain(origin=PHANTOM, sources=("phantom-0",), findings=("Edema",))
PRIMARY = {
    "model": {"value": 0.9, "low": 0.88, "high": 0.91},
    "shuffled": {"value": 0.2},
    "ceiling": 0.95,
    "fraction_of_ceiling": 0.947,
}


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    model = tiny_model()
    training = {"align": {"steps": 12, "studies": 64, "data": "phantom|0", "seed": 0}}
    model.provenance = {"domain": asdict(DOMAIN), "training": training}
    model.trained_stages = ("align",)
    return model


@pytest.fixture(scope="module")
def folder(model: MedCoDi, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save_pretrained(tmp_path_factory.mktemp("card") / "model")


def bundle(folder: Path, results: Mapping[str, Any], **texts: str) -> Path:
    """A bundle with these results, sealed as ours are."""
    folder.mkdir()
    files = {"results.json": json.dumps(results), **{f"{name}.md": text for name, text in texts.items()}}
    for name, text in files.items():
        (folder / name).write_text(text)
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    (folder / "bundle.json").write_text(json.dumps({"files": hashes}))
    return folder


def evaluation_of(sha256: str) -> dict[str, Any]:
    scored = {"prompts": ["report"], "num_studies": 40, "primary": PRIMARY}
    unscored = {"prompts": [], "num_studies": 40, "primary": {"model": None, "ceiling": None}}
    own = {"sha256": sha256, "directions": {"report->frontal": scored, "->report": unscored}}
    return {"data": {"name": "held-out"}, "systems": {"other": {"kind": "files"}, "tiny": own}}


def test_a_saved_model_has_a_card_of_what_its_index_says(model: MedCoDi, folder: Path) -> None:
    text = (folder / CARD).read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---")[1])
    assert header["model_name"] == "tiny, a MedCoDi model" and "model-index" not in header
    assert f"| identity | {model.identity()} |" in text and "| stages | align |" in text
    assert "| align | 12 | 64 | 0 | phantom\\|0 |" in text
    assert (
        "knows no real patient" in text and "how well it does is unknown" in text and "its training is unknown" in text
    )
    # The card is no part of the model: it loads, and is the same.
    assert MedCoDi.from_pretrained(folder).identity() == model.identity()


def test_figures_come_from_bundles_of_this_model(model: MedCoDi, folder: Path, tmp_path: Path) -> None:
    evaluation = bundle(tmp_path / "evaluation", evaluation_of(model.identity()))
    own = {"name": "tiny", "sha256": model.identity()}
    audit = bundle(tmp_path / "audit", {"model": own}, card="## Privacy audit\n\nOutcome: **inconclusive**\n")
    text = model_card(folder, evaluation=evaluation, audit=audit, repository="owner/name")
    assert (
        "| report → frontal | 40 | 0.90 [0.88, 0.91] | 0.20 | 0.95 | 0.95 |" in text
        and "Outcome: **inconclusive**" in text
    )
    assert "| nothing → report | 40 | – | – | – | – |" in text and 'from_pretrained("owner/name")' in text
    results = yaml.safe_load(text.split("---")[1])["model-index"][0]["results"]
    assert [(entry["task"]["name"], entry["metrics"][0]["value"]) for entry in results] == [("report->frontal", 0.9)]


@pytest.mark.parametrize("kind", ["evaluation", "audit"])
def test_a_bundle_of_another_model_or_a_changed_one_is_refused(
    model: MedCoDi, folder: Path, tmp_path: Path, kind: str
) -> None:
    results = {"evaluation": evaluation_of, "audit": lambda sha256: {"model": {"name": "x", "sha256": sha256}}}[kind]
    other = bundle(tmp_path / "other", results("f" * 64), card="")
    with pytest.raises(DataError, match=f"another model.*{model.identity()[:12]}"):
        model_card(folder, **{kind: other})
    with pytest.raises(DataError, match="another model"):  # nothing is sent either
        model.push_to_hub("owner/name", **{kind: other})
    changed = bundle(tmp_path / "changed", results(model.identity()), card="")
    (changed / "results.json").write_text("{}")
    with pytest.raises(DataError, match=r"results\.json was changed after the bundle was written"):
        model_card(folder, **{kind: changed})
    with pytest.raises(DataError, match=f"holds no bundle.*medcodi {kind[:5]}"):
        model_card(folder, **{kind: tmp_path / "missing"})


def test_an_evaluation_before_the_weights_were_rounded_counts(model: MedCoDi, tmp_path: Path) -> None:
    import torch

    evaluation = bundle(tmp_path / "evaluation", evaluation_of(model.identity()))
    half = write_publication(model, tmp_path / "half", None, torch.float16, evaluation=evaluation)
    assert MedCoDi.from_pretrained(half).identity() != model.identity()
    assert "report → frontal" in (half / CARD).read_text(encoding="utf-8")


def test_a_card_that_somebody_wrote_or_changed_stays(model: MedCoDi, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "model")
    card = folder / CARD
    assert is_generated(card) and write_card(model_card(folder), card)
    changed = card.read_text(encoding="utf-8").replace("Any-to-any generation", "My own words")
    for text in ("# By hand\n", changed):
        card.write_text(text, encoding="utf-8")
        model.save_pretrained(folder)
        assert card.read_text(encoding="utf-8") == text and not write_card("new", card)


def test_a_foreign_index_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["provenance"]["training"] = ["align"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model_index\.json holds invalid values"):
        model_card(tmp_path)
