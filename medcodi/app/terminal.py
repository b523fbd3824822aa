"""The Typer program with its groups of commands, the consoles for output and errors, the progress bars."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from medcodi import __version__
from medcodi.console import SafeConsole
from medcodi.errors import DomainWarning, sentence

if TYPE_CHECKING:
    from medcodi.evaluation.config import EvaluateConfig
    from medcodi.generation.pipeline import Generation

# Everything printed for a person or a script goes to `out`; progress, notes and errors go to `err`.
out, err = SafeConsole(), SafeConsole(stderr=True)

SHOWN = 300  # characters of a text that was not read
INTERRUPTED = 130  # exit code after Ctrl-C, as shells give it
# What an interrupted command has left, and how it is resumed; the others have written nothing.
RESUMES = {
    "train": "The same command with --resume latest resumes.",
    "send": "What has arrived is written down: the same command sends the rest.",
    **dict.fromkeys(
        ("fit", "synthesize", "evaluate", "utility", "audit", "import-xgem", "prepare", "cache", "export"),
        "What is finished stays: the same command resumes.",
    ),
}


class Commands(TyperGroup):
    """A group of commands that ends after Ctrl-C with one line, which says how to resume."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # once more, while it is put away: end at once
            saved = error.args and ctx.invoked_subcommand == "train"  # the run has said so
            if not saved and os.environ.get("RANK", "0") == "0":
                advice = RESUMES.get(ctx.invoked_subcommand or "", "Nothing was written: start it again.")
                err.print(f"Interrupted. {advice}", markup=False)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="medcodi",
    cls=Commands,
    help="Train, run and judge any-to-any generators of chest examinations: frontal X-ray, lateral X-ray, report, record.",
    epilog="Start with: medcodi demo. Research only: nothing here is for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Studies for training: prepare a dataset from real ones, cache its encodings by frozen networks.",
)
app.add_typer(data_app, name="data")
config_app = typer.Typer(no_args_is_help=True, help="Recipes that ship with MedCoDi: list, explain or copy them.")
app.add_typer(config_app, name="config")
dicom_app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="A hospital's servers: send an outbox of generated studies, fetch a study."
)
app.add_typer(dicom_app, name="dicom")
turing_app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Let radiologists judge: real or generated, blinded, with statistics."
)
app.add_typer(turing_app, name="turing")


@app.callback(invoke_without_command=True)
def _everywhere(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from (works after any command).")
    ] = False,
) -> None:
    if version:
        out.print(f"medcodi {__version__}")
        raise typer.Exit()


def say_loading(what: str) -> None:
    """The first sign of life of a command whose libraries take seconds to load."""
    if os.environ.get("RANK", "0") == "0":
        err.print(Text(f"Loading {what} ...", style="dim"))


def show(renderable: RenderableType, console: Console = out) -> None:
    """Print a table or a panel within the terminal's width: its cells are wrapped, where lines of text are not."""
    for column in renderable.columns if isinstance(renderable, Table) else ():
        column.overflow = "fold"  # not "…": a figure that is cut is none
    console.print(renderable, soft_wrap=False)


@contextmanager
def domain_notes() -> Iterator[None]:
    """Print each way in which a request leaves a model's training domain as a note, once, instead of Python's warning."""
    printed: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", DomainWarning)
        others = warnings.showwarning

        def note(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, DomainWarning):
                others(message, category, *where, **more)
            elif str(message) not in printed:
                printed.add(str(message))
                err.print(Text.assemble(("Warning:", "bold yellow"), f" {sentence(str(message))}"))

        warnings.showwarning = note
        yield


def progress_bar(console: Console) -> Progress:
    """A bar with a description of fixed width, elapsed and remaining time; a context manager."""
    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


class _RateColumn(ProgressColumn):
    """Items per second, or per minute if slower than one a second; items finished before the start do not count."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("- /s")
        return Text(f"{speed:.1f} /s" if speed >= 1 else f"{speed * 60:.1f} /min")


def counting_bar(console: Console) -> Progress:
    """A bar for long lists: count, total, rate, elapsed and remaining time."""
    columns = (TextColumn("{task.description:<12}", markup=False), BarColumn(), MofNCompleteColumn(), _RateColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, *times, console=console, speed_estimate_period=600)


def count_progress(bar: Progress, description: str) -> Callable[[int, int], None]:
    """Add a task to a counting bar and return its callback ``(done, total)``; the rate starts at the first call."""
    task = bar.add_task("starting", total=None)
    started = False

    def on_progress(done: int, total: int) -> None:
        nonlocal started
        if not started:  # items of an earlier run do not count for the rate
            bar.reset(task, description=description, completed=done, total=total)
            started = True
        bar.update(task, completed=done, total=total)

    return on_progress


# ---- what several commands print -------------------------------------------------------------------------------------
def print_truncations(generation: Generation, prompts: Mapping[str, str]) -> None:
    """Say which texts the model has not read to their end, and what it has not read."""
    from medcodi.data.reports import normalise_report

    for name, prompt in generation.provenance["prompts"].items():
        if cut := prompt.get("truncated"):
            unread = " ".join(normalise_report(prompts[name])[cut["read_characters"] :].split())
            seen = f" {cut['read_tokens']} of {cut['tokens']} tokens of the {name} were read, which is all that this model reads."
            err.print(
                Text.assemble(("Note:", "yellow"), f"{seen} Not read: {unread[:SHOWN]}{'…' * (len(unread) > SHOWN)}")
            )


def print_generation(generation: Generation, folder: Path) -> None:
    """Print the texts and records of a generation, and the names of its files."""
    from medcodi.study import content_text

    for number, sample in enumerate(generation.samples):
        for name, value in sample.contents.items():
            text = content_text(value)
            if text is not None:
                show(Panel(Text(text), title=f"{name}, sample {number}", title_align="left", expand=False))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        out.print(str(path))


def evaluate_and_print(options: EvaluateConfig) -> None:
    """Evaluate; the first rank prints the table, the verdict and the warnings."""
    from medcodi.evaluation.pipeline import evaluate as run

    results = run(options)
    if not int(os.environ.get("RANK", "0")):  # only the first rank prints
        print_results(results, Path(options.out))


def print_results(results: dict[str, Any], folder: Path) -> None:
    """Print the table, the verdict and the warnings of an evaluation, and where its page is."""
    from medcodi.evaluation.report.alarms import alarms
    from medcodi.evaluation.report.summary import terminal_table, verdict

    columns, rows = terminal_table(results)
    table = Table(*columns, show_lines=True, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].min_width = len("direction")
    for row in rows:
        table.add_row(*row)
    show(table)
    for line in verdict(results):
        out.print(line)
    print_notes(alarms(results))
    out.print(f"The page: {folder / 'page.html'}")


def print_notes(lines: Iterable[str]) -> None:
    """Print what a reader of the figures must know."""
    for line in lines:
        err.print(Text.assemble(("Note:", "yellow"), f" {line}"))


def print_verification(folder: Path, differences: Sequence[object], checked: str) -> None:
    """Print what differs in a bundle that was computed again; exit code 1 where something does."""
    for difference in differences:
        out.print(f"- {difference}")
    if differences:
        out.print(f"{folder} does not reproduce: {len(differences)} differences ({checked} checked).")
        raise typer.Exit(1)
    out.print(f"{folder} reproduces: {checked} checked, no difference.")
