"""Progress bars."""

from __future__ import annotations

import io

from rich.console import Console

from medcodi.app.terminal import count_progress, counting_bar


def test_items_of_an_earlier_run_do_not_count_for_the_rate() -> None:
    with counting_bar(Console(file=io.StringIO())) as bar:
        on_progress = count_progress(bar, "encoding")
        assert bar.tasks[0].description == "starting" and bar.tasks[0].total is None
        on_progress(90, 100)  # 90 were finished before: the clock starts here
        started = bar.tasks[0].start_time
        on_progress(95, 100)
        task = bar.tasks[0]
    assert (task.description, task.completed, task.total, task.start_time) == ("encoding", 95, 100, started)
