"""The guard itself: strangers cannot be reached from a test, this machine can."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "example.invalid", "2001:db8::1"])
def test_strangers_are_refused(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        for connect in (client.connect, client.connect_ex):
            with pytest.raises(RuntimeError, match="tests run without a network"):
                connect((host, 80))


def test_this_machine_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_child_processes_get_a_dead_proxy() -> None:
    ask = "import urllib.request as r; r.urlopen('http://192.0.2.1/', timeout=5)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode != 0
    assert "Connection refused" in done.stderr
