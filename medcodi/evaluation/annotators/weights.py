"""Weights of annotators: where they are published, how a user gets them, and the SHA-256 that they must have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medcodi.errors import CheckpointError
from medcodi.storage import atomic

if TYPE_CHECKING:
    from medcodi.model import MedCoDi

FOLDER_VARIABLE = "MEDCODI_EXTRACTORS"  # a folder of weight files, searched before the libraries' own caches


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """How an annotator of a table is loaded."""

    weights: str | Path | None = None  # file, folder or hub name; None: searched for where the library keeps them
    sha256: str | None = None  # that the weights must have; None: the published one
    device: str | torch.device = "cpu"
    model: MedCoDi | None = None  # whose prompt encoders are used, where they are the network
    download: bool = False  # whether published weights may be downloaded
    cache: Path | None = None  # folder of annotations stored by content; None: nothing is stored
    batch_size: int | None = None  # contents that the network sees at once; None: the annotator's own choice


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """The source of published weights."""

    file: str  # its name
    url: str
    # None where the publisher may renew the file: then its hash is recorded, and a request can require one
    sha256: str | None
    caches: tuple[str, ...] = ()  # folders in which the publishing library keeps it; ``~`` is the home folder
    licence: str = ""  # in a word

    def candidates(self) -> tuple[Path, ...]:
        """Paths at which the file is searched for, in order: the user's own folder, then the library's caches."""
        own = [os.environ[FOLDER_VARIABLE]] if os.environ.get(FOLDER_VARIABLE) else []
        return tuple(Path(folder).expanduser() / self.file for folder in (*own, *self.caches))

    def how_to_get(self, name: str) -> str:
        """Every way to get the weights of the annotator ``name``, for messages."""
        digest = f" (sha256 {self.sha256})" if self.sha256 else ""
        return (
            f"download {self.url}{digest} and name the file (weights of {name!r}), or put it into a folder named by "
            f"{FOLDER_VARIABLE}, or allow the download"
        )

    def find(self, name: str, request: LoadRequest) -> tuple[Path, str]:
        """The weight file of the annotator ``name`` and its SHA-256: the file of the request, an existing copy, or a download.

        Raises:
            CheckpointError: If there is no such file, with every way to get it; or if it has another hash than required.
        """
        path = Path(request.weights) if request.weights is not None else self._find_copy(name, request.download)
        if not path.is_file():
            raise CheckpointError(
                f"no weights of {name!r} at {path}", expected=f"the file {self.file}", fix=self.how_to_get(name)
            )
        return path, check_hash(name, path, request.sha256 or self.sha256)

    def _find_copy(self, name: str, download: bool) -> Path:
        candidates = self.candidates()
        for path in candidates:
            if path.is_file():
                return path
        if not download:
            raise CheckpointError(
                f"the feature extractor {name!r} has no weights: {self.file} is not in "
                + ", ".join(str(path.parent) for path in candidates),
                expected="its published weights, on this machine",
                fix=self.how_to_get(name),
            )
        return self._download(name, candidates[-1])

    def _download(self, name: str, target: Path) -> Path:
        import torch.hub

        # Other processes see the file only after its hash has been checked.
        with atomic.replacing(target, error=CheckpointError) as partial:
            try:
                torch.hub.download_url_to_file(self.url, str(partial), progress=False)
            except OSError as error:
                raise CheckpointError(
                    f"the weights of {name!r} could not be downloaded from {self.url}: {error}",
                    fix=self.how_to_get(name),
                ) from None
            check_hash(name, partial, self.sha256)
        return target


def check_hash(name: str, path: Path, required: str | None) -> str:
    """SHA-256 of a weight file.

    Raises:
        CheckpointError: If another hash is required.
    """
    digest = atomic.sha256_file(path)
    if required is not None and digest != required.lower():
        raise CheckpointError(
            f"the weights of {name!r} at {path} have sha256 {digest}",
            expected=required,
            fix="download the file again; or, if these are weights of your own, give this sha256 with them",
        )
    return digest


def read_state(path: Path, *, trusted: bool = False) -> Any:
    """The content of a weight file, safetensors or PyTorch's format; pickled code runs only if ``trusted`` (its hash is known).

    Raises:
        CheckpointError: If the file is unreadable, or would run code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=not trusted)
    except Exception as error:  # torch.load raises whatever unpickling raises
        raise CheckpointError(
            f"{path} cannot be read: {str(error).splitlines()[0]}",
            expected="a state dict (safetensors or PyTorch), or the published file",
            fix="download it again",
        ) from None


def wrong_weights(name: str, path: Path, error: Exception) -> CheckpointError:
    """The refusal of a file that a network cannot load its weights from."""
    return CheckpointError(
        f"{path} does not hold the weights of {name!r}: {' '.join(str(error).split())[:200]}",
        fix="name the right file",
    )
