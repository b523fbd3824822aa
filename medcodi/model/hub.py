"""A model on the Hugging Face hub: its folder, a card that says what it was trained on, and who attests that it may be shared."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medcodi.data.domain import Domain, attested
from medcodi.errors import CheckpointError, first_line
from medcodi.model.index import INDEX, parse_index
from medcodi.storage import atomic

if TYPE_CHECKING:
    from medcodi.model.medcodi import MedCoDi

CARD = "README.md"
STATEMENT = "Everyone who can download this model is covered by the use agreement of the data that it was trained on."


def push_to_hub(
    model: MedCoDi,
    repository: str,
    *,
    private: bool = True,
    attested_by: str | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """Upload a model, with its card.

    Args:
        model: The model.
        repository: ``owner/name``; created where it is missing.
        private: Whether a new repository is private.
        attested_by: Who attests that it may be shared, if it was trained on data under a use agreement; recorded in card and index.
        dtype: Precision of the stored weights; None: theirs.

    Returns:
        The address of the commit.

    Raises:
        DataError: If it was trained on data under a use agreement and nobody attests; nothing is sent.
        CheckpointError: If the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    domain = Domain.of(model.provenance)
    attestation = attested(
        domain.agreement if domain else "",
        attested_by,
        failed=f"the model {model.config.name!r} was trained on",
        statement=STATEMENT,
        option="attested_by=",
    )
    try:
        # The repository first: it may be refused, and the weights may be large.
        hub = HfApi()
        hub.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_publication(model, Path(temporary) / "model", attestation, dtype)
            return str(hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="MedCoDi model"))
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        raise CheckpointError(
            f"the hub did not take {repository} ({type(error).__name__}: {first_line(error)[:200]})",
            expected="a repository owner/name that you may write to, and a hub that can be reached",
            fix="hf auth login, and check the name and the network (HF_HUB_OFFLINE)",
        ) from None


def write_publication(
    model: MedCoDi, folder: Path, attestation: dict[str, str] | None, dtype: torch.dtype | None = None
) -> Path:
    """Write a model folder as it is published: with the attestation in its index, and its card."""
    model.save_pretrained(folder, dtype=dtype)
    index = parse_index(folder / INDEX)
    if attestation is not None:
        index["provenance"]["attestation"] = attestation
        atomic.write_json(folder / INDEX, index, error=CheckpointError)
    atomic.write_text(folder / CARD, card(model, attestation), error=CheckpointError)
    return folder


def card(model: MedCoDi, attestation: dict[str, str] | None) -> str:
    """The card in Markdown: what the model is, what it was trained on, and under whose agreement."""
    domain = Domain.of(model.provenance)
    rows = {
        "generates": ", ".join(model.config.modalities),
        "stages": ", ".join(model.trained_stages) or "none",
        "identity": model.identity(),
        "trained on": "unknown"
        if domain is None
        else f"{domain.origin} studies ({', '.join(domain.sources) or 'unnamed'})",
    }
    if domain is not None:
        rows["findings in training"] = ", ".join(domain.findings) or "unknown"
        rows["use agreement"] = domain.agreement or "none known"
    if promises := _promises(model.provenance):
        rows["differential privacy"] = promises
    if attestation is not None:
        rows["attestation"] = f"{attestation['attested_by']}: {attestation['statement']}"
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    title = json.dumps(f"{model.config.name}, a MedCoDi model", ensure_ascii=False)
    return "\n".join(
        [
            *("---", "library_name: medcodi", "tags: [chest-x-ray, any-to-any]", f"model_name: {title}", "---", ""),
            *(f"# {_cell(model.config.name)}", ""),
            "Any-to-any generation of chest examinations. **Research only**: what it generates is synthetic, and not for diagnosis.",
            *("", "| | |", "| --- | --- |", *lines, ""),
            "```python",
            *('import medcodi', 'model = medcodi.MedCoDi.from_pretrained("owner/name")', "```", ""),
        ]
    )  # fmt: skip


def _promises(provenance: Mapping[str, Any]) -> str:
    """The promise of each training to its patients, in words; empty where none made one."""
    # Trainings of the model, of the adapters in it, and of the models that it is the average of.
    histories = [provenance, *provenance.get("averaged", ())]
    records = [pair for history in histories for pair in dict(history.get("training", {})).items()]
    records += [(each["stage"], each["training"]) for history in histories for each in history.get("adapters", ())]
    texts, private = [], False
    for stage, record in records:
        promise = record.get("privacy") or {}
        private |= promise.get("epsilon") is not None
        words = "no promise"
        if promise.get("epsilon") is not None:
            words = (
                f"ε = {promise['epsilon']:.3g} at δ = {promise['delta']:g} for each of {promise['patients']:,} patients"
            )
        texts.append(f"{stage} on {record.get('studies', 0):,} studies: {words}")
    return "; ".join([*dict.fromkeys(texts), "a patient of several trainings: the sum"]) if private else ""


def _cell(text: str) -> str:
    """Text in one cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
