"""Weights of feature extractors: where they come from, how a user gets them, and the hash that they are held to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medcodi.errors import CheckpointError
from medcodi.storage.atomic import sha256_file

FOLDER_VARIABLE = "MEDCODI_EXTRACTORS"  # a folder of weight files, looked into before the libraries' own caches


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Where an extractor's published weights come from.

    Attributes:
        file: Name of the file.
        url: Where it is published.
        sha256: Of the file; None where the publisher may renew it: then what was loaded is recorded, and ``sha256=`` can require it.
        caches: Folders in which the library that publishes them keeps them; ``~`` is the home folder.
        licence: Of the weights, in a word.
    """

    file: str
    url: str
    sha256: str | None
    caches: tuple[str, ...] = ()
    licence: str = ""

    def places(self) -> tuple[Path, ...]:
        """Where the file is looked for, in order."""
        own = [os.environ[FOLDER_VARIABLE]] if os.environ.get(FOLDER_VARIABLE) else []
        return tuple(Path(folder).expanduser() / self.file for folder in (*own, *self.caches))


def find_weights(name: str, source: WeightSource, path: str | Path | None, *, download: bool = False) -> Path:
    """The file with an extractor's weights.

    Args:
        name: Of the extractor, for messages.
        source: Where its published weights come from.
        path: Where the user says it is; None: looked for, and fetched if ``download``.
        download: Whether it may be fetched, into the first cache folder.

    Raises:
        CheckpointError: If it is nowhere; says every way to get it.
    """
    if path is not None:
        if not Path(path).is_file():
            raise CheckpointError(
                f"no weights of {name!r} at {path}", expected=f"the file {source.file}", fix=how_to_get(name, source)
            )
        return Path(path)
    places = source.places()
    found = next((place for place in places if place.is_file()), None)
    if found is not None:
        return found
    if not download:
        raise CheckpointError(
            f"the feature extractor {name!r} has no weights: {source.file} is not in "
            + ", ".join(str(place.parent) for place in places),
            expected="its published weights, on this machine",
            fix=how_to_get(name, source),
        )
    return _fetched(name, source, places[-1])


def how_to_get(name: str, source: WeightSource) -> str:
    """Every way to get the weights, in words."""
    held = f" (sha256 {source.sha256})" if source.sha256 else ""
    return (
        f"download {source.url}{held} and name the file (weights of {name!r}), or put it into a folder named by "
        f"{FOLDER_VARIABLE}, or allow the download"
    )


def _fetched(name: str, source: WeightSource, place: Path) -> Path:
    import torch.hub

    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(source.url, str(partial), progress=False)
        check_hash(name, partial, source.sha256)
        partial.replace(place)
    except OSError as error:
        raise CheckpointError(
            f"the weights of {name!r} cannot be fetched from {source.url}: {error}", fix=how_to_get(name, source)
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return place


def check_hash(name: str, path: Path, wanted: str | None) -> str:
    """SHA-256 of a weight file, which must be the wanted one, if there is one.

    Raises:
        CheckpointError: If it is another.
    """
    seen = sha256_file(path)
    if wanted is not None and seen != wanted.lower():
        raise CheckpointError(
            f"the weights of {name!r} at {path} have sha256 {seen}",
            expected=wanted,
            fix="download the file again; or, if these are weights of your own, say so: give this sha256 with them",
        )
    return seen
