"""The ensemble against its formula: each held-out row by temperatures that it did not help to fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table

from fusetune.context import Context
from fusetune.evaluate.temperature import fit_temperature
from fusetune.heads.folds import row_folds
from fusetune.strategies.base import NoSettings, held_by
from fusetune.strategies.ume import UME


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[3, 37, 40, 81], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    return make_context(tmp_path, frame, ["age", "site", "genes"], crossfit__how="k", train__epochs=0)


def test_what_is_said_of_held_out_rows_equals_the_formula(ctx: Context) -> None:
    fitted = UME.fit(ctx, NoSettings())
    rows, held, labels = fitted.rows, fitted.held, ctx.labels[fitted.rows]
    folds = row_folds(ctx, rows)
    expected = np.zeros((len(rows), 3))
    count = np.zeros(len(rows))
    for name in ctx.modalities:
        f_m, has = held.f_m[name].double().numpy(), ctx.sources[name].present[rows]
        for row in np.flatnonzero(has):
            others = has & (folds != folds[row])
            expected[row] += f_m[row] / fit_temperature(f_m[others], labels[others])
        count += has
        every = fit_temperature(f_m[has], labels[has])
        assert fitted.network.temperatures[name] == pytest.approx(every)  # type: ignore[index, operator]
    np.testing.assert_allclose(held.f.numpy(), expected / count[:, None], rtol=1e-4, atol=1e-5)


def test_the_network_is_the_mean_of_calibrated_logits(ctx: Context) -> None:
    network = UME.fit(ctx, NoSettings()).network
    said = held_by(ctx, network, ctx.split.rows("valid"))
    heats: dict[str, float] = network.temperatures  # type: ignore[assignment]
    assert len(set(heats.values())) == 2
    total = sum(torch.where(said.present[name][:, None], said.f_m[name] / heats[name], 0.0) for name in heats)
    torch.testing.assert_close(said.f, total / sum(bits.float() for bits in said.present.values())[:, None])
