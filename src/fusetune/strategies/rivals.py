"""The simpler strategies beside every result: majority, each modality alone, their ensemble, frozen encoders."""

from __future__ import annotations

from fusetune.context import Context
from fusetune.strategies.alone import Alone, AloneSettings
from fusetune.strategies.base import Fitted, NoSettings, Strategy
from fusetune.strategies.linear_probe import LinearProbe
from fusetune.strategies.majority import Majority
from fusetune.strategies.ume import UME

ALONE = " alone"
# What the rivals are called in the gain table, and in a sentence after "better than".
MAJORITY, ENSEMBLE, TRADITIONAL = Majority.name, "ensemble", "traditional"
RESERVED = (MAJORITY, ENSEMBLE, TRADITIONAL)
IN_WORDS = {ENSEMBLE: "the ensemble", TRADITIONAL: "frozen pretrained encoders"}


def fit_rivals(ctx: Context, strategy: type[Strategy], fitted: Fitted) -> dict[str, Fitted]:
    """Fit what a strategy is to be compared with, by the name of its row in the gain table.

    Networks that the strategy trained are used again. What it did not need is trained only with `evaluate.baselines`.

    Args:
        ctx: The run.
        strategy: The chosen strategy, which is no rival of itself.
        fitted: What it left.
    """
    rivals: dict[str, Fitted] = {}
    if strategy is not Majority:
        rivals[MAJORITY] = Majority.fit(ctx, NoSettings())
    rivals |= fitted.parts
    there = ctx.config.evaluate.baselines or all(ctx.remembers(("tuned", name)) for name in ctx.modalities)
    for name in ctx.modalities if there else ():
        if name + ALONE not in rivals and not (strategy is Alone and set(fitted.network.owners) == {name}):
            rivals[name + ALONE] = Alone.fit(ctx, AloneSettings(modality=name))
    if ENSEMBLE not in rivals and there and len(ctx.modalities) > 1 and strategy is not UME:
        rivals[ENSEMBLE] = UME.fit(ctx, NoSettings())
    if TRADITIONAL not in rivals and ctx.config.evaluate.baselines and strategy is not LinearProbe:
        rivals[TRADITIONAL] = LinearProbe.fit(ctx, NoSettings())
    return rivals
