"""Progress bars, notes and tables."""

from __future__ import annotations

import io
import warnings

import pytest
import typer
from rich.console import Console
from rich.table import Table

from medcodi.app.terminal import INTERRUPTED, Commands, count_progress, counting_bar, domain_notes, show
from medcodi.console import SafeConsole
from medcodi.errors import DomainWarning


def test_items_of_an_earlier_run_do_not_count_for_the_rate() -> None:
    with counting_bar(Console(file=io.StringIO())) as bar:
        on_progress = count_progress(bar, "encoding")
        assert bar.tasks[0].description == "starting" and bar.tasks[0].total is None
        on_progress(90, 100)  # 90 were finished before: the clock starts here
        started = bar.tasks[0].start_time
        on_progress(95, 100)
        task = bar.tasks[0]
    assert (task.description, task.completed, task.total, task.start_time) == ("encoding", 95, 100, started)


@pytest.mark.parametrize(
    ("command", "saved", "line"),
    [
        ("synthesize", (), "Interrupted. What is finished stays: the same command resumes.\n"),
        ("train", (), "Interrupted. The same command with --resume latest resumes.\n"),
        ("train", ("the run is saved",), ""),  # the run has said so
        ("generate", (), "Interrupted. Nothing was written: start it again.\n"),
    ],
)
def test_ctrl_c_is_one_line_that_says_how_to_resume(
    command: str, saved: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app, group = typer.Typer(), typer.Typer(cls=Commands)
    app.add_typer(group, name="jobs")

    @group.command(command)
    def interrupted() -> None:
        raise KeyboardInterrupt(*saved)

    @group.command()
    def another() -> None: ...

    with pytest.raises(SystemExit) as left:
        typer.main.get_command(app).main(args=["jobs", command])
    assert left.value.code == INTERRUPTED and capsys.readouterr().err == line


def test_a_table_is_as_wide_as_the_terminal_and_no_figure_is_cut() -> None:
    table = Table(*("a very long title of a column" for _ in range(9)))
    table.add_row(*(f"0.{number}23456789" for number in range(9)))
    page = io.StringIO()
    show(table, SafeConsole(file=page, width=80))
    lines = page.getvalue().splitlines()
    assert lines and max(map(len, lines)) <= 80 and "…" not in page.getvalue()


def test_a_request_outside_the_domain_is_a_note_on_the_terminal_once(capsys: pytest.CaptureFixture[str]) -> None:
    with domain_notes():
        for _ in range(2):
            warnings.warn("the frontal is a real film", DomainWarning, stacklevel=1)
        with pytest.warns(UserWarning, match="another"):
            warnings.warn("another warning", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "Warning: the frontal is a real film.\n"
