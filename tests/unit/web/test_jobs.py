"""The queue: order, places, bounds, cancellation, and a worker that outlives every failure."""

from __future__ import annotations

import threading

import pytest

from medcodi.errors import DataError
from medcodi.web.jobs import BusyError, Job, JobQueue, OnStep, public_message


@pytest.fixture
def queue():
    queue = JobQueue(max_waiting=2)
    yield queue
    queue.close()
    assert not queue._worker.is_alive()


class Gate:
    """Work that waits in its steps until it is let go."""

    def __init__(self) -> None:
        self.started, self.open = threading.Event(), threading.Event()

    def __call__(self, on_step: OnStep) -> str:
        for step in range(10_000):
            on_step(step, 10_000)
            self.started.set()  # after the first step, so that its counts are there
            if self.open.wait(0.01):
                return "done"
        raise AssertionError("nobody let it go")


def wait(job: Job) -> Job:
    for _ in range(6000):
        if job.ended:
            return job
        threading.Event().wait(0.01)
    raise AssertionError(f"the job is {job.state}")


def test_jobs_run_in_their_order_and_know_their_place(queue: JobQueue) -> None:
    gate, order = Gate(), []
    first = queue.submit("a", gate)
    assert gate.started.wait(60)
    second = queue.submit("b", lambda _: order.append("b"))
    third = queue.submit("c", lambda _: order.append("c"))
    assert [queue.place(job) for job in (first, second, third)] == [0, 1, 2]
    assert first.state == "running" and first.total == 10_000
    gate.open.set()
    assert wait(third).state == "done" and order == ["b", "c"] and first.result == "done"
    assert queue.place(third) == 0 and first.work is None


def test_the_queue_is_bounded_in_all_and_for_each_owner(queue: JobQueue) -> None:
    gate = Gate()
    queue.submit("a", gate)
    assert gate.started.wait(60)
    with pytest.raises(BusyError, match="not finished"):
        queue.submit("a", gate)
    waiting = [queue.submit(owner, gate) for owner in "bc"]
    with pytest.raises(BusyError, match="2 requests are waiting"):
        queue.submit("d", lambda _: None)
    queue.cancel(waiting[0])
    assert waiting[0].state == "cancelled"
    queue.submit("d", lambda _: None)  # a place is free again
    gate.open.set()


def test_a_running_job_ends_at_its_next_step_when_it_is_cancelled(queue: JobQueue) -> None:
    gate = Gate()
    job = queue.submit("a", gate)
    assert gate.started.wait(60)
    queue.cancel_of("a")
    assert wait(job).state == "cancelled" and job.message == "" and job.result is None


def test_a_failure_is_a_message_and_the_worker_lives_on(queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: OnStep) -> None:
        raise DataError("/tmp/secret/place/chest.dcm is empty (0 bytes)", fix="copy it again")

    def fail(_: OnStep) -> None:
        raise RuntimeError("at /home/somebody/model: out of memory")

    refused, failed = wait(queue.submit("a", refuse)), wait(queue.submit("b", fail))
    assert (refused.state, refused.message) == ("failed", "chest.dcm is empty (0 bytes). Fix: copy it again.")
    assert failed.state == "failed" and "/home" not in failed.message and "log" in failed.message
    assert "out of memory" in caplog.text  # where whoever runs it finds it
    assert wait(queue.submit("c", lambda _: 3)).result == 3


@pytest.mark.parametrize("text", ["10^9/L", "either/or", "a rate of 80 /min", "https://localhost/x/y"])
def test_what_is_no_path_stays_in_a_message(text: str) -> None:
    assert public_message(DataError(text)) == f"{text}."
