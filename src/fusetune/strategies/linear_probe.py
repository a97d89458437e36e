"""Linear probe: encoders stay as they were pretrained, and one linear head is solved on all their features.

    f = b + sum_m A_m phi_m(x_m), phi_m fixed

The traditional way (so called in arXiv 2505.06592), and a rival that most published methods do not beat. Columns, which
have no pretrained encoder, are read as the numbers and codes that they are.
"""

from __future__ import annotations

import time

from fusetune.context import Context
from fusetune.encoders import CellIdentity, Encoder, Identity
from fusetune.heads.folds import make_folds
from fusetune.strategies.base import ANY_TARGET, WHOLE, Fitted, NoSettings, Strategy
from fusetune.strategies.blocks import fitted_head, stack
from fusetune.strategies.crossfit import Tuned, probed


class LinearProbe(Strategy):
    """Frozen encoders, one solved head."""

    name, title, paper = "linear-probe", "frozen-encoder", "linear probe on pretrained features"
    targets = ANY_TARGET
    cost = "every row through every encoder once; no training"

    @classmethod
    def fit(cls, ctx: Context, settings: NoSettings) -> Fitted:
        """Encode every row once and solve the head."""
        before, folds = ctx.cost(), make_folds(ctx)
        parts = {name: frozen(ctx, name)[0] for name in ctx.modalities}
        head = ctx.config.head.model_copy(update={"kind": "logistic", "blockwise": False})
        stacked = stack(ctx, folds, [part.block for part in parts.values()], head)
        notes: dict[str | None, str] = {name: part.note for name, part in parts.items()}
        notes[WHOLE] = "frozen pretrained encoders, one head on all"
        return fitted_head(ctx, folds, parts, stacked, notes, before)


def frozen(ctx: Context, name: str) -> tuple[Tuned, float]:
    """Return the linear classifier on a pretrained encoder, and its seconds; asked for twice, it is solved once."""

    def make() -> tuple[Tuned, float]:
        began = time.monotonic()
        part = probed(ctx, name, untrained(ctx, name), make_folds(ctx), "as pretrained")
        return part, time.monotonic() - began

    return ctx.remember(("frozen", name), make)


def untrained(ctx: Context, name: str) -> Encoder:
    """Return the pretrained encoder; for columns and vectors, which have none, the numbers themselves."""
    described, kind = ctx.pristine[name].arguments, ctx.modalities[name].kind
    if kind in ("image", "text"):
        return ctx.frozen_encoder(name)
    if kind == "vector":
        return Identity(described["inputs"]).to(ctx.runtime.device).eval()
    return CellIdentity(described["numbers"], described["categories"]).to(ctx.runtime.device).eval()
