"""Whether annotators suit the data: those trained on phantoms say little about real radiographs."""

from __future__ import annotations

from typing import Any

PHANTOM = "phantom"  # how the names of phantom datasets begin


def unfit_readers(results: dict[str, Any]) -> list[str]:
    """One sentence, with the fix, for each annotator that was trained on phantoms where the data are real.

    ``results`` is that of ``results.json``; without ``data.phantoms``, as in old bundles, nothing is assumed.
    """
    if results["data"].get("phantoms", True):
        return []
    annotators, sentences = results["readers"], []
    # The image annotator, by the name of its training set.
    training = ((annotators.get("images") or {}).get("data") or {}).get("train") or {}
    if _of_phantoms(training.get("name")):
        sentences.append(
            "Findings and sides in images come from a classifier that was trained on phantoms, but these data are real: "
            "its figures do not hold for real radiographs. Use image_reader=xrv."
        )
    # Feature extractors, by their settings.
    for name, description in (annotators.get("extractors") or {}).items():
        if _of_phantoms((description.get("settings") or {}).get("trained_on")):
            sentences.append(
                f"Distances in the features {name!r} come from a classifier that was trained on phantoms, but these data are real: "
                "they say little. Use extractors=[xrv]."
            )
    # The prompt encoder, which is the shipped model's where no model was named.
    encoder = annotators.get("encoder") or {}
    if encoder and results["config"].get("model") is None:
        sentences.append(
            f"Coherence was measured in the latent space of the shipped model {encoder['model']!r}, which was trained on phantoms, "
            "but these data are real. Use model=..., or leave coherence out of metrics."
        )
    return sentences


def _of_phantoms(name: str | None) -> bool:
    return name is not None and name.startswith(PHANTOM)
