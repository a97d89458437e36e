"""Pictures behind addresses: of allowed hosts only, wherever a redirect leads, and no more of them than allowed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from serving import Made
from starlette.testclient import TestClient

from fusetune.serve.app import create
from fusetune.serve.options import Options
from fusetune.serve.pictures import fetched
from fusetune.serve.refusal import RefusedError


@pytest.fixture(scope="module")
def host(made: Made) -> Iterator[str]:
    """A server of pictures on this machine: host and port."""
    content = made.bytes_of(3)

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            places = {"/away": "http://localhost.localdomain/x.png", "/file": "file:///etc/passwd", "/round": "/round"}
            if self.path in places or self.path == "/here":
                self.send_response(302)
                self.send_header("Location", places.get(self.path, "/a.png"))
                self.end_headers()
                return
            self.send_response(200 if self.path in ("/a.png", "/large", "/text") else 404)
            self.end_headers()
            self.wfile.write({"/a.png": content, "/large": bytes(3_000_000), "/text": b"<html>"}.get(self.path, b""))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def allowing(made: Made, host: str) -> Iterator[TestClient]:
    with TestClient(create(Options(folder=str(made.folder), hosts=(host,), body=2**20))) as client:
        yield client


def test_an_allowed_address_is_the_picture(allowing: TestClient, made: Made, host: str) -> None:
    told = made.model.predict_table(made.table([3]))
    for path in ("a.png", "here"):
        row = made.cells(3) | {"scan": f"http://{host}/{path}"}
        reply = allowing.post("/v1/predict", json={"rows": [row]})
        assert reply.status_code == 200, reply.text
        assert reply.json()["rows"][0]["probability"] == pytest.approx(told["probability"].iloc[0], abs=1e-5)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none", "could not be fetched"),
        ("text", "no picture"),
        ("large", "1,048,576 bytes"),
        ("away", "'localhost.localdomain' are not fetched"),
        ("file", "is not allowed"),
        ("round", "could not be fetched"),
    ],
)
def test_what_is_behind_it_is_checked(allowing: TestClient, host: str, path: str, said: str) -> None:
    reply = allowing.post("/v1/predict", json={"rows": [{"scan": f"http://{host}/{path}"}]})
    assert reply.status_code == 422
    assert said in reply.json()["error"]


@pytest.mark.parametrize(
    "address",
    [
        "http://images.example.org.evil.test/a.png",
        "http://evil.test/images.example.org",
        "http://images.example.org@evil.test/a.png",
        "http://images.example.org:8080/a.png",
        "http://example.org/a.png",
        "http://127.0.0.1/a.png",
        "http://[::1]/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://images.example.org\\@evil.test/a.png",
        "http://[broken/a.png",
        "https://",
    ],
)
def test_no_other_host_is_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("something was asked")

    monkeypatch.setattr("socket.create_connection", never)
    options = Options(folder=".", hosts=("images.example.org", "*.other.example.org"))
    with pytest.raises(RefusedError, match="row 0"):
        fetched(address, options, "row 0")
