"""Publishing a model: its card, and the attestation for data under a use agreement."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from medcodi.data.domain import PHANTOM, REAL, Domain
from medcodi.errors import CheckpointError, DataError
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.hub import write_publication
from medcodi.model.index import read_index

SAFE = Domain(origin=PHANTOM, sources=("phantom-0",), modalities=("frontal",), findings=("Edema",))
BOUND = Domain(origin=REAL, sources=("cxr",), modalities=("frontal",), agreement="mimic-cxr")


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    return tiny_model()


def test_a_model_under_a_use_agreement_is_uploaded_with_an_attestation_only(model: MedCoDi) -> None:
    model.provenance = {"domain": asdict(BOUND)}
    with pytest.raises(DataError, match="'tiny' was trained on MIMIC-CXR, .*use agreement.*attested_by='Name"):
        model.push_to_hub("owner/name")
    with pytest.raises(CheckpointError, match="the hub did not take owner/name .*Offline.*hf auth login"):
        model.push_to_hub("owner/name", attested_by="A. B., Clinic")  # asked the hub, which tests do not reach
    model.provenance = {"domain": asdict(SAFE)}
    with pytest.raises(CheckpointError, match="did not take a/b/c"):
        model.push_to_hub("a/b/c")


def test_the_attestation_is_in_the_index_and_in_the_card(model: MedCoDi, tmp_path: Path) -> None:
    model.provenance = {"domain": asdict(BOUND)}
    attestation = {"source": "mimic-cxr", "attested_by": "A. B. | Clinic", "statement": "All are covered."}
    folder = write_publication(model, tmp_path / "model", attestation)
    loaded = MedCoDi.from_pretrained(folder)
    assert loaded.provenance["attestation"] == attestation and loaded.identity() == model.identity()
    assert "attestation" not in model.provenance
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "| use agreement | mimic-cxr |" in text and "| attestation | A. B. \\| Clinic: All are covered. |" in text
    assert f"| identity | {model.identity()} |" in text and "| trained on | real studies (cxr) |" in text


def test_a_card_without_an_agreement_and_without_a_domain(model: MedCoDi, tmp_path: Path) -> None:
    model.provenance = {"domain": asdict(SAFE)}
    text = (write_publication(model, tmp_path / "safe", None) / "README.md").read_text(encoding="utf-8")
    assert "| use agreement | none known |" in text and "| findings in training | Edema |" in text
    assert "attestation" not in text
    model.provenance = {}
    folder = write_publication(model, tmp_path / "model", None)
    assert "| trained on | unknown |" in (folder / "README.md").read_text(encoding="utf-8")
    assert "provenance" in read_index(folder)[1]
