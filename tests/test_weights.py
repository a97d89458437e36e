"""Rows that do not count alike, from a table to scores: in losses and choices, and what is refused before training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import settings, tiny_table
from typer.testing import CliRunner

import fusetune
from fusetune import FusionClassifier
from fusetune.cli import app
from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.errors import ConfigError, TableError, UserError
from fusetune.evaluate import mcnemar, metrics, permutation_test
from fusetune.evaluate.bootstrap import sampling
from fusetune.evaluate.calibration import Judged
from fusetune.evaluate.measures import CLASSES
from fusetune.intake import schema_of, take_in
from fusetune.judge import _compare
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune.strategies.majority import prior_of
from fusetune.strategies.unimodal import _distinct
from fusetune.telling import telling_of

INPUTS = ["age", "site", "note"]
GONE = [3, 40, 80]


def weighed(folder: Path, **cells: Any) -> pd.DataFrame:
    """Return the tiny table with weights from .5 to 4, some of them 0; `cells` are others, by row."""
    frame = tiny_table(folder)
    frame["w"] = np.random.default_rng(5).choice([0.5, 1.0, 4.0], len(frame))
    frame.loc[GONE, "w"] = 0.0
    for row, weight in cells.items():
        frame.loc[int(row[1:]), "w"] = weight
    return frame


def context_of(frame: pd.DataFrame, folder: Path, weight: str | None = "w", inputs: Sequence[str] = INPUTS) -> Context:
    config = Config.build(settings(folder / "store", doctor__check=False))
    table = read_table(frame)
    roles = Roles("organ", inputs=inputs, group="patient", split="part", weight=weight)
    intake = take_in(table, "organ", schema_of(table, roles, config), config, None)
    return intake.context(config, start_runtime(config), Log(quiet=True))


def test_a_run_weighs_losses_priors_and_choices(tmp_path: Path) -> None:
    frame = weighed(tmp_path)
    ctx = context_of(frame, tmp_path)
    kept = frame.drop(index=GONE).reset_index(drop=True)
    assert ctx.ids.tolist() == kept["case_id"].tolist()
    assert ctx.sample_weight == pytest.approx(kept["w"] / kept["w"].mean())
    train = ctx.split.rows("train")
    own, patients = kept["w"].to_numpy()[train], kept["patient"].to_numpy()[train]
    # Each patient counts what his rows weigh on average, as they weigh.
    squares, sums = ({name: (own[patients == name] ** power).sum() for name in patients} for power in (2, 1))
    expected = np.array([w * squares[name] / sums[name] ** 2 for w, name in zip(own, patients, strict=True)])
    assert ctx.row_weights(train) == pytest.approx(expected / expected.mean())
    counts = np.array([own[ctx.labels[train] == k].sum() for k in range(3)]) / own.mean() + 0.5
    frequencies = np.log(counts / counts.sum())
    assert prior_of(ctx).numpy() == pytest.approx(frequencies, rel=1e-5)
    # Rows of one text and class are one in training, which counts what they weigh together.
    rows, weight = _distinct(ctx, "note", train)
    total = dict.fromkeys(set(kept["note"]), 0.0)
    for row in train:
        total[kept["note"][row]] += kept["w"][row]
    shares = np.array([total[kept["note"][row]] for row in rows])
    assert weight[rows] == pytest.approx(shares / shares.mean(), rel=1e-5)
    losses = ctx.target.losses(prior_of(ctx).expand(len(train), -1), ctx.targets(train))
    assert ctx.total(losses, train) == pytest.approx(losses.numpy() @ ctx.sample_weight[train], rel=1e-5)  # type: ignore[index]


def test_equal_weights_are_no_weights(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path).assign(w=0.3)
    one, other = (context_of(frame, tmp_path, weight, INPUTS[:2]) for weight in ("w", None))
    assert one.sample_weight is None
    assert one.key == other.key
    assert (one.label_weights == other.label_weights).all()


def test_better_rests_on_what_rows_weigh() -> None:
    """Ten light rows gained and two heavy ones lost: more rows are right, and less of the weight."""
    labels, weights = np.zeros(12, dtype=int), np.where(np.arange(12) < 10, 1.0, 30.0)
    p = np.where(np.arange(12) < 10, 0.8, 0.2)[:, None] * [1.0, -1.0] + [0.0, 1.0]
    ours, other = (SimpleNamespace(probe=SimpleNamespace(p=said), measure=CLASSES) for said in (p, p[:, ::-1]))
    outputs: Any = None

    def compared(own: Any) -> Any:
        test = Judged(outputs, labels, np.arange(12), None, CLASSES, own)
        return _compare(ours, other, "other", test, {"resamples": 50, "seed": 0})  # type: ignore[arg-type]

    plain, weighed = compared(None), compared(weights)
    assert (plain.gained, plain.lost) == (weighed.gained, weighed.lost) == (10, 2)
    assert plain.p == pytest.approx(mcnemar(p[:, 0] > 0.5, p[:, 0] < 0.5).p)
    signs = np.where(np.arange(12) < 10, 1.0, -1.0)
    assert weighed.p == permutation_test(signs, sampling(None, weights)) > 0.3 > plain.p
    assert plain.accuracy.value > 0 > weighed.accuracy.value
    assert weighed.accuracy.value == pytest.approx((10 - 60) / 70)
    assert weighed.nll.value == pytest.approx(np.average(-np.log(p[:, 0]) + np.log(p[:, 1]), weights=weights))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("weighed")
    frame = weighed(folder)
    frame.to_csv(folder / "table.csv", index=False)
    given = settings(folder / "store", views=1, strategy={"name": "linear-probe"}, evaluate={"resamples": 100})
    asked: dict[str, Any] = {"inputs": ["age", "site"], "group": "patient", "split": "part", "row_id": "case_id"}
    return fusetune.fit(
        folder / "table.csv", "organ", weight="w", config=given, out=folder / "run", quiet=True, **asked
    )


def test_scores_of_a_run_are_weighted(run: Any) -> None:
    frame = pd.read_csv(run.folder.parent / "table.csv")
    said = pd.read_parquet(run.folder / "predictions.parquet")
    assert run.metrics["weight"] == "w"
    assert sum(run.metrics["rows"].values()) == len(frame) - len(GONE)
    assert not set(frame["case_id"][GONE]) & set(said["row_id"])
    test = said[said["part"] == "test"].merge(frame[["case_id", "w"]], left_on="row_id", right_on="case_id")
    names = run.metrics["classes"]
    p = test[[f"p({name})" for name in names]].to_numpy()
    labels = test["label"].map(names.index).to_numpy()
    expected = metrics.score(p, labels, test["w"].to_numpy())
    assert {name: score["value"] for name, score in run.metrics["test"].items()} == pytest.approx(expected, rel=1e-5)
    assert expected["nll"] != pytest.approx(metrics.nll(p, labels), rel=1e-3)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "weighted by column “w”" in page
    assert "McNemar p" not in page
    told = telling_of(run.metrics).compared(run.metrics["frequent"])
    assert "sign test of weighted rows p =" in told


def test_evaluate_follows_the_column_where_the_table_has_it(run: Any) -> None:
    model, frame = run.model, pd.read_csv(run.folder.parent / "table.csv")
    frame["w"] = np.where(frame["organ"] == "heart", 3.0, 1.0)
    frame.loc[:4, "w"] = 0.0
    scores = model.evaluate(frame)
    assert (scores["weight"], scores["rows"]) == ("w", len(frame) - 5)
    p = model.predict_proba(frame)[5:].to_numpy()
    labels = frame["organ"][5:].map(model.classes.index).to_numpy()
    assert scores["nll"]["value"] == pytest.approx(metrics.nll(p, labels, frame["w"][5:].to_numpy()), rel=1e-5)
    without = model.evaluate(frame.drop(columns="w"))
    assert (without["weight"], without["rows"]) == (None, len(frame))
    with pytest.raises(TableError, match=r"'w' of .* in row\(s\) 7, which is negative"):
        model.evaluate(frame.assign(w=np.where(np.arange(len(frame)) == 7, -1.0, 1.0)))
    with pytest.raises(UserError, match=r"diagnose counts every row alike, and .* has the weight column"):
        model.diagnose(frame)


def test_the_command_line_says_whether_rows_were_weighed(run: Any) -> None:
    frame = pd.read_csv(run.folder.parent / "table.csv")
    for name, table, words in (
        ("with", frame, "rows count as column 'w' says"),
        ("without", frame.drop(columns="w"), "rows count alike: the table has no weight column"),
    ):
        path = run.folder.parent / f"{name}.csv"
        table.to_csv(path, index=False)
        result = CliRunner().invoke(app, ["evaluate", str(run.folder), str(path)])
        assert result.exit_code == 0
        assert words in result.output


@pytest.mark.parametrize(
    ("cells", "more", "words"),
    [
        ({"_5": None}, [], "is empty in row(s) 5"),
        ({"_5": -1.0}, [], "holds -1.0 in row(s) 5, which is negative"),
        ({}, ["--weight", "v"], "has no column 'v'"),
        ({}, ["--set", "strategy.name=cache-head"], "'cache-head' cannot follow a weight column: each row that it"),
        (
            {},
            ["--set=strategy.name=classifier", "--set=strategy.classifier=sklearn.neighbors.KNeighborsClassifier"],
            "KNeighborsClassifier of scikit-learn is fitted without weights",
        ),
    ],
    ids=["missing", "negative", "no column", "strategy", "classifier"],
)
def test_what_cannot_be_followed_is_refused_before_training(
    tmp_path: Path, cells: Any, more: list[str], words: str
) -> None:
    weighed(tmp_path, **cells).to_csv(tmp_path / "table.csv", index=False)
    asked = ["fit", str(tmp_path / "table.csv"), "--label", "organ", "--inputs", "age,site", "--split", "part"]
    asked += ["--weight", "w", "--out", str(tmp_path / "run"), *more]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_a_part_in_which_no_row_counts_is_refused(tmp_path: Path) -> None:
    frame = weighed(tmp_path)
    frame.loc[frame["part"] == "val", "w"] = 0.0
    with pytest.raises(TableError, match="'w' is zero in every row of the part 'valid'"):
        context_of(frame, tmp_path)


def test_compare_and_guide_refuse_a_weight_of_a_schema_file(tmp_path: Path, run: Any) -> None:
    frame, schema = run.folder.parent / "table.csv", str(run.folder / "schema.json")
    for ask in (fusetune.guide, fusetune.compare):
        with pytest.raises(ConfigError, match="counts every row alike, and column 'w' has the role weight"):
            ask(frame, "organ", config={"data": {"schema_file": schema}}, quiet=True)
    with pytest.raises(UserError, match="rows that count as column 'w' says"):
        fusetune.compare([run.folder, run.folder], quiet=True)


def test_an_estimator_weighs_rows(tmp_path: Path) -> None:
    frame = weighed(tmp_path)
    X, y = frame[["age", "site"]], frame["organ"]
    given = {**settings(tmp_path, views=1, strategy={"name": "linear-probe"}), "store": {}}

    def fitted(weights: Any) -> Any:
        return FusionClassifier(config=given).fit(X, y, weights).predict_proba(X)

    plain, alike = fitted(None), fitted(np.full(len(X), 2.0))
    assert (plain == alike).all()
    heavy = fitted(np.where(y == "heart", 20.0, 1.0))
    assert heavy[:, 0].mean() > plain[:, 0].mean() + 0.1
    with pytest.raises(ValueError, match=r"in row\(s\) 0, which is negative"):
        fitted(np.where(np.arange(len(X)) == 0, -1.0, 1.0))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fitted(np.ones(3))


def test_the_settings_of_a_weighed_run_are_told(run: Any) -> None:
    schema = json.loads((run.folder / "schema.json").read_text("utf-8"))
    (column,) = [one for one in schema["columns"] if one["name"] == "w"]
    assert (column["role"], column["kind"]) == ("weight", "number")
