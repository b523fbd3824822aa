"""Addresses of DICOM servers, and what a server can answer to an instance."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from medcodi.errors import MedCoDiError, MissingExtraError

CALLING_TITLE = "MEDCODI"
RETRY_S = 60.0  # how long a server that is away is tried again
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e]{1,16}")  # of an application entity (PS3.5, AE), without blanks
_PACKAGES = {"http": "dicomweb_client", "https": "dicomweb_client", "dicom": "pynetdicom", "dicoms": "pynetdicom"}
_EXPECTED = "https://HOST/dicom-web (the DICOMweb root of the server), or dicom://HOST:PORT/AET (dicoms:// with TLS)"


class ServerError(MedCoDiError):
    """A server that refuses: the same request would be refused again."""


class UnreachableError(ServerError):
    """A server that is away, or too busy: the same command may succeed later."""

    exit_code = 3
    answered: bool = False  # it is there, and answered that it cannot serve this now


@dataclass(frozen=True, kw_only=True)
class Address:
    """Address of a server."""

    text: str  # as it was given, without a final slash: the server's name in receipts and messages
    scheme: str  # http, https (DICOMweb), dicom or dicoms (C-STORE, the latter with TLS)
    host: str
    port: int | None = None
    called: str = ""  # title of the server's application entity; "" of DICOMweb
    calling: str = CALLING_TITLE  # title by which we call it

    @property
    def is_association(self) -> bool:
        """Whether it is spoken to by C-STORE; otherwise by DICOMweb."""
        return self.scheme in ("dicom", "dicoms")

    @property
    def encrypted(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("https", "dicoms")

    @property
    def key(self) -> str:
        """A short name for folders."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One DICOM file to be stored."""

    path: Path
    sop_class: str
    sop_instance: str


class Server(Protocol):
    """Stores instances."""

    def store(self, instances: Sequence[Instance]) -> Iterator[tuple[str, str]]:
        """Store the instances of one study; yields (SOP instance UID, "" or why it was refused) as the server answers.

        Raises:
            UnreachableError: If the server is away or busy; what was yielded before holds.
            ServerError: If it would refuse every instance: credentials, a wrong address.
        """
        ...


def read_address(text: str) -> Address:
    """Parse an address, and check that the package for it is installed; nothing is connected.

    Raises:
        ServerError: If it is no address of a DICOM server, or holds a password.
        MissingExtraError: If the package is not installed.
    """
    # Parts that every address has.
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _invalid(text, str(error)) from None
    if parts.scheme not in _PACKAGES or not parts.hostname or parts.query or parts.fragment:
        raise _invalid(text)
    # Titles of C-STORE are in it; passwords are not.
    text, called, calling = text.rstrip("/"), "", CALLING_TITLE
    if parts.scheme in ("dicom", "dicoms"):
        called, calling = parts.path.strip("/"), parts.username or CALLING_TITLE
        if port is None or not all(map(_TITLE.fullmatch, (called, calling))) or parts.password:
            raise _invalid(text)
    elif parts.username or parts.password:
        raise ServerError(
            "the address holds a user or a password, which would be written into receipts and logs",
            expected=_EXPECTED,
            fix="put both into ~/.netrc, or a bearer token into the environment variable MEDCODI_DICOM_TOKEN",
        )
    if find_spec(package := _PACKAGES[parts.scheme]) is None:
        raise MissingExtraError(package, extra="dicom", needed_for=f"servers at {parts.scheme}://")
    return Address(text=text, scheme=parts.scheme, host=parts.hostname, port=port, called=called, calling=calling)


def _invalid(text: str, why: str = "") -> ServerError:
    return ServerError(
        f"{text!r} is not the address of a DICOM server{f' ({why})' if why else ''}",
        expected=_EXPECTED,
        fix="ask who runs the server for its DICOMweb address, or for host, port and title (AET) of its C-STORE",
    )


# ---- what a server answers to an instance ----------------------------------------------------------------------------
_STORED = (0x0000, 0x0001, 0x0107, 0x0111, 0x0116)  # success, warnings, and a duplicate: it was there before
_STATUS = {
    0x0110: "it failed to process the instance",
    0x0117: "the UID of the instance is invalid to it",
    0x0122: "it does not accept this kind of object (SOP class)",
    0x0124: "it does not authorise us to store",
    0x0212: "the message was mistyped",
}


def is_stored(status: int) -> bool:
    """Whether a status of C-STORE (PS3.4 Table B.2-1) or STOW-RS means that the server has the instance, now or from before."""
    return status in _STORED or 0xB000 <= status <= 0xBFFF


def is_busy(status: int) -> bool:
    """Whether a status means out of resources: a full disk, or too many requests; later it may be stored."""
    return 0xA700 <= status <= 0xA7FF


def refusal(status: int) -> str:
    """A status in words."""
    if 0xA900 <= status <= 0xA9FF:
        words = "the data set does not match its SOP class"
    elif 0xC000 <= status <= 0xCFFF:
        words = "it cannot understand the data set"
    elif is_busy(status):
        words = "it is out of resources"
    else:
        words = _STATUS.get(status, "it failed")
    return f"{words} (status 0x{status:04X})"
