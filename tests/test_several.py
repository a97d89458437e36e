"""Rows with any number of pictures and texts, from fit to prediction: their number and order are nobody's business."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from several import of_one, several_table
from strategies_context import fresh_context
from tiny import settings, tiny_table
from torch import nn
from typer.testing import CliRunner

import fusetune
from fusetune.cli.frame import app
from fusetune.config import Config
from fusetune.data.bags import BagSource
from fusetune.data.source import Bag
from fusetune.encoders import Bagged, SmallCNN, build_encoder
from fusetune.errors import ConfigError, ImageError, InputWarning, SchemaError
from fusetune.heads.folds import has_training
from fusetune.report.explanation import render_explanation
from fusetune.strategies.trainer import Training, by_batch, run_training
from fusetune.strategies.unimodal import one_network, stage_u_loss
from fusetune.train.checkpoint import Checkpoints

ROLES: dict[str, Any] = {"group": "patient", "split": "part", "quiet": True}
pytestmark = pytest.mark.filterwarnings("ignore::fusetune.errors.InputWarning")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths of a DataFrame start here


def fit(folder: Path, frame: Any, inputs: list[str] | None, out: str = "run", **more: Any) -> fusetune.Run:
    how = {name: more.pop(name) for name in ("share", "gather", "resume") if name in more}
    config = settings(folder / "store", **{"doctor__check": False, "evaluate__baselines": False} | more)
    return fusetune.fit(frame, "organ", inputs=inputs, config=config, out=folder / out, **ROLES, **how)


def probabilities(model: fusetune.Model, frame: pd.DataFrame) -> Any:
    return model.predict_proba(frame, "mask").to_numpy()


@pytest.mark.parametrize(("inputs", "crossfit"), [(["scan", "note"], "k"), (["scan", "note", "age"], "off")])
def test_lists_of_one_are_what_a_plain_column_is_bit_for_bit(tmp_path: Path, inputs: list[str], crossfit: str) -> None:
    plain = tiny_table(tmp_path)
    lists = of_one(plain, "scan", "note")
    how = {"crossfit": {"how": crossfit, "folds": 2}, "evaluate__baselines": True}
    one, other = (fit(tmp_path, it, inputs, name, **how) for it, name in ((plain, "plain"), (lists, "lists")))
    assert [m.several for m in other.model.schema.modalities().values()][:2] == [True, True]
    assert [row["nll"] for row in one.metrics["gain"]] == [row["nll"] for row in other.metrics["gain"]]
    assert (probabilities(one.model, plain) == probabilities(other.model, lists)).all()
    assert (probabilities(one.model, plain) == probabilities(fusetune.load(other.folder), plain)).all()


@pytest.mark.parametrize("pool", ["mean", "max", "attention"])
def test_order_and_number_of_elements(tmp_path: Path, pool: str) -> None:
    frame = several_table(tmp_path)
    more = {"image__several__pool": pool, "text__several__pool": pool}
    run = fit(tmp_path, frame, ["scans", "notes", "age"], **more)
    model, before = run.model, probabilities(run.model, frame)
    assert (probabilities(fusetune.load(run.folder), frame) == before).all()
    turned = frame.assign(**{name: [cell[::-1] for cell in frame[name]] for name in ("scans", "notes")})
    assert (probabilities(model, turned) == before).all()
    nothing = frame.assign(scans=[cell or [None, ""] for cell in frame["scans"]])
    assert (probabilities(model, nothing) == before).all()
    # No picture at all is an input that is missing, and so are lists that are empty.
    empty = frame.assign(scans=pd.Series([[] for _ in frame.index]))
    assert (probabilities(model, empty) == probabilities(model, frame.drop(columns="scans"))).all()
    one = frame.loc[[int(np.argmax(frame["scans"].map(len)))]].reset_index(drop=True)
    twice = one.assign(scans=[one["scans"][0] * 2])
    change = np.abs(probabilities(model, twice) - probabilities(model, one)).max()
    assert change < 1e-5  # each is there twice: the same mean, maximum and attention
    effects = model.explain(frame, str(one["case_id"][0])).effects["scans"]
    assert all(("attention" in effect.name) == (pool == "attention") for effect in effects)
    order = np.random.default_rng(0).permutation(len(frame))
    shuffled = frame.iloc[order].reset_index(drop=True)
    assert np.abs(probabilities(model, shuffled) - before[order]).max() < 1e-5


def test_many_pictures_in_a_row_are_encoded_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = several_table(tmp_path)
    model = fit(tmp_path, frame, ["scans"], strategy__name="alone", train__epochs=0).model
    seen: list[int] = []
    forward = SmallCNN.forward

    def counted(self: SmallCNN, inputs: torch.Tensor) -> torch.Tensor:
        seen.append(len(inputs))
        return forward(self, inputs)

    monkeypatch.setattr(SmallCNN, "forward", counted)
    names = [f"{row}.png" for row in range(96)]
    rows = pd.DataFrame({"scans": pd.Series([(names * 11)[:1000], names[:3], []])})
    found = model.predict_proba(rows, "mask")
    assert sum(seen) == 1003
    assert max(seen) <= 32
    assert np.isfinite(found.to_numpy()).all()


def test_training_draws_some_of_many_anew_in_each_epoch(tmp_path: Path) -> None:
    frame = several_table(tmp_path, most=6)
    ctx = fresh_context(tmp_path, frame, ["scans"], image__several__most=2)
    source = ctx.sources["scans"]
    assert isinstance(source, BagSource)
    rows = np.flatnonzero(source.present)
    many = int(np.argmax(source.counts))
    drawn = [ctx.read(["scans"], rows, epoch)["scans"] for epoch in range(8)]
    for bag in drawn:
        counts = torch.bincount(bag.row)
        assert counts.tolist() == np.minimum(source.counts[rows], 2).tolist()
    place = int(np.flatnonzero(rows == many)[0])
    assert len({tuple(bag.rank[bag.row == place].tolist()) for bag in drawn}) > 2
    again = ctx.read(["scans"], rows[::-1].copy(), 3)["scans"]  # whatever rows are in the batch
    mirrored = len(rows) - 1 - place
    assert again.rank[again.row == mirrored].tolist() == drawn[3].rank[drawn[3].row == place].tolist()
    # Each picture has a view of its own, anew in each epoch.
    views = [ctx.augmented("scans", drawn[0], rows, epoch).elements for epoch in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_an_encoder_in_pieces_learns_what_it_learns_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = Bagged.of(SmallCNN(), "attention")
    row = torch.arange(10).repeat_interleave(8)
    rank = torch.arange(8).repeat(10)
    bag = Bag(torch.rand(80, 3, 16, 16), torch.arange(80), row, rank, 10)
    gradients = []
    for chunk in (1000, 16):
        monkeypatch.setattr("fusetune.encoders.bagged._CHUNK", chunk)
        encoder.zero_grad()
        encoder(bag).square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 4
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_pools_are_what_they_are_called() -> None:
    z, row = torch.tensor([[1.0, 4.0], [3.0, 0.0], [5.0, 6.0]]), torch.tensor([0, 0, 1])
    base = SmallCNN()
    base.dim = 2  # type: ignore[misc]
    mean, most, attention = (Bagged.of(base, pool).pooled(z, row, 2) for pool in ("mean", "max", "attention"))
    assert mean.tolist() == [[2.0, 2.0], [5.0, 6.0]] == attention.tolist()  # attention begins as the mean
    assert most.tolist() == [[3.0, 4.0], [5.0, 6.0]]
    learnt = Bagged.of(base, "attention")
    assert learnt.attention is not None
    torch.nn.init.normal_(learnt.attention.score.weight)
    shares = learnt.weights(z, row, 2)
    assert shares[:2].sum().item() == pytest.approx(1)
    assert shares[2].item() == 1
    assert shares[0] != shares[1]
    again = build_encoder(learnt.describe() | {"base": SmallCNN().describe()})
    assert isinstance(again, Bagged)
    assert again.takes_several
    with pytest.raises(ValueError, match="cannot be pooled by 'sum'"):
        Bagged.of(base, "sum")  # type: ignore[arg-type]


def test_attention_is_trained_where_the_encoder_stays_as_it_is(tmp_path: Path) -> None:
    frame = several_table(tmp_path)
    ctx = fresh_context(tmp_path, frame, ["scans"], image__several__pool="attention", image__train__freeze=1.0)
    encoder, loop, rows = ctx.fresh_encoder("scans"), ctx.settings("scans"), np.arange(60)
    assert isinstance(encoder, Bagged)
    assert encoder.attention is not None
    assert has_training(loop, encoder)
    network = one_network(ctx, "scans", encoder, nn.Linear(encoder.dim, 3))
    rows = rows[ctx.sources["scans"].present[rows]]
    what = Training(
        stage="scans", module=network, network=network, encoders={"scans": loop}, loop=loop, groups=[], rows=rows,
        held=rows, gradients=by_batch(ctx, lambda batch: stage_u_loss("scans", network, batch, 0.0)),
        weight=np.ones(96, np.float32), keep="last",
    )  # fmt: skip
    run_training(ctx, what)
    assert encoder.attention.score.weight.abs().max() > 0
    before = ctx.pristine["scans"].state_dict()
    assert all(torch.equal(before[name], own) for name, own in encoder.state_dict().items() if name.startswith("base."))


def test_explanations_name_the_picture_and_the_text_that_carried_the_weight(tmp_path: Path) -> None:
    frame = several_table(tmp_path)
    frame.at[1, "scans"] = ["1.png", "3.png", "5.png"]
    frame.at[1, "notes"] = ["beats chamber valve the", "a of seen left"]
    model = fit(tmp_path, frame, ["scans", "notes"]).model
    explained = model.explain(frame, "case-001")
    names = [effect.name for effect in explained.effects["scans"]]
    assert names == ["picture 1 of 3: 1.png", "picture 2 of 3: 3.png", "picture 3 of 3: 5.png"]
    assert set(explained.maps) == {f"scans: {name}" for name in names} == set(explained.pictures)
    # What an element carries is what the decision loses without it.
    for at, effect in enumerate(explained.effects["scans"]):
        less = frame.copy()
        less.at[1, "scans"] = [name for place, name in enumerate(frame["scans"][1]) if place != at]
        without = model.predict_proba(less, "mask")[explained.decision][1]
        assert effect.effect == pytest.approx(explained.probability - without, abs=1e-4)
    assert explained.effects["notes"][0].name == "text 1 of 2: beats chamber valve the"
    assert len(explained.effects["notes: text 1 of 2: beats chamber valve the"]) == 4
    assert "picture 2 of 3: 3.png" in render_explanation(explained)
    single = frame.assign(scans=[["1.png"]] * len(frame), notes=[[]] * len(frame))
    (effect,) = model.explain(single, "case-001", "mask").effects["scans"]
    assert effect.name == "picture 1 of 1: 1.png"


def test_broken_pictures_are_said_of_their_row_and_place(tmp_path: Path) -> None:
    frame = several_table(tmp_path)
    model = fit(tmp_path, frame, ["scans", "age"]).model
    wrong = frame.head(4).copy()
    wrong["scans"] = [["0.png", "lost.png"], ["lost.png"], ["1.png"], []]
    told = model.predict_table(wrong)["problem"]
    assert told[0].startswith("scans: picture 2 of 2: lost.png: there is no such file")
    assert told[1].startswith("scans: picture 1 of 1: lost.png")
    assert told.tolist()[2:] == ["", ""]
    right = wrong.assign(scans=[["0.png"], [], ["1.png"], []])
    assert (probabilities(model, wrong) == probabilities(model, right)).all()
    frame.at[2, "scans"] = ["0.png", "lost.png"]
    with pytest.raises(ImageError, match=r"row case-002: picture 2 of 2: lost.png"):
        fit(tmp_path, frame, ["scans", "age"], "broken")


def test_a_long_table_is_gathered_for_training_and_for_prediction(tmp_path: Path) -> None:
    wide = several_table(tmp_path)[["case_id", "scans", "note", "age", "patient", "part", "organ"]].copy()
    wide["scans"] = wide["scans"].map(lambda cell: list(dict.fromkeys(cell)))  # what is gathered is there once
    long = wide.explode("scans").rename(columns={"scans": "scan"}).reset_index(drop=True)
    run = fit(tmp_path, long, ["scan", "note", "age"], gather="case_id")
    assert sum(run.metrics["rows"].values()) == len(wide)
    model = fusetune.load(run.folder)
    found = model.predict_proba(long, "mask")
    assert found.index.tolist() == wide["case_id"].tolist()
    assert (probabilities(model, wide.rename(columns={"scans": "scan"})) == found.to_numpy()).all()
    assert model.predict_table(long, "mask")["row_id"].tolist() == wide["case_id"].tolist()
    assert model.evaluate(long, "mask")["rows"] == len(wide)
    assert model.explain(long, "case-005", "mask").row == "case-005"
    with pytest.raises(SchemaError, match="'case_id' is missing: rows with the same value in it are one row"):
        model.predict(long.drop(columns="case_id"))


def test_the_command_line_shares_and_gathers(tmp_path: Path) -> None:
    frame = several_table(tmp_path)
    frame["other"] = [cell[-1] if cell else None for cell in frame["scans"]]
    frame["scans"] = [";".join(cell) for cell in frame["scans"]]
    frame.drop(columns="notes").to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "c.yaml").write_text(Config.build(settings(tmp_path / "store", train__epochs=0)).to_yaml())
    how = ["--label", "organ", "--split", "part", "--config", "c.yaml", "--inputs", "age", "--out", "run"]
    result = CliRunner().invoke(app, ["fit", "t.csv", *how, "--share", "views=scans,other"])
    assert result.exit_code == 0, result.output
    (views, _) = fusetune.load(tmp_path / "run").schema.modalities().values()
    assert (views.name, views.columns, views.several) == ("views", ("scans", "other"), True)
    told = CliRunner().invoke(app, ["check", "t.csv", "--label", "organ", "--gather", "site", "--inputs", "scan"])
    assert told.exit_code == 2
    assert "different values in column 'organ'" in told.output


def test_the_estimator_takes_lists_and_shared_columns(tmp_path: Path) -> None:
    frame = several_table(tmp_path)
    how = {"config": settings(tmp_path / "store", train__epochs=0), "on_problem": "mask"}
    alone = fusetune.FusionClassifier(inputs=["scans", "age"], **how).fit(frame, frame["organ"])
    assert alone.predict_proba(frame).shape == (96, 3)
    both = fusetune.FusionClassifier(inputs=["age"], share=["scan", "scans"], **how).fit(frame, frame["organ"])
    assert list(both.model_.schema.modalities()) == ["scan+scans", "columns"]
    assert (both.predict(frame) == frame["organ"]).mean() > 0.8


def test_settings_that_lists_cannot_follow_are_refused(tmp_path: Path) -> None:
    frame = several_table(tmp_path)
    with pytest.raises(ConfigError, match="'scans' has any number of pictures in a row; use mixup"):
        fit(tmp_path, frame, ["scans"], image__train__mix={"kind": "cutmix"})
    with pytest.raises(ConfigError, match="no encoder is trained; use mean or max"):
        fit(tmp_path, frame, ["scans"], "b", image__several__pool="attention", strategy__level="features")
    mixed = {"mix": {"kind": "mixup"}, "epochs": 1}
    fit(tmp_path, frame, ["scans"], "c", strategy__name="alone", image__train=mixed)


KILLED: dict[str, Any] = {"strategy__name": "alone", "image__several__most": 2, "image__train__epochs": 3}


def _die(folder: str) -> None:
    frame = several_table(Path(folder))
    saved = [0]
    save = Checkpoints.save

    def then_die(self: Checkpoints, *some: Any) -> None:
        save(self, *some)
        saved[0] += 1
        if saved[0] == 2:
            os._exit(9)

    Checkpoints.save = then_die  # type: ignore[method-assign]
    os.chdir(folder)
    fit(Path(folder), frame, ["scans"], "killed", **KILLED)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    frame = several_table(tmp_path)
    whole = fit(tmp_path, frame, ["scans"], "whole", **KILLED)
    child = multiprocessing.get_context("spawn").Process(target=_die, args=(str(tmp_path),))
    child.start()
    child.join()
    assert child.exitcode == 9
    resumed = fit(tmp_path, frame, ["scans"], "killed", resume=True, **KILLED)
    assert (probabilities(resumed.model, frame) == probabilities(whole.model, frame)).all()


def test_diagnosis_and_evaluation_take_lists(tmp_path: Path) -> None:
    frame = several_table(tmp_path)
    model = fit(tmp_path, frame, ["scans", "notes"]).model
    with pytest.warns(InputWarning):
        said = model.diagnose(frame)
    assert {"scans", "notes"} <= {curve.name for curve in said.noise}
