"""A dataset on a server, and a run that has only its URL: the same steps as from the folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medcodi.errors import DataError
from medcodi.training.config import TrainConfig
from medcodi.training.loop import train
from tests.integration.forked import log


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing of what it serves."""

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def url(prepared: Path) -> Iterator[str]:
    """The prepared dataset behind HTTP: what a bucket with public or signed links is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(prepared.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/{prepared.name}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.long
def test_a_run_trains_from_a_url_as_from_the_folder(
    url: str, config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http with it")
    monkeypatch.setenv("MEDCODI_CACHE", str(tmp_path / "cache"))
    words = ("steps=2", "checkpoint.every=0")
    remote = train(config(*words, f"data.path={url}", f"out={tmp_path / 'remote'}"))
    local = train(config(*words, f"out={tmp_path / 'local'}"))
    assert log(remote) == log(local) and len(log(local)) == 2
    copies = {file.parent.name for file in (tmp_path / "cache").rglob("*.arrow")}
    assert copies == {"train", "val"}  # the splits that were asked for
    with pytest.raises(DataError, match=f"{url}x is not a prepared dataset"):
        train(config(*words, f"data.path={url}x", f"out={tmp_path / 'absent'}"))
    assert not (tmp_path / "absent").exists()
