"""A classifier of scikit-learn as a head, one fit per fold, kept by skops: a file of types, without pickle and code.

What skops does not know to be harmless is read only where it is a type of scikit-learn's own; anything else is refused
when it is fitted, not when a saved model is needed. No code is run, but scikit-learn does not look through the arrays
inside its estimators: a damaged one can end the process, as a damaged tree of this library's own cannot.
"""

from __future__ import annotations

import importlib
import io
import itertools
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.gaussian_process.kernels import Kernel
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter
from torch import Tensor

from fusetune.errors import ConfigError, listed
from fusetune.heads.base import HeadData, HeadFit
from fusetune.heads.tabular import TabularHead
from fusetune.progress import bar

_LARGEST = 1 << 31  # bytes that a file of skops may unfold to
_LEAST = 1e-6  # no class is said to be less likely, since an NLL would be infinite
_PARTS = (  # of estimators, which are none themselves
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)


class ClassifierHead(TabularHead):
    """f = log of the mean probability of the classifiers of all folds.

    Args:
        dims: Width of each block, by name.
        classes: Number of classes.
        cells: Blocks of cells -> [numbers, categories].
        reduced: Blocks of which principal components are read -> how many.
        sizes: Bytes of each classifier as skops keeps it.
    """

    kind = "classifier"

    def __init__(
        self,
        dims: Mapping[str, int],
        classes: int,
        cells: Mapping[str, Sequence[int]] | None = None,
        reduced: Mapping[str, int] | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        super().__init__(dims, classes, cells, reduced)
        self.arguments["sizes"] = list(sizes)
        for at, size in enumerate(sizes):
            self.register_buffer(f"classifier_{at}", torch.zeros(size, dtype=torch.uint8))
        self._read: list[Any] = []

    def holding(self, files: Sequence[bytes]) -> Self:
        """Return a head that reads the same table with these classifiers."""
        new = self.remade(sizes=list(map(len, files)))
        for at, file in enumerate(files):
            new.get_buffer(f"classifier_{at}").copy_(torch.frombuffer(bytearray(file), dtype=torch.uint8))
        return new

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes].

        Raises:
            ValueError: If what is kept is no classifier that may be read.
        """
        table = self.table(z, present)
        if not self._read:
            buffers = [self.get_buffer(f"classifier_{at}") for at in range(len(self.arguments["sizes"]))]
            self._read = [loaded(buffer.cpu().numpy().tobytes(), table.shape[1]) for buffer in buffers]
        said = [_said(one, table.cpu().numpy(), self.classes) for one in self._read]
        return torch.from_numpy(np.log(np.mean(said, 0))).float().to(table.device)


def fit_classifier(
    blank: ClassifierHead, data: HeadData, folds: npt.NDArray[np.int64], plain: Any, seed: int
) -> HeadFit:
    """Fit a classifier once per fold.

    Args:
        blank: A head without classifiers that knows the blocks; its reduction is learnt from these rows, labels apart.
        data: All rows, one view.
        folds: Fold of each row, from 0, whose classifier does not learn from it; -1: all learn from it, and none is
            judged on it.
        plain: The classifier, not fitted.
        seed: For what it draws, where nothing else was asked for.

    Returns:
        The head; `held` are logits of all rows, zero where the fold is -1.

    Raises:
        ConfigError: If it cannot be fitted, gives no probabilities or cannot be kept.
    """
    table, whole = blank.tabulated(data), prepared(plain, blank, seed)
    held, files = np.zeros((len(folds), blank.classes)), list[bytes]()
    weight = {f"{whole.steps[-1][0]}__sample_weight": data.weights} if has_fit_parameter(plain, "sample_weight") else {}
    with bar(f"fitting {type(plain).__name__}", int(folds.max()) + 1) as steps:
        for fold in range(int(folds.max()) + 1):
            learn, own = folds != fold, folds == fold
            fitted = clone(whole)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of convergence: held-out rows say what a classifier is worth
                    fitted.fit(table[learn], data.labels[learn], **{name: each[learn] for name, each in weight.items()})
                files.append(dumped(fitted))
                again = loaded(files[-1], table.shape[1])
                held[own] = np.log(_said(again, table[own], blank.classes)) if own.any() else 0.0
            except (ValueError, TypeError, AttributeError) as error:
                raise ConfigError(f"the classifier {plain!r} cannot be used: {error}") from error
            steps.advance()
    judged = np.flatnonzero(folds >= 0)
    words = type(plain).__name__ + (f", mean of {len(files)} folds" if len(files) > 1 else "")
    return HeadFit(blank.holding(files), data.nll(held[judged], judged), words, held=held)


def prepared(plain: Any, head: TabularHead, seed: int) -> Pipeline:
    """Return a classifier behind what it needs: a column per category and, where it takes no gaps, medians instead."""
    own = clone(plain)
    states = [
        name for name, value in own.get_params().items() if name.split("__")[-1] == "random_state" and value is None
    ]
    own.set_params(**dict.fromkeys(states, seed % 2**31))
    codes = head.categories
    numbers = [at for at in range(head.features) if at not in set(codes)]
    gaps = get_tags(plain).input_tags.allow_nan
    plain_numbers = "passthrough" if gaps else make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )  # fmt: skip
    parts: list[tuple[str, Any, list[int]]] = [("numbers", plain_numbers, numbers)]
    if codes:
        each = OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=200)
        parts.append(("categories", each, codes))
    return make_pipeline(ColumnTransformer(parts), own)


def dumped(estimator: Any) -> bytes:
    """Return a fitted estimator as skops keeps it.

    Raises:
        ValueError: Naming the types that are not scikit-learn's.
    """
    file = _settled(_skops().dumps(estimator))
    _trusted(file)
    return file


def _settled(file: bytes) -> bytes:
    """Return the same file whenever it is written: skops names objects and their files by where they lie in memory."""
    count, numbers, files = itertools.count(), dict[int, int](), dict[str, str]()

    def settle(node: Any) -> Any:
        if isinstance(node, list):
            return [settle(one) for one in node]
        if not isinstance(node, dict):
            return node
        node = dict(node)
        if "__id__" in node:
            # Which equal words and small numbers are one object differs between processes: each is one of its own here.
            shared = node.get("__loader__") != "JsonNode"
            node["__id__"] = numbers.setdefault(node["__id__"], next(count)) if shared else next(count)
        if isinstance(node.get("file"), str):
            node["file"] = files.setdefault(node["file"], f"{len(files)}{Path(node['file']).suffix}")
        return {name: settle(one) for name, one in node.items()}

    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        schema = json.dumps(settle(json.loads(archive.read("schema.json"))), indent=1)
        settled = io.BytesIO()
        with zipfile.ZipFile(settled, "w") as new:
            new.writestr(zipfile.ZipInfo("schema.json"), schema)
            for name, other in files.items():
                new.writestr(zipfile.ZipInfo(other), archive.read(name))
    return settled.getvalue()


def loaded(file: bytes, features: int | None = None) -> Any:
    """Return the estimator of a file of skops; a fitted one must read tables of so many features.

    Raises:
        ValueError: If there is none, or it holds a type that is not scikit-learn's.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise ValueError("the classifier unfolds to more than 2 GiB")
        estimator = _skops().loads(file, trusted=_trusted(file))
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise ValueError(f"the classifier cannot be read: {error}") from error
    if features is not None and getattr(estimator, "n_features_in_", features) != features:
        raise ValueError(f"the classifier reads {estimator.n_features_in_} features, and there are {features}")
    return estimator


def _skops() -> Any:
    try:
        return importlib.import_module("skops.io")
    except ImportError as error:
        raise ConfigError(
            "classifiers of scikit-learn are kept by skops. Install it with: pip install 'fusetune[skops]'"
        ) from error


def _trusted(file: bytes) -> list[str]:
    """Return the types that are read beside those that skops knows to be harmless."""
    strange = _skops().get_untrusted_types(data=file)
    if refused := [name for name in strange if not _own(name)]:
        raise ValueError(f"it holds {listed(refused)}, which cannot be kept without pickle")
    return list(strange)


def _own(name: str) -> bool:
    """Is this one of scikit-learn's estimators, kernels, or their parts?"""
    module, _, word = name.rpartition(".")
    if name in _PARTS:
        return True
    if not module.startswith("sklearn."):
        return False
    found = getattr(importlib.import_module(module), word, None)
    kinds = (BaseEstimator, Kernel)
    return isinstance(found, type) and (issubclass(found, kinds) or word == "_BinaryGaussianProcessClassifierLaplace")


def _said(fitted: Any, table: npt.NDArray[np.float64], classes: int) -> npt.NDArray[np.float64]:
    """Return probabilities [rows, classes]; a fold may lack a class."""
    p = np.full((len(table), classes), _LEAST)
    if len(table):
        p[:, np.asarray(fitted.classes_, dtype=int)] = np.maximum(fitted.predict_proba(table), _LEAST)
    p /= p.sum(1, keepdims=True)
    return p
