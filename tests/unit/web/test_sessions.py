"""Sessions: uploads are checked, capped and deleted; films and results are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from medcodi.data.image_files import read_image
from medcodi.data.images import save_png8
from medcodi.errors import MedCoDiError
from medcodi.web.config import Limits
from medcodi.web.jobs import BusyError
from medcodi.web.sessions import Session, Sessions

IMAGE = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    sessions = Sessions(Limits(max_upload_bytes=20_000, max_sessions=2, max_results=2))
    yield sessions
    sessions.close_all()


def take(session: Session, slot: str, name: str, data: bytes) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    return asyncio.run(session.take(slot, name, chunks()))


def test_a_film_is_taken_replaced_and_dropped(sessions: Sessions, tmp_path: Path) -> None:
    session = sessions.open()
    save_png8(IMAGE, tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert take(session, "edit.frontal", "../../x/Müller <b>.png", data) == "Müller_b_.png"
    first = session.uploads["edit.frontal"]
    assert first.is_relative_to(session.folder) and read_image(first).shape == (64, 64)
    take(session, "edit.frontal", "b.png", data)
    assert not first.exists() and session.uploads["edit.frontal"].name == "b.png"
    session.drop("edit.frontal")
    assert list(session.folder.iterdir()) == [] and session.uploads == {}


@pytest.mark.parametrize(
    ("slot", "data", "refusal"),
    [
        ("generate.frontal", b"x" * 20_001, "too large"),
        ("generate.frontal", b"<html>", "not an image"),
        ("generate.report", b"text", "an image modality"),
        ("generate.elsewhere", b"text", "modality"),
    ],
)
def test_a_refused_upload_leaves_nothing(sessions: Sessions, slot: str, data: bytes, refusal: str) -> None:
    session = sessions.open()
    with pytest.raises(MedCoDiError, match=refusal):
        take(session, slot, "a.png", data)
    assert list(session.folder.iterdir()) == [] and session.uploads == {}


def test_an_upload_whose_connection_is_lost_leaves_the_film_before_it(sessions: Sessions, tmp_path: Path) -> None:
    session = sessions.open()
    save_png8(IMAGE, tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    take(session, "edit.frontal", "first.png", data)

    async def cut_off() -> AsyncIterator[bytes]:
        yield data[:1000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(session.take("edit.frontal", "second.png", cut_off()))
    assert session.uploads["edit.frontal"].read_bytes() == data
    assert list(session.folder.iterdir()) == [session.uploads["edit.frontal"].parent]


def test_a_film_of_a_result_can_become_an_upload(sessions: Sessions) -> None:
    session = sessions.open()
    film = session.film_path(session.film("result", IMAGE, origin="synthetic"))
    assert film is not None
    session.adopt("edit.lateral", film)
    film.unlink()
    np.testing.assert_allclose(read_image(session.uploads["edit.lateral"]), IMAGE, atol=1e-4)


def test_the_oldest_result_of_a_part_goes_with_its_films(sessions: Sessions) -> None:
    session = sessions.open()
    keys = {}
    for name in ("one", "two", "three"):
        keys[name] = session.film(name, IMAGE)
        session.keep("generate", name, None)  # type: ignore[arg-type]
    session.keep("edit", "other", None)  # type: ignore[arg-type]
    assert list(session.results) == ["two", "three", "other"]
    assert session.film_path(keys["one"]) is None and session.film_path(keys["two"]) is not None
    for key in ("../" + keys["two"], "", "x" * 20):
        assert session.film_path(key) is None


def test_sessions_are_bounded_and_leave_nothing(sessions: Sessions) -> None:
    first, second = sessions.open(), sessions.open()
    with pytest.raises(BusyError, match="2 pages are open"):
        sessions.open()
    sessions.close(first)
    assert sessions.get(first.id) is None and sessions.get(second.id) is second and not first.folder.exists()
    parent = second.folder.parent
    assert parent.stat().st_mode & 0o077 == 0
    sessions.close_all()
    assert not parent.exists()
