"""Gradient-boosted trees on everything: cells as they are, encoders as they were pretrained, and what these say alone.

    f = sum_t g_t(x),  g_t a tree on the cells, on the first principal components of phi_m(x_m), and on the logits of a
                       linear classifier on phi_m(x_m) and on the words of a text

Trees find thresholds and interactions of cells that a linear head cannot, and combine them with what pictures and texts
say: text and image features reduced to 30 components beside the columns, as arXiv 2605.10616 gives them to trees.
LightGBM grows them (`heads/boosted.py`). Linear classifiers and trees are cross-fitted on the same folds, so that what
trees learn of a row's logits comes from classifiers that did not see it. With `scale: log`, trees learn the logarithm
of a number above 0, and the exponential of their sum is told. With `grow: randomised`, thresholds are drawn and the
trees of a number averaged (extremely randomised trees, Geurts et al. 2006; `heads/randomised.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from fusetune.context import Context
from fusetune.errors import TableError
from fusetune.heads.base import HeadData, HeadFit
from fusetune.heads.boosted import Boosting, fit_trees
from fusetune.heads.randomised import fit_randomised
from fusetune.heads.trees import TreesHead
from fusetune.strategies.base import ANY_TARGET, Fitted, Strategy
from fusetune.strategies.tabular import TabularSettings, fit_tabular
from fusetune.targets import Logarithm

LOG_TREES, RANDOMISED_TREES = "trees of logarithms", "randomised trees"


class TreesSettings(Boosting, TabularSettings):
    """How trees are grown, what they read, and what they learn."""

    scale: Literal["plain", "log"] = Field(
        "plain", description="log: numbers above 0 are learnt as their logarithms, on which effects add up"
    )
    grow: Literal["boosted", "randomised"] = Field(
        "boosted", description="randomised: trees of drawn thresholds, of numbers, whose mean is told"
    )


class Trees(Strategy):
    """Gradient-boosted trees."""

    name, title, paper = "trees", "boosted trees", "LightGBM (NeurIPS 2017) on cells and features, arXiv 2605.10616"
    targets = ANY_TARGET
    cost = "every row through every encoder once; boosting, once per fold"
    Settings = TreesSettings

    @classmethod
    def fit(cls, ctx: Context, settings: TreesSettings) -> Fitted:
        """Encode every row once and grow trees.

        Raises:
            TableError: If logarithms of the labels are asked for, and there are none, or means of what is no number.
        """
        if settings.grow == "randomised":
            return _randomised(ctx, settings)
        name, title = (cls.name, cls.title) if settings.scale == "plain" else (LOG_TREES, f"{cls.title} of logarithms")

        def learn(described: Mapping[str, Any], data: HeadData, folds: npt.NDArray[np.int64]) -> HeadFit:
            scale = None if settings.scale == "plain" else _logarithm(ctx, data)
            return fit_trees(
                TreesHead(**described, logarithm=() if scale is None else scale.values), data, folds, settings,
                seed=ctx.config.seed, threads=torch.get_num_threads(), over=ctx.over, asked=len(ctx.labels),
            )  # fmt: skip

        return fit_tabular(ctx, settings, learn, name, title)


def _randomised(ctx: Context, settings: TreesSettings) -> Fitted:
    if not ctx.target.averaged:
        raise TableError("grow: randomised averages labels, and these are no numbers; leave it out")
    if settings.scale == "log":
        raise TableError("grow: randomised learns numbers as they are; leave scale: log out")

    def learn(described: Mapping[str, Any], data: HeadData, folds: npt.NDArray[np.int64]) -> HeadFit:
        return fit_randomised(
            TreesHead(**described), data, folds,
            seed=ctx.config.seed, threads=torch.get_num_threads(), over=ctx.over,
        )  # fmt: skip

    return fit_tabular(ctx, settings, learn, RANDOMISED_TREES, RANDOMISED_TREES)


def _logarithm(ctx: Context, data: HeadData) -> Logarithm:
    scale = ctx.target.logarithm(data.labels)
    if scale is None:
        raise TableError(
            "scale: log learns logarithms, and these labels are not all numbers above 0, of which some differ; "
            "leave it out"
        )
    return scale
