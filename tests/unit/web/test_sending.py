"""Results are sent from the page to a DICOM server: they arrive, or the person is shown why not, and nothing is lost."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("dicomweb_client", reason="the extra dicom is not installed")

from medcodi.errors import DataError
from medcodi.generation.result import Generation, Sample
from medcodi.pacs.servers import ServerError
from medcodi.study import Direction
from medcodi.web.config import Limits, ServeConfig
from medcodi.web.jobs import Job
from medcodi.web.sending import Sender
from medcodi.web.service import Service
from medcodi.web.sessions import Session
from tests.unit.pacs.servers import contents, web_server


@pytest.fixture
def senders(tmp_path: Path) -> Iterator[list[Sender]]:
    made: list[Sender] = []
    yield made
    for sender in made:
        sender.queue.close()


def generation(*seeds: int, targets: tuple[str, ...] = ("frontal", "lateral", "report")) -> Generation:
    samples = [Sample(seed, {name: contents(seed)[name] for name in targets}) for seed in seeds]
    provenance = {"direction": "->", "model": {"name": "tiny", "sha256": "0" * 64}, "prompts": {}, "settings": {}}
    return Generation(Direction((), targets), samples, {**provenance, "seeds": list(seeds)})


def sender_to(url: str, outbox: Path, senders: list[Sender]) -> Sender:
    senders.append(Sender(url, outbox, max_waiting=2, retry_s=0.1))
    return senders[-1]


def ended(job: Job) -> Job:
    for _ in range(1200):
        if job.ended:
            return job
        time.sleep(0.05)
    raise AssertionError("it did not end within a minute")


def test_samples_arrive_as_studies_and_a_second_press_sends_nothing_twice(
    senders: list[Sender], tmp_path: Path
) -> None:
    with web_server() as server:
        sender = sender_to(server.url, tmp_path / "outbox", senders)
        job = ended(sender.submit("ann", generation(0, 1)))
        assert (job.state, job.result) == ("done", f"Arrived at {server.url}: 2 studies")
        assert len(server.stored) == len(server.arrived) == 6
        assert all(dataset.SyntheticData == "YES" for dataset in server.stored.values())
        assert ended(sender.submit("ann", generation(1))).result == f"Arrived at {server.url}: 1 study"
        assert len(server.arrived) == 6


def test_what_a_server_refuses_is_shown_to_the_one_who_sent_it_alone(senders: list[Sender], tmp_path: Path) -> None:
    with web_server() as server:
        sender = sender_to(server.url, tmp_path / "outbox", senders)
        server.refused["1.2.840.10008.5.1.4.1.1.88.11"] = 0x0122  # Basic Text SR
        job = ended(sender.submit("ann", generation(0)))
        assert (
            job.state == "failed" and "1 of 3 instances refused: it does not accept this kind of object" in job.message
        )
        # Ben's has no report, and arrives although Ann's is tried again before it, and refused again.
        assert ended(sender.submit("ben", generation(1, targets=("frontal",)))).state == "done"


def test_a_server_that_is_away_costs_nothing_but_time(senders: list[Sender], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{probe.getsockname()[1]}/dicom-web"
    job = ended(sender_to(away, tmp_path / "outbox", senders).submit("ann", generation(0)))
    assert (
        job.state == "failed"
        and "cannot be reached: Connection refused." in job.message
        and "everything is in the outbox" in job.message
    )
    assert str(tmp_path) not in job.message
    # The next sending from this outbox takes it along.
    with web_server() as server:
        assert ended(sender_to(server.url, tmp_path / "outbox", senders).submit("ben", generation(1))).state == "done"
        assert len(server.stored) == 6


def test_a_record_alone_is_no_study(senders: list[Sender], tmp_path: Path) -> None:
    job = ended(
        sender_to("http://127.0.0.1:9/dicom-web", tmp_path / "outbox", senders).submit(
            "ann", generation(0, targets=("record",))
        )
    )
    assert "a record alone is no DICOM object" in job.message and not (tmp_path / "outbox").exists()


def test_an_invalid_address_or_outbox_is_refused_before_the_page_is_served(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="not the address of a DICOM server"):
        Service(ServeConfig(dicom_store="ftp://pacs", outbox=tmp_path / "outbox"))
    with pytest.raises(ServerError, match="not encrypted"):
        Service(ServeConfig(dicom_store="http://127.0.0.1:9/dicom-web", dicom_ca=tmp_path / "ca.pem"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    with pytest.raises(DataError):
        Service(ServeConfig(dicom_store="http://127.0.0.1:9/dicom-web", outbox=tmp_path / "photos"))


def test_a_result_that_is_gone_or_a_server_without_sending_is_refused(tmp_path: Path) -> None:
    service = Service.__new__(Service)  # without its worker, which would load a model
    service.sender = None
    with pytest.raises(DataError, match="no longer there"):
        service.send(Session(tmp_path, Limits()), "key")
