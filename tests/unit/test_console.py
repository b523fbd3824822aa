"""The terminal shows every text letter by letter, and obeys none."""

from __future__ import annotations

import io

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from medcodi.console import SafeConsole, progress_of, shown

HOSTILE = ("[/]", "[bold]x[/bold]", "runs[1]/out", ":warning:", "[link=http://x]y", "\\[a]", "100 %")


def printed(renderable: object) -> str:
    file = io.StringIO()
    SafeConsole(file=file, width=100).print(renderable)
    return file.getvalue()


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_comes_out_as_it_is_wherever_it_is_printed(value: str) -> None:
    table = Table(value, title=value)
    table.add_row(value)
    assert printed(value) == value + "\n"
    assert printed(table).count(value) == 3
    assert value in printed(Panel(Text(value)))
    file = io.StringIO()
    with progress_of(SafeConsole(file=file, width=100, force_terminal=True)) as progress:
        progress.add_task(value, total=2)
    assert value in file.getvalue()


def test_no_control_character_of_a_value_reaches_the_terminal() -> None:
    value = "a\x1b[31mred\x07\x9b\x7f\r\u202eb\udc80\tc"
    assert shown(value) == "a␛[31mred␇\ufffd\ufffd␍\ufffdb\ufffd\tc"
    table = Table()
    table.add_row(value)
    for text in map(printed, (value, Text(value), table, Panel(Text(value)))):
        assert not set("\x1b\x07\x9b\x7f\r\u202e\udc80") & set(text)
        text.encode()  # half a character would end the command with a traceback


def test_styles_are_still_styles() -> None:
    file = io.StringIO()
    SafeConsole(file=file, force_terminal=True, color_system="standard").print(Text("Note:", "yellow"))
    assert file.getvalue() == "\x1b[33mNote:\x1b[0m\n"
