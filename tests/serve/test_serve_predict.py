"""What a server answers is what `Model.predict_table` says, whoever else asks at the time."""

from __future__ import annotations

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from serving import Made, fitted
from starlette.testclient import TestClient

import fusetune
from fusetune.data.choices import By
from fusetune.serve import batcher, current
from fusetune.serve.app import create
from fusetune.serve.options import Options

EXTRAS = {"sets": 0.9, "margin": 0.3, "unlike": True}


def row_of(made: Made, row: int) -> dict[str, Any]:
    return made.cells(row) | {"scan": base64.b64encode(made.bytes_of(row)).decode()}


def assert_told(reply: dict[str, Any], line: pd.Series, classes: list[str]) -> None:
    """Compare a row of a reply with a line of `predict_table`."""
    assert reply["row_id"] == line["row_id"]
    assert reply["prediction"] == line["prediction"]
    assert reply["probability"] == pytest.approx(line["probability"], abs=1e-5)
    for name in classes:
        assert reply["probabilities"][name] == pytest.approx(line[f"p({name})"], abs=1e-5)
    assert reply["problem"] == line["problem"]
    if "set" in line:
        assert reply["set"] == json.loads(line["set"])
        assert reply["abstain"] == line["abstain"]
        assert reply["unlike"] == line["unlike"]
        for name, share in reply["as_far"].items():
            assert (share is None) == np.isnan(line[f"as_far({name})"])
            assert share is None or share == pytest.approx(line[f"as_far({name})"], abs=1e-5)


def test_rows_in_json_are_answered_as_the_model_does(client: TestClient, made: Made) -> None:
    told = made.model.predict_table(made.table(list(range(12))), **EXTRAS)
    rows = [row_of(made, row) for row in range(12)]
    reply = client.post("/v1/predict", params=EXTRAS, json={"rows": rows})
    assert reply.status_code == 200, reply.text
    assert reply.json()["rule"] == made.model.rule.words
    for number, row in enumerate(reply.json()["rows"]):
        assert_told(row, told.iloc[number], made.model.classes)


def test_a_form_says_the_same(client: TestClient, made: Made) -> None:
    told = made.model.predict_table(made.table([3, 4, 5]))
    words = {name: str(value) for name, value in made.cells(3).items()}
    one = client.post("/v1/predict", data=words, files={"scan": ("3.png", made.bytes_of(3))}).json()
    assert_told(one["rows"][0], told.iloc[0], made.model.classes)
    rows = [made.cells(3), made.cells(4), made.cells(5) | {"scan": "upload:last"}]
    files = {"scan": made.bytes_of(3), "scan[1]": made.bytes_of(4), "last": made.bytes_of(5)}
    several = client.post("/v1/predict", data={"rows": json.dumps(rows)}, files=files)
    assert several.status_code == 200, several.text
    for number, row in enumerate(several.json()["rows"]):
        assert_told(row, told.iloc[number], made.model.classes)


def test_a_picture_may_come_as_a_data_address(client: TestClient, made: Made) -> None:
    plain = base64.b64encode(made.bytes_of(2)).decode()
    replies = [
        client.post("/v1/predict", json={"rows": [made.cells(2) | {"scan": words}]}).json()["rows"]
        for words in (plain, plain.rstrip("="), f"data:image/png;base64,{plain}")
    ]
    assert replies[0] == replies[1] == replies[2]


@pytest.mark.parametrize("left_out", [["scan"], ["note", "age"], ["v_0"], ["site", "urgent", "seen_on", "age"]])
def test_what_is_left_out_is_missing(client: TestClient, made: Made, left_out: list[str]) -> None:
    row = {name: value for name, value in row_of(made, 1).items() if name not in left_out}
    table = made.table([1]).astype({"urgent": object, "age": object})
    for name in left_out:
        table[name] = None
    told = made.model.predict_table(table, "mask")
    reply = client.post("/v1/predict", params={"on_problem": "warn"}, json={"rows": [row]}).json()["rows"][0]
    assert reply["probability"] == pytest.approx(told["probability"].iloc[0], abs=1e-5)
    nulls = client.post("/v1/predict", params={"on_problem": "warn"}, json={"rows": [row | dict.fromkeys(left_out)]})
    assert nulls.json()["rows"][0]["probabilities"] == reply["probabilities"]


def test_many_at_once_get_what_each_alone_would(
    client: TestClient, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    together = batcher.together

    def counted(requests: Any) -> Any:
        sizes.append(len(requests))
        return together(requests)

    monkeypatch.setattr(batcher, "together", counted)
    told = [made.model.predict_table(made.table([row])).iloc[0] for row in range(48)]
    # Of some rows parts are missing, so that texts of other lengths and holes stand beside each other.
    told[5] = made.model.predict_table(made.table([5]).assign(note=""), "mask").iloc[0]

    def ask(row: int) -> dict[str, Any]:
        cells = row_of(made, row) | ({"note": ""} if row == 5 else {})
        return client.post("/v1/predict", params={"on_problem": "warn"}, json={"rows": [cells]}).json()["rows"][0]

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(ask, range(48)))
    for row, reply in enumerate(replies):
        assert reply["prediction"] == told[row]["prediction"]
        assert reply["probability"] == pytest.approx(told[row]["probability"], abs=1e-5)
    assert sum(sizes) == 48
    assert max(sizes) > 1


def test_how_others_write_dates_changes_nothing(client: TestClient, made: Made) -> None:
    """One table of all rows would take 04/03 for the fourth of March where another row says 25/03."""
    served = current.read_served(Options(folder=str(made.folder)))
    frames = [
        pd.DataFrame({name: [cells.get(name)] for name in (c.name for c in made.model.schema.inputs)})
        for cells in (made.cells(1) | {"seen_on": "25/03/2024"}, made.cells(1) | {"seen_on": "04/03/2024"})
    ]
    ready = [batcher.prepared(served, frame, False) for frame in frames]
    alone = [batcher.together([one])[0].f for one in ready]
    both = batcher.together(ready)
    for one, other in zip(alone, both, strict=True):
        np.testing.assert_allclose(one.numpy(), other.f.numpy(), atol=1e-5)
    assert not np.allclose(alone[0].numpy(), alone[1].numpy(), atol=1e-3)


def test_one_request_that_fails_does_not_fail_the_others(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    together = batcher.together

    def breaks(requests: Any) -> Any:
        if any("poison" in str(request.ids.iloc[0]) for request in requests):
            raise ZeroDivisionError
        return together(requests)

    monkeypatch.setattr(batcher, "together", breaks)
    options = Options(folder=str(made.folder), gather=200)
    with TestClient(create(options), raise_server_exceptions=False) as slow, ThreadPoolExecutor(4) as pool:
        rows = [{"case_id": name, "note": "bile"} for name in ("a", "poison", "b", "c")]
        replies = list(pool.map(lambda row: slow.post("/v1/predict", json={"rows": [row]}), rows))
    assert [reply.status_code for reply in replies] == [200, 500, 200, 200]
    assert "error" in replies[1].json()


def test_the_threshold_is_followed_and_can_be_left_out(tmp_path: Path) -> None:
    model = fitted(tmp_path, classes=("heart", "liver"))
    learnt = replace(model.calibration, aim="sensitivity >= 0.9", positive=1, threshold=0.0)
    folder = str(tmp_path / "run")
    served = replace(current.read_served(Options(folder=folder)), model=replace(model, calibration=learnt))
    rows = {"rows": [{"note": "a beat of the heart"}, {"note": "bile of the liver"}]}
    with TestClient(create(Options(folder=folder), served)) as client:
        judged, plain = (client.post("/v1/predict", params={"by": by}, json=rows) for by in get_args(By))
        assert [row["prediction"] for row in judged.json()["rows"]] == ["liver", "liver"]
        assert judged.json()["rule"] == served.model.rule.words
        assert "sensitivity >= 0.9" in judged.json()["rule"]
        assert [row["prediction"] for row in plain.json()["rows"]] == ["heart", "liver"]
        assert "not followed" in plain.json()["rule"]
        assert client.post("/v1/predict", params={"by": "chance"}, json=rows).status_code == 422


@pytest.mark.parametrize(
    ("address", "option", "said"),
    [
        ("/v1/predict", "set", "did you mean 'sets'?"),
        ("/v1/predict", "on_problems", "did you mean 'on_problem'?"),
        ("/v1/predict", "as", "it takes sets, margin, unlike, by, on_problem"),
        ("/v1/explain", "sets", "it takes as, on_problem"),
        ("/v2/models/model/infer", "sets", "it takes none"),
    ],
)
def test_an_option_that_there_is_not_is_refused(client: TestClient, address: str, option: str, said: str) -> None:
    """A slip in the name of an option is not answered as if nothing had been asked."""
    reply = client.post(address, params={option: "0.9"}, json={"rows": [{"note": "bile"}]})
    assert reply.status_code == 422
    assert said in reply.json()["error"]


def test_the_middle_of_a_number_is_told_from_its_counts(client: TestClient, made: Made) -> None:
    (age,) = [column for column in client.get("/v1/model").json()["columns"] if column["name"] == "age"]
    low, high = age["usual"]
    table = pd.read_csv(made.folder.parent / "data" / "table.csv")
    ages = table.loc[table["part"] == "train", "age"]
    assert low == pytest.approx(ages.quantile(0.1, "inverted_cdf"))
    assert high == pytest.approx(ages.quantile(0.9, "inverted_cdf"))


def test_explanations_are_those_of_the_model(client: TestClient, made: Made) -> None:
    why = made.model.explain(made.table([4]), str(made.rows["case_id"].iloc[4]))
    reply = client.post("/v1/explain", json={"rows": [row_of(made, 4)]})
    assert reply.status_code == 200, reply.text
    told = reply.json()
    assert told["decision"] == why.decision
    assert told["shares"] == pytest.approx(why.shares, abs=1e-5)
    assert {name: [one["name"] for one in some] for name, some in told["effects"].items()} == {
        name: [one.name for one in some] for name, some in why.effects.items()
    }
    assert told["pictures"]["scan"]["map"].startswith("data:image/jpeg;base64,")
    page = client.post("/v1/explain", params={"as": "html"}, json={"rows": [row_of(made, 4)]})
    assert page.headers["content-type"].startswith("text/html")
    assert why.decision in page.text
    two = client.post("/v1/explain", json={"rows": [{"note": "a"}, {"note": "b"}]})
    assert two.status_code == 422


def test_the_description_says_what_may_be_asked(client: TestClient, made: Made) -> None:
    told = client.get("/v1/model").json()
    kinds = {column["name"]: column["kind"] for column in told["columns"]}
    assert kinds == {"scan": "image", "note": "text", "age": "number", "site": "category"} | {
        "seen_on": "date", "urgent": "boolean",
    }  # fmt: skip
    assert told["vectors"] == [{"name": "genes", "columns": ["v_0", "v_1", "v_2", "v_3"]}]
    (site,) = [column for column in told["columns"] if column["name"] == "site"]
    assert sorted(site["choices"]) == ["site 0", "site 1", "site 2"]
    api = client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/explain", "/health", "/ready", "/metrics", "/v2/models/{model}/infer"} <= set(
        api["paths"]
    )
    page = client.get("/docs")
    assert page.status_code == 200
    assert all(path in page.text for path in api["paths"])


def test_metrics_count_what_happened(client: TestClient) -> None:
    client.post("/v1/predict", json={"rows": [{"note": "bile"}]})
    text = client.get("/metrics").text
    assert 'fusetune_requests_total{route="/v1/predict",status="200"}' in text
    assert "fusetune_batch_rows_bucket" in text
    assert "fusetune_requests_inside 1.0" in text


def test_health_and_readiness(client: TestClient) -> None:
    for path in ("/health", "/ready", "/v2/health/live", "/v2/health/ready", "/v2/models/model/ready"):
        assert client.get(path).status_code == 200, path
    gate = client.app
    gate._door.draining = True  # type: ignore[attr-defined]
    try:
        assert client.get("/health").status_code == 200
        for path in ("/ready", "/v2/health/ready", "/v2/models/model/ready"):
            assert client.get(path).status_code == 503, path
        asked = client.post("/v1/predict", json={"rows": [{"note": "bile"}]})
        assert asked.status_code == 200
        assert asked.headers["connection"] == "close"
    finally:
        gate._door.draining = False  # type: ignore[attr-defined]


def test_reading_happens_beside_the_loop(made: Made) -> None:
    """Who asks for health gets it while a picture is decoded."""
    begun, go_on = threading.Event(), threading.Event()
    served = current.read_served(Options(folder=str(made.folder)))
    read = type(served.model).read

    class Slow(type(served.model)):  # type: ignore[misc]
        def read(self, table: Any) -> Any:
            begun.set()
            assert go_on.wait(20)
            return read(self, table)

    model = Slow(**{name: getattr(served.model, name) for name in served.model.__dataclass_fields__})
    app = create(Options(folder=str(made.folder)), replace(served, model=model))
    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/v1/predict", json={"rows": [{"note": "bile"}]})
        assert begun.wait(20)
        assert client.get("/health").status_code == 200
        go_on.set()
        assert asked.result().status_code == 200


def test_several_pictures_and_texts_of_a_row(tmp_path: Path) -> None:
    """Rows with any number of elements go through the network beside others, as each alone would."""
    from tiny import settings, tiny_table

    frame = tiny_table(tmp_path / "data")
    pairs = [[frame["scan"].iloc[row], frame["scan"].iloc[row ^ 1]][: 1 + row % 2] for row in range(len(frame))]
    frame["scan"] = [[str(tmp_path / "data" / name) for name in pair] for pair in pairs]
    frame["note"] = [[note, note[::-1]][: 1 + row % 2] for row, note in enumerate(frame["note"])]
    kept = frame[["scan", "note", "age", "part", "organ"]]
    given = settings(tmp_path / "store", views=1, evaluate__baselines=False, train__epochs=1)
    model = fusetune.fit(kept, "organ", config=given, split="part", out=tmp_path / "run", quiet=True).model
    told = [model.predict_table(kept.iloc[[row]]).iloc[0] for row in range(12)]
    with (
        TestClient(create(Options(folder=str(tmp_path / "run"), gather=100))) as client,
        ThreadPoolExecutor(12) as pool,
    ):

        def ask(row: int) -> dict[str, Any]:
            pictures = [base64.b64encode(Path(path).read_bytes()).decode() for path in kept["scan"].iloc[row]]
            cells = {"scan": pictures, "note": kept["note"].iloc[row], "age": float(kept["age"].iloc[row])}
            reply = client.post("/v1/predict", json={"rows": [cells]})
            assert reply.status_code == 200, reply.text
            return dict(reply.json()["rows"][0])

        replies = list(pool.map(ask, range(12)))
        for cells in ({"scan": ["/etc/passwd"]}, {"scan": "['/etc/passwd']"}, {"note": [None]}, {"note": [["a"]]}):
            assert client.post("/v1/predict", json={"rows": [cells]}).status_code == 422
    for row, reply in enumerate(replies):
        assert reply["probability"] == pytest.approx(told[row]["probability"], abs=1e-5)
