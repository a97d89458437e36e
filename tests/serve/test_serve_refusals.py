"""Wrong, missing, huge and hostile requests: each is refused with a status of 4xx or 503 and a reason, in JSON."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _requests import malformed
from PIL import Image
from serving import KEY, Made
from starlette.testclient import TestClient

from fusetune.serve import batcher
from fusetune.serve.app import create
from fusetune.serve.options import Options

JSON = {"content-type": "application/json"}


def png_of(width: int, height: int) -> bytes:
    """Return a small file that says it has many pixels: a row of zeros, packed."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    body = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def picture(content: bytes) -> str:
    return json.dumps({"rows": [{"scan": base64.b64encode(content).decode()}]})


def cell(**cells: Any) -> str:
    return json.dumps({"rows": [cells]})


def truncated() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(file, "PNG")
    return file.getvalue()[:3000]


BODIES: dict[str, tuple[int, str, str]] = {
    "nothing": (400, "", "not the JSON"),
    "no JSON": (400, "{rows", "not the JSON"),
    "a word": (422, '"rows"', "must be {"),
    "no rows": (422, '{"rows": []}', "at least one"),
    "rows that are none": (422, '{"rows": 3}', "must be {"),
    "a stranger beside rows": (422, '{"rows": [{"note": "a"}], "set": 0.9}', "nothing else"),
    "a row that is a list": (422, '{"rows": [[1]]}', "row 0 is no object"),
    "an empty row": (422, '{"rows": [{}]}', "none of the columns"),
    "an id alone": (422, cell(case_id="x"), "none of the columns"),
    "a slip of a name": (422, cell(noted="a"), "did you mean 'note'?"),
    "a million columns": (422, json.dumps({"rows": [{f"c{i}": 0 for i in range(100_000)}]}), "and 99,999 more"),
    "NaN": (400, '{"rows": [{"age": NaN}]}', "NaN is no JSON"),
    "Infinity": (400, '{"rows": [{"age": -Infinity}]}', "-Infinity is no JSON"),
    "an overflowing number": (422, '{"rows": [{"age": 1e999}]}', "inf is no number"),
    "a number too large": (422, cell(age=10**30), "64 bits"),
    "a number of too many digits": (400, '{"rows": [{"age": ' + "1" * 5000 + "}]}", "digits"),
    "a name twice": (400, '{"rows": [{"age": 1, "age": 2}]}', "names 'age' twice"),
    "lists within lists": (400, "[" * 100_000 + "]" * 100_000, "lists within lists"),
    "a list where a word is": (422, cell(note=["a"]), "must be a word"),
    "half a character": (422, cell(note="a\ud800"), "row 0, column 'note' holds half a character"),
    "half a character in a category": (422, cell(site="\ud800"), "half a character"),
    "half a character in a name": (422, '{"rows": [{"n\\ud800": 1}]}', "knows no column"),
    "a text without end": (422, cell(note="a" * 100_001), "100,001 letters are more than 100,000"),
    "an object where a number is": (422, cell(age={"a": 1}), "must be a number, not an object"),
    "truth where a number is": (422, cell(age=True), "must be a number"),
    "a word where a number is": (422, cell(age="old"), "is no number"),
    "a list where a category is": (422, cell(site=[["a"]]), "must be a category"),
    "a list where truth is": (422, cell(urgent=[True]), "true or false"),
    "a number where a date is": (422, cell(seen_on=20240101), "must be a word"),
    "no date": (422, cell(seen_on="yesterday"), "seen_on"),
    "half a vector": (422, cell(v_0=1.0), "numbers are missing"),
    "a number where a picture is": (422, cell(scan=7), "cannot be a number"),
    "a path": (422, cell(scan="/etc/passwd"), "files of this machine are not read"),
    "a path upwards": (422, cell(scan="../../../../etc/hostname"), "files of this machine are not read"),
    "a path as an address": (422, cell(scan="file:///etc/passwd"), "files of this machine are not read"),
    "an object with a path": (422, cell(scan={"path": "/etc/passwd", "bytes": None}), "cannot be an object"),
    "an address": (422, cell(scan="https://example.org/a.png"), "this server fetches no pictures"),
    "an address of this machine": (422, cell(scan="http://127.0.0.1:8000/a.png"), "fetches no pictures"),
    "a file in an archive": (422, cell(scan="zip://a.png::file:///tmp/a.zip"), "are not read"),
    "an upload that is not there": (422, cell(scan="upload:x"), "there is no file 'x'"),
    "an upload upwards": (422, cell(scan="upload:../../etc/passwd"), "there is no file"),
    "base64 of no picture": (422, picture(b"#!/bin/sh\n" * 20), "no picture"),
    "base64 that is none": (422, cell(scan="iVBOR" + "*" * 200), "no picture in base64"),
    "half a picture": (422, picture(truncated()), "scan"),
    "a picture of nothing": (422, picture(b"\x89PNG\r\n\x1a\n" + bytes(64)), "scan"),
    "a bomb": (422, picture(png_of(50_000, 50_000)), "pixel"),
    "an icon": (422, picture(b"\0\0\1\0" + bytes(100)), "no picture"),
    "a page in a picture": (422, picture(b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 4), "no picture"),
    "PostScript": (422, picture(b"%!PS-Adobe-3.0\n" * 9), "no picture"),
    "too many rows": (413, json.dumps({"rows": [{"note": "a"}] * 65}), "65 rows are more than the 64"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_refused_with_a_reason(client: TestClient, name: str) -> None:
    status, body, said = BODIES[name]
    for path in ("/v1/predict", "/v1/explain"):
        reply = client.post(path, content=body, headers=JSON)
        assert reply.status_code == status, reply.text
        assert said in reply.json()["error"]
        assert "Traceback" not in reply.text


def test_a_file_of_this_machine_is_never_opened(
    client: TestClient, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not a picture that is there, by any spelling of its path, in any column."""
    inside = tmp_path / "inside.png"
    inside.write_bytes(made.bytes_of(0))
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []

    def note(event: str, arguments: Any) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | Path):
            opened.append(str(arguments[0]))

    import sys

    sys.addaudithook(note)
    for words in (str(inside), "inside.png", "./inside.png", f"file://{inside}", f" {inside} ", "~/inside.png"):
        assert client.post("/v1/predict", json={"rows": [{"scan": words}]}).status_code == 422
        for column in ("note", "site", "case_id"):
            client.post("/v1/predict", json={"rows": [{"note": "a", column: words}]})
        files = {"scan": (words, b"", "image/png")}
        client.post("/v1/predict", data={"note": "a"}, files=files)
    assert not [name for name in opened if "inside.png" in name]


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({}, b"{}", 415),
        ({"content-type": "multipart/form-data"}, b"x", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--y\r\n\r\n", 400),
        (
            {"content-type": "multipart/form-data; boundary=x"},
            b"--x\r\nContent-Disposition: nothing\r\n\r\na\r\n--x--",
            400,
        ),
        (JSON, b"\xff\xfe{", 400),
        (JSON | {"content-length": "99999999999"}, b"{}", 413),
        (JSON, b" " * (2**21 + 1), 413),
    ],
    ids=["plain", "none", "no boundary", "another boundary", "no name", "UTF-16", "says too much", "is too much"],
)
def test_what_is_no_body_is_refused(client: TestClient, headers: dict[str, str], content: bytes, status: int) -> None:
    reply = client.post("/v1/predict", content=content, headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]


def test_a_body_without_a_length_is_counted(client: TestClient) -> None:
    pieces = (b" " * 100_000 for _ in range(40))
    reply = client.post("/v1/predict", content=pieces, headers=JSON)
    assert reply.status_code == 413
    assert "2,097,152 bytes" in reply.json()["error"]


@pytest.mark.parametrize(
    ("words", "files", "said"),
    [
        ({"note": "a"}, {"scna": b"x"}, "'scna' is no column of pictures"),
        ({"note": "a"}, {"scan[1]": b"x"}, "is of row 1, and there are 1"),
        ({"note": "a"}, {"scan[99999999]": b"x"}, "no column of pictures"),
        ({"age": "3"}, {"note": b"x"}, "no column of pictures"),
        ({"rows": "[]", "note": "a"}, {}, "there can be files only"),
        ({"rows": "[1]"}, {}, "must be a JSON list of objects"),
        ({"rows": '[{"scan": "x"}]'}, {"scan": b"x"}, "two pictures"),
        ({"scan": "/etc/passwd"}, {}, "files of this machine are not read"),
    ],
)
def test_a_form_is_refused_with_a_reason(client: TestClient, words: Any, files: Any, said: str) -> None:
    parts = files or {"unused": b""}
    if not files:
        reply = client.post("/v1/predict", files={name: (None, value) for name, value in words.items()})
    else:
        reply = client.post("/v1/predict", data=words, files=parts)
    assert reply.status_code == 422, reply.text
    assert said in reply.json()["error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sets": 0.2}, "0.2"),
        ({"sets": "many"}, "sets"),
        ({"margin": 3}, "margin"),
        ({"unlike": "maybe"}, "unlike"),
        ({"by": "chance"}, "by"),
        ({"on_problem": "mask"}, "on_problem"),
    ],
)
def test_options_that_make_no_sense_are_refused(client: TestClient, options: Any, said: str) -> None:
    reply = client.post("/v1/predict", params=options, json={"rows": [{"note": "a"}]})
    assert reply.status_code == 422
    assert said in reply.json()["error"]


def test_other_methods_and_addresses_are_refused_in_json(client: TestClient) -> None:
    assert client.get("/v1/predict").status_code == 405
    assert client.get("/v1/predict").json()["error"]
    for path in ("/v1/nothing", "/../../etc/passwd", "/page.css/../x", "/v2/models/other", "/v2/models/other/ready"):
        reply = client.get(path)
        assert reply.status_code == 404, path
        assert reply.json()["error"]
    assert client.post("/v1/reload").status_code == 403


def test_problems_can_be_answered_from_the_rest(client: TestClient, made: Made) -> None:
    row = {"scan": base64.b64encode(truncated()).decode(), "note": "bile", "age": "old"}
    rows = [row, made.cells(1)]
    refused = client.post("/v1/predict", json={"rows": rows})
    assert refused.status_code == 422
    assert "row 0, scan" in refused.json()["error"]
    told = client.post("/v1/predict", params={"on_problem": "warn"}, json={"rows": rows}).json()["rows"]
    assert "scan" in told[0]["problem"]
    assert "'old' is no number" in told[0]["problem"]
    assert told[1]["problem"] == ""


def test_without_the_key_nothing_is_told(made: Made) -> None:
    with TestClient(create(Options(folder=str(made.folder), key=KEY, name="scans"))) as client:
        asked: list[tuple[str, str]] = [
            ("POST", "/v1/predict"), ("POST", "/v1/explain"), ("POST", "/v1/reload"), ("GET", "/v1/model"),
            ("GET", "/metrics"), ("GET", "/v2/models/scans"), ("POST", "/v2/models/scans/infer"),
        ]  # fmt: skip
        wrong = [
            {},
            {"x-api-key": ""},
            {"x-api-key": KEY + "x"},
            {"authorization": KEY},
            {"authorization": f"Basic {KEY}"},
        ]
        for method, path in asked:
            for headers in (*wrong, {"x-api-key": "schlüssel".encode()}):
                reply = client.request(method, path, headers=headers)  # type: ignore[arg-type]
                assert reply.status_code == 401, (path, headers)
                assert "heart" not in reply.text
        for headers in ({"x-api-key": KEY}, {"authorization": f"bearer {KEY}"}):
            assert client.post("/v1/predict", json={"rows": [{"note": "a"}]}, headers=headers).status_code == 200
            assert client.get("/v1/model", headers=headers).status_code == 200
        for path in ("/", "/page.js", "/health", "/ready", "/docs", "/openapi.json"):
            reply = client.get(path)
            assert reply.status_code == 200
            assert "heart" not in reply.text
            assert "site 1" not in reply.text


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    together = batcher.together

    def later(requests: Any) -> Any:
        import time

        time.sleep(seconds)
        return together(requests)

    monkeypatch.setattr(batcher, "together", later)


def test_what_takes_too_long_is_given_up(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(create(Options(folder=str(made.folder), seconds=0.3))) as client:
        slow(monkeypatch, 1.0)
        reply = client.post("/v1/predict", json={"rows": [{"note": "a"}]})
        assert reply.status_code == 503
        assert "no answer after 0.3 seconds" in reply.json()["error"]
        assert reply.headers["retry-after"]
        monkeypatch.undo()


def test_too_many_at_once_are_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with TestClient(create(Options(folder=str(made.folder), waiting=2))) as client, ThreadPoolExecutor(8) as pool:
        slow(monkeypatch, 0.3)
        ask = lambda _: client.post("/v1/predict", json={"rows": [{"note": "a"}]})  # noqa: E731
        replies = list(pool.map(ask, range(8)))
        monkeypatch.undo()
    found = [reply.status_code for reply in replies]
    assert set(found) == {200, 503}
    (busy, *_) = [reply for reply in replies if reply.status_code == 503]
    assert "at work or waiting" in busy.json()["error"]
    assert busy.headers["retry-after"] == "1"


def sent(app: Any, messages: list[dict[str, Any]], headers: list[tuple[bytes, bytes]]) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of a request whose body comes as these messages, and then no more."""

    async def work() -> list[Any]:
        left, replies = list(messages), list[Any]()

        async def receive() -> Any:
            if left:
                return left.pop(0)
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            replies.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"",
            "headers": [(b"content-type", b"application/json"), *headers], "http_version": "1.1", "scheme": "http",
            "server": ("here", 80), "client": ("there", 1), "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        await app(scope, receive, send)
        return replies

    replies = asyncio.run(work())
    return replies[0]["status"], json.loads(replies[1]["body"])


def test_a_body_that_never_ends_is_given_up(made: Made) -> None:
    app = create(Options(folder=str(made.folder), seconds=0.2))
    begun = [{"type": "http.request", "body": b'{"rows": [', "more_body": True}]
    status, told = sent(app, begun, [(b"content-length", b"100")])
    assert status == 408
    assert "not complete after 0.2 seconds" in told["error"]


def test_large_bodies_at_once_are_bounded(made: Made) -> None:
    options = Options(folder=str(made.folder), body=1024)
    app = create(options)
    app._door.held = 8 * 1024  # type: ignore[attr-defined]
    status, told = sent(app, [{"type": "http.request", "body": b" " * 100}], [(b"content-length", b"100")])
    assert status == 503
    assert "too many large requests" in told["error"]
    assert app._door.held == 8 * 1024  # type: ignore[attr-defined]
    assert app._door.inside == 0  # type: ignore[attr-defined]


def test_damaged_requests_are_refused_whatever_the_damage(client: TestClient, made: Made) -> None:
    """A small form of what `benchmarks/serve.py --malformed` does with 10,000."""
    found: dict[int, int] = {}
    for request in malformed(300, made.bytes_of(0), list(made.cells(0)), seed=1):
        reply = client.request(request.method, request.path, content=request.content, headers=request.headers)
        assert 400 <= reply.status_code < 500, (request, reply.text)
        assert len(reply.json()["error"]) > 5
        found[reply.status_code] = found.get(reply.status_code, 0) + 1
    assert len(found) >= 4
    assert client.post("/v1/predict", json={"rows": [{"note": "a"}]}).status_code == 200


def test_every_reply_forbids_what_is_from_elsewhere(client: TestClient) -> None:
    check: Callable[[str], Any] = client.get
    for path in ("/", "/docs", "/v1/nothing", "/health"):
        policy = check(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert check(path).headers["x-content-type-options"] == "nosniff"
