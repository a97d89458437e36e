"""`FusionClassifier` and `FusionRegressor`: the same training as estimators of scikit-learn, for its tools.

Whoever calls an estimator keeps rows for judging, so none are put aside as a test part here, nothing is judged, and no
report is written. Nor is the table examined: a fold cannot tell which of its rows have copies in another one
(`fusetune check` looks at the whole table); rows of `X` that are equal are kept on one side of what is divided inside.
A policy for findings is refused, since nothing would follow it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from fusetune.arguments import gather
from fusetune.bundle import load_bundle, save_bundle
from fusetune.config import Config
from fusetune.config.checks import DEFAULTS
from fusetune.data.choices import OnProblem
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles, Share
from fusetune.data.table import Table, read_table
from fusetune.data.weights import Weights
from fusetune.doctor.examine import copy_numbers
from fusetune.errors import BundleError, ConfigError, UserError
from fusetune.intake import with_weight
from fusetune.judge import calibrate, reference_of
from fusetune.model import Model
from fusetune.prepare import prepare, split_rows
from fusetune.process import threads_restored
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune.strategies import refuse_target, refuse_weights, strategy_of
from fusetune.strategies.level import at_level, grounded
from fusetune.targets import Classification, Regression, Target
from fusetune.targets.choose import learn_target

_LABEL, _WEIGHT = "label", "weight"
# Fields of a fitted estimator that a pickle holds in another form: the model as the files of its bundle.
_MODEL, _FILES = "model_", "_bundle"


class _Fused(BaseEstimator, ABC):  # type: ignore[misc]
    """What both estimators share."""

    def __init__(
        self,
        *,
        inputs: str | Iterable[str] | None = None,
        kinds: Mapping[str, str] | None = None,
        vectors: Mapping[str, str] | None = None,
        group: str | None = None,
        share: Share | None = None,
        preset: str | None = None,
        seed: int | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        augment: Mapping[str, Any] | None = None,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        sets: str | Iterable[str] = (),
        verbose: bool = False,
        on_problem: OnProblem = "warn",
    ) -> None:
        self.inputs, self.kinds, self.vectors, self.group, self.share = inputs, kinds, vectors, group, share
        self.preset, self.seed, self.strategy = preset, seed, strategy
        self.augment, self.config, self.sets = augment, config, sets
        self.verbose, self.on_problem = verbose, on_problem

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all rows.

        Args:
            X: Table or array [rows, columns].
            y: Labels [rows].
            sample_weight: What each row counts, [rows], from 0 on, relative to other rows; rows of weight 0 are left
                out. Default: all alike.

        Raises:
            ValueError: If table, labels or configuration cannot be used; the message says where and what to do.
        """
        validate_data(self, X, y, skip_check_array=True)
        frame = self._frame(X, reset=True)
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        self._check_labels(labels)
        check_consistent_length(frame, labels)
        weights = None if sample_weight is None else _checked_weights(sample_weight, frame, labels)
        with _as_value_errors(), TemporaryDirectory() as folder, threads_restored():
            self.model_, self.warnings_ = self._train(frame, labels, weights, Path(folder))
        self._fitted_on(labels)
        return self

    @abstractmethod
    def _check_labels(self, labels: npt.NDArray[Any]) -> None:
        """Refuse labels that are of another kind."""

    @abstractmethod
    def _target(self, table: Table, label: str) -> Target:
        """Return what is predicted."""

    def _fitted_on(self, labels: npt.NDArray[Any]) -> None:
        """Keep what scikit-learn wants to know of the labels."""

    def _train(
        self, frame: pd.DataFrame, y: npt.NDArray[Any], weights: Weights | None, folder: Path
    ) -> tuple[Model, list[str]]:
        config, own = gather(self.preset, self.seed, self.strategy, self.augment, self.config, self.sets)
        _refuse_unused(config, type(self).__name__)
        label, weight = (
            next(name for name in (word + "_" * n for n in range(len(frame.columns) + 1)) if name not in frame)
            for word in (_LABEL, _WEIGHT)
        )
        more = {label: y} | ({} if weights is None else {weight: weights})
        table = read_table(frame.reset_index(drop=True).assign(**more))
        plain = infer_schema(
            table,
            Roles(
                label,
                inputs=self.inputs,
                kinds=self.kinds,
                vectors=self.vectors,
                group=self.group,
                share=self.share,
                weight=None if weights is None else weight,
            ),
            config.data.outside == "refuse",
        )
        table = with_weight(plain.read(table), plain)
        target = self._target(table, label)
        schema = plain.model_copy(update={"target": target.kind})
        train, valid, _ = config.split.fractions
        # No row is kept for a test, which scikit-learn's users make themselves.
        whole = config.split.model_copy(update={"fractions": (train / (train + valid), valid / (train + valid), 0.0)})
        copies = copy_numbers(table, schema)
        split, target, labels = split_rows(
            table, schema, target, config.model_copy(update={"split": whole}), copies=copies
        )
        log = Log(quiet=not self.verbose)
        runtime = start_runtime(config)
        ctx = prepare(table, schema, split, target, labels, config, runtime, log, folder, False, own, copies)
        strategy, own_settings = strategy_of(config)
        refuse_target(strategy, target.kind)
        if weights is not None:
            refuse_weights(strategy, own_settings)
        read, ctx = ctx, at_level(ctx)
        fitted = strategy.fit(ctx, own_settings)
        model = Model.of(read, grounded(fitted.network, read, ctx), schema, calibrate(ctx, fitted))
        # With k-fold cross-fitting every row was trained on, and none can say how far new ones are.
        unseen = split.rows("valid")
        model.reference = None if len(fitted.rows) > len(unseen) else reference_of(model, read, table, unseen)
        return model, log.warnings

    def _frame(self, X: Any, *, reset: bool) -> pd.DataFrame:
        """Check names and shape as scikit-learn does, and return a DataFrame with a name for each column."""
        if not isinstance(X, pd.DataFrame) and hasattr(X, "__arrow_c_stream__"):  # of polars or pyarrow
            with _as_value_errors():
                X = read_table(X).frame
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, skip_check_array=True, reset=reset)
            frame = X
        else:
            how: dict[str, Any] = {"dtype": None, "ensure_all_finite": "allow-nan", "ensure_min_samples": 1 + reset}
            frame = pd.DataFrame(validate_data(self, X, reset=reset, **how)).infer_objects()
        names = getattr(self, "feature_names_in_", [f"x{place}" for place in range(self.n_features_in_)])
        return frame.set_axis(list(names), axis=1)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a pickle; what is learnt is the bundle's files, which are checked when they are read."""
        state: dict[str, Any] = dict(super().__getstate__())
        if _MODEL in state:
            with TemporaryDirectory() as folder:
                save_bundle(state.pop(_MODEL), Path(folder) / "model")
                files = [path for path in Path(folder).rglob("*") if path.is_file()]
                state[_FILES] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop(_FILES, None)
        super().__setstate__({"on_problem": "warn", "share": None, **state})  # pickles are older than this argument
        if files is not None:
            with TemporaryDirectory() as folder:
                for name, content in files.items():
                    if not (Path(folder) / name).resolve().is_relative_to(Path(folder).resolve()):
                        raise BundleError(f"the pickle holds a file for another folder: {name}")
                    (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                    (Path(folder) / name).write_bytes(content)
                self.model_ = load_bundle(folder)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags


class FusionClassifier(ClassifierMixin, _Fused):  # type: ignore[misc]
    """A classifier on images, text and table columns.

    `X` is a DataFrame of pandas or polars, or a table of pyarrow; columns of an array are called x0, x1 and so on. With
    `crossfit.how=k` (the default) every row is learnt from; otherwise `split.fractions` says how many rows choices are
    made on.

    Args:
        inputs: Columns to use; default: all but the group and ids.
        kinds: Column -> image, text, number, category, boolean, date or vector, where the guess would be wrong;
            image+ocr for pictures, and the words in them as one more input of texts.
        vectors: Name -> pattern of number columns that form one vector.
        group: Column of `X` whose rows belong together. Never an input; its values do not matter when predicting.
        share: Columns of pictures, or of texts, that are one input with one encoder, as for `fusetune.fit`. (Rows are
            not gathered: scikit-learn wants an answer for each row of `X`. Lists in cells are read.)
        preset: quick, good (default), best or paper, as `fit` takes it.
        seed: Decides folds, augmentation and training.
        strategy: How the model is fitted, as for `fusetune.fit`.
        augment: ``{"image": it}``, a policy or a callable, as for `fusetune.fit`.
        config: A `Config`, a mapping or a YAML file.
        sets: Overrides such as ``("image.train.epochs=3",)``.
        verbose: Print what happens.
        on_problem: What becomes of cells of `X` that cannot be used when predicting, as for `fusetune.Model.predict`.

    Attributes:
        model_: The trained `Model`.
        classes_: The labels, sorted.
        warnings_: What a report would have warned of.
    """

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities [rows, classes], in the order of `classes_`.

        Raises:
            ValueError: If no picture of a column can be read, or any cell cannot be used and `on_problem` is `raise`.
        """
        check_is_fitted(self)
        frame = self._frame(X, reset=False)
        with _as_value_errors():
            found: npt.NDArray[np.float64] = self.model_.predict_proba(frame, self.on_problem).to_numpy()
        return found

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the label of each row, as `model_.rule` decides it: by the threshold for `evaluate.aim`, if any."""
        probabilities = self.predict_proba(X)
        best = self.model_.rule.decide(probabilities)
        found: npt.NDArray[Any] = self.classes_[best]
        return found

    def _check_labels(self, labels: npt.NDArray[Any]) -> None:
        check_classification_targets(labels)

    def _target(self, table: Table, label: str) -> Target:
        return Classification.learn(table, label, least=1)  # rows of a class may lie in other folds

    def _fitted_on(self, labels: npt.NDArray[Any]) -> None:
        self.classes_ = np.array(self.model_.classes, dtype=labels.dtype)


class FusionRegressor(RegressorMixin, _Fused):  # type: ignore[misc]
    """A model of a number on images, text and table columns; arguments and attributes are those of `FusionClassifier`.

    Strategies that are defined for classes alone are refused.
    """

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the number of each row, float64 [rows].

        Raises:
            ValueError: If no picture of a column can be read, or any cell cannot be used and `on_problem` is `raise`.
        """
        check_is_fitted(self)
        frame = self._frame(X, reset=False)
        with _as_value_errors():
            found: npt.NDArray[np.float64] = self.model_.predict(frame, self.on_problem).to_numpy(dtype=np.float64)
        return found

    def _check_labels(self, labels: npt.NDArray[Any]) -> None:
        if not np.issubdtype(labels.dtype, np.number) or np.iscomplexobj(labels):
            raise ValueError(f"the labels are of type {labels.dtype}, and a regressor needs numbers: convert them")

    def _target(self, table: Table, label: str) -> Target:
        return learn_target(Regression.kind, table, label)


def _checked_weights(sample_weight: Any, frame: pd.DataFrame, labels: npt.NDArray[Any]) -> Weights:
    """Return weights as numbers, one for each row; that they can be weights is checked as of a column of a table."""
    weights = np.asarray(sample_weight)
    if weights.ndim != 1 or not np.issubdtype(weights.dtype, np.number):
        raise ValueError(f"sample_weight must be numbers [rows], and it is {weights.dtype} {list(weights.shape)}")
    check_consistent_length(frame, labels, weights)
    return np.asarray(weights, dtype=np.float64)


def _refuse_unused(config: Config, name: str) -> None:
    """Refuse settings that only a run with a folder of its own follows, rather than pass over them."""
    plain = {"data.schema_file": config.data.schema_file is None, "track": config.track == "none"}
    plain["doctor.policy"] = config.doctor.policy == DEFAULTS
    plain["split.how"] = config.split.how in ("auto", "stratified", "grouped")
    wrong = [name for name, unset in plain.items() if not unset]
    if wrong:
        raise ConfigError(f"{wrong[0]} has no meaning for {name}; leave it out, or use fusetune.fit")


@contextmanager
def _as_value_errors() -> Iterator[None]:
    """Turn errors in the input into those that scikit-learn's tools expect."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from error
