"""A file system of a few megabytes that one process alone sees, and what a run does when it fills up."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcodi.errors import MedCoDiError
from medcodi.training import checkpoint
from medcodi.training.config import TrainConfig

NOT_ALLOWED = 77
MIB = 2**20
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000  # <linux/sched.h>
_READ_ONLY, _REMOUNT = 1, 32  # <sys/mount.h>


def mounted(folder: Path, size: int) -> bool:
    """Mount memory as a disk, in a namespace of this process's own; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USERS | _NEW_MOUNTS):
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError:
        return False
    return libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode()) == 0


def made_read_only(folder: Path) -> None:
    gc.collect()  # no file may be mapped any more
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"none", str(folder).encode(), b"tmpfs", _REMOUNT | _READ_ONLY, None) == 0, ctypes.get_errno()


def filled(folder: Path, name: str, leave: int) -> Path:
    """Put a file there so that about ``leave`` bytes stay free."""
    ballast = folder / name
    with suppress(OSError), ballast.open("wb", buffering=0) as file:  # full
        while (free := shutil.disk_usage(folder).free) > leave:
            file.write(bytes(min(MIB, max(4096, free - leave))))
    return ballast


def _refusal(config: TrainConfig, resume: str | None) -> str:
    from medcodi.training.loop import train

    try:
        train(config, resume)
    except MedCoDiError as error:
        return str(error)
    return ""


def _newest(run: Path) -> int:
    saved = checkpoint.load_latest(run / "checkpoints", print)
    assert saved is not None
    return saved.step


def _story(config: TrainConfig) -> dict[str, Any]:
    told: dict[str, Any] = {}
    run, disk = Path(config.out), Path(config.out).parent
    _refusal(replace(config, steps=1), None)
    size = sum(file.stat().st_size for file in (run / "checkpoints/step-00000001").iterdir())

    ballast = filled(disk, "ballast", size // 2)
    told["too small"] = _refusal(config, "latest")
    ballast.unlink()

    ballast = filled(disk, "ballast", 3 * size)

    def fill() -> None:
        while not any(path.name > "step-00000003" for path in checkpoint.finished(run / "checkpoints")):
            time.sleep(0.001)
        filled(disk, "rest", 0)

    threading.Thread(target=fill, daemon=True).start()
    told["filled up"] = _refusal(config, "latest")
    told["checkpoints then"] = [path.name for path in checkpoint.finished(run / "checkpoints")]
    told["half-written"] = [path.name for path in (run / "checkpoints").glob(".*")]

    ballast.unlink()
    (disk / "rest").unlink()
    last = _newest(run)
    told["went on from"] = f"step-{last:08d}"
    told["finished"] = not _refusal(replace(config, steps=last + 2), "latest")

    made_read_only(disk)
    told["read-only"] = [
        _refusal(replace(config, steps=last + 4), "latest"),
        _refusal(replace(config, out=str(disk / "other")), None),
    ]
    return told


def story(config: TrainConfig, out: Path, said: Path) -> None:
    """What happens to a run on a disk that is too small, fills up, is emptied, and can only be read in the end.

    Args:
        config: Of a run that would go on for ever; its parent folder is where the disk is mounted.
        out: File for what was told, on another disk.
        said: File for what was printed.
    """
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not mounted(Path(config.out).parent, 64 * MIB):
        os._exit(NOT_ALLOWED)
    import torch

    torch.set_num_threads(1)
    code = 0
    try:
        out.write_text(json.dumps(_story(config)))
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
