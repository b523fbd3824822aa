"""How a service is reached: what is refused before it starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from medcodi.errors import ConfigError
from medcodi.web.config import ServeConfig, is_loopback, read_users
from medcodi.web.server import address, listen


def test_only_a_page_on_loopback_is_open() -> None:
    assert ServeConfig().is_open and ServeConfig(host="::1").is_open and ServeConfig(host="localhost").is_open
    assert not ServeConfig(host="0.0.0.0").is_open
    assert not ServeConfig(users={"a": "b"}).is_open
    assert not ServeConfig(root_path="/medcodi").is_open  # a proxy stands between
    assert not is_loopback("evil.example")


@pytest.mark.parametrize("values", [{"port": 0}, {"port": 70000}, {"root_path": "medcodi/"}, {"look": Path("nowhere")}])
def test_values_that_no_server_could_have_are_refused(values: dict) -> None:
    with pytest.raises(ConfigError, match="Fix"):
        ServeConfig(**values)


def test_a_port_in_use_is_refused_with_the_next_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of 127.0.0.1 cannot be used.*--port {port + 1}"):
            listen(ServeConfig(port=port))


def test_the_address_holds_the_token() -> None:
    assert address(ServeConfig(), None) == "http://127.0.0.1:8080/"
    assert address(ServeConfig(host="::1", root_path="/x"), "secret") == "http://[::1]:8080/x/?token=secret"


def test_users_come_from_texts_and_files(tmp_path: Path) -> None:
    (tmp_path / "people").write_text("ann:one\n\nben:two:three\n")
    assert read_users([f"@{tmp_path / 'people'}", "cy:four"]) == {"ann": "one", "ben": "two:three", "cy": "four"}
    for entry in ("ann", ":one", "ann:", f"@{tmp_path / 'absent'}"):
        with pytest.raises(ConfigError):
            read_users([entry])
