"""One modality alone: f = f_m where a row has it, else class frequencies."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from fusetune.config import Section
from fusetune.context import Context
from fusetune.errors import ConfigError, did_you_mean, listed
from fusetune.strategies.base import ANY_TARGET, WHOLE, Fitted, Strategy, held_nll
from fusetune.strategies.ensemble import fit_ensemble


class AloneSettings(Section):
    """Which one."""

    modality: str | None = Field(None, description="the input; default: the best on held-out rows")


class Alone(Strategy):
    """Stage U of one modality; by default that of the lowest NLL on held-out rows."""

    name, title, paper = "alone", "single-input", "stage U of arXiv 2505.06592"
    targets = ANY_TARGET
    cost = "the training of every encoder alone, of which one is kept"
    Settings = AloneSettings

    @classmethod
    def fit(cls, ctx: Context, settings: AloneSettings) -> Fitted:
        """Fine-tune one encoder.

        Raises:
            ConfigError: If there is no such input.
        """
        name, before, valid = settings.modality, ctx.cost(), ctx.split.rows("valid")
        if name is not None and name not in ctx.modalities:
            raise ConfigError(
                f"strategy.modality: there is no input '{name}'{did_you_mean(name, ctx.modalities)}; "
                f"the inputs are {listed(ctx.modalities)}"
            )
        if name is not None:
            return fit_ensemble(ctx, [name])
        each = {one: fit_ensemble(ctx, [one]) for one in ctx.modalities}
        tried = [fitted.held_on(valid).f.double().numpy() for fitted in each.values()]
        best = min(each, key=lambda one: held_nll(ctx, each[one]))
        notes = {**each[best].notes, WHOLE: f"{best}: {each[best].notes[WHOLE]}"}
        return replace(each[best], notes=notes, cost=ctx.cost() - before, tried=tried if len(tried) > 1 else [])
