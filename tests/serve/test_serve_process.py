"""The command in processes of its own: exit codes, SIGTERM with requests under way, several workers, Ctrl-C."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import KEY, Made

from fusetune.cli import main
from fusetune.serve import leaving
from fusetune.serve.server import listening

BODY = json.dumps({"rows": [{"note": "bile", "age": 50}]})
HEADERS = {"content-type": "application/json", "x-api-key": KEY}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "there is no file or folder nowhere"),
        (["empty"], "holds no model"),
        (["MODEL", "--port", "99999"], "--port"),
        (["MODEL", "--port", "TAKEN"], "cannot listen on 127.0.0.1"),
        (["MODEL", "--host", "no such host"], "cannot listen on no such host"),
        (["MODEL", "--api-key", "short"], "too short"),
        (["MODEL", "--name", "a/b"], "must be of letters"),
        (["MODEL", "--allow-host", "https://example.org/"], "give a host alone"),
        (["MODEL", "--allow-host", "example.org:x"], "give a host alone"),
        (["MODEL", "--workers", "0"], "--workers"),
        (["MODEL", "--max-body", "0"], "--max-body"),
        (["MODEL", "--timeout", "-1"], "--timeout"),
        (["MODEL", "--prot", "8000"], "--port"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_and_ends_with_two(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, words: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"MODEL": str(made.folder), "TAKEN": str(taken.getsockname()[1])}
        free = [] if "--port" in words else ["--port", "0"]
        monkeypatch.setattr(sys, "argv", ["fusetune", "serve", *(known.get(word, word) for word in words), *free])
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 2
    assert said in " ".join(capfd.readouterr().err.split())


def test_a_missing_extra_is_named(made: Made, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr("fusetune.cli.serve.find_spec", lambda name: None if name == "uvicorn" else name)
    monkeypatch.setattr(sys, "argv", ["fusetune", "serve", str(made.folder)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "serving needs uvicorn: pip install 'fusetune[serve]'" in " ".join(capfd.readouterr().err.split())


@contextmanager
def process(made: Made, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start the command; the value is the process and its port."""
    words = [sys.executable, "-m", "fusetune", "serve", str(made.folder), "--port", "0", *options]
    environment = {**os.environ, "FUSETUNE_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert started.stdout is not None
    try:
        port = int(started.stdout.readline().split("  ")[0].rsplit(":", 1)[1])
        for _ in range(600):
            try:
                if ask(port, "GET", "/ready")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield started, port
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def ask(port: int, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, HEADERS)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def crowd(port: int, clients: int, meanwhile: Any) -> tuple[list[int], list[str]]:
    """Let clients ask on their connections until these are refused; return statuses, and what was lost."""
    statuses: list[int] = []
    lost: list[str] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            connected = connection.sock is not None
            try:
                if not connected:
                    connection.connect()
                    connected = True
                connection.request("POST", "/v1/predict", BODY, HEADERS)
                reply = connection.getresponse()
                assert json.loads(reply.read())
                statuses.append(reply.status)
            except (OSError, http.client.HTTPException) as error:
                if connected:
                    lost.append(repr(error))
                connection.close()
                return

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    meanwhile()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return statuses, lost


def refused_late(lost: list[str]) -> None:
    """Let pass only connections that the system opened in the instant between the last accept and the last close.

    Processes that share a socket cannot tell which of them is the last, so that it goes on opening connections.
    """
    assert len(lost) <= 3
    assert all("Connection reset by peer" in one for one in lost), lost


def test_sigterm_answers_what_was_accepted(made: Made) -> None:
    with process(made, "--drain", "0.5") as (server, port):

        def end() -> None:
            time.sleep(1)
            server.send_signal(signal.SIGTERM)

        statuses, lost = crowd(port, 12, end)
        assert server.wait(60) == 0
    assert lost == []
    assert len(statuses) >= 12
    assert set(statuses) == {200}


def test_two_workers_share_a_port_and_a_reload_and_end_together(made: Made) -> None:
    with process(made, "--workers", "2", "--drain", "0.5") as (server, port):
        assert ask(port, "POST", "/v1/predict", "{}")[0] == 422
        for _ in range(20):
            assert ask(port, "POST", "/v1/predict", BODY)[0] == 200
        status, text = ask(port, "GET", "/metrics")
        assert status == 200
        # Of both processes together, whichever is asked.
        assert b'fusetune_requests_total{route="/v1/predict",status="200"} 20.0' in text
        assert ask(port, "POST", "/v1/reload")[0] == 200
        statuses, lost = crowd(port, 8, lambda: server.send_signal(signal.SIGTERM))
        assert server.wait(60) == 0
    refused_late(lost)
    assert set(statuses) == {200}
    with pytest.raises(OSError):
        ask(port, "GET", "/health")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told to open no connection any more")
def test_a_socket_can_be_told_to_open_no_connection_and_keeps_those_that_are_open() -> None:
    with listening("127.0.0.1", 0) as opened, socket.create_connection(opened.getsockname()) as early:
        assert leaving._open_no_more(opened)
        with pytest.raises(TimeoutError):
            socket.create_connection(opened.getsockname(), timeout=0.3)
        taken, _ = opened.accept()
        with taken:
            early.sendall(b"still there")
            assert taken.recv(20) == b"still there"


def test_replies_do_not_wait_for_acknowledgements() -> None:
    with listening("127.0.0.1", 0) as opened, socket.create_connection(opened.getsockname()):
        taken, _ = opened.accept()
        with taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ctrl_c_ends_as_elsewhere(made: Made) -> None:
    with process(made) as (server, port):
        assert ask(port, "GET", "/v1/model")[0] == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130
