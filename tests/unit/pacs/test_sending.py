"""An outbox is sent: everything arrives once, whatever the server does, and nothing is lost."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

from medcodi.data.dicom.reports import BASIC_TEXT_SR
from medcodi.errors import DataError
from medcodi.pacs.outbox import Outbox
from medcodi.pacs.sending import send
from medcodi.pacs.servers import ServerError, UnreachableError, read_address
from tests.unit.pacs.servers import archive_server, objects, web_server

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    """Two studies of three objects."""
    outbox = Outbox(tmp_path / "outbox")
    assert all(outbox.add(objects(seed)) for seed in (0, 1))
    return outbox


def every(outbox: Outbox) -> set[str]:
    return {instance.sop_instance for study in outbox.studies() for instance in study.instances}


def test_everything_arrives_once_and_is_not_sent_again(outbox: Outbox) -> None:
    progress: list[tuple[int, int]] = []
    with web_server() as server:
        first = send(outbox, server.url, on_progress=lambda *counts: progress.append(counts))
        assert (first.studies, first.sent, first.before, first.problems) == (2, 6, 0, {})
        assert set(server.stored) == every(outbox) and len(server.arrived) == 6 and progress[-1] == (2, 2)
        again = send(outbox, server.url + "/")
        assert (again.sent, again.before) == (0, 6) and len(server.arrived) == 6
        # A study that is added later is sent alone.
        outbox.add(objects(2))
        assert send(outbox, server.url).sent == 3 and len(server.arrived) == 9
        sent, stored = objects(0)["frontal"], server.stored[objects(0)["frontal"].SOPInstanceUID]
        np.testing.assert_array_equal(stored.pixel_array.tobytes(), sent.PixelData)
    with web_server() as other:  # what one server has, another does not
        assert send(outbox, other.url).sent == 9


def test_what_two_studies_of_the_outbox_share_is_sent_once(outbox: Outbox) -> None:
    outbox.add(objects(0, pdf=True))
    with web_server() as server:
        assert send(outbox, server.url).sent == 7 and len(server.arrived) == 7
        outbox.add(objects(1, pdf=True))
        delivery = send(outbox, server.url)
        assert (delivery.sent, delivery.before) == (1, 13) and len(server.arrived) == 8
        assert send(outbox, server.url).sent == 0


def test_a_server_that_is_away_loses_nothing(outbox: Outbox) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/dicom-web", f"dicom://127.0.0.1:{port}/X"):
        with pytest.raises(UnreachableError, match="cannot be reached") as refused:
            send(outbox, url, retry_s=0)
        assert refused.value.exit_code == 3 and f"medcodi dicom send {outbox.root} --to {url}" in refused.value.fix
        assert ("(then dicoms://)" in refused.value.fix) == url.startswith("dicom:")
    with web_server() as server:
        assert send(outbox, server.url).sent == 6


def test_a_busy_server_is_tried_again(outbox: Outbox) -> None:
    with web_server() as server:
        server.answers = [503, 500]
        assert send(outbox, server.url, retry_s=20).sent == 6 and set(server.stored) == every(outbox)


def test_an_answer_that_is_lost_does_not_double_a_study(outbox: Outbox) -> None:
    with web_server() as server:
        server.answers = ["drop"]
        assert send(outbox, server.url, retry_s=20).sent == 6
        assert (
            set(server.stored) == every(outbox) and len(server.arrived) == 9
        )  # one study came twice, under the same UIDs


def test_one_study_on_which_a_server_fails_does_not_hold_up_the_others(outbox: Outbox) -> None:
    first, second = outbox.studies()
    with web_server() as server:
        server.always = {first.study: 500}
        delivery = send(outbox, server.url, retry_s=0)
        assert (
            delivery.sent == 3
            and list(delivery.problems) == [first.study]
            and "HTTP 500" in delivery.problems[first.study]
        )
        # A server that fails on two in a row is away.
        outbox.add(objects(2))
        server.always = {study.study: 507 for study in outbox.studies()}
        with pytest.raises(UnreachableError, match="HTTP 507"):
            send(outbox, server.url, retry_s=0)
        server.always = {}
        assert send(outbox, server.url).sent == 6


def test_refused_instances_stay_and_are_tried_again(outbox: Outbox) -> None:
    with web_server() as server:
        server.refused = {BASIC_TEXT_SR: 0x0122}
        delivery = send(outbox, server.url)
        assert delivery.sent == 4 and len(delivery.problems) == 2
        assert "1 of 3 instances refused: it does not accept this kind of object" in next(
            iter(delivery.problems.values())
        )
        # Every instance refused is HTTP 409; what has arrived is not sent again.
        server.refused, arrived = {BASIC_TEXT_SR: 0xA901}, len(server.arrived)
        assert "does not match its SOP class (status 0xA901)" in str(send(outbox, server.url).problems)
        server.refused = {}
        assert send(outbox, server.url).sent == 2 and len(server.arrived) == arrived + 2
        # One that it has already is there.
        server.refused = {instance: 0x0111 for instance in every(outbox)}
        outbox.add(objects(5))
        server.refused |= {str(one.SOPInstanceUID): 0x0111 for one in objects(5).values()}
        assert send(outbox, server.url).sent == 3
        # A body that names no instance.
        outbox.add(objects(6))
        server.answers = [409]
        assert "HTTP 409 Conflict (<h1>No luck</h1>)" in str(send(outbox, server.url).problems)


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "~/.netrc"), (403, "MEDCODI_DICOM_TOKEN"), (404, "check the address"), (501, "check the address")],
)
def test_what_holds_for_every_study_stops_at_once(outbox: Outbox, status: int, words: str) -> None:
    with web_server() as server:
        server.answers = [status]
        with pytest.raises(ServerError) as refused:
            send(outbox, server.url)
        assert words in refused.value.fix and f"HTTP {status}" in refused.value.failed and refused.value.exit_code == 2


def test_a_web_page_is_no_dicomweb_server(outbox: Outbox) -> None:
    with web_server() as server:
        server.page = "<html>Log in</html>"
        assert "does not name the instance" in str(send(outbox, server.url).problems)


def test_a_token_is_sent(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from medcodi.pacs.dicomweb import _session

    monkeypatch.setenv("MEDCODI_DICOM_TOKEN", "secret")
    assert _session().headers["Authorization"] == "Bearer secret"


# ---- C-STORE ---------------------------------------------------------------------------------------------------------
def test_c_store_delivers_pixels_and_refuses_what_the_server_does_not_know(outbox: Outbox) -> None:
    with archive_server(SECONDARY_CAPTURE) as archive:
        delivery = send(outbox, archive.url)
        assert delivery.sent == 4 and "it does not accept this kind of object" in str(delivery.problems)
        frontal = objects(1)["frontal"]
        stored = archive.stored[frontal.SOPInstanceUID]
        assert stored.PixelData == frontal.PixelData and stored.StudyInstanceUID == frontal.StudyInstanceUID
    with archive_server(SECONDARY_CAPTURE, BASIC_TEXT_SR) as archive:
        assert send(outbox, archive.url).sent == 6


def test_c_store_survives_a_lost_association_and_a_full_server(outbox: Outbox) -> None:
    with archive_server(SECONDARY_CAPTURE, BASIC_TEXT_SR) as archive:
        archive.answers = [0x0000, "abort", 0xA700]
        assert send(outbox, archive.url, retry_s=20).sent == 6 and set(archive.stored) == every(outbox)
        outbox.add(objects(2))
        archive.answers = [0x0000, 0xC000, 0xB000]  # stored, refused, stored with a warning
        delivery = send(outbox, archive.url)
        assert delivery.sent == 2 and "it cannot understand the data set (status 0xC000)" in str(delivery.problems)


def test_a_title_that_the_server_does_not_know_is_named(outbox: Outbox) -> None:
    with (
        archive_server(SECONDARY_CAPTURE) as archive,
        pytest.raises(ServerError, match="rejects the association of ME with NOBODY"),
    ):
        send(outbox, archive.url.replace("//", "//ME@").replace("/ARCHIVE", "/NOBODY"))


# ---- what is wrong here ----------------------------------------------------------------------------------------------
def test_a_damaged_study_is_not_sent_and_the_others_are(outbox: Outbox) -> None:
    path = outbox.studies()[0].instances[0].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with web_server() as server:
        delivery = send(outbox, server.url)
        assert delivery.sent == 3 and "is damaged" in str(delivery.problems)
        path.unlink()
        assert "files are missing" in str(send(outbox, server.url).problems)
        # The same sample generated again replaces it.
        assert [outbox.add(objects(seed)) for seed in (0, 1)].count(True) == 1
        assert send(outbox, server.url).sent == 3


def test_a_disk_that_is_full_while_sending_loses_nothing(outbox: Outbox) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with web_server() as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))  # a lock fits, a receipt does not
        try:
            with pytest.raises(DataError, match=r"cannot be written.*what has arrived is not sent again"):
                send(outbox, server.url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        # What arrived without a receipt is sent once more, and the server keeps one.
        assert send(outbox, server.url).sent == 6 and set(server.stored) == every(outbox)


def test_two_processes_do_not_send_at_once_and_studies_are_added_meanwhile(outbox: Outbox) -> None:
    with web_server() as server:
        with outbox.sending(read_address(server.url)):
            assert outbox.add(objects(7))
            with pytest.raises(DataError, match="is being sent to"):
                send(outbox, server.url)
        assert send(outbox, server.url).sent == 9


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("pacs.example.org", "not the address"),
        ("ftp://host/x", "not the address"),
        ("https:///dicom-web", "not the address"),
        ("http://host:port/x", "not the address"),
        ("https://host/dicom-web?a=b", "not the address"),
        ("dicom://host/AET", "not the address"),
        ("dicom://host:104", "not the address"),
        ("dicom://host:104/A-TITLE-THAT-IS-TOO-LONG", "not the address"),
        ("https://user:secret@host/dicom-web", "holds a user or a password"),
    ],
)
def test_invalid_addresses_are_refused(url: str, words: str) -> None:
    with pytest.raises(ServerError, match=words) as refused:
        read_address(url)
    assert "secret" not in str(refused.value)


def test_addresses_are_read() -> None:
    web, archive = read_address("https://host:8443/pacs/rs/"), read_address("dicom://ME@host:104/THEM")
    assert (web.text, web.called) == ("https://host:8443/pacs/rs", "")
    assert (archive.host, archive.port, archive.calling, archive.called) == ("host", 104, "ME", "THEM")
    assert read_address("dicom://host:104/THEM").calling == "MEDCODI"
