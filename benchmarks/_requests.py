"""Requests that no server should answer, of many kinds, each a function of a seed: for the tests and `serve.py`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PREDICT, INFER = "/v1/predict", "/v2/models/model/infer"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Request:
    """One request that is wrong in one way at least."""

    kind: str
    content: bytes
    path: str = PREDICT
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))


def malformed(count: int, picture: bytes, columns: Sequence[str], seed: int) -> Iterator[Request]:
    """Yield requests that must be refused.

    Args:
        count: How many.
        picture: A picture that the model reads, to be damaged.
        columns: Names of columns that the model knows; the first is a text or an id.
        seed: Decides everything.
    """
    generator = np.random.default_rng(seed)
    kinds: list[Callable[[Any, bytes, Sequence[str]], Request]] = [
        _cut_json, _changed_json, _noise, _strange_value, _strange_column, _damaged_picture, _damaged_form, _nested,
        _twice, _path, _wrong_type, _wrong_method, _tensors, _binary_tensors, _option,
    ]  # fmt: skip
    for number in range(count):
        yield kinds[number % len(kinds)](generator, picture, columns)


def _body(cells: dict[str, Any]) -> bytes:
    return json.dumps({"rows": [cells]}).encode()


def _noisy(generator: Any, size: int) -> bytes:
    return bytes(generator.integers(0, 256, size, dtype=np.uint8))


def _cut_json(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    body = _body({columns[0]: "words"})
    return Request("cut JSON", body[: int(generator.integers(0, len(body) - 1))])


def _changed_json(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    # A bracket or a quote is lost, so that it cannot be JSON by chance.
    body = bytearray(_body({columns[0]: "words"}))
    places = [place for place, letter in enumerate(body) if letter in b'{}[]"']
    body[places[int(generator.integers(len(places)))]] = ord("?")
    return Request("changed JSON", bytes(body))


def _noise(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    return Request("noise", b"\xff" + _noisy(generator, int(generator.integers(0, 2000))))


def _strange_value(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    values = [{"a": 1}, [[1]], [{"b": []}], {"path": "/etc/passwd"}, ["x"] * 50, 10**40]
    name = columns[int(generator.integers(len(columns)))]
    return Request("strange value", _body({name: values[int(generator.integers(len(values)))]}))


def _strange_column(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    words = _noisy(generator, int(generator.integers(1, 30))).decode("latin-1")
    return Request("strange column", _body({columns[0]: "a", f"?{words}": 1}))


def _damaged_picture(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    # Cut within the first half or overwritten from the first bytes on: what is left cannot be read.
    if generator.integers(2):
        content = picture[: int(generator.integers(0, len(picture) // 2))]
    else:
        content = _noisy(generator, 60) + picture[60:]
    return Request("damaged picture", _body({"scan": base64.b64encode(content).decode() or "?"}))


def _damaged_form(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    content = b'--x\r\nContent-Disposition: form-data; name="scan"; filename="a.png"\r\n\r\n' + picture[:20]
    content += _noisy(generator, 40) + b"\r\n--x--\r\n"
    cut = content[: int(generator.integers(1, len(content)))] if generator.integers(2) else content
    return Request("damaged form", cut, headers={"content-type": "multipart/form-data; boundary=x"})


def _nested(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    depth = int(generator.integers(2, 20_000))
    return Request("lists within lists", b'{"rows": ' + b"[" * depth + b"]" * depth + b"}")


def _twice(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    name = json.dumps(columns[int(generator.integers(len(columns)))])
    return Request("a name twice", f'{{"rows": [{{{name}: "a", {name}: "b"}}]}}'.encode())


def _path(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    paths = [
        "/etc/passwd",
        "../" * 9 + "etc/passwd",
        "file:///etc/passwd",
        "C:\\x.png",
        "\\\\host\\x.png",
        "a.png\0.jpg",
    ]
    paths += ["http://127.0.0.1/a.png", "https://169.254.169.254/latest", "upload:none", "zip://a.png::/tmp/a.zip"]
    return Request("a path", _body({"scan": paths[int(generator.integers(len(paths)))]}))


def _wrong_type(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    kinds = ["text/plain", "", "application/xml", "application/x-www-form-urlencoded", "multipart/mixed"]
    kind = kinds[int(generator.integers(len(kinds)))]
    return Request("another type", _body({columns[0]: "a"}), headers={"content-type": kind})


def _wrong_method(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    methods = ["GET", "PUT", "DELETE", "PATCH"]
    return Request("another method", b"", method=methods[int(generator.integers(len(methods)))])


def _tensors(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    tensors: list[Any] = [
        {"name": "none", "shape": [1], "datatype": "BYTES", "data": ["a"]},
        {"name": "scan", "shape": [2], "datatype": "BYTES", "data": ["a"]},
        {"name": "scan", "shape": [-1], "datatype": "BYTES", "data": []},
        {"name": "scan", "shape": [1], "datatype": "FP99", "data": [1]},
        {"name": "scan", "shape": "1", "datatype": "BYTES", "data": [1]},
        {"name": "scan", "shape": [2**30, 2**30], "datatype": "BYTES"},
        7,
    ]
    body = {"inputs": [tensors[int(generator.integers(len(tensors)))]]}
    return Request("tensors", json.dumps(body).encode(), INFER)


def _binary_tensors(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    size = int(generator.integers(0, 40))
    tensor = {"name": "scan", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    length = {"Inference-Header-Content-Length": str(len(head) + int(generator.integers(-3, 4)))}
    return Request(
        "binary tensors", head + _noisy(generator, int(generator.integers(0, 40))), INFER, headers=JSON | length
    )


def _option(generator: Any, picture: bytes, columns: Sequence[str]) -> Request:
    options = ["sets=2", "sets=nan", "margin=-1", "margin=x", "unlike=7", "by=chance", "on_problem=", "sets=1e999"]
    option = options[int(generator.integers(len(options)))]
    return Request("an option", _body({columns[0]: "a"}), f"{PREDICT}?{option}")
