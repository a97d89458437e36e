"""Any classifier of scikit-learn on what boosted trees read: cells as they are, frozen features, and logits on these.

    f = log mean_k p_k(x),  p_k a classifier fitted without fold k

So that a learner which somebody trusts stands in the same table, is judged on the same rows, and can be weighed with
the others (`strategy.classifiers` of the weighted ensemble).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from sklearn.base import is_classifier
from sklearn.utils.validation import has_fit_parameter

from fusetune.context import Context
from fusetune.heads.base import HeadData, HeadFit
from fusetune.heads.classifier import ClassifierHead, fit_classifier, loaded
from fusetune.strategies.base import Fitted, Strategy
from fusetune.strategies.tabular import TabularSettings, fit_tabular


class ClassifierSettings(TabularSettings):
    """Which classifier, and what it reads."""

    classifier: str = Field(
        "sklearn.ensemble.ExtraTreesClassifier",
        description="a class of scikit-learn by its full name, or a .skops file of a classifier, a pipeline included",
    )
    arguments: dict[str, Any] = Field({}, description="what the class is given, by name")

    @model_validator(mode="after")
    def _known(self) -> ClassifierSettings:
        made(self.classifier, self.arguments)
        return self


class Classifier(Strategy):
    """A classifier of scikit-learn."""

    name, title, paper = "classifier", "scikit-learn", "scikit-learn (JMLR 2011)"
    cost = "every row through every encoder once; the classifier, once per fold"
    Settings = ClassifierSettings

    @classmethod
    def unweighed(cls, settings: ClassifierSettings) -> str | None:
        """Return that the classifier takes no weights, where it takes none."""
        plain = made(settings.classifier, settings.arguments)
        if has_fit_parameter(plain, "sample_weight"):
            return None
        return f"{type(plain).__name__} of scikit-learn is fitted without weights; take one that has sample_weight"

    @classmethod
    def fit(cls, ctx: Context, settings: ClassifierSettings) -> Fitted:
        """Encode every row once and fit the classifier."""
        plain = made(settings.classifier, settings.arguments)

        def learn(described: Mapping[str, Any], data: HeadData, folds: npt.NDArray[np.int64]) -> HeadFit:
            return fit_classifier(ClassifierHead(**described), data, folds, plain, ctx.config.seed)

        return fit_tabular(ctx, settings, learn, cls.name, type(plain).__name__)


def made(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return the classifier that settings name, not fitted.

    Raises:
        ValueError: If there is none, or it cannot say how likely each class is.
    """
    if name.endswith(".skops"):
        if arguments:
            raise ValueError(f"'{name}' brings its own settings: leave arguments out")
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"there is no file '{path}'; write one with skops.io.dump(classifier, '{path}')")
        found = loaded(path.read_bytes())
    else:
        module, _, word = name.rpartition(".")
        if module.split(".")[0] != "sklearn":
            raise ValueError(
                f"'{name}' is neither a class of scikit-learn, such as sklearn.ensemble.ExtraTreesClassifier, nor a "
                "file whose name ends in .skops"
            )
        try:
            found = getattr(importlib.import_module(module), word)(**arguments)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"scikit-learn has no '{name}': {error}") from error
        except TypeError as error:
            raise ValueError(f"{name} does not take these arguments: {error}") from error
    if not (is_classifier(found) and hasattr(found, "fit")):
        raise ValueError(f"'{name}' is no classifier")
    if not hasattr(found, "predict_proba"):
        raise ValueError(
            f"'{name}' says no probabilities; put sklearn.calibration.CalibratedClassifierCV around it, and give it as "
            "a .skops file"
        )
    return found
