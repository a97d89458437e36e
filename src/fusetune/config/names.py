"""The names of the strategies, for whoever must know a slip in one before the strategies themselves are imported."""

from __future__ import annotations

from collections.abc import Iterable

from fusetune.errors import as_list, did_you_mean, listed

# How a strategy of one's own is named, as an augmentation is.
IMPORT = "import:"
OR_OWN = f", or {IMPORT}package.module:Class for one of your own"
STRATEGY_NAMES = (
    "weighted-ensemble", "two-stage", "ume", "umt", "joint", "multi-loss", "ogm-ge", "mmpareto", "mcr", "pmr", "qmf",
    "g-blending", "club", "diagnose-relearn", "interference", "soft-attributes", "linear-probe", "trees", "classifier",
    "alone", "majority", "mlb", "agm", "iemf", "opm", "inforeg", "cpsc", "arl", "dgl", "m3col", "tri-modal",
    "structure", "mdico", "ithp", "mind", "cached-distillation", "tip", "tar", "frozen-fusion", "tuned-fusion", "mla",
    "reconboost", "modality-dropout", "ume-mma", "mmlora", "cache-head",
)  # fmt: skip


def unknown_strategies(names: Iterable[str], more: str = "", own: bool = True) -> str | None:
    """Return what is wrong with names of strategies, naming those that there are; None: nothing.

    Args:
        names: What was asked for.
        more: What else could have been named.
        own: May it be one of the user's own (`import:...`)? Whether that is one is not looked at.
    """
    unknown = [name for name in names if name not in STRATEGY_NAMES and not (own and name.startswith(IMPORT))]
    if not unknown:
        return None
    said = ", ".join(
        f"'{name}'{as_list(name, STRATEGY_NAMES) or did_you_mean(name, STRATEGY_NAMES)}" for name in unknown
    )
    return f"there is no strategy {said}; known: {listed(STRATEGY_NAMES, len(STRATEGY_NAMES))}{more}"
