"""Every strategy goes the whole way: trained, killed, resumed, saved, loaded, asked with less, judged and reported."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import few_trees, settings, tiny_table

import fusetune
from fusetune import api
from fusetune.errors import ConfigError
from fusetune.export.graph import refusals, write_graph
from fusetune.features.onnx import onnx_available
from fusetune.strategies import STRATEGIES, strategy_of
from fusetune.strategies.end_to_end import EndToEnd
from fusetune.strategies.rivals import IN_WORDS
from fusetune.train import loop

HOW: dict[str, Any] = {"inputs": ["scan", "note", "age", "site"], "group": "patient", "split": "part", "quiet": True}
LOOP = {"epochs": 3, "batch_size": 16, "patience": 0, "head_lr": 0.02}
# Pre-training goes the same way with every epoch.
SHORT: dict[str, dict[str, Any]] = {
    "tip": {"pretrain_epochs": 2},
    # Not random trees: their thresholds lie anywhere, also between features that differ by rounding alone.
    "classifier": {"classifier": "sklearn.linear_model.LogisticRegression"},
}
# These train on pictures and texts themselves; all others here on stored features, since the code is the same.
WHOLE = ("two-stage", "ume", "umt", "joint", "multi-loss", "ogm-ge", "mmpareto", "linear-probe", "alone", "majority")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strategies") / "data"
    frame = tiny_table(folder)
    for row, column in {5: "scan", 11: "note", 44: "scan", 45: "note", 90: "scan", 95: "note", 47: "age"}.items():
        frame.loc[row, column] = None
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def config(table: Path) -> dict[str, Any]:
    """Return settings under which training has something to do: the start is all but the class frequencies."""
    rates = {f"{kind}__train__lr": 1e-4 for kind in ("image", "text", "columns")} | {"vector__train__lr": 3e-3}
    short = settings(table.parent.parent / "store", views=1, image__size=16, image__encode_size=16, **rates)
    short |= {"doctor": {"check": False}}  # its own tests are elsewhere
    return short | {"head": {"penalties": [300.0]}, "crossfit": {"how": "k", "folds": 2}}


def without_rivals(table: Path, name: str) -> dict[str, Any]:
    """Return the same for end-to-end methods, whose rivals would be trained only to be compared with."""
    given = config(table)
    return given | {"evaluate": {"resamples": 100, "baselines": not issubclass(STRATEGIES[name], EndToEnd)}}


def with_paths(frame: pd.DataFrame, table: Path) -> pd.DataFrame:
    return frame.assign(scan=[str(table.parent / file) if isinstance(file, str) else None for file in frame["scan"]])


def named(name: str) -> dict[str, Any]:
    level = {} if name in WHOLE else {"level": "features"}
    return {"name": name} | level | (LOOP if issubclass(STRATEGIES[name], EndToEnd) else {}) | SHORT.get(name, {})


@pytest.fixture(scope="module")
def runs(table: Path) -> Iterator[dict[str, fusetune.Run]]:
    """Hold what was fitted: one whole run per strategy, made when first asked for."""
    with few_trees():
        yield {}


def fitted(runs: dict[str, fusetune.Run], table: Path, name: str) -> fusetune.Run:
    if name not in runs:
        out = table.parent.parent / f"whole-{name}"
        with pytest.MonkeyPatch.context() as patch:
            keep_killed(patch, name, out)
            runs[name] = fusetune.fit(
                table, "organ", strategy=named(name), config=without_rivals(table, name), out=out, **HOW
            )
    return runs[name]


def killed(run: Path) -> Path:
    return run.with_name(run.name.replace("whole", "killed"))


def keep_killed(patch: pytest.MonkeyPatch, name: str, out: Path) -> None:
    """Copy a run's folder as it is when a kill comes: in its second own epoch, else in the last of all.

    What trains nothing is killed before it is judged. A copy takes no second training up to there.
    """
    run_epoch, judge, own = loop._run_epoch, api.judge, []

    def copy() -> None:
        shutil.rmtree(killed(out), ignore_errors=True)
        shutil.copytree(out, killed(out))

    def until_epoch(*args: Any) -> Any:
        own.append(args[2].name == f"strategy {name}")
        if not any(own) or (own[-1] and sum(own) == 2):
            copy()
        return run_epoch(*args)

    def until_judge(*args: Any, **how: Any) -> Any:
        if not own:
            copy()
        return judge(*args, **how)

    patch.setattr(loop, "_run_epoch", until_epoch)
    patch.setattr(api, "judge", until_judge)


def own_epochs(run: Path, name: str) -> list[dict[str, Any]]:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [event for event in log if event["event"] == "epoch" and event["stage"] == f"strategy {name}"]


@pytest.fixture(scope="module")
def graphs() -> set[str]:
    """What models were written as graphs, but for their numbers."""
    return set()


@pytest.mark.skipif(not onnx_available(), reason="onnx and onnxruntime are not installed")
@pytest.mark.parametrize("name", STRATEGIES)
def test_its_model_is_one_graph_that_says_the_same(
    runs: dict[str, fusetune.Run], graphs: set[str], table: Path, name: str, tmp_path: Path
) -> None:
    model = fusetune.load(fitted(runs, table, name).folder)
    if name == "classifier":
        assert "scikit-learn" in refusals(model)[0]
        return
    assert not refusals(model)
    # Many strategies train the same network; its graph is the same, too, but for the numbers in it.
    kind = re.sub(r"-?\d+\.\d+(e[-+]\d+)?", "number", json.dumps(model.network.describe()))
    assert kind in graphs or write_graph(model, tmp_path / "model.onnx") <= 1e-4
    graphs.add(kind)


@pytest.mark.parametrize("name", STRATEGIES)
def test_saved_loaded_judged_and_explained(runs: dict[str, fusetune.Run], table: Path, name: str) -> None:
    run = fitted(runs, table, name)
    model, frame = fusetune.load(run.folder), pd.read_csv(table)
    probabilities = model.predict_proba(table).to_numpy()
    np.testing.assert_allclose(probabilities, run.model.predict_proba(table).to_numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    said = pd.read_parquet(run.folder / "predictions.parquet").query("part == 'test'")
    columns = [column for column in said.columns if column.startswith("p(")]
    rows = frame["case_id"].isin(said["row_id"]).to_numpy()
    np.testing.assert_allclose(probabilities[rows], said[columns].to_numpy(), rtol=0, atol=1e-6)
    gain = [row["name"] for row in run.metrics["gain"]]
    assert gain[-1] == name
    assert len(gain) == len(set(gain))
    again = model.evaluate(with_paths(frame[rows], table))
    assert again["nll"]["value"] == pytest.approx(run.metrics["test"]["nll"]["value"], abs=1e-6)
    explanation = model.explain(table, "case-007")
    total = sum(explanation.shares.values()) + explanation.prior
    assert total == pytest.approx(explanation.probability, abs=1e-6)
    assert STRATEGIES[name].name in (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", STRATEGIES)
def test_any_input_may_be_missing(runs: dict[str, fusetune.Run], table: Path, name: str) -> None:
    """What a network says without an input does not depend on what is in it, and without any it says frequencies."""
    model, frame = fitted(runs, table, name).model, pd.read_csv(table)
    frame = with_paths(frame, table).iloc[40:56]  # among them rows that lack an input already
    for columns in (["scan"], ["note"], ["age", "site"]):
        without = model.predict_proba(frame.drop(columns=columns), on_problem="mask").to_numpy()
        masked = model.predict_proba(frame.assign(**dict.fromkeys(columns)), on_problem="mask").to_numpy()
        assert np.isfinite(without).all()
        np.testing.assert_allclose(without, masked, rtol=0, atol=1e-6)
    outputs = model.outputs(model.bind(fusetune.data.table.read_table(frame)), np.arange(8))
    for missing in outputs.present:
        present = {m: bits & (m != missing) for m, bits in outputs.present.items()}
        z = {m: torch.randn_like(block) if m == missing else block for m, block in outputs.z.items()}
        plain = model.network.again(outputs, present).f
        torch.testing.assert_close(model.network.again(outputs, present, z).f, plain)


@pytest.mark.parametrize("name", STRATEGIES)
def test_killed_in_its_own_training_it_ends_with_the_same_bits(
    runs: dict[str, fusetune.Run], table: Path, name: str
) -> None:
    whole = fitted(runs, table, name)
    out, own = killed(whole.folder), len(own_epochs(whole.folder, name))
    assert not (out / "metrics.json").exists()
    assert len(own_epochs(out, name)) == min(own, 1)
    how: dict[str, Any] = {"strategy": named(name), "config": without_rivals(table, name), "out": out, **HOW}
    run = fusetune.fit(table, "organ", resume=True, **how)
    assert len(own_epochs(out, name)) == own  # what was done is not done again
    for file in ("model/weights.safetensors", "predictions.parquet"):
        assert (run.folder / file).read_bytes() == (whole.folder / file).read_bytes()
    assert run.metrics["gain"] == whole.metrics["gain"]


@pytest.mark.parametrize("name", [name for name, s in STRATEGIES.items() if issubclass(s, EndToEnd)])
def test_end_to_end_methods_learn_something_of_their_own(runs: dict[str, fusetune.Run], table: Path, name: str) -> None:
    run = fitted(runs, table, name)
    losses = [event["valid_nll"] for event in own_epochs(run.folder, name)]
    assert len(losses) == 3
    assert min(losses) < np.log(3) - 0.2
    if name != "joint":
        joint = fitted(runs, table, "joint")
        assert (run.folder / "model/weights.safetensors").read_bytes() != (
            joint.folder / "model/weights.safetensors"
        ).read_bytes()


def test_a_rival_is_not_compared_with_itself(runs: dict[str, fusetune.Run], table: Path) -> None:
    for name, own in {"ume": "ensemble", "linear-probe": "traditional", "majority": None}.items():
        metrics = fitted(runs, table, name).metrics
        names = [row["name"] for row in metrics["gain"]]
        against = [c["against"] for c in metrics["comparisons"]]
        assert own not in names
        assert own is None or IN_WORDS[own] not in against
        assert names.count("majority") == 1


def test_equal_networks_get_equal_scores_whoever_asks(runs: dict[str, fusetune.Run], table: Path) -> None:
    """One rule for all: the ensemble as a rival and as the chosen strategy, and so the linear probe."""
    rivals = {row["name"]: row for row in fitted(runs, table, "two-stage").metrics["gain"]}
    for name, row in {"ume": "ensemble", "linear-probe": "traditional"}.items():
        chosen = fitted(runs, table, name).metrics["gain"][-1]
        for key in ("accuracy", "nll", "valid_nll"):
            assert chosen[key] == rivals[row][key]


def test_alone_takes_the_input_that_held_out_rows_prefer(runs: dict[str, fusetune.Run], table: Path) -> None:
    run = fitted(runs, table, "alone")
    (owner,) = set(run.model.network.owners)
    out = table.parent.parent / "one"
    other = "note" if owner != "note" else "scan"
    chosen = fusetune.fit(
        table, "organ", strategy={"name": "alone", "modality": other}, config=config(table), out=out, **HOW
    )
    assert set(chosen.model.network.owners) == {other}
    with pytest.raises(ConfigError, match="there is no input 'scam', did you mean 'scan'"):
        fusetune.fit(
            table, "organ", strategy={"name": "alone", "modality": "scam"}, config=config(table), out=out / "2", **HOW
        )


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("umtt", r"there is no strategy 'umtt', did you mean 'umt'\?; known: weighted-ensemble, two-stage, ume"),
        (
            {"name": "umt", "wieght": 3},
            r"strategy.wieght: the strategy 'umt' has no such setting, did you mean 'weight'",
        ),
        (
            {"name": "two-stage", "alpha": 3},
            r"strategy.alpha: the strategy 'two-stage' has no such setting; it has none",
        ),
        ({"name": "ogm-ge", "alpha": -1}, r"strategy.alpha: Input should be greater than or equal to 0 \(got -1\)"),
        ({"name": "joint", "epochs": "many"}, r"strategy.epochs: Input should be a valid integer"),
    ],
)
def test_slips_are_known_before_anything_is_read(strategy: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fusetune.fit(tmp_path / "no such table.csv", "y", strategy=strategy, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_survive_a_file(tmp_path: Path) -> None:
    built = fusetune.Config.build({"strategy": {"name": "umt", "weight": 3, "epochs": 2}})
    (tmp_path / "config.yaml").write_text(built.to_yaml(), encoding="utf-8")
    again = fusetune.Config.build(tmp_path / "config.yaml")
    assert again == built
    strategy, own = strategy_of(again)
    assert (strategy.name, own.weight, own.epochs, own.batch_size) == ("umt", 3.0, 2, 32)
