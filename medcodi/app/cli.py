"""The entry point of ``medcodi``: runs a command and prints an error as one message."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import typer
from rich.text import Text

from medcodi.app.terminal import app, err
from medcodi.errors import MedCoDiError, sentence

REFUSED = MedCoDiError.exit_code
# Modules of medcodi.app.commands, in the order of ``--help``. None imports torch before its command runs.
COMMANDS = (
    "demo",
    "doctor",
    "generate",
    "edit",
    "serve",
    "dicom",
    "synthesize",
    "fit",
    "train",
    "evaluate",
    "trust.utility",
    "trust.audit",
    "trust.card",
    "trust.marks",
    "parameters",
    "config",
    "import_xgem",
    "data",
    "turing.bundles",
    "turing.analysis",
)
# Each registers its commands when it is imported.
for _module in COMMANDS:
    import_module(f"medcodi.app.commands.{_module}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0, 1 for a failed check, 2 for an error of the user's, 3 where the same command may succeed if repeated,
    4 for an audit that fails.
    """
    # --debug is accepted anywhere, so it is taken out before Typer parses the rest.
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = _without_local_rank([argument for argument in arguments if argument != "--debug"])
    try:
        typer.main.get_command(app).main(args=arguments, prog_name="medcodi")
    except MedCoDiError as error:
        if debug:
            raise
        if not _printed_elsewhere(error):
            print_refusal(error)
        sys.exit(error.exit_code)


def _printed_elsewhere(error: MedCoDiError) -> bool:
    if "RANK" not in os.environ:  # no launcher: torch is not loaded for this
        return False
    from medcodi.distributed import printed_elsewhere

    return printed_elsewhere(error)


def _without_local_rank(arguments: list[str]) -> list[str]:
    """The arguments without ``--local_rank=N``, which DeepSpeed's launcher puts before them; it sets LOCAL_RANK."""
    rest = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name in ("--local_rank", "--local-rank"):
            os.environ.setdefault("LOCAL_RANK", value)
        else:
            rest.append(argument)
    return rest


def print_refusal(error: MedCoDiError) -> None:
    """Print what failed, what was expected and the fix, a line each, on stderr."""
    err.print(Text.assemble(("Error:", "bold red"), f" {sentence(error.failed)}"))
    # Both are optional parts of an error.
    for label, text in (("Expected", error.expected), ("Fix", error.fix)):
        if text:
            err.print(Text.assemble((f"{label}:", "bold"), f" {sentence(text)}"))


if __name__ == "__main__":
    main()
