"""Encrypted servers, DICOMweb and C-STORE: studies arrive, and a certificate that is wrong is refused with its reason, at once."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")
pytest.importorskip("cryptography")

from medcodi.data.dicom.reports import BASIC_TEXT_SR
from medcodi.pacs.dicomweb import DicomWebServer
from medcodi.pacs.fetching import fetch
from medcodi.pacs.outbox import Outbox
from medcodi.pacs.sending import send
from medcodi.pacs.servers import ServerError, UnreachableError, read_address
from medcodi.pacs.tls import Tls
from tests.unit.pacs.certificates import Authority
from tests.unit.pacs.servers import archive_server, objects, web_server

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
Serve = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "hospital")


@pytest.fixture(scope="module")
def outbox(tmp_path_factory: pytest.TempPathFactory) -> Outbox:
    outbox = Outbox(tmp_path_factory.mktemp("tls") / "outbox")
    outbox.add(objects(0))
    return outbox


@pytest.fixture(params=["STOW-RS", "C-STORE"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Start a server with the settings of its connections."""
    if request.param == "STOW-RS":
        return lambda context: web_server(context)
    return lambda context: archive_server(SECONDARY_CAPTURE, BASIC_TEXT_SR, context=context)


def test_studies_arrive_with_the_authority_and_with_a_certificate_of_ours(
    authority: Authority, outbox: Outbox, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.sign("unrelated")))  # what is given here counts
    with serve(authority.server(authority.sign("server"))) as server:
        assert send(outbox, server.url, tls=Tls(ca=authority.ca)).sent == 3
        if server.url.startswith("https"):
            study = str(objects(0)["report"].StudyInstanceUID)
            assert "report" in fetch(server.url, study, tmp_path / "in", tls=Tls(ca=authority.ca)).files
    with serve(authority.server(authority.sign("server"), clients=True)) as server:
        mutual = Tls(ca=authority.ca, certificate=authority.sign("client"))
        assert send(outbox, server.url, tls=mutual).sent == 3


@pytest.mark.parametrize(
    ("host", "days", "trusted", "words", "fix"),
    [
        ("127.0.0.1", (-1, 1), False, "authority that is not trusted", "--dicom-ca CA.pem"),
        ("127.0.0.1", (-3, -1), True, "has expired", "renewed"),
        ("127.0.0.1", (1, 3), True, "not valid yet", "clock"),
        ("pacs.example.org", (-1, 1), True, "of another host", "name that is in the certificate"),
    ],
)
def test_a_wrong_certificate_is_refused_at_once_with_its_reason(
    authority: Authority,
    outbox: Outbox,
    serve: Serve,
    host: str,
    days: tuple[int, int],
    trusted: bool,
    words: str,
    fix: str,
) -> None:
    start = time.monotonic()
    with serve(authority.server(authority.sign("wrong", host, days=days))) as server:
        with pytest.raises(ServerError, match=words) as refused:
            send(outbox, server.url, tls=Tls(ca=authority.ca) if trusted else Tls(), retry_s=60)
        assert fix in refused.value.fix and not isinstance(refused.value, UnreachableError)
    assert time.monotonic() - start < 30  # it is not tried again: it would be refused again


def test_a_server_that_wants_our_certificate_says_so(authority: Authority, outbox: Outbox, serve: Serve) -> None:
    with serve(authority.server(authority.sign("server"), clients=True)) as server:
        with pytest.raises(ServerError, match="does not take our certificate") as refused:
            send(outbox, server.url, tls=Tls(ca=authority.ca))
        assert "--dicom-cert CLIENT.pem" in refused.value.fix


def test_a_port_without_tls_is_named(authority: Authority, outbox: Outbox, serve: Serve) -> None:
    with serve(None) as server, pytest.raises(ServerError, match="does not speak TLS at this port"):
        send(outbox, server.url.replace("://", "s://"), tls=Tls(ca=authority.ca))


def test_an_encrypted_server_that_is_away_may_come_back(authority: Authority, outbox: Outbox) -> None:
    with web_server() as gone:
        url = f"dicoms://127.0.0.1:{gone.server_address[1]}/X"
    with pytest.raises(UnreachableError, match="cannot be reached") as refused:
        send(outbox, url, tls=Tls(ca=authority.ca), retry_s=0)
    assert refused.value.fix.endswith(f"--to {url} --dicom-ca {authority.ca}: everything is in the outbox")


def test_files_that_hold_no_certificate_are_refused_before_anything_is_sent(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "text.pem").write_text("not a certificate")
    address = read_address("dicoms://host:2762/THEM")
    assert address.encrypted and address.is_association
    for tls, words in (
        (Tls(ca=tmp_path / "absent.pem"), "No such file"),
        (Tls(ca=tmp_path / "text.pem"), "no certificate or crl found"),
        (Tls(ca=authority.ca, certificate=authority.ca), "cannot be used"),  # it has no key
        (Tls(certificate=authority.sign("locked", password="secret")), "cannot be used"),
    ):
        with pytest.raises(ServerError, match=words):
            tls.check(address)
    with pytest.raises(ServerError, match="is not encrypted"):
        Tls(ca=authority.ca).check(read_address("dicom://host:104/THEM"))


def test_an_alert_that_was_lost_while_we_wrote_is_asked_for_again(authority: Authority) -> None:
    from requests.exceptions import SSLError

    with web_server(authority.server(authority.sign("server"), clients=True)) as server:
        client = DicomWebServer(read_address(server.url), Tls(ca=authority.ca))
        with pytest.raises(ServerError, match="does not take our certificate"), client._calling():
            raise SSLError(ssl.SSLEOFError(8, "EOF occurred in violation of protocol"))
