"""What once went wrong between strategies: shared stages, averaging, weights, names and settings that nobody reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies_context import anew, begun, make_context
from test_strategies_all import HOW, config
from tiny import tiny_table

import fusetune
from fusetune import api
from fusetune.context import Context
from fusetune.encoders import Identity
from fusetune.errors import ConfigError
from fusetune.networks import EnsembleNetwork, FusionNetwork, build_network
from fusetune.strategies import STRATEGIES, UMT, Alone
from fusetune.strategies.alone import AloneSettings
from fusetune.strategies.batch import draw_batch
from fusetune.strategies.end_to_end import EndToEnd

JOINT = [strategy for strategy in STRATEGIES.values() if issubclass(strategy, EndToEnd)]


def test_a_teacher_is_not_resumed_as_a_network_of_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers learn from all training rows, the rivals' networks not from the head's: one modality, two stages."""
    table = tmp_path / "data" / "table.csv"
    tiny_table(table.parent).to_csv(table, index=False)
    given = config(table) | {"crossfit": {"how": "holdout", "share": 0.3}}
    how: dict[str, Any] = {"strategy": {"name": "umt", "epochs": 1}, "config": given, **HOW}
    whole = fusetune.fit(table, "organ", out=tmp_path / "whole", **how)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(api, "fit_rivals", killed)
        fusetune.fit(table, "organ", out=tmp_path / "run", **how)
    run = fusetune.fit(table, "organ", out=tmp_path / "run", resume=True, **how)
    assert run.metrics["gain"] == whole.metrics["gain"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("corners")
    ctx = make_context(folder, tiny_table(folder / "data"), ["genes", "age"], head__penalties=[300.0])
    begun(UMT, ctx)  # encoders that learnt alone, from which many methods start
    return ctx


@pytest.mark.parametrize("strategy", JOINT, ids=lambda strategy: strategy.name)
def test_weights_of_every_end_to_end_method_can_be_averaged(prepared: Context, tmp_path: Path, strategy: Any) -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "head_lr": 0.02, "patience": 0}
    if "pretrain_epochs" in strategy.Settings.model_fields:
        settings["pretrain_epochs"] = 1  # what is averaged comes after it
    plain = strategy.fit(anew(prepared, tmp_path / "one"), strategy.Settings(**settings))
    mean = strategy.fit(anew(prepared, tmp_path / "other"), strategy.Settings(average=0.9, **settings))
    pairs = zip(plain.network.parameters(), mean.network.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("how", ["equal", "none"])
def test_groups_weigh_in_end_to_end_training_what_the_setting_says(tmp_path: Path, how: str) -> None:
    ctx = make_context(tmp_path, tiny_table(tmp_path / "data"), ["genes", "age"], data__group_weights=how)
    rows = ctx.split.rows("train")
    method = STRATEGIES["joint"](ctx, STRATEGIES["joint"].Settings())  # type: ignore[call-arg]
    weight = method.training_on(rows, ctx.split.rows("valid")).weight  # type: ignore[attr-defined]
    np.testing.assert_allclose(weight[rows], ctx.row_weights(rows), rtol=1e-6)
    assert (np.ptp(weight[rows]) > 0.1) == (how == "equal")


def test_modalities_are_dropped_from_the_head_and_from_nothing_else(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[3, 20], "note"] = None
    ctx = make_context(tmp_path, frame, ["note", "genes"], head__modality_dropout=0.5)
    rows, loop = ctx.split.rows("train"), EndToEnd.Settings(repeats=2)
    raw = {name: source.read(rows[source.present[rows]]) for name, source in ctx.sources.items()}
    batch = draw_batch(ctx, ["note", "genes"], rows, raw, torch.ones(len(rows)), 3, loop)  # type: ignore[arg-type]
    fewer = batch.fewer(ctx)
    lost = torch.stack([batch.present[name] & ~fewer[name] for name in fewer])
    assert not any((fewer[name] & ~batch.present[name]).any() for name in fewer)
    assert torch.stack(list(fewer.values())).any(0).all()  # at least one input that was there stays
    assert 0.1 < float(lost.any(0).float().mean()) < 0.5
    assert not torch.equal(lost[:, : len(rows)], lost[:, len(rows) :])  # each view its own
    ctx.config.head.modality_dropout = 0.0
    assert batch.fewer(ctx) is batch.present


@pytest.mark.parametrize("key", ["kind=mlp", "inputs=logits", "pretrained=true", "blockwise=true"])
def test_settings_that_a_strategy_does_not_read_are_refused(key: str, tmp_path: Path) -> None:
    name = key.split("=", maxsplit=1)[0]
    with pytest.raises(ConfigError, match=rf"head.{name}: the strategy 'umt' does not read this"):
        fusetune.fit(tmp_path / "no.csv", "y", strategy="umt", sets=[f"head.{key}"], out=tmp_path / "run")


def test_another_strategy_leaves_the_settings_of_the_former_behind() -> None:
    mine, plain = {"strategy": {"name": "umt", "weight": 5.0}}, {"name": "joint", "level": "encoders"}
    assert fusetune.Config.build(mine, {"strategy": "joint"}).strategy.model_dump() == plain
    assert fusetune.Config.build(mine, sets=["strategy.name=joint"]).strategy.model_dump() == plain
    same = fusetune.Config.build(mine, {"strategy": {"name": "umt", "epochs": 3}}).strategy
    assert same.model_dump() == {"name": "umt", "level": "encoders", "weight": 5.0, "epochs": 3}


def test_a_strategy_cannot_take_the_name_of_a_rival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'from fusetune.strategies.joint import Joint\nclass Mine(Joint):\n    name = "{}"\n'
    for place, name in enumerate(("ensemble", "traditional", "majority", "scan alone")):
        (tmp_path / f"rival_{place}.py").write_text(code.format(name))
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match=f"calls itself '{name}', as a rival in the gain table is called"):
            fusetune.fit(tmp_path / "no.csv", "y", strategy=f"import:rival_{place}:Mine", out=tmp_path / "run")


def test_the_best_single_input_is_charged_for_all_that_were_tried(tmp_path: Path) -> None:
    more: dict[str, Any] = {"vector__encoder": "mlp", "train__epochs": 1}
    ctx = make_context(tmp_path, tiny_table(tmp_path / "data"), ["genes", "age"], **more)
    best = Alone.fit(ctx, AloneSettings())
    assert {name for name, passes in best.cost.passes.items() if passes and "training" in name} == {
        "genes, training", "columns, training",
    }  # fmt: skip
    assert best.cost.passes["genes, training"] == ctx.trained_rows["genes"]  # once, however often it is asked for
    assert len(best.tried) == 2
    (owner,) = set(best.network.owners)
    assert best.notes[None].startswith(f"{owner}: ")
    one = Alone.fit(ctx, AloneSettings(modality="genes"))
    assert not len(one.tried)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "foo"}, "no kind of network called 'foo'"),
        ({"owners": ["a", "b", "c"]}, "encoders, and 3 names"),
        ({"temperatures": {"a": 0.0}}, "temperatures must be positive"),
        ({"temperatures": {"nope": 1.0}}, "temperatures must be positive"),
    ],
)
def test_senseless_descriptions_of_networks_are_refused(change: dict[str, Any], message: str) -> None:
    encoder = Identity(4).describe()
    good = {"kind": EnsembleNetwork.kind, "encoders": [encoder], "owners": ["a"], "classes": 3, "temperatures": {}}
    assert build_network(good).classes == 3
    with pytest.raises(ValueError, match=message):
        build_network(good | change)


def test_senseless_wirings_are_refused() -> None:
    head = {"kind": "linear", "dims": {"a": 4}, "classes": 3}
    wiring: dict[str, Any] = {"modality_of": ["a"], "networks": {"a": [0]}, "features": {"a": 0}, "logits": []}
    good = {"kind": FusionNetwork.kind, "encoders": [Identity(4).describe()], "head": head, "wiring": wiring}
    assert build_network(good).owners == ["a"]
    for change in ({"features": {"a": 7}}, {"logits": ["b"]}, {"networks": {"a": [-1]}}):
        with pytest.raises(ValueError, match="the wiring names encoders or networks that are not there"):
            build_network(good | {"wiring": wiring | change})
