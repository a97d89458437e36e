"""TAR: which rows tuned the encoder that embeds a row, what is adapted, and what the learner is told by memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from in_sample import learnt_again
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from strategies_context import make_context
from tiny import tiny_table, untold_table

from fusetune.context import Context
from fusetune.encoders import Averaged, Stacked, TransformersText
from fusetune.evaluate.metrics import nll
from fusetune.heads.folds import row_folds
from fusetune.networks import build_network
from fusetune.strategies import TAR, tar
from fusetune.strategies.base import held_by
from fusetune.strategies.tar import TARSettings, components, tuning
from fusetune.strategies.trainer import _opened

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": 8000, "max_position_embeddings": 64}  # fmt: skip


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[3, 20], "note"] = None
    frame.loc[[7, 20], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    frame.loc[[8], "age"] = None
    return context(tmp_path, frame, ["note", "genes", "age"])


def context(folder: Path, frame: Any, inputs: list[str], **more: Any) -> Context:
    return make_context(folder, frame, inputs, vector__encoder="mlp", head__penalties=[0.1], **more)


def test_components_are_those_of_pca() -> None:
    z = np.random.default_rng(0).normal(size=(40, 12)) @ np.random.default_rng(1).normal(size=(12, 12))
    mean, axes = components(z, 5)
    expected = PCA(5).fit(z)
    np.testing.assert_allclose(np.abs((z - mean) @ axes.T), np.abs(expected.transform(z)), atol=1e-8)
    np.testing.assert_allclose(axes @ axes.T, np.eye(5), atol=1e-12)
    assert (axes[np.arange(5), np.abs(axes).argmax(1)] > 0).all()
    assert components(z[:3], 30)[1].shape == (3, 12)


@pytest.mark.parametrize("crossfit", [True, False])
def test_who_embeds_a_training_row(ctx: Context, monkeypatch: pytest.MonkeyPatch, crossfit: bool) -> None:
    """Cross-fitted, no row is embedded by an encoder that it tuned; as published, every one is."""
    plain, tuned, embedded = tar.fine_tune, {}, []

    def watched(ctx: Context, name: str, rows: Any, *more: Any) -> Any:
        network = plain(ctx, name, rows, *more)
        tuned[id(network.only[0])] = set(rows.tolist())
        assert np.array_equal(more[1], ctx.split.rows("valid"))
        return network

    encode = Context.encode

    def noted(self: Context, name: str, encoder: Any, rows: Any, *more: Any) -> Any:
        if id(encoder) in tuned:
            embedded.append((name, tuned[id(encoder)], set(rows.tolist())))
        return encode(self, name, encoder, rows, *more)

    monkeypatch.setattr(tar, "fine_tune", watched)
    monkeypatch.setattr(Context, "encode", noted)
    done = TAR.fit(ctx, TARSettings(crossfit=crossfit, folds=3))
    train, valid = set(ctx.split.rows("train").tolist()), set(ctx.split.rows("valid").tolist())
    for name in ("note", "genes"):
        mine = [(learnt, rows) for owner, learnt, rows in embedded if owner == name and rows <= train]
        assert sorted(row for _, rows in mine for row in rows) == sorted(train)
        assert all(not learnt & valid for learnt, _ in mine)
        if crossfit:
            assert len(mine) == 3
            assert all(not learnt & rows and learnt | rows == train for learnt, rows in mine)
            groups = ctx.groups
            assert groups is not None
            for learnt, rows in mine:
                assert not set(groups.iloc[sorted(learnt)]) & set(groups.iloc[sorted(rows)])
        else:
            assert [learnt for learnt, _ in mine] == [train]
    bases = [encoder.base for _, encoder in done.network.members if isinstance(encoder, Stacked)]
    assert [isinstance(base, Averaged) for base in bases] == [crossfit] * 2
    assert np.array_equal(done.rows, ctx.split.rows("valid"))


def test_a_new_row_gets_the_mean_over_the_folds(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the learner chose its penalty on is what the saved network makes of the same rows."""
    plain, asked = tar.fit_head, []

    def watched(data: Any, held: Any, *more: Any, **how: Any) -> Any:
        asked.append((data, held))
        return plain(data, held, *more, **how)

    monkeypatch.setattr(tar, "fit_head", watched)
    network = TAR.fit(ctx, TARSettings(folds=2, components=3)).network
    ((data, held),) = asked
    assert {name: z.shape[-1] for name, z in data.z.items()} == {"note": 3, "genes": 3, "columns": 2}
    said = held_by(ctx, network, ctx.split.rows("valid"))
    for name, z in held.z.items():
        has = held.present[name]
        np.testing.assert_allclose(said.z[name].numpy()[has], z[0][has], rtol=1e-3, atol=1e-4)
    # And of training rows, the one encoder that did not learn from them.
    train = ctx.split.rows("train")
    of_all = held_by(ctx, network, train).z["genes"].numpy()
    assert not np.allclose(of_all, data.z["genes"][0], atol=1e-3)
    folds = row_folds(ctx, train, 2)
    stacked = dict(network.members)["genes"]
    for fold, base in enumerate(stacked.base.bases):
        here = train[(folds == fold) & ctx.sources["genes"].present[train]]
        read: Any = ctx.sources["genes"].read(here)
        z = stacked.top(base(read) - stacked.mean)
        places = np.searchsorted(train, here)
        np.testing.assert_allclose(z.detach().numpy(), data.z["genes"][0][places], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("learner", ["linear", "mlp"])
def test_saved_and_asked_with_less(ctx: Context, learner: str) -> None:
    done = TAR.fit(ctx, TARSettings(folds=2, learner=learner))
    rows = np.arange(len(ctx.labels))
    said = held_by(ctx, done.network, rows)
    assert torch.isfinite(said.f).all()
    again = build_network(json.loads(json.dumps(done.network.describe())))
    again.load_state_dict(done.network.state_dict())
    assert torch.equal(held_by(ctx, again.eval(), rows).f, said.f)
    for missing in said.present:
        present = {name: bits & (name != missing) for name, bits in said.present.items()}
        z = {name: torch.randn_like(own) if name == missing else own for name, own in said.z.items()}
        less = done.network.again(said, present)
        assert torch.isfinite(less.f).all()
        assert torch.equal(done.network.again(said, present, z).f, less.f)
    assert done.notes["genes"] == "main components of its tuned embedding, cross-fitted in 2 folds"
    valid = ctx.split.rows("valid")
    torch.testing.assert_close(done.held.f, said.f[valid])
    assert float((said.f[valid].argmax(1).numpy() == ctx.labels[valid]).mean()) > 0.5


@pytest.mark.parametrize("inputs", [["age", "site"], ["genes"]])
def test_one_modality_is_enough(tmp_path: Path, inputs: list[str]) -> None:
    made = context(tmp_path, tiny_table(tmp_path / "data"), inputs)
    assert torch.isfinite(TAR.fit(made, TARSettings(folds=2)).held.f).all()


def test_embeddings_of_the_rows_that_tuned_the_encoder_remember_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors that tell nothing: in-sample, the learner believes them all the same; cross-fitted, it does not."""
    rates: dict[str, Any] = {"vector__train": {"lr": 1e-2, "epochs": 40, "patience": 0, "batch_size": 16}}
    made = context(tmp_path, untold_table(tmp_path / "data"), ["genes"], **rates)
    # The last epoch, as where validation rows are few and kind: here no epoch is any good.
    monkeypatch.setattr("fusetune.strategies.unimodal.Training", lambda **given: TRAINING(**{**given, "keep": "last"}))
    train, found = made.split.rows("train"), {}
    for crossfit in (True, False):
        read: Any = tar._read(made, "genes", TARSettings(crossfit=crossfit, folds=4), train, made.split.rows("valid"))
        model = LogisticRegression(C=1.0, max_iter=500).fit(read.train, made.labels[train])
        own: npt.NDArray[np.float64] = model.predict_proba(read.train)
        found[crossfit] = nll(own, made.labels[train])
    assert found[False] < 0.3
    assert found[True] > 0.5


TRAINING = tar.fine_tune.__globals__["Training"]


@pytest.fixture
def pretrained(ctx: Context) -> Context:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    ctx.pristine["note"] = TransformersText(BERT)
    return ctx


def test_adapters_of_rank_16_move_in_the_last_three_blocks(pretrained: Context) -> None:
    settings = TARSettings()
    plan, encoder = tuning(pretrained, "note", settings), pretrained.fresh_encoder("note")
    assert (plan.lora_rank, plan.lr, plan.patience) == (16, 1e-4, 3)
    blocks = len(encoder.blocks())
    _opened(encoder, plan)
    moving = [any(p.requires_grad for p in block) for block in encoder.blocks()]
    assert moving == [False] * (blocks - 3) + [True] * 3
    named = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in named)
    assert all(16 in p.shape for p in encoder.parameters() if p.requires_grad)
    plain = tuning(pretrained, "genes", settings)
    assert (plain.lora_rank, plain.freeze) == (0, 0.0)
    assert tuning(pretrained, "note", TARSettings(blocks=99)).freeze == 0.0


def test_a_pretrained_encoder_is_tuned_by_adapters_that_are_gone_afterwards(pretrained: Context) -> None:
    done = TAR.fit(pretrained, TARSettings(rank=2, folds=2, text_lr=1e-2))
    stacked = dict(done.network.members)["note"]
    assert not [name for name, _ in stacked.named_parameters() if "lora" in name]
    start = pretrained.pristine["note"].state_dict()
    changed = [
        {name for name, p in base.state_dict().items() if not torch.equal(p, start[name])}
        for base in stacked.base.bases
    ]
    assert all(changed)
    assert all(".layer.0." not in name and ".layer.1." not in name for names in changed for name in names)
    assert torch.isfinite(done.held.f).all()


def test_a_single_group_cannot_be_cross_fitted_and_is_said_so(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(tar, "row_folds", lambda ctx, rows, most: np.zeros(len(rows), dtype=np.int64))
    monkeypatch.setattr(ctx.log, "warn", warned.append)
    done = TAR.fit(ctx, TARSettings())
    assert done.notes["genes"] == "main components of its tuned embedding"
    assert sum("nothing can be cross-fitted" in text for text in warned) == 2


@pytest.mark.parametrize("crossfit", [True, False])
def test_the_benchmark_s_learner_in_between(ctx: Context, crossfit: bool) -> None:
    """It reads training rows as the network embeds new ones: of the published form, what its own learner read."""
    settings = TARSettings(crossfit=crossfit, folds=2)
    done = TAR.fit(ctx, settings)
    before = {name: value.clone() for name, value in done.network.state_dict().items()}
    again = learnt_again(ctx, done, settings)
    assert all(torch.equal(value, before[name]) for name, value in done.network.state_dict().items())
    for name, value in done.held.z.items():
        assert torch.equal(again.held.z[name], value)
    assert torch.allclose(again.held.f, done.held.f, atol=1e-3) == (not crossfit)
