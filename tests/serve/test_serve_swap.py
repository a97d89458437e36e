"""Another model takes the place of the one at work: nobody waits, none is mixed, and a broken one changes nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import KEY, Made
from starlette.testclient import TestClient

import fusetune
from fusetune.serve import batcher, current
from fusetune.serve.app import create
from fusetune.serve.options import Options

SHOWN = {"x-api-key": KEY}
ROW = {"rows": [{"note": "bile", "age": 50}]}


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    shutil.copytree(made.folder / "model", tmp_path / "model")
    return tmp_path / "model"


def put(source: Path, folder: Path) -> None:
    """Put another model into the folder, as a copy would."""
    shutil.rmtree(folder)
    shutil.copytree(source, folder)


def told(client: TestClient) -> dict[str, Any]:
    reply = client.post("/v1/predict", json=ROW, headers=SHOWN)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def until(true: Callable[[], bool]) -> None:
    for _ in range(400):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_a_new_model_answers_after_a_reload(folder: Path, other: Path) -> None:
    with TestClient(create(Options(folder=str(folder), key=KEY))) as client:
        before = told(client)
        put(other, folder)
        assert told(client) == before  # as long as nobody says so
        reply = client.post("/v1/reload", headers=SHOWN).json()
        after = told(client)
        assert reply["before"] == before["model"]["version"]
        assert reply["version"] == after["model"]["version"] != before["model"]["version"]
        assert after["rows"][0]["probability"] < before["rows"][0]["probability"]
        import pandas as pd

        expected = fusetune.load(other).predict_proba(pd.DataFrame({"note": ["bile"], "age": [50.0]}), "mask")
        assert after["rows"][0]["probability"] == pytest.approx(float(expected.to_numpy().max()), abs=1e-5)


@pytest.mark.parametrize("damage", ["weights", "manifest", "gone", "not finite"])
def test_a_broken_model_leaves_the_old_one(folder: Path, made: Made, damage: str) -> None:
    with TestClient(create(Options(folder=str(folder), key=KEY))) as client:
        before = told(client)
        if damage == "weights":
            content = bytearray((folder / "weights.safetensors").read_bytes())
            content[-5] ^= 255
            (folder / "weights.safetensors").write_bytes(bytes(content))
        elif damage == "manifest":
            (folder / "bundle.json").write_text("{}")
        elif damage == "gone":
            shutil.rmtree(folder)
        else:
            import torch

            from fusetune.bundle import save_bundle

            broken = fusetune.load(folder)
            with torch.no_grad():
                for weight in broken.network.parameters():
                    weight.fill_(torch.nan)
            shutil.rmtree(folder)
            save_bundle(broken, folder)
        reply = client.post("/v1/reload", headers=SHOWN)
        assert reply.status_code == 422
        assert str(folder) in reply.json()["error"]
        assert told(client) == before
        assert client.get("/ready").status_code == 200
        assert 'fusetune_model_loads_total{outcome="failed"} 1.0' in client.get("/metrics", headers=SHOWN).text


def test_what_was_begun_ends_on_the_old_model(folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    begun, go_on = threading.Event(), threading.Event()
    together = batcher.together

    def held(requests: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return together(requests)

    with TestClient(create(Options(folder=str(folder), key=KEY))) as client, ThreadPoolExecutor(3) as pool:
        before = told(client)
        monkeypatch.setattr(batcher, "together", held)
        old = pool.submit(told, client)
        assert begun.wait(20)
        put(other, folder)
        assert client.post("/v1/reload", headers=SHOWN).status_code == 200
        new = pool.submit(told, client)
        go_on.set()
        assert old.result() == before
        assert new.result()["model"]["version"] != before["model"]["version"]


def test_models_are_not_mixed_in_a_batch(made: Made, other: Path) -> None:
    import pandas as pd

    served = [current.read_served(Options(folder=str(place))) for place in (made.folder, other)]
    frame = pd.DataFrame({name.name: [made.cells(0).get(name.name)] for name in made.model.schema.inputs})
    jobs = [batcher._Job(batcher.prepared(one, frame, False), None) for one in (served[0], served[1], served[0])]  # type: ignore[arg-type]
    now, left = batcher._first_batch(jobs)
    assert now == [jobs[0]]
    assert left == [jobs[1], jobs[2]]


def test_a_watched_folder_changes_the_model(folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current, "_EVERY", 0.05)
    with TestClient(create(Options(folder=str(folder), key=KEY, watch=True))) as client:
        before = told(client)["model"]["version"]
        (folder / "weights.safetensors").write_bytes(b"half")
        time.sleep(0.3)
        assert told(client)["model"]["version"] == before
        put(other, folder)
        until(lambda: told(client)["model"]["version"] != before)


def test_other_workers_hear_the_bell(
    folder: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current, "_EVERY", 0.05)
    options = Options(folder=str(folder), key=KEY, bell=str(tmp_path / "bell"))
    with TestClient(create(options)) as one, TestClient(create(options)) as two:
        before = told(two)["model"]["version"]
        put(other, folder)
        assert one.post("/v1/reload", headers=SHOWN).status_code == 200
        until(lambda: told(two)["model"]["version"] != before)
        assert told(one)["model"] == told(two)["model"]
