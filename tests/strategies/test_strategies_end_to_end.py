"""End-to-end training: validation rows choose and are spoken of; nothing is learnt from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table, untold_table
from torch.nn import functional as F

from fusetune.strategies import end_to_end
from fusetune.strategies.base import held_by
from fusetune.strategies.end_to_end import EndToEndSettings, probed_network
from fusetune.strategies.joint import Joint
from fusetune.strategies.trainer import Training


def test_rows_that_are_learnt_from_choose_nothing_and_are_not_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = make_context(tmp_path, tiny_table(tmp_path / "data"), ["age", "site", "genes"])
    plain, asked = end_to_end.run_training, []

    def watched(ctx: Any, what: Training) -> None:
        asked.append(what)
        plain(ctx, what)

    monkeypatch.setattr(end_to_end, "run_training", watched)
    fitted = Joint.fit(ctx, EndToEndSettings(epochs=1, batch_size=16))
    (what,) = asked
    train, valid = ctx.split.rows("train"), ctx.split.rows("valid")
    assert np.array_equal(what.rows, train)
    assert np.array_equal(what.held, valid)
    assert np.array_equal(fitted.rows, valid)
    torch.testing.assert_close(fitted.held.f, held_by(ctx, fitted.network, valid).f)
    best = ctx.histories["strategy joint"].best_nll
    assert float(F.cross_entropy(fitted.held.f, ctx.targets(valid))) == pytest.approx(best, abs=1e-5)


def test_the_start_is_chosen_by_rows_that_it_was_not_solved_on(tmp_path: Path) -> None:
    """Vectors that tell rows apart and nothing else: training rows would choose the weakest penalty."""
    ctx = make_context(tmp_path, untold_table(tmp_path / "data"), ["genes"])
    said = held_by(ctx, probed_network(ctx), ctx.split.rows("valid"))
    for logits in (said.f, said.f_m["genes"]):
        assert float(F.cross_entropy(logits, ctx.targets(ctx.split.rows("valid")))) < 1.3
