"""``medcodi`` in processes that fork from one that has imported everything: a command of a snippet does not import torch again.

:func:`program` writes a program that a shell runs in place of ``medcodi``. It hands its words, folder, variables and streams to the
server, waits for the process that the server forks, and ends with its exit code. With ``-c`` it runs Python, like an interpreter.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "medcodi.app.cli",
    "medcodi.app.fitting.job",
    "medcodi.data.dicom.writing",
    "medcodi.evaluation.annotators.classifier_training",
    "medcodi.evaluation.pipeline",
    "medcodi.generation.bulk.job",
    "medcodi.generation.pipeline",
    "medcodi.stages.align",
    "medcodi.stages.autoencode",
    "medcodi.stages.diffuse",
    "medcodi.stages.join",
    "medcodi.training.loop",
    "scipy.stats",
    "torch.utils.tensorboard",
)
# Small, because it starts for every command: no site, no modules but these. Its connection is closed when the command's process ends.
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"-"], [0, 1, 2])
    server.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    code = server.makefile("rb").read()
sys.exit(code[0] if code else "the command ended by a signal")
"""


@contextmanager
def program(environment: Mapping[str, str]) -> Iterator[Path]:
    """A program ``medcodi`` in a folder of its own, as long as the context lasts.

    Args:
        environment: Variables of the server, which count while modules are imported.

    Raises:
        RuntimeError: If the server ends before it answers.
    """
    # A socket's path is short, so the folder is not pytest's.
    with tempfile.TemporaryDirectory(prefix="medcodi-") as name:
        folder = Path(name)
        address, path, log = folder / "socket", folder / "medcodi", folder / "server.txt"
        path.write_text(CLIENT.format(python=sys.executable, address=str(address)), encoding="utf-8")
        path.chmod(0o755)
        command = [sys.executable, "-m", __name__, str(address)]
        with (
            log.open("w") as output,
            subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output) as server,
        ):
            try:
                while not address.exists():
                    if server.poll() is not None:
                        raise RuntimeError(log.read_text())
                    time.sleep(0.05)
                yield path
            finally:
                server.terminate()


def serve(address: str) -> None:
    """Import, then answer each caller by a process of its own, until terminated, or until the test's process is gone."""
    parent = os.getppid()
    for module in PRELOADED:
        import_module(module)
    with socket.socket(socket.AF_UNIX) as door:
        # The path appears when callers can connect.
        door.bind(address + ".new")
        door.listen()
        Path(address + ".new").rename(address)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children leave no zombies
        door.settimeout(5)
        while os.getppid() == parent:
            try:
                caller, _ = door.accept()
            except TimeoutError:
                continue
            if not os.fork():
                door.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(caller)
            caller.close()


def _answer(caller: socket.socket) -> None:
    """Run the caller's command in this process as if it had been started there, and end."""
    _, streams, _, _ = socket.recv_fds(caller, 1, 3)
    words, folder, variables = json.loads(caller.makefile().read())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    code = 0
    try:
        _run(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # an interpreter prints it and ends with 1
        traceback.print_exc()
        code = 1
    caller.send(bytes([code]))
    caller.detach()  # closed by the end of the process, which the caller waits for
    sys.exit(code)


def _run(words: list[str]) -> None:
    if words[1:2] == ["-c"]:
        exec(compile(words[2], "<string>", "exec", dont_inherit=True), {"__name__": "__main__"})
        return
    from medcodi.app.cli import main

    sys.argv = words
    main()


if __name__ == "__main__":
    serve(sys.argv[1])
