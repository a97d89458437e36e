"""The Open Inference Protocol: a public client gets the answers of the model, and half a tensor is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from serving import KEY, Made, running
from starlette.testclient import TestClient

from fusetune.serve.app import create
from fusetune.serve.options import Options

ROWS = [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def address(made: Made) -> Iterator[str]:
    with running(create(Options(folder=str(made.folder), name="organs", key=KEY))) as found:
        yield found


def tensors(made: Made, http: Any, binary: bool) -> list[Any]:
    cells = [made.cells(row) for row in ROWS]
    pictures = [made.bytes_of(row) for row in ROWS]
    if not binary:
        pictures = [base64.b64encode(picture) for picture in pictures]
    given: dict[str, Any] = {
        "scan": np.array(pictures, dtype=object),
        "note": np.array([row["note"].encode() for row in cells], dtype=object),
        "age": np.array([row["age"] for row in cells]),
        "site": np.array([row["site"].encode() for row in cells], dtype=object),
        "seen_on": np.array([row["seen_on"].encode() for row in cells], dtype=object),
        "urgent": np.array([row["urgent"] for row in cells]),
        "genes": np.array([[row[f"v_{i}"] for i in range(4)] for row in cells]),
    }
    kinds = {"age": "FP64", "genes": "FP64", "urgent": "BOOL"}
    found = []
    for name, values in given.items():
        one = http.InferInput(name, list(values.shape), kinds.get(name, "BYTES"))
        one.set_data_from_numpy(values, binary_data=binary)
        found.append(one)
    return found


@pytest.mark.parametrize("binary", [True, False])
def test_a_public_client_gets_what_the_model_says(address: str, made: Made, binary: bool) -> None:
    http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed (`make env` does)")
    key = {"Authorization": f"Bearer {KEY}"}
    with http.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("organs")
        assert client.get_server_metadata()["name"] == "fusetune"
        described = client.get_model_metadata("organs", headers=key)
        assert {one["name"] for one in described["inputs"]} == {
            "scan", "note", "age", "site", "seen_on", "urgent", "genes",
        }  # fmt: skip
        wanted = [http.InferRequestedOutput(one["name"], binary_data=binary) for one in described["outputs"]]
        reply = client.infer("organs", tensors(made, http, binary), outputs=wanted, headers=key, request_id="7")
        assert reply.get_response()["id"] == "7"
        with pytest.raises(Exception, match="key is missing"):
            client.infer("organs", tensors(made, http, binary))
        with pytest.raises(Exception, match="no model of that name"):
            client.infer("others", tensors(made, http, binary), headers=key)
    told = made.model.predict_table(made.table(ROWS))
    words = [word.decode() if isinstance(word, bytes) else word for word in reply.as_numpy("prediction")]
    assert words == told["prediction"].tolist()
    np.testing.assert_allclose(reply.as_numpy("probability"), told["probability"], atol=1e-5)
    columns = [f"p({name})" for name in described["parameters"]["classes"]]
    np.testing.assert_allclose(reply.as_numpy("probabilities"), told[columns], atol=1e-5)


def asked(client: TestClient, *inputs: Any, **more: Any) -> Any:
    return client.post("/v2/models/model/infer", json={"inputs": list(inputs), **more})


def tensor(name: str, data: Any, shape: Any = None, datatype: str = "BYTES", **parameters: Any) -> dict[str, Any]:
    found = {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}
    return found | ({"parameters": parameters} if parameters else {})


def test_missing_cells_are_null_and_nan(client: TestClient, made: Made) -> None:
    plain = asked(client, tensor("note", ["bile", "air"]), tensor("age", [None, 50], datatype="FP64"))
    assert plain.status_code == 200, plain.text
    values = np.array([np.nan, 50.0], dtype="<f4").tobytes()
    head = {"name": "age", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    body = json.dumps({"inputs": [tensor("note", ["bile", "air"]), head]}).encode()
    length = {"Inference-Header-Content-Length": str(len(body))}
    binary = client.post("/v2/models/model/infer", content=body + values, headers=length)
    assert binary.json()["outputs"] == plain.json()["outputs"]


@pytest.mark.parametrize(
    ("inputs", "status", "said"),
    [
        ([], 400, "must be {"),
        ([7], 400, "object with a name"),
        ([tensor("nothing", ["a"])], 400, "no input 'nothing'"),
        ([tensor("note", ["a"]), tensor("note", ["b"])], 400, "there twice"),
        ([tensor("note", ["a"]), tensor("site", ["b", "c"])], 400, "has 2 rows"),
        ([tensor("note", ["a"], [2])], 400, "must have 2 values"),
        ([tensor("note", ["a"], [0])], 400, "positive numbers"),
        ([tensor("note", ["a"], [2**40])], 400, "positive numbers"),
        ([tensor("note", ["a"], [1, 2])], 400, "one cell per row"),
        ([tensor("genes", [1.0], [1], "FP64")], 400, r"[rows, 4]"),
        ([tensor("genes", [1.0] * 4, [1, 4], "BYTES")], 400, "is FP64, not BYTES"),
        ([tensor("age", ["x"], datatype="FP99")], 400, "not FP99"),
        ([tensor("note", [3])], 422, "must be a word"),
        ([tensor("note", ["a"] * 65)], 413, "65 rows"),
        ([tensor("scan", ["/etc/passwd"])], 422, "files of this machine are not read"),
        ([tensor("note", ["a"], binary_data_size=9)], 400, "0 are left"),
        ([tensor("note", ["a"], binary_data_size=-1)], 400, "binary_data_size"),
    ],
)
def test_tensors_that_contradict_themselves_are_refused(
    client: TestClient, inputs: list[Any], status: int, said: str
) -> None:
    reply = asked(client, *inputs)
    assert reply.status_code == status, reply.text
    assert said in reply.json()["error"]


def test_outputs_that_there_are_none_of_are_refused(client: TestClient) -> None:
    for wanted in ([{"name": "logits"}], [7], "prediction"):
        assert asked(client, tensor("note", ["a"]), outputs=wanted).status_code == 400


@pytest.mark.parametrize(
    ("content", "size", "length"),
    [(b"\x05\0\0\0bile", 8, 0), (b"\x04\0\0\0bile!", 9, 0), (b"\x04\0\0\0bile", 7, 0), (b"", 0, 0), (b"", 0, 99)],
    ids=["a word too short", "more than said", "less than said", "nothing", "a header beyond the body"],
)
def test_half_a_binary_tensor_is_refused(client: TestClient, content: bytes, size: int, length: int) -> None:
    head = {"name": "note", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    body = json.dumps({"inputs": [head]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(body) + length)}
    reply = client.post("/v2/models/model/infer", content=body + content, headers=headers)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]
