"""Strategies that misbehave, found by their address as a user's own is: in this process and in workers."""

from __future__ import annotations

import os
from typing import Any

from fusetune.context import Context
from fusetune.strategies.base import Fitted, NoSettings, Strategy
from fusetune.strategies.majority import Majority


class Failing(Strategy):
    """Raises."""

    name, title, paper = "failing", "failing", "nowhere"

    @classmethod
    def fit(cls, ctx: Context, settings: Any) -> Fitted:
        raise ValueError("this method\nis broken")


class Peeking(Strategy):
    """Looks at the test part."""

    name, title, paper = "peeking", "peeking", "nowhere"

    @classmethod
    def fit(cls, ctx: Context, settings: Any) -> Fitted:
        ctx.split.rows("test")
        return Majority.fit(ctx, NoSettings())


class Dying(Strategy):
    """Takes its process with it."""

    name, title, paper = "dying", "dying", "nowhere"

    @classmethod
    def fit(cls, ctx: Context, settings: Any) -> Fitted:
        os._exit(3)


FAILING, PEEKING, DYING = (f"import:contest_strategies:{name}" for name in ("Failing", "Peeking", "Dying"))
