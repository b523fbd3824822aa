"""Sessions: what one open page has uploaded and got, in a folder of its own that goes with it."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medcodi.data.image_files import check_image_file
from medcodi.data.images import save_png16
from medcodi.errors import DataError, PromptError
from medcodi.modality import MODALITIES, modality
from medcodi.web.config import Limits
from medcodi.web.jobs import BusyError

if TYPE_CHECKING:
    from medcodi.generation.result import Generation

_KEY = re.compile(r"[\w-]{16,64}")  # of films and sessions: nothing that could leave a folder


class Session:
    """Uploads, films and results of one open page."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.id = folder.name
        self.folder, self.limits = folder, limits
        self.uploads: dict[str, Path] = {}  # slot, such as generate.frontal -> file
        self.results: dict[str, Generation] = {}  # key -> what can be downloaded
        self._kept: dict[str, list[str]] = {}  # part of the page -> keys of its results, oldest first
        self._films: dict[str, list[Path]] = {}  # key of a result -> its files

    async def take(self, slot: str, file_name: str, chunks: AsyncIterator[bytes]) -> str:
        """Store an uploaded film, and check its header; replaces an earlier one of its slot.

        Args:
            slot: A part of the page and an image modality: ``generate.frontal``.
            file_name: As the browser gives it; only its plain characters are used.
            chunks: Bytes of the file.

        Returns:
            The name that is shown.

        Raises:
            DataError: If the file is too large, or no film that can be read; nothing of it stays.
        """
        name = modality(slot.rpartition(".")[2]).name
        if MODALITIES[name].kind != "image":
            raise PromptError(f"a file for {name}", expected="an image modality")
        shown = re.sub(r"[^\w.-]+", "_", file_name.replace("\\", "/").rsplit("/", 1)[-1])[-80:] or "film"
        folder = self.folder / secrets.token_urlsafe(12)
        folder.mkdir()
        path, size = folder / shown, 0
        try:
            with path.open("xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.limits.max_upload_bytes:
                        limit = self.limits.max_upload_bytes
                        raise DataError(f"{shown} is too large", expected=f"at most {limit / 2**20:.0f} MiB")
                    file.write(chunk)
            check_image_file(path, modality=name)
        except BaseException:  # a lost connection too
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.drop(slot)
        self.uploads[slot] = path
        return shown

    def adopt(self, slot: str, film: Path) -> None:
        """Take a copy of a film of this session as if it had been uploaded; it stays when the first one goes."""
        folder = self.folder / secrets.token_urlsafe(12)
        folder.mkdir()
        self.drop(slot)
        self.uploads[slot] = Path(shutil.copy(film, folder / film.name))

    def drop(self, slot: str) -> None:
        """Delete the upload of a slot, if there is one."""
        if (path := self.uploads.pop(slot, None)) is not None:
            shutil.rmtree(path.parent, ignore_errors=True)

    def film(self, result: str, image: np.ndarray, *, origin: str | None = None) -> str:
        """Store a film ``[H, W]`` of a result as a 16-bit PNG for the viewer; returns its key."""
        key = secrets.token_urlsafe(16)
        path = self.folder / f"{key}.png"
        save_png16(image, path, origin=origin)
        self._films.setdefault(result, []).append(path)
        return key

    def film_path(self, key: str) -> Path | None:
        """The file of a film; None where there is none, or no longer."""
        path = self.folder / f"{key}.png"
        return path if _KEY.fullmatch(key) and path.is_file() else None

    def keep(self, part: str, result: str, generation: Generation) -> None:
        """Hold a result of a part of the page for downloads; its oldest one goes where there are too many."""
        self.results[result] = generation
        kept = self._kept.setdefault(part, [])
        kept.append(result)
        while len(kept) > self.limits.max_results:
            oldest = kept.pop(0)
            self.results.pop(oldest)
            for path in self._films.pop(oldest, ()):
                path.unlink(missing_ok=True)


class Sessions:
    """All open pages, in one temporary folder that is deleted at the end."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="medcodi-serve-")  # for this user's eyes alone (0700)
        self._sessions: dict[str, Session] = {}

    def open(self) -> Session:
        """A new session.

        Raises:
            BusyError: If too many are open.
        """
        if len(self._sessions) >= self.limits.max_sessions:
            raise BusyError(
                f"{len(self._sessions)} pages are open, which is all that this server takes", fix="try again later"
            )
        folder = Path(self._folder.name) / secrets.token_urlsafe(16)
        folder.mkdir()
        session = self._sessions[folder.name] = Session(folder, self.limits)
        return session

    def get(self, key: str) -> Session | None:
        """The session of a key; None where it has ended."""
        return self._sessions.get(key)

    def close(self, session: Session) -> None:
        """Delete everything of a session."""
        self._sessions.pop(session.id, None)
        shutil.rmtree(session.folder, ignore_errors=True)

    def close_all(self) -> None:
        """Delete everything."""
        self._sessions.clear()
        self._folder.cleanup()
