"""The estimator within scikit-learn: its own checks, all of them, and its tools for search and cross-validation."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny import settings, tiny_table

from fusetune import FusionClassifier
from fusetune import estimator as estimator_module
from fusetune.errors import InputWarning

# Cells only, an encoder left as it is drawn: a fit of a fraction of a second.
CELLS = ["age", "site", "v_0", "v_1", "v_2", "v_3"]
QUICK = {**settings(Path(), views=1, train__epochs=0, columns__width=8), "store": {}}
COPIES = "copies of a row are rows of their own to split and folds, and a weight is one row's"
ROUNDING = "float32 sums over a batch differ in the eighth digit with the order of its rows"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSETUNE_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("pictures")
    frame = tiny_table(folder)
    return frame.assign(scan=[str(folder / name) for name in frame["scan"]])


def quick(**more: Any) -> FusionClassifier:
    return FusionClassifier(**{"config": QUICK, "seed": 0, **more})


@parametrize_with_checks(
    [quick()],
    expected_failed_checks=lambda _: {
        "check_methods_sample_order_invariance": ROUNDING,
        "check_sample_weight_equivalence_on_dense_data": COPIES,
    },
    xfail_strict=False,  # whether they differ depends on the processor
)
def test_checks_of_scikit_learn(estimator: FusionClassifier, check: Callable[[FusionClassifier], None]) -> None:
    check(estimator)


def test_the_threshold_for_an_aim_decides(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path, classes=("ill", "well"))[["age", "site", "v_0", "organ"]]
    X, y = frame.drop(columns="organ"), frame["organ"]
    given = {**QUICK, "evaluate": {"resamples": 100, "aim": "sensitivity >= 0.9", "positive": "ill"}}
    model = quick(config=given).fit(X, y)
    p, limit = model.predict_proba(X)[:, 0], model.model_.calibration.threshold
    assert list(model.classes_) == ["ill", "well"]
    assert limit is not None
    assert model.predict(X).tolist() == np.where(p >= limit, "ill", "well").tolist()
    assert model.model_.reference is not None  # with crossfit.how=off some rows were not trained on
    assert quick(sets=["crossfit.how=k", "crossfit.folds=2"]).fit(X, y).model_.reference is None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_the_order_of_rows_changes_rounding_only(table: pd.DataFrame) -> None:
    model = quick().fit(table[CELLS], table["organ"])
    order = np.random.default_rng(0).permutation(len(table))
    found = model.predict_proba(table[CELLS].iloc[order])
    np.testing.assert_allclose(found, model.predict_proba(table[CELLS])[order], atol=1e-5)


def test_pictures_texts_and_cells_are_learnt_from_and_survive_a_pickle(table: pd.DataFrame) -> None:
    x = table.drop(columns=["organ", "part"])
    model = quick(vectors={"genes": "v_*"}, group="patient").fit(x, table["organ"])
    assert {m.name: m.kind for m in model.model_.schema.modalities().values()} == {
        "scan": "image", "note": "text", "columns": "columns", "genes": "vector",
    }  # fmt: skip
    assert model.feature_names_in_.tolist() == x.columns.tolist()
    assert model.classes_.tolist() == ["heart", "liver", "lung"]
    found = model.predict_proba(x)
    assert found.shape == (len(x), 3)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert model.score(x, table["organ"]) > 0.7
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(x), found)
    assert not hasattr(clone(again), "model_")


def test_a_group_is_no_input_and_is_kept_together(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = []

    def noted(*args: Any, **how: Any) -> Any:
        splits.append((made := split(*args, **how))[0])
        return made

    from fusetune import estimator

    split = estimator.split_rows
    monkeypatch.setattr(estimator, "split_rows", noted)
    x = table[[*CELLS, "patient"]]
    model = quick(group="patient").fit(x, table["organ"])
    (made,) = splits
    assert pd.Series(made.part).groupby(table["patient"]).nunique().max() == 1
    assert made.counts()["test"] == 0
    np.testing.assert_array_equal(model.predict(x.assign(patient="nobody")), model.predict(x))


def test_cross_validation_with_groups(table: pd.DataFrame) -> None:
    scores = cross_val_score(
        quick(group="patient"),
        table[[*CELLS, "patient"]],
        table["organ"],
        groups=table["patient"],
        cv=GroupKFold(2),
        error_score="raise",
    )
    assert scores.shape == (2,)
    assert scores.min() > 0.6  # a third by chance


def test_a_search_finds_the_better_value(table: pd.DataFrame) -> None:
    # Without the columns that tell the class, only chance is left.
    grid = {"inputs": [["noise"], CELLS]}
    x = table.assign(noise=np.random.default_rng(0).normal(size=len(table)))[["noise", *CELLS]]
    search = GridSearchCV(quick(), grid, cv=2, error_score="raise").fit(x, table["organ"])
    assert search.best_params_ == {"inputs": CELLS}
    assert search.best_estimator_.predict(x[:3]).shape == (3,)


def test_the_last_step_of_a_pipeline(table: pd.DataFrame) -> None:
    scaled = ColumnTransformer([("age", StandardScaler(), ["age"])], remainder="passthrough")
    scaled.set_output(transform="pandas")
    pipeline = Pipeline([("scaled", scaled), ("model", quick())]).fit(table[CELLS], table["organ"])
    assert pipeline[-1].feature_names_in_.tolist() == scaled.get_feature_names_out().tolist()
    assert pipeline.score(table[CELLS], table["organ"]) > 0.6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"group": "nowhere"}, "nowhere"),
        ({"kinds": {"age": "sound"}}, "sound"),
        ({"sets": ["image.train.epoch=3"]}, "epochs"),
        ({"sets": ["doctor.policy.duplicate_rows=keep"]}, "doctor.policy has no meaning for FusionClassifier"),
        ({"sets": ["track=mlflow"]}, "track has no meaning for FusionClassifier"),
        ({"sets": ["split.how=given"]}, "split.how has no meaning for FusionClassifier"),
        ({"sets": ["data.schema_file=schema.json"]}, "data.schema_file has no meaning for FusionClassifier"),
    ],
)
def test_what_cannot_be_used_is_a_value_error(table: pd.DataFrame, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        quick(**given).fit(table[CELLS], table["organ"])


def test_copies_stay_together_inside(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resample with replacement, as bagging draws it, has many copies."""
    seen: list[tuple[Any, Any]] = []
    plain = estimator_module.prepare

    def watched(*given: Any) -> Any:
        seen.append((plain(*given), given[-1]))
        return seen[-1][0]

    monkeypatch.setattr(estimator_module, "prepare", watched)
    drawn = table.iloc[np.random.default_rng(0).integers(0, len(table), len(table))]
    quick().fit(drawn[CELLS].reset_index(drop=True), drawn["organ"].to_numpy())
    ((ctx, copies),) = seen
    names = drawn["case_id"].to_numpy()
    assert (copies >= 0).tolist() == pd.Series(names).duplicated(keep=False).tolist()
    assert pd.Series(ctx.split.part).groupby(names).nunique().max() == 1
    assert ctx.units.groupby(names).nunique().max() == 1


def test_other_columns_are_refused_when_predicting(table: pd.DataFrame) -> None:
    model = quick().fit(table[CELLS], table["organ"])
    with pytest.raises(ValueError, match=r"(?s)feature names.*height"):
        model.predict(table[CELLS].rename(columns={"age": "height"}))


def test_problems_when_predicting_are_said_or_refused(table: pd.DataFrame) -> None:
    x = table[["scan", "age"]]
    model = quick(kinds={"scan": "image"}).fit(x, table["organ"])
    some, every = x.assign(scan=x["scan"].where(x.index != 3, "lost.png")), x.assign(scan="lost.png")
    for ask in (model.predict, model.predict_proba):
        with pytest.warns(InputWarning, match=r"1 of 96 rows .*\n  - scan: 1 of 96 cells, row\(s\) 3: lost"):
            ask(some)
        with pytest.raises(ValueError, match="no picture can be read at all"):
            ask(every)
    with pytest.raises(ValueError, match="scan: 1 of 96 cells"):
        clone(model).set_params(on_problem="raise").fit(x, table["organ"]).predict(some)
    again = pickle.loads(pickle.dumps(model.set_params(on_problem="mask")))
    np.testing.assert_array_equal(again.predict_proba(every), model.predict_proba(x.assign(scan=None)))
    state = model.__getstate__()
    del state["on_problem"]  # as in a pickle from before there was a choice
    older = FusionClassifier()
    older.__setstate__(state)
    assert older.on_problem == "warn"


def test_a_lost_picture_is_a_value_error(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="scan"):
        quick(kinds={"scan": "image"}).fit(table[["scan"]].assign(scan="lost.png"), table["organ"])
