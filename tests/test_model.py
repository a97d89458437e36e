from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis.strategies import DataObject, data, integers, lists, permutations, sampled_from
from tiny import CLASSES, settings, tiny_table

import fusetune
from fusetune.augment.random import Moment
from fusetune.data.choices import Kind
from fusetune.data.schema import Column
from fusetune.data.table import read_table
from fusetune.errors import ImageError, InputWarning, RunError, SchemaError, SplitError, TableError
from fusetune.evaluate.temperature import softmax
from fusetune.features.onnx import OnnxError
from fusetune.model import Model
from fusetune.networks import Outputs

INPUTS = {"scan": ["scan"], "note": ["note"], "columns": ["age", "site"], "genes": ["v_0", "v_1", "v_2", "v_3"]}
SHARES = [f"p({name})" for name in CLASSES]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, pd.DataFrame, Path]:
    folder = tmp_path_factory.mktemp("model")
    frame = tiny_table(folder / "data")
    frame.to_csv(folder / "data" / "table.csv", index=False)
    how: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "quiet": True}
    given = settings(folder / "store", train__epochs=1, views=1, evaluate__baselines=False)
    fusetune.fit(folder / "data" / "table.csv", "organ", config=given, out=folder / "run", **how)
    return fusetune.load(folder / "run"), frame, folder / "data"


def told(made: tuple[Model, pd.DataFrame, Path], frame: pd.DataFrame, name: str = "asked.csv") -> pd.DataFrame:
    """Predict a table that is written beside the pictures."""
    model, _, folder = made
    frame.to_csv(folder / name, index=False)
    return model.predict_table(folder / name)


def test_order_and_count_are_kept(made: tuple[Model, pd.DataFrame, Path]) -> None:
    frame = made[1]
    plain = told(made, frame)
    assert plain.columns.tolist() == ["row_id", "prediction", "probability", *SHARES, "problem"]
    assert plain["row_id"].tolist() == frame["case_id"].tolist()
    assert (plain["problem"] == "").all()
    np.testing.assert_allclose(plain[SHARES].sum(axis=1), 1, atol=1e-9)
    np.testing.assert_array_equal(plain["probability"], plain[SHARES].max(axis=1))
    order = np.random.default_rng(0).permutation(len(frame))
    mixed = told(made, frame.iloc[order])
    assert mixed["row_id"].tolist() == frame["case_id"].iloc[order].tolist()
    np.testing.assert_allclose(mixed[SHARES], plain[SHARES].iloc[order], rtol=0, atol=1e-6)


def test_a_row_does_not_depend_on_its_company(made: tuple[Model, pd.DataFrame, Path]) -> None:
    frame = made[1]
    plain = told(made, frame)
    for row in (0, 50, 95):
        alone = told(made, frame.iloc[[row]])
        assert len(alone) == 1
        np.testing.assert_allclose(alone[SHARES], plain[SHARES].iloc[[row]], rtol=0, atol=1e-5)


def test_the_three_ways_to_predict_agree(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, frame, folder = made
    plain = told(made, frame)
    assert model.predict(folder / "asked.csv").tolist() == plain["prediction"].tolist()
    shares = model.predict_proba(str(folder / "asked.csv"))
    assert shares.columns.tolist() == list(CLASSES)
    np.testing.assert_array_equal(shares.to_numpy(), plain[SHARES].to_numpy())


@pytest.mark.parametrize("gone", [["scan"], ["note"], ["columns"], ["genes"], ["scan", "note"], ["note", "genes"]])
def test_any_input_may_be_empty(made: tuple[Model, pd.DataFrame, Path], gone: list[str]) -> None:
    frame = made[1].copy()
    frame[[column for name in gone for column in INPUTS[name]]] = None
    plain, without = told(made, made[1]), told(made, frame)
    assert len(without) == len(frame)
    assert np.isfinite(without[SHARES].to_numpy()).all()
    assert not np.allclose(without[SHARES], plain[SHARES], atol=1e-4)
    assert (without["problem"] == "").all()
    assert (without["prediction"] == frame["organ"]).mean() > 0.5


def test_rows_without_anything_are_marked(made: tuple[Model, pd.DataFrame, Path]) -> None:
    frame = made[1].iloc[:10].copy()
    frame.loc[3, [c for columns in INPUTS.values() for c in columns]] = None
    answer = told(made, frame)
    assert "no input is present" in answer["problem"][3]
    assert (answer["problem"].drop(3) == "").all()
    assert np.isfinite(answer[SHARES].to_numpy()).all()


def test_unreadable_images_are_marked_and_the_rest_is_used(made: tuple[Model, pd.DataFrame, Path]) -> None:
    folder = made[2]
    (folder / "broken.png").write_bytes((folder / "4.png").read_bytes()[:60])
    (folder / "words.png").write_text("this is no picture")
    frame = made[1].iloc[:12].copy()
    frame.loc[[2, 5, 7], "scan"] = ["broken.png", "nowhere.png", "words.png"]
    answer, without = told(made, frame), frame.copy()
    for row, name in {2: "broken.png", 5: "nowhere.png", 7: "words.png"}.items():
        assert answer["problem"][row].startswith(f"scan: {name}: ")
    assert (answer["problem"].drop([2, 5, 7]) == "").all()
    without.loc[[2, 5, 7], "scan"] = None
    np.testing.assert_allclose(answer[SHARES], told(made, without)[SHARES], rtol=0, atol=1e-6)


def test_a_table_without_rows_is_refused(made: tuple[Model, pd.DataFrame, Path]) -> None:
    with pytest.raises(TableError, match="no rows"):
        made[0].predict(made[1].iloc[:0])


def test_slips_of_column_names_are_all_named(made: tuple[Model, pd.DataFrame, Path]) -> None:
    frame = made[1].drop(columns=["site", "v_2"]).rename(columns={"age": "aged", "note": "notes"})
    with pytest.raises(SchemaError) as caught:
        made[0].predict(frame)
    for text in ("column 'age' is missing, did you mean 'aged'?", "column 'note' is missing, did you mean 'notes'?"):
        assert text in str(caught.value)


def test_a_table_without_any_input_column_is_refused(made: tuple[Model, pd.DataFrame, Path]) -> None:
    with pytest.raises(SchemaError) as caught:
        made[0].predict(made[1][["case_id", "patient"]])
    for name in ("scan", "note", "age", "site", "v_0"):
        assert f"column '{name}' is missing" in str(caught.value)


@pytest.mark.parametrize("gone", ["age", "site", "v_2"])
def test_a_missing_column_is_a_missing_cell_in_every_row(made: tuple[Model, pd.DataFrame, Path], gone: str) -> None:
    model, frame, folder = made
    absolute = frame.assign(scan=[str(folder / name) for name in frame["scan"]])
    owner = "genes" if gone == "v_2" else "columns"
    said = f"{gone}: not in the table, a missing cell of {owner} in every row"
    with pytest.warns(InputWarning, match=said):
        answer = model.predict_table(absolute.drop(columns=gone))
    assert answer["problem"].str.contains(said, regex=False).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        blank = model.predict_table(absolute.assign(**{gone: np.nan if gone != "site" else None}))
    np.testing.assert_allclose(answer[SHARES], blank[SHARES], rtol=0, atol=1e-6)
    with pytest.raises(TableError, match=said):
        model.predict_proba(absolute.drop(columns=gone), "raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masked = model.predict_table(absolute.drop(columns=gone), "mask")
    np.testing.assert_array_equal(masked[SHARES], answer[SHARES])


def test_columns_of_another_kind_are_refused(made: tuple[Model, pd.DataFrame, Path]) -> None:
    with pytest.raises(SchemaError, match="'age' must be number"):
        made[0].predict(made[1].assign(age="old"))


def test_extra_columns_and_a_missing_label_do_not_matter(made: tuple[Model, pd.DataFrame, Path]) -> None:
    plain = told(made, made[1])
    frame = made[1].drop(columns=["organ", "part", "patient", "case_id"]).assign(extra=1, another="x")
    with pytest.warns(InputWarning, match="no id column 'case_id': row_id is the row's number"):
        answer = told(made, frame[sorted(frame.columns, reverse=True)])
    np.testing.assert_array_equal(answer[SHARES], plain[SHARES])
    assert answer["row_id"].tolist() == [str(i) for i in range(len(frame))]


def test_ids_that_repeat_or_are_missing_are_kept_and_said(made: tuple[Model, pd.DataFrame, Path]) -> None:
    ids = made[1]["case_id"].mask(made[1].index == 5, "case-001").mask(made[1].index == 7)
    with pytest.warns(InputWarning, match=r"(?s)empty in row\(s\) 7.*repeats case-001, 2 rows in all") as said:
        answer = told(made, made[1].assign(case_id=ids))
    assert len(said) == 1
    pd.testing.assert_series_equal(answer["row_id"], ids, check_names=False)
    with pytest.raises(TableError, match=r"'case-001' is the id of rows 1, 5 of asked\.csv"):
        made[0].explain(made[2] / "asked.csv", "case-001")


def test_a_row_that_there_is_not_is_told_how_rows_are_called(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, rows, _ = made
    with pytest.raises(TableError, match=r"no row 'case-'.*; rows are called by column 'case_id': case-\d+, case-\d+"):
        model.explain(rows, "case-")
    with pytest.raises(TableError, match=r"no row '9999'.*; rows are called by their numbers, from 0: 0, 1, 2"):
        model.explain(rows.drop(columns="case_id"), 9999)


def test_a_number_is_a_place_only_where_no_id_is_a_number(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, rows, _ = made
    second, named = (model.explain(rows, row, "mask") for row in (1, rows["case_id"].iloc[1]))
    assert second.row == named.row == rows["case_id"].iloc[1]
    assert second.probabilities == named.probabilities != model.explain(rows, 0, "mask").probabilities
    for table, row in ((rows, len(rows)), (rows, -1), (rows, "01"), (rows.assign(case_id=range(7, 7 + len(rows))), 1)):
        with pytest.raises(TableError, match=f"no row '{row}'"):
            model.explain(table, row)


def test_repeated_ids_give_scores_that_do_not_depend_on_the_order(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, frame, folder = made
    absolute = frame.assign(scan=[str(folder / name) for name in frame["scan"]])
    mixed = np.random.default_rng(0).permutation(len(frame))
    rates = []
    for ids in (frame["case_id"], frame["patient"], "same"):
        one, other = (
            {it["rate"]: it["accuracy"]["value"] for it in model.evaluate(table)["missing"]}
            for table in (absolute.assign(case_id=ids), absolute.assign(case_id=ids).iloc[mixed])
        )
        assert one == pytest.approx(other, abs=1e-6)
        rates.append(one[0.9])
    # All rows losing the same inputs at once would be far from each row losing its own.
    assert rates[2] == pytest.approx(rates[0], abs=0.1)


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@given(data())
def test_what_is_told_of_a_row_goes_with_it(made: tuple[Model, pd.DataFrame, Path], draw: DataObject) -> None:
    """Whatever is wrong with which rows: rows are kept in order, every problem is counted, and all ways agree."""
    model, whole, folder = made
    rows = draw.draw(lists(integers(0, 95), min_size=1, max_size=12))
    frame = whole.iloc[rows].assign(scan=[str(folder / name) for name in whole["scan"].iloc[rows]]).astype(object)
    frame.index = pd.Index(draw.draw(permutations(range(len(rows)))))
    for place in range(len(rows)):
        match draw.draw(sampled_from(["", "", "lost", "bare", "same", "no id"])):
            case "lost":
                frame.iat[place, frame.columns.get_loc("scan")] = "lost.png"
            case "bare":
                for name in (name for names in INPUTS.values() for name in names):
                    frame.iat[place, frame.columns.get_loc(name)] = None
            case "same" | "no id" as how:
                frame.iat[place, frame.columns.get_loc("case_id")] = {"same": "x"}.get(how)
    lost = frame["scan"] == "lost.png"
    if lost.sum() > 1 and (lost | frame["scan"].isna()).all():
        with pytest.raises(ImageError, match="no picture can be read"):
            model.predict(frame)
        how = "mask"
    else:
        how = "warn"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        answer = model.predict_table(frame, how)
        mixed = draw.draw(permutations(range(len(rows))))
        again = model.predict_table(frame.iloc[mixed], how)
    pd.testing.assert_series_equal(answer["row_id"], frame["case_id"].astype("str"), check_names=False)
    exact = ["row_id", "prediction", "problem"]
    pd.testing.assert_frame_equal(again[exact], answer[exact].iloc[mixed])
    np.testing.assert_allclose(again[SHARES], answer[SHARES].iloc[mixed], rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer[SHARES].sum(axis=1), 1, atol=1e-9)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pd.testing.assert_series_equal(model.predict(frame, how), answer["prediction"])
        np.testing.assert_array_equal(model.predict_proba(frame, how), answer[SHARES])
    marked = int((answer["problem"] != "").sum())
    expected = [f"the DataFrame: {marked} of {len(rows)} rows have a problem:"] if marked and how == "warn" else []
    assert [str(it.message).splitlines()[0] for it in said] == 2 * expected


def test_a_table_whose_pictures_are_all_lost_is_refused_unless_masks_are_asked_for(
    made: tuple[Model, pd.DataFrame, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, frame, _ = made
    monkeypatch.chdir(tmp_path)
    for ask in (model.predict, model.predict_proba, model.predict_table, model.evaluate):
        with pytest.raises(ImageError) as caught:
            ask(frame)
        for text in ("scan: 96 of 96 cells", "0.png: there is no such file", f"start from {tmp_path};", "absolute"):
            assert text in str(caught.value)
    masked = model.predict_table(frame, on_problem="mask")
    assert masked["problem"].str.startswith("scan: ").all()
    blank = model.predict_table(frame.assign(scan=None))
    np.testing.assert_allclose(masked[SHARES], blank[SHARES], rtol=0, atol=1e-6)


def test_what_is_wrong_with_a_row_is_said_wherever_no_column_says_it(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, frame, folder = made
    absolute = frame.assign(scan=[str(folder / name) for name in frame["scan"]])
    absolute.loc[[2, 5], "scan"] = "nowhere.png"
    for ask in (model.predict, model.predict_proba, model.evaluate):
        with pytest.warns(InputWarning, match=r"2 of 96 rows .*\n  - scan: 2 of 96 cells, row\(s\) 2, 5: nowh") as said:
            ask(absolute)
        assert [it.filename for it in said] == [__file__]
    with pytest.warns(InputWarning, match=r"1 of 1 rows .*\n  - scan: 1 of 1 cells, row\(s\) 5: nowhere"):
        model.explain(absolute, "case-005")
    for ask in (model.predict, model.predict_proba, model.predict_table, model.evaluate):
        with pytest.raises(TableError, match=r"(?s)row\(s\) 2, 5: nowhere.png"):
            ask(absolute, on_problem="raise")
        ask(absolute, on_problem="mask")
    model.explain(absolute, "case-004", on_problem="raise")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_probability_never_stands_beside_a_label(
    made: tuple[Model, pd.DataFrame, Path], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    model, frame, _ = made
    outputs = Model.outputs

    def broken(self: Model, *args: Any, **how: Any) -> Outputs:
        found = outputs(self, *args, **how)
        fused = found.f.clone()
        fused[-1] = value
        return replace(found, f=fused)

    monkeypatch.setattr(Model, "outputs", broken)
    blank = frame.assign(scan=None)
    for ask in (model.predict, model.predict_proba, model.predict_table, model.evaluate):
        with pytest.raises(RunError, match=r"no finite answer for row\(s\) 95; look for absurd numbers"):
            ask(blank)
    with pytest.raises(RunError, match=r"row\(s\) 40;"):
        model.explain(blank, "case-040")


def test_columns_that_the_model_knows_are_no_slips_of_a_missing_one(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, frame, _ = made
    table = frame.assign(scan=None).rename(columns={"note": "notes"})
    with pytest.raises(SchemaError, match="'note' is missing, did you mean 'notes'"):
        model.predict_table(table)
    known = Column(name="notes", kind=Kind.TEXT, role="unused", reason="of another doctor")
    schema = model.schema.model_copy(update={"columns": [*model.schema.columns, known]})
    with pytest.warns(InputWarning, match="note: not in the table"):
        answer = replace(model, schema=schema).predict_table(table)
    assert (answer["problem"] == "note: not in the table").all()
    with pytest.warns(InputWarning, match=r"(?s)96 of 96 rows have a problem:.*note: not in the table"):
        replace(model, schema=schema).predict(table)


def test_unseen_categories_and_words_are_no_error(made: tuple[Model, pd.DataFrame, Path]) -> None:
    with pytest.warns(InputWarning, match="'site 99' is no category that was learnt"):
        answer = told(made, made[1].assign(site="site 99", note="Χαίρετε 你好 🫀"))
    assert answer["problem"].str.contains("site 99").all()
    assert np.isfinite(answer[SHARES].to_numpy()).all()


def test_a_data_frame_with_any_index_is_read_in_its_order(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, frame, folder = made
    absolute = frame.assign(scan=[str(folder / name) for name in frame["scan"]])
    plain = told(made, frame)
    answer = model.predict_table(absolute.set_index(np.arange(len(frame))[::-1] * 5))
    np.testing.assert_allclose(answer[SHARES], plain[SHARES], rtol=0, atol=1e-6)
    # The answers carry the table's own index, so that `frame["label"] = model.predict(frame)` lines up.
    assert answer.index.tolist() == (np.arange(len(frame))[::-1] * 5).tolist()
    assert model.predict_proba(absolute.sample(frac=0.5, random_state=0)).index.tolist() == (
        absolute.sample(frac=0.5, random_state=0).index.tolist()
    )


def test_an_input_that_the_table_lacks_as_a_whole_is_absent_and_marked(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, frame, folder = made
    absolute = frame.assign(scan=[str(folder / name) for name in frame["scan"]])
    with pytest.warns(InputWarning, match="note: not in the table"):
        answer = model.predict_table(absolute.drop(columns="note"))
    assert answer["problem"].str.contains("note: not in the table").all()
    blank = model.predict_table(absolute.assign(note=pd.Series([None] * len(frame), dtype="str")))
    np.testing.assert_allclose(answer[SHARES], blank[SHARES], rtol=0, atol=1e-6)


def test_evaluation_counts_what_it_saw(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, frame, folder = made
    answer = told(made, frame)
    scores = model.evaluate(folder / "asked.csv")
    assert scores["rows"] == 96
    assert scores["groups"] == 48
    assert scores["unreadable"] == 0
    assert scores["seen"] == 84  # all but the test part
    assert scores["accuracy"]["value"] == pytest.approx((answer["prediction"] == frame["organ"]).mean())
    right = answer[SHARES].to_numpy()[np.arange(96), [CLASSES.index(name) for name in frame["organ"]]]
    assert scores["nll"]["value"] == pytest.approx(-np.log(right).mean(), rel=1e-6)
    assert scores["accuracy"]["low"] <= scores["accuracy"]["value"] <= scores["accuracy"]["high"]


@pytest.mark.parametrize("empty", [None, "", " ", np.nan])
@pytest.mark.parametrize("rows", [48, 96])
def test_evaluation_refuses_empty_groups_as_training_does(
    made: tuple[Model, pd.DataFrame, Path], empty: Any, rows: int
) -> None:
    frame = made[1].astype({"patient": object})
    frame.loc[: rows - 1, "patient"] = empty
    message = r"group column 'patient' is empty in row\(s\) case-000, .* more; fill it in"
    with pytest.raises(SplitError, match=message):
        made[0].evaluate(frame.drop(columns="scan"))


def test_evaluation_counts_a_group_once_in_any_spelling(made: tuple[Model, pd.DataFrame, Path]) -> None:
    frame = made[1].assign(scan=[str(made[2] / name) for name in made[1]["scan"]])
    number = frame["patient"].str.slice(1).astype(int)
    spelt = [n if row % 3 == 0 else f"{n} " if row % 3 == 1 else float(n) for row, n in enumerate(number)]
    plain, odd = (made[0].evaluate(frame.assign(patient=pd.Series(it, dtype=object))) for it in (number, spelt))
    assert odd["groups"] == plain["groups"] == frame["patient"].nunique()
    assert odd["accuracy"] == plain["accuracy"]


def test_evaluation_without_groups(made: tuple[Model, pd.DataFrame, Path]) -> None:
    assert made[0].evaluate(made[1].drop(columns="patient").assign(scan=None))["groups"] is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: f.drop(columns="organ"), "no column 'organ'"),
        (lambda f: f.assign(organ=f["organ"].where(f.index != 7)), r"empty in row\(s\) 7"),
        (lambda f: f.assign(organ=f["organ"].where(f.index != 7, "spleen")), "holds spleen; the model knows heart"),
    ],
)
def test_labels_that_cannot_be_judged(made: tuple[Model, pd.DataFrame, Path], change: Any, text: str) -> None:
    with pytest.raises(TableError, match=text):
        made[0].evaluate(change(made[1].assign(scan=None)))


def test_cells_that_cannot_be_read_are_marked(made: tuple[Model, pd.DataFrame, Path]) -> None:
    model, frame, folder = made
    absolute = frame.assign(scan=[str(folder / name) for name in frame["scan"]])
    ages = absolute["age"].astype("str").where(absolute.index != 3, "1,5")
    problems = model.predict_table(absolute.assign(age=ages))["problem"]
    assert problems.iloc[3] == "columns: age: '1,5' is no number and counts as missing"
    assert not problems.drop(index=3).str.contains("age").any()


def with_views(made: tuple[Model, pd.DataFrame, Path], views: int) -> tuple[Model, pd.DataFrame, Path]:
    """Return the model with random views at prediction."""
    model, frame, folder = made
    evaluate = model.config.evaluate.model_copy(update={"test_views": views})
    return replace(model, config=model.config.model_copy(update={"evaluate": evaluate})), frame, folder


def test_views_at_prediction_are_a_mean_of_probabilities(made: tuple[Model, pd.DataFrame, Path]) -> None:
    """Against a naive loop over the plain view and two random ones."""
    model, frame, folder = with_views(made, 2)
    found = told((model, frame, folder), frame, "views.csv")
    sources, rows = model.bind(read_table(folder / "views.csv")), np.arange(len(frame))
    raw = {name: source.read(rows) for name, source in sources.items()}
    present = {name: torch.ones(len(frame), dtype=torch.bool) for name in raw}
    shares = []
    for view in (None, 0, 1):
        inputs = {name: model.readers[name].plain().plain(some) for name, some in raw.items()}
        for name in ("scan", "note") if view is not None else ():
            augment = model.readers[name].test_augment(model.config)
            assert augment is not None
            keys = torch.from_numpy(sources[name].digests.view(np.int64))
            inputs[name] = augment.draw(raw[name], keys, Moment(model.config.seed, 2_000_000, int(view or 0)))
        with torch.inference_mode():
            shares.append(torch.softmax(model.network(inputs, present).f.double(), 1).numpy())
    expected = softmax(np.log(np.mean(shares, 0)), model.calibration.temperature)
    np.testing.assert_allclose(found[SHARES], expected, rtol=0, atol=1e-5)
    assert np.abs(shares[1] - shares[2]).max() > 1e-3
    assert not np.allclose(found[SHARES], told(made, frame)[SHARES], atol=1e-4)


def test_views_depend_on_what_a_row_holds_not_on_its_name_or_company(made: tuple[Model, pd.DataFrame, Path]) -> None:
    viewed = with_views(made, 2)
    frame = viewed[1]
    plain = told(viewed, frame)
    other = frame.assign(case_id=[f"other-{i}" for i in range(len(frame))]).iloc[::-1]
    np.testing.assert_allclose(told(viewed, other)[SHARES], plain[SHARES].iloc[::-1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(told(viewed, frame.iloc[[50]])[SHARES], plain[SHARES].iloc[[50]], rtol=0, atol=1e-5)
    scores = viewed[0].evaluate(viewed[2] / "asked.csv")
    assert scores["rows"] == 1


def test_cells_and_vectors_are_not_drawn_at_prediction(made: tuple[Model, pd.DataFrame, Path]) -> None:
    frame = made[1].copy()
    frame[["scan", "note"]] = None
    np.testing.assert_array_equal(told(with_views(made, 3), frame)[SHARES], told(made, frame)[SHARES])


def test_accelerated_it_says_the_same(made: tuple[Model, pd.DataFrame, Path]) -> None:
    """Whatever is missing; ONNX Runtime does the work, and never where a gradient is asked for."""
    _, frame, folder = made
    model = fusetune.load(folder.parent / "run")
    absolute = frame.head(6).assign(scan=[str(folder / name) for name in frame["scan"].head(6)])
    rows = [absolute.assign(**dict.fromkeys(gone, "")) for gone in ([], ["scan"], ["note"], ["scan", "note"])]
    before = [model.predict_proba(some, "mask") for some in rows]
    assert model.accelerate() == {}
    dear = [encoder for name, encoder in model.network.members if name in ("scan", "note")]
    heavy = {encoder for encoder in dear if any(True for _ in encoder.parameters())}
    assert len(heavy) == 2
    assert set(model.network.engines) == heavy
    for some, was in zip(rows, before, strict=True):
        np.testing.assert_allclose(model.predict_proba(some, "mask"), was, rtol=0, atol=1e-4)
    asked: list[Any] = []
    model.network.engines = dict.fromkeys(heavy, asked.append)
    with pytest.raises(AttributeError):  # of None, so that they are what is asked
        model.predict_proba(absolute, "mask")
    image = next(encoder for name, encoder in model.network.members if name == "scan")
    present = {name: torch.zeros(1, dtype=torch.bool) for name in model.readers} | {"scan": torch.ones(1).bool()}
    pixels = torch.zeros(1, 3, 16, 16)
    with torch.enable_grad():
        z = model.network.encode({"scan": pixels}, present)["scan"]
    assert torch.equal(z[:, : image.dim], image(pixels))
    assert len(asked) == 1


def test_what_cannot_be_accelerated_stays_and_is_said(
    made: tuple[Model, pd.DataFrame, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, frame, folder = made
    model = fusetune.load(folder.parent / "run")
    absolute = frame.head(6).assign(scan=[str(folder / name) for name in frame["scan"].head(6)])
    before = model.predict_proba(absolute, "mask")

    def fails(*_: Any) -> None:
        raise OnnxError("this encoder differs")

    monkeypatch.setattr("fusetune.realtime.OnnxEncoder", fails)
    assert set(model.accelerate().values()) == {"this encoder differs"}
    assert not model.network.engines
    pd.testing.assert_frame_equal(model.predict_proba(absolute, "mask"), before)
    monkeypatch.setattr(
        "fusetune.model.some_row", lambda schema: pd.DataFrame({"scan": [None], "note": ["some words"]})
    )
    assert model.accelerate() == {"scan": "no example of its input can be made", "note": "this encoder differs"}
    monkeypatch.setattr("fusetune.realtime.onnx_available", lambda: False)
    assert model.accelerate() == {}
