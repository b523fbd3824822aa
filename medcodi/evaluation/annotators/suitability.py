"""Whether the readers know what they judge: those made of phantoms say little of real films."""

from __future__ import annotations

from typing import Any

PHANTOM = "phantom"  # how the names of phantom datasets begin


def unfit_readers(results: dict[str, Any]) -> list[str]:
    """A sentence for each reader that was made of phantoms, where the data are none.

    Args:
        results: As in ``results.json``; bundles that do not tell whether their data are phantoms are taken at their word.
    """
    if results["data"].get("phantoms", True):
        return []
    readers, found = results["readers"], []
    if _of_phantoms((((readers.get("images") or {}).get("data") or {}).get("train") or {}).get("name")):
        found.append(
            "Findings in images, sides too, were read by a classifier that was trained on phantoms, and these data are none: "
            "its figures do not hold for real films. Say image_reader=xrv."
        )
    for name, told in (readers.get("extractors") or {}).items():
        if _of_phantoms((told.get("settings") or {}).get("trained_on")):
            found.append(
                f"Distances in the features {name!r} come from a classifier that was trained on phantoms, and these data are none: "
                "they say little. Say extractors=[xrv]."
            )
    encoder = readers.get("encoder") or {}
    if encoder and results["config"].get("model") is None:
        found.append(
            f"Coherence was measured in the latent space of the shipped model {encoder['model']!r}, which was trained on phantoms, "
            "and these data are none. Say model=..., or leave coherence out of metrics."
        )
    return found


def _of_phantoms(name: str | None) -> bool:
    return name is not None and name.startswith(PHANTOM)
