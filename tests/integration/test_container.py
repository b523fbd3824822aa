"""The steps of the Dockerfile, run without a container: from a folder of wheels to a generation by a user without rights or network.

As in ``test_wheel``, the environment holds nothing but our package, and a .pth file lets it see the dependencies that are installed here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "10001"  # the user of the image


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may read, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="medcodi-container-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def without_rights() -> list[str]:
    """The words before a command that take its rights (but reading) and its network; without root there are no rights to take."""
    if os.getuid() != 0:
        return []
    # The interpreter may be in root's home: one right stays, to read.
    read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *read]
    alone = subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0
    # As in a container without network, there is loopback.
    network = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    return [*(network if alone else []), *user]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_image_can_be_built_offline_and_used_without_rights_or_network(folder: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "EXTRAS")}
    # Wheels: ours alone, built by what is installed here. pip reads 0 as "no isolation".
    pip = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHON": sys.executable}
    build = {**variables, **pip, "WHEELS": str(folder / "wheels")}
    subprocess.run(
        [ROOT / "tools/wheels.sh", folder / "wheels"], env=build, check=True, capture_output=True, timeout=300
    )
    # Install from that folder.
    steps = [str(ROOT / "tools/container_steps.sh")]
    done = subprocess.run(
        [*steps, "install", str(folder / "medcodi")], env=build, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "files, unchanged" in done.stdout, done.stdout + done.stderr
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "medcodi")}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Use it.
    home = folder / "home"
    home.mkdir()
    home.chmod(0o777)
    path = f"{folder / 'medcodi/bin'}{os.pathsep}{os.environ['PATH']}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    use = {**variables, "PORT": port, "PATH": path, "HOME": str(home), "TMPDIR": str(home), "CUDA_VISIBLE_DEVICES": ""}
    command = [*without_rights(), *steps, "check"]
    done = subprocess.run(command, cwd=home, env=use, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "an X-ray was generated" in done.stdout, done.stdout + done.stderr
    assert "The page is served" in done.stdout or find_spec("nicegui") is None, done.stdout + done.stderr
    if os.getuid() == 0:
        assert f"As user {NOBODY}" in done.stdout
        refused = subprocess.run([*steps, "check"], cwd=home, env=use, capture_output=True, text=True)
        assert refused.returncode == 2 and "runs as root" in refused.stderr
