"""Encoders that are equal are written once: of columns of texts that one pretrained encoder reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from tiny import settings, tiny_table
from torch import nn

import fusetune
from fusetune.bundle import save_bundle
from fusetune.bundle.weights import packed
from fusetune.encoders import VectorMLP
from fusetune.errors import BundleError
from fusetune.files import facts_hash, file_hash
from fusetune.networks import SAME, EnsembleNetwork, Network, build_network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[fusetune.Model, pd.DataFrame]:
    """Return a model of two columns of texts with equal encoders, and rows: some have one of the two."""
    folder = tmp_path_factory.mktemp("shared")
    frame = tiny_table(folder / "data").drop(columns=["scan"])
    frame["plan"] = frame["note"].iloc[::-1].to_numpy()
    given = settings(folder / "store", strategy__name="ume", text__encoder="shallow", doctor__check=False)
    how: dict[str, Any] = {"inputs": ["note", "plan", "age"], "split": "part", "quiet": True}
    model = fusetune.fit(frame, "organ", config=given, out=folder / "run", **how).model
    one, other = (model.network.of(name)[0] for name in ("note", "plan"))
    other.load_state_dict(one.state_dict())
    rows = frame.tail(12).reset_index(drop=True)
    rows.loc[0, "note"], rows.loc[1, "plan"] = None, None
    return model, rows


def manifest(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "bundle.json").read_text("utf-8"))
    return facts


def names(folder: Path) -> list[str]:
    with safe_open(folder / "weights.safetensors", "pt") as file:
        return list(file.keys())


def test_equal_encoders_are_written_once(made: tuple[fusetune.Model, pd.DataFrame], tmp_path: Path) -> None:
    model, rows = made
    save_bundle(model, tmp_path / "model")
    facts = manifest(tmp_path / "model")
    at = [owner for owner, _ in model.network.members].index("plan")
    assert facts["format"] == 7 and facts["network"]["encoders"][at] == {"same": at - 1}
    assert not [name for name in names(tmp_path / "model") if name.startswith(f"encoders.{at}.")]
    loaded = fusetune.load(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.predict_table(rows), model.predict_table(rows))
    one, other = (loaded.network.of(name)[0] for name in ("note", "plan"))
    assert one is not other  # each reads its own input
    own = [tensor.data_ptr() for tensor in one.parameters()]
    assert own and own == [tensor.data_ptr() for tensor in other.parameters()]  # and memory holds their weights once
    assert loaded.network.describe() == model.network.describe()
    save_bundle(loaded, tmp_path / "again")
    assert file_hash(tmp_path / "again" / "weights.safetensors") == facts["files"]["weights.safetensors"]


def test_what_differs_in_one_bit_is_written(made: tuple[fusetune.Model, pd.DataFrame], tmp_path: Path) -> None:
    model, rows = made
    weight = next(model.network.of("plan")[0].parameters())
    kept = weight.detach().clone()
    try:
        weight.data.view(-1).view(torch.int32)[0] ^= 1
        save_bundle(model, tmp_path / "model")
        expected = model.predict_table(rows)
    finally:
        weight.data.copy_(kept)
    assert manifest(tmp_path / "model")["format"] == 4  # as earlier versions read it
    assert names(tmp_path / "model") == sorted(model.network.state_dict())
    pd.testing.assert_frame_equal(fusetune.load(tmp_path / "model").predict_table(rows), expected)


def network(*encoders: VectorMLP) -> Network:
    heads = [nn.Linear(encoder.dim, 3) for encoder in encoders]
    return EnsembleNetwork(encoders, [f"m{at}" for at in range(len(encoders))], heads, torch.zeros(3))


def test_each_is_told_by_the_first_that_it_equals() -> None:
    one, other = VectorMLP(5, width=8), VectorMLP(5, width=8)
    wider = VectorMLP(6, width=8)
    description, state = packed(network(one, other, one, wider, other, one))
    assert [own.get(SAME) for own in description["encoders"]] == [None, None, 0, None, 1, 0]
    kept = {int(name.split(".")[1]) for name in state if name.startswith("encoders.")}
    assert kept == {0, 1, 3}
    built = build_network(description)
    assert [encoder.dim for encoder in built.encoders] == [8] * 6
    assert len({id(tensor) for tensor in built.encoders.parameters()}) == 3 * len(list(one.parameters()))


@pytest.mark.parametrize(
    "told",
    [
        {"same": "itself"},
        {"same": 2},
        {"same": -1},
        {"same": True},
        {"same": "0"},
        {"same": None},
        {"same": 0, "dim": 9},
    ],
    ids=str,
)
def test_the_same_as_none_before_it_is_refused(
    made: tuple[fusetune.Model, pd.DataFrame], tmp_path: Path, told: dict[str, Any]
) -> None:
    save_bundle(made[0], tmp_path / "model")
    facts = manifest(tmp_path / "model")
    facts.pop("checksum")
    at = next(at for at, own in enumerate(facts["network"]["encoders"]) if SAME in own)
    facts["network"]["encoders"][at] = {key: at if value == "itself" else value for key, value in told.items()}
    facts["checksum"] = facts_hash(facts)
    (tmp_path / "model" / "bundle.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(BundleError, match=r"does not hold a usable model|was changed"):
        fusetune.load(tmp_path / "model")
