"""Strategies on stored features: seconds, the same code, and a model that reads pictures and texts all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from strategies_context import make_context
from tiny import settings, tiny_table

import fusetune
from fusetune.context import Context
from fusetune.encoders import Stacked
from fusetune.errors import ConfigError
from fusetune.networks.run import outputs_of
from fusetune.strategies import Joint, LinearProbe
from fusetune.strategies.level import grounded, on_features

HOW: dict[str, Any] = {"inputs": ["scan", "note", "age", "site"], "group": "patient", "split": "part", "quiet": True}


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[3, 20], "note"] = None
    frame["scan"] = [str(tmp_path / "data" / file) for file in frame["scan"]]
    frame.loc[[7, 20], "scan"] = None
    return make_context(tmp_path, frame, ["scan", "note", "age"])


def test_features_are_those_of_the_pretrained_encoders_by_the_scale_of_the_training_rows(ctx: Context) -> None:
    level, train = on_features(ctx), ctx.split.rows("train")
    assert {name: one.kind for name, one in level.modalities.items()} == {
        "scan": "vector",
        "note": "vector",
        "columns": "columns",
    }
    for name in ("scan", "note"):
        source = level.sources[name]
        np.testing.assert_array_equal(source.present, ctx.sources[name].present)
        rows = train[source.present[train]]
        values = source.read(rows).numpy()  # type: ignore[union-attr]
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-4)
        raw = ctx.encode(name, ctx.frozen_encoder(name), rows)[0]
        varies = raw.std(0) > 1e-4
        expected = (raw - raw.mean(0))[:, varies] / raw.std(0)[varies]
        np.testing.assert_allclose(values[:, varies], expected, atol=1e-2)


def test_a_network_on_features_says_the_same_when_it_reads_pictures_and_texts(ctx: Context) -> None:
    level, rows = on_features(ctx), np.arange(len(ctx.labels))
    for strategy, more in ((Joint, {"epochs": 2}), (LinearProbe, {})):
        fitted = strategy.fit(level, strategy.Settings(**more))
        network = grounded(fitted.network, ctx, level)
        assert sum(isinstance(encoder, Stacked) for _, encoder in network.members) == 2
        how: dict[str, Any] = {"config": ctx.config, "runtime": ctx.runtime, "description": "asking"}
        above = outputs_of({"": fitted.network}, level.readers, level.sources, rows, **how)[""]
        below = outputs_of({"": network}, ctx.readers, ctx.sources, rows, **how)[""]
        torch.testing.assert_close(below.f, above.f, rtol=1e-4, atol=1e-4)


def test_nothing_is_taken_for_a_network_of_the_other_level(ctx: Context) -> None:
    level = on_features(ctx)
    assert level.key != ctx.key
    assert level.folder != ctx.folder
    Joint.fit(level, Joint.Settings(epochs=1))
    assert not ctx.histories
    assert not ctx.remembers(("end-to-end start",))


def test_a_whole_run_is_saved_and_predicts_what_was_judged(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    frame.loc[5, "scan"] = None
    frame.to_csv(tmp_path / "data" / "table.csv", index=False)
    config = settings(tmp_path / "store", doctor={"check": False})
    run = fusetune.fit(
        tmp_path / "data" / "table.csv",
        "organ",
        strategy={"name": "umt", "level": "features", "epochs": 3},
        config=config,
        out=tmp_path / "run",
        **HOW,
    )
    said = pd.read_parquet(run.folder / "predictions.parquet").query("part == 'test'")
    model = fusetune.load(run.folder)
    probabilities = model.predict_proba(tmp_path / "data" / "table.csv")
    rows = frame["case_id"].isin(said["row_id"]).to_numpy()
    columns = [column for column in said.columns if column.startswith("p(")]
    np.testing.assert_allclose(probabilities.to_numpy()[rows], said[columns].to_numpy(), atol=1e-4)
    explanation = model.explain(tmp_path / "data" / "table.csv", "case-007")
    assert sum(explanation.shares.values()) + explanation.prior == pytest.approx(explanation.probability, abs=1e-5)


def test_views_at_prediction_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    message = r"evaluate\.test_views .* read once; leave out one of the two"
    sets, nothing = ["evaluate.test_views=2"], tmp_path / "no such table.csv"
    with pytest.raises(ConfigError, match=message):
        fusetune.fit(nothing, "y", strategy={"name": "joint", "level": "features"}, sets=sets, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        fusetune.compare(nothing, "y", strategies=["joint", "ume"], sets=sets, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
