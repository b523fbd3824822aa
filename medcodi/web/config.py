"""How a service is reached, and how much it takes."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import field
from pathlib import Path

from medcodi.config import Count, config
from medcodi.errors import ConfigError

LOOPBACK = "127.0.0.1"


@config
class Limits:
    """Bounds of one request, of one page, and of the queue."""

    max_upload_bytes: Count = 64 * 2**20  # of one file
    max_samples: Count = 4  # of one request
    max_steps: Count = 200  # of one request
    max_waiting: Count = 32  # jobs in the queue
    max_sessions: Count = 200  # open pages
    max_results: Count = 8  # of one session that can still be downloaded or returned to


@config
class ServeConfig:
    """Address of the page, who may see it, and what it shows."""

    host: str = LOOPBACK  # address to bind to
    port: int = 8080  # 1 to 65535
    root_path: str = ""  # path under which a reverse proxy serves it, such as /medcodi
    users: dict[str, str] = field(default_factory=dict)  # name -> password; empty: a token, or on loopback nothing
    look: Path | None = None  # folder whose pages are shown, read only; None: none
    model: str | None = None  # folder, hub repository, or demo; None: the shipped demo
    device: str | None = None  # None: a GPU where there is one
    annotator: str | None = None  # reads findings in films; None: the demo's, of a model of phantoms
    dicom_store: str | None = None  # address of a DICOM server to which results may be sent; None: sending is off
    outbox: Path = Path("outbox")  # folder of the studies on their way there
    dicom_ca: Path | None = (
        None  # PEM file of the authorities that its certificate may be of; None: those of the system
    )
    dicom_cert: Path | None = None  # PEM file with our certificate and its key, for a server that asks for one
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}", expected="a number from 1 to 65535", fix="--port 8080")
        if self.root_path and not re.fullmatch(r"(/[\w.~-]+)+", self.root_path):
            raise ConfigError(
                f"root path {self.root_path!r}",
                expected="a path that begins with / and does not end with it",
                fix="--root-path /medcodi",
            )
        if self.look is not None and not self.look.is_dir():
            raise ConfigError(
                f"no folder at {self.look}", expected="a folder of runs or evaluations", fix="check --look"
            )

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked of who opens the page: on loopback, without users, and behind no proxy."""
        return is_loopback(self.host) and not self.users and not self.root_path


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_users(entries: list[str]) -> dict[str, str]:
    """Name -> password of ``NAME:PASSWORD`` texts, or of the lines of files named as ``@file``.

    Raises:
        ConfigError: If an entry is none, or a file cannot be read.
    """
    users: dict[str, str] = {}
    for entry in entries:
        lines = [entry]
        if entry.startswith("@"):
            try:
                lines = Path(entry[1:]).read_text(encoding="utf-8").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"the file {entry[1:]} of --auth cannot be read: {error}", expected="lines of NAME:PASSWORD"
                ) from None
        for line in filter(None, map(str.strip, lines)):
            name, colon, password = line.partition(":")
            if not (name and colon and password):
                raise ConfigError(
                    "an entry of --auth has no name or no password",
                    expected="NAME:PASSWORD",
                    fix="--auth @file, with one a line",
                )
            users[name] = password
    return users
