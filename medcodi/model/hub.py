"""A model on the Hugging Face hub: its folder, a card that says what it was trained on, and who attests that it may be shared."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medcodi.data.domain import Domain, attested
from medcodi.errors import CheckpointError, first_line
from medcodi.model.card import CARD, check_bundles, model_card, write_card
from medcodi.model.index import INDEX, parse_index
from medcodi.storage import atomic

if TYPE_CHECKING:
    from medcodi.model.medcodi import MedCoDi

STATEMENT = "Everyone who can download this model is covered by the use agreement of the data that it was trained on."


def push_to_hub(
    model: MedCoDi,
    repository: str,
    *,
    private: bool = True,
    attested_by: str | None = None,
    dtype: torch.dtype | None = None,
    evaluation: str | Path | None = None,
    audit: str | Path | None = None,
) -> str:
    """Upload a model, with its card.

    Args:
        model: The model.
        repository: ``owner/name``; created where it is missing.
        private: Whether a new repository is private.
        attested_by: Who attests that it may be shared, if it was trained on data under a use agreement; recorded in card and index.
        dtype: Precision of the stored weights; None: theirs.
        evaluation: Bundle of ``medcodi evaluate`` whose figures the card shows.
        audit: Bundle of ``medcodi audit`` whose section the card holds.

    Returns:
        The address of the commit.

    Raises:
        DataError: If it was trained on data under a use agreement and nobody attests, or a bundle judges another model; nothing
            is sent.
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
    if evaluation or audit:
        check_bundles(model.identity(), evaluation, audit)
    try:
        # The repository first: it may be refused, and the weights may be large.
        hub = HfApi()
        hub.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_publication(
                model,
                Path(temporary) / "model",
                attestation,
                dtype,
                repository=repository,
                evaluation=evaluation,
                audit=audit,
            )
            return str(hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="MedCoDi model"))
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        raise CheckpointError(
            f"the hub did not take {repository} ({type(error).__name__}: {first_line(error)[:200]})",
            expected="a repository owner/name that you may write to, and a hub that can be reached",
            fix="hf auth login, and check the name and the network (HF_HUB_OFFLINE)",
        ) from None


def write_publication(
    model: MedCoDi,
    folder: Path,
    attestation: dict[str, str] | None,
    dtype: torch.dtype | None = None,
    *,
    repository: str = "",
    evaluation: str | Path | None = None,
    audit: str | Path | None = None,
) -> Path:
    """Write a model folder as it is published: with the attestation in its index, and its card."""
    model.save_pretrained(folder, dtype=dtype)
    if attestation is not None:
        index = parse_index(folder / INDEX)
        index["provenance"]["attestation"] = attestation
        atomic.write_json(folder / INDEX, index, error=CheckpointError)
    # The bundles may name the model as it was before its weights were rounded.
    text = model_card(folder, evaluation=evaluation, audit=audit, repository=repository, judged_as=model.identity())
    write_card(text, folder / CARD)
    return folder
