"""The root of the command line: the program itself, where it prints, and the options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from medcodi import __version__

app = typer.Typer(
    name="medcodi",
    help="Train, run and judge any-to-any generators of chest examinations: frontal X-ray, lateral X-ray, report.",
    epilog="Start with: medcodi demo. Research only: nothing here is for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    no_args_is_help=True,
    help="Studies for training: prepare a dataset from real ones, cache what frozen networks make of it.",
)
app.add_typer(data_app, name="data")
out, err = Console(soft_wrap=True, highlight=False), Console(stderr=True, soft_wrap=True, highlight=False)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings that replace those of the file, dotted: optimizer.lr=1e-4."
    ),
]
Model = Annotated[str | None, typer.Option(help="Model folder, or a hub repository.", show_default="the shipped demo")]
Execution = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="How it runs; repeatable: precision=bfloat16, channels_last=true, compile=true, attention=xformers, offload=cpu,"
        " offload=disk with offload_folder=DIR, max_memory_gib=20.",
        show_default="float32, as the model was loaded",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...", show_default="a GPU where there is one")]


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
