"""What a result is compared with: each rival is what its name says, and as strong as it can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table

from fusetune.context import Context
from fusetune.features.store import weights_hash
from fusetune.strategies.base import NoSettings
from fusetune.strategies.linear_probe import LinearProbe
from fusetune.strategies.majority import Majority
from fusetune.strategies.rivals import ALONE, ENSEMBLE, TRADITIONAL, fit_rivals
from fusetune.strategies.two_stage import TwoStage

INPUTS = ["age", "site", "genes"]


def context(folder: Path, **more: object) -> Context:
    return make_context(folder, tiny_table(folder / "data"), INPUTS, train__epochs=1, views=1, **more)


def test_the_traditional_rival_reads_cells_as_they_are(tmp_path: Path) -> None:
    """No random network stands between the cells and its head: the age can be read off one of its features."""
    ctx = context(tmp_path)
    fitted = LinearProbe.fit(ctx, NoSettings())
    z = fitted.held.z["columns"].double().numpy()
    age = tiny_table(tmp_path / "again")["age"].to_numpy()[fitted.rows]
    likeness = [abs(np.corrcoef(column, age)[0, 1]) for column in z.T if column.std() > 0]
    assert max(likeness) == pytest.approx(1, abs=1e-6)
    assert not any(True for encoder in fitted.network.encoders for _ in encoder.parameters())


@pytest.mark.parametrize("how", ["off", "k"])
def test_each_rival_is_made_of_what_its_name_says(tmp_path: Path, how: str) -> None:
    ctx = context(tmp_path, crossfit__how=how)
    fitted = TwoStage.fit(ctx, NoSettings())
    rivals = fit_rivals(ctx, TwoStage, fitted)
    assert list(rivals) == ["majority", "columns" + ALONE, "genes" + ALONE, ENSEMBLE, TRADITIONAL]
    networks = {name: fitted.network for name, fitted in rivals.items()}
    for name in ctx.modalities:
        assert set(networks[name + ALONE].owners) == {name}
    assert set(networks[ENSEMBLE].owners) == set(networks[TRADITIONAL].owners) == set(ctx.modalities)
    # The ensemble's networks are those that predict alone, and those that the head reads.
    alone = [weights_hash(e) for name in ctx.modalities for e in networks[name + ALONE].encoders]
    assert [weights_hash(encoder) for encoder in networks[ENSEMBLE].encoders] == alone
    assert {weights_hash(encoder) for encoder in fitted.network.encoders} >= set(alone)
    for rival in rivals.values():
        assert set(ctx.split.rows("valid")) <= set(rival.rows)
        assert not set(rival.rows) & set(np.flatnonzero(ctx.split.part == 2))


def test_a_rival_is_no_rival_of_itself(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    assert TRADITIONAL not in fit_rivals(ctx, LinearProbe, LinearProbe.fit(ctx, NoSettings()))
    assert "majority" not in fit_rivals(ctx, Majority, Majority.fit(ctx, NoSettings()))


def test_the_majority_knows_the_training_labels_alone(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    lost = (frame["organ"] == "lung") & (frame["part"] == "train") & (np.arange(96) % 4 > 0)
    ctx = make_context(tmp_path, frame[~lost].reset_index(drop=True), ["age"])
    network = Majority.fit(ctx, NoSettings()).network
    counts = np.array([24, 24, int((frame["organ"] == "lung").sum() - lost.sum() - 8)]) + 0.5
    assert counts[2] < 12
    f = network.fuse({}, {"columns": torch.ones(2).bool()}).f
    np.testing.assert_allclose(f.exp().numpy(), [counts / counts.sum()] * 2, rtol=1e-6)
