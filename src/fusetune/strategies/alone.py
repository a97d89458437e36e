"""One modality alone: f = f_m where a row has it, else class frequencies."""

from __future__ import annotations

from fusetune.config import Section
from fusetune.context import Context
from fusetune.errors import ConfigError, did_you_mean, listed
from fusetune.strategies.base import Fitted, Strategy, held_nll
from fusetune.strategies.crossfit import tuned
from fusetune.strategies.ensemble import fit_ensemble


class AloneSettings(Section):
    """Which one."""

    modality: str | None = None


class Alone(Strategy):
    """Stage U of one modality; by default that of the lowest NLL on held-out rows."""

    name, title, paper = "alone", "single-input", "stage U of arXiv 2505.06592"
    Settings = AloneSettings

    @classmethod
    def fit(cls, ctx: Context, settings: AloneSettings) -> Fitted:
        """Fine-tune one encoder.

        Raises:
            ConfigError: If there is no such input.
        """
        name = settings.modality
        if name is not None and name not in ctx.modalities:
            raise ConfigError(
                f"strategy.modality: there is no input '{name}'{did_you_mean(name, ctx.modalities)}; "
                f"the inputs are {listed(ctx.modalities)}"
            )
        if name is None:
            name = min(ctx.modalities, key=lambda one: held_nll(ctx, fit_ensemble(ctx, [one], "")))
        return fit_ensemble(ctx, [name], tuned(ctx, name).note)
