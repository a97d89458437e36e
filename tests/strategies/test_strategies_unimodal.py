from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.augment.mix import draw_mixing
from fusetune.augment.random import Moment
from fusetune.context import Context
from fusetune.encoders import Encoder
from fusetune.errors import SplitError, UserError
from fusetune.features.store import weights_hash
from fusetune.heads.base import HeadData
from fusetune.heads.folds import Folds
from fusetune.networks import EnsembleNetwork
from fusetune.strategies import blocks, crossfit, unimodal
from fusetune.strategies.base import Fitted, NoSettings
from fusetune.strategies.batch import draw_batch
from fusetune.strategies.two_stage import TwoStage
from fusetune.strategies.unimodal import fine_tune, one_network, stage_u_loss


class Normed(Encoder):
    """Two dense layers with batch norm between, on vectors of four."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.dim = dim
        generator = torch.Generator().manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, dim)
        with torch.no_grad():
            for parameter in (*self.first.parameters(), *self.second.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(torch.relu(self.norm(self.first(inputs.float()))))

    def blocks(self) -> list[list[nn.Parameter]]:
        return [[*self.first.parameters(), *self.norm.parameters()], list(self.second.parameters())]

    def describe(self) -> dict[str, Any]:
        return {"encoder": "Normed", "dim": self.dim}


def fit_two_stage(ctx: Context) -> Fitted:
    return TwoStage.fit(ctx, NoSettings())


def said_by(ctx: Context, network: EnsembleNetwork, rows: Any) -> Tensor:
    """Return a network's logits on plain inputs of rows that all have its modality."""
    (name,) = network.owners
    with torch.inference_mode():
        return network({name: ctx.plain(name, ctx.sources[name].read(rows))}, {name: torch.ones(len(rows)).bool()}).f


def with_normed(folder: Path, **more: Any) -> Context:
    rate: dict[str, Any] = {"vector__train__lr": 1e-2, "vector__train__head_lr": 1e-2, "vector__train__epochs": 6}
    ctx = make_context(folder, tiny_table(folder / "data"), ["genes"], **rate | more)
    ctx.pristine["genes"] = Normed()
    return ctx


def changed(network: EnsembleNetwork, ctx: Context) -> set[str]:
    before = ctx.pristine["genes"].state_dict()
    return {name for name, value in network.only[0].state_dict().items() if not torch.equal(value, before[name])}


BUFFERS = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_batch_norm_follows_the_data_only_if_asked(tmp_path: Path, batch_norm: str) -> None:
    ctx = with_normed(tmp_path, vector__train__batch_norm=batch_norm)
    network = fine_tune(ctx, "genes")
    assert ctx.histories["genes"].best_epoch >= 0, "nothing was learnt, so nothing was tested"
    moved = changed(network, ctx)
    assert moved >= {"first.weight", "norm.weight", "second.weight"}
    assert moved & BUFFERS == (BUFFERS if batch_norm == "train" else set())


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_frozen_blocks_keep_every_bit(tmp_path: Path, batch_norm: str) -> None:
    ctx = with_normed(tmp_path, vector__train__batch_norm=batch_norm, vector__train__freeze=0.5)
    network = fine_tune(ctx, "genes")
    assert ctx.histories["genes"].best_epoch >= 0
    assert changed(network, ctx) == {"second.weight", "second.bias"}


@pytest.mark.parametrize("more", [{"epochs": 0}, {"freeze": 1.0}])
def test_without_training_the_encoder_is_what_it_was(tmp_path: Path, more: dict[str, Any]) -> None:
    ctx = with_normed(tmp_path, **{f"vector__train__{name}": value for name, value in more.items()})
    network = fine_tune(ctx, "genes")
    assert changed(network, ctx) == set()
    assert "genes" not in ctx.histories
    valid = ctx.split.rows("valid")
    told = said_by(ctx, network, valid)
    assert float((told.argmax(1) == ctx.targets(valid)).float().mean()) > 0.6


def test_the_result_is_frozen_and_the_original_untouched(tmp_path: Path) -> None:
    ctx = with_normed(tmp_path)
    before = weights_hash(ctx.pristine["genes"])
    network = fine_tune(ctx, "genes")
    assert weights_hash(ctx.pristine["genes"]) == before
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_what_ran_before_does_not_matter(tmp_path: Path) -> None:
    ctx, hashes = with_normed(tmp_path), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        hashes.append(weights_hash(fine_tune(ctx, "genes")))
        torch.rand(seed * 7)
    assert hashes[0] == hashes[1]


def test_the_best_epoch_is_what_its_record_says(tmp_path: Path) -> None:
    ctx = with_normed(tmp_path)
    network, history = fine_tune(ctx, "genes"), ctx.histories["genes"]
    valid = ctx.split.rows("valid")
    told = said_by(ctx, network, valid)
    assert float(F.cross_entropy(told, ctx.targets(valid))) == pytest.approx(history.best_nll, abs=1e-5)
    assert history.best_nll == min([history.start_nll, *(record.valid_nll for record in history.records)])


def test_rows_of_other_parts_are_refused(tmp_path: Path) -> None:
    ctx = with_normed(tmp_path)
    train, valid = ctx.split.rows("train"), ctx.split.rows("valid")
    with pytest.raises(SplitError, match="may only see rows of train"):
        fine_tune(ctx, "genes", np.concatenate([train, valid[:1]]))


def test_rows_without_the_modality_are_left_out(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[0, 1, 8, 20], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    ctx = make_context(tmp_path, frame, ["genes", "age"], vector__encoder="mlp", vector__train__epochs=2)
    fine_tune(ctx, "genes")
    assert ctx.histories["genes"].rows_seen == 2 * (72 - 4)


def test_a_modality_without_validation_rows_is_refused(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    frame.loc[frame["part"] == "val", "v_0"] = np.nan
    frame.loc[frame["part"] == "val", ["v_1", "v_2", "v_3"]] = np.nan
    ctx = make_context(tmp_path, frame, ["genes", "age"], vector__encoder="mlp")
    with pytest.raises(UserError, match="genes"):
        fine_tune(ctx, "genes")


def test_equal_texts_of_a_class_are_read_once(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    frame.loc[:23, "note"] = [f"the same {organ} words again" for organ in frame["organ"][:24]]
    ctx = make_context(tmp_path, frame, ["note"], text__train__epochs=1)
    fine_tune(ctx, "note")
    train = frame[frame["part"] == "train"]
    assert ctx.histories["note"].rows_seen == len(train[["note", "organ"]].drop_duplicates()) < len(train)


def test_repeats_are_the_mean_over_several_views_of_rows_that_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a naive loop over the views; the cost counts every pass."""
    ctx = with_normed(tmp_path, vector__train__repeats=3, vector__train__epochs=1, vector__train__label_smoothing=0.1)
    ctx.label_weights = np.array([0.5, 1.0, 2.0])[ctx.labels]
    network = one_network(ctx, "genes", Normed(), nn.Linear(6, 3)).eval()
    batch, source = ctx.split.rows("train")[5:17], ctx.sources["genes"]
    raw, read = source.read(batch), source.read
    weights = torch.from_numpy(2 * ctx.label_weights[batch]).float()
    found = stage_u_loss(
        "genes", network, draw_batch(ctx, ["genes"], batch, {"genes": raw}, weights, 4, ctx.settings("genes")), 0.0
    )
    expected = []
    for view in range(3):
        seen = ctx.augments["genes"].draw(raw, torch.from_numpy(ctx.keys[batch]), Moment(0, 4, view))
        encoder, classifier = network.only
        each = F.cross_entropy(classifier(encoder(seen)), ctx.targets(batch), label_smoothing=0.1, reduction="none")
        expected.append((each * weights).mean())
    torch.testing.assert_close(found, torch.stack(expected).mean())
    counted: list[int] = []
    monkeypatch.setattr(source, "read", lambda rows: counted.append(len(rows)) or read(rows))
    fine_tune(ctx, "genes")
    assert ctx.histories["genes"].rows_seen == ctx.trained_rows["genes"] == 3 * 72
    assert sum(counted) == (72 + 12) + 72 + 2 * 12  # the linear probe, training once, two validations


@pytest.mark.parametrize("name", ["genes", "note", "scan", "columns"])
def test_inputs_and_label_of_every_kind_are_mixed(tmp_path: Path, name: str) -> None:
    """The loss is the one of mixed inputs, or of mixed features for texts; labels alone would give another one."""
    inputs = {"genes": ["genes"], "note": ["note"], "scan": ["scan"], "columns": ["age", "site"]}[name]
    kind = {"genes": "vector", "note": "text", "scan": "image", "columns": "columns"}[name]
    more: dict[str, Any] = {f"{kind}__train__mix": {"kind": "mixup", "alpha": 1.0}, f"{kind}__train__repeats": 2}
    frame = tiny_table(tmp_path / "data")
    frame["scan"] = [str(tmp_path / "data" / file) for file in frame["scan"]]
    ctx = make_context(tmp_path, frame, inputs, **more)
    encoder = ctx.fresh_encoder(name)
    network = one_network(ctx, name, encoder, nn.Linear(encoder.dim, 3)).eval()
    batch = ctx.split.rows("train")[:10]
    raw, keys = ctx.sources[name].read(batch), torch.from_numpy(ctx.keys[batch])
    drawn = draw_batch(ctx, [name], batch, {name: raw}, torch.ones(10), 1, ctx.settings(name))
    found = stage_u_loss(name, network, drawn, 0.0)
    classifier = network.only[1]
    labels, expected, unmixed = ctx.targets(batch), [], []
    smoothing = ctx.settings(name).label_smoothing
    for view in range(2):
        moment = Moment(0, 1, view)
        mixing = draw_mixing(ctx.settings(name).mix, keys, moment)
        seen = ctx.augments[name].draw(raw, keys, moment)
        z = encoder(mixing.inputs(kind, seen))
        soft = mixing.blend(F.one_hot(labels, 3).float())
        mixed = mixing.blend(z) if kind == "text" else z
        expected.append(F.cross_entropy(classifier(mixed), soft, label_smoothing=smoothing))
        unmixed.append(F.cross_entropy(classifier(encoder(seen)), soft, label_smoothing=smoothing))
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
    assert abs(float((found - torch.stack(unmixed).mean()).detach())) > 1e-4


def test_cutmix_trains_on_pictures(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    frame["scan"] = [str(tmp_path / "data" / file) for file in frame["scan"]]
    more: dict[str, Any] = {"image__train__mix": {"kind": "cutmix", "alpha": 1.0}, "image__train__epochs": 1}
    ctx = make_context(tmp_path, frame, ["scan"], **more)
    fine_tune(ctx, "scan")
    history = ctx.histories["scan"]
    # The start is all but perfect on plain pictures with hard labels; mixed labels cannot be predicted to the end.
    assert history.records[0].train_loss > history.start_nll + 0.2


def test_lora_leaves_an_encoder_of_the_same_shape(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    ctx = make_context(tmp_path, tiny_table(tmp_path / "data"), ["note"], text__train__lora_rank=2)
    network = fine_tune(ctx, "note")
    assert network.only[0].state_dict().keys() == ctx.pristine["note"].state_dict().keys()


class Memory(Encoder):
    """The nearest of the rows that it was given, and that row's class: perfect on what it has seen."""

    def __init__(self, rows: Tensor, labels: Tensor, classes: int) -> None:
        super().__init__()
        self.dim = classes
        self.register_buffer("rows", rows)
        self.register_buffer("labels", F.one_hot(labels, classes).float())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.get_buffer("labels")[torch.cdist(inputs.float(), self.get_buffer("rows")).argmin(1)]

    def blocks(self) -> list[list[nn.Parameter]]:
        return []

    def describe(self) -> dict[str, Any]:
        return {"encoder": "Memory"}


@pytest.mark.parametrize(("how", "leaks"), [("off", True), ("holdout", False), ("k", False)])
def test_cross_fitted_heads_do_not_learn_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, leaks: bool
) -> None:
    """With labels that no input tells, a head must find nothing in what encoders say about rows they did not see."""
    generator = np.random.default_rng(0)
    frame = tiny_table(tmp_path / "data", rows=1152)
    frame["organ"] = generator.permutation(frame["organ"])
    frame[[f"v_{i}" for i in range(4)]] = generator.normal(size=(1152, 4))
    more: dict[str, Any] = {"vector__encoder": "mlp", "vector__augment__corrupt": 0.0, "views": 1}
    more["head__penalties"] = [1.0]  # of several, validation rows would choose one that shuts the leak
    ctx = make_context(tmp_path, frame, ["genes"], crossfit__how=how, **more)

    def remember(ctx: Context, name: str, rows: Any, stage: str = "", held: Any = None, settings: Any = None) -> Any:
        del stage, held, settings
        memory = Memory(ctx.sources[name].read(rows), ctx.targets(rows), 3)  # type: ignore[arg-type]
        network = one_network(ctx, name, memory, nn.Linear(3, 3)).requires_grad_(False)
        network.only[1].weight.copy_(5 * torch.eye(3))
        network.only[1].bias.zero_()
        return network.eval()

    seen: list[tuple[HeadData, Any]] = []
    plain = blocks.fit_on

    def watched(ctx: Context, folds: Folds, views: Any, *rest: Any) -> Any:
        fit, held = plain(ctx, folds, views, *rest)
        seen.append((HeadData.of(ctx, views, folds.rows), fit.head))
        return fit, held

    monkeypatch.setattr(crossfit, "fine_tune", remember)
    monkeypatch.setattr(blocks, "fit_on", watched)
    fit_two_stage(ctx)
    hits = []
    for data, head in seen:
        z = {name: torch.from_numpy(np.array(block[0])) for name, block in data.z.items()}
        with torch.inference_mode():
            told = head(z, {name: torch.from_numpy(bits) for name, bits in data.present.items()}).argmax(1).numpy()
        hits += list(told == data.labels)
    if leaks:
        assert np.mean(hits) > 0.99
    else:
        assert abs(np.mean(hits) - 1 / 3) < 0.08


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "undone"),
    [
        ([0.9, 0.9, 0.9], [0.8, 0.8, 0.8], False),
        ([0.9, 0.9, 0.9], [0.7, 1.2, 0.7], False),  # worse in one fold only
        ([0.9, 0.9, 0.9], [1.0, 0.1, 0.1], True),  # the first fold is a probe
        ([0.9, 0.9, 0.9], [0.8, 0.8, 1.2], True),  # better in two folds, and worse together
        ([0.9, 0.9, 0.9], [0.9, 0.9, 0.9], True),
    ],
)
def test_fine_tuning_that_does_not_help_on_all_folds_together_is_undone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: list[float],
    after: list[float],
    undone: bool,
    beside: bool,
) -> None:
    ctx = with_normed(tmp_path, crossfit__how="k", head__pretrained=beside)
    pairs = iter(zip(before, after, strict=True))
    plain = crossfit.fine_tune

    def said_to_be(ctx: Context, name: str, rows: Any, stage: str, held: Any, settings: Any) -> EnsembleNetwork:
        network = plain(ctx, name, rows, stage, held, settings)
        start, best = next(pairs)
        ctx.histories[stage].start_nll, ctx.histories[stage].best_nll = start, best
        return network

    monkeypatch.setattr(crossfit, "fine_tune", said_to_be)
    for module in (unimodal, crossfit):
        monkeypatch.setattr(module, "is_pretrained", lambda encoder: True)
    model = fit_two_stage(ctx).network
    pristine = weights_hash(ctx.pristine["genes"])
    assert {h.best_epoch >= 0 for h in ctx.histories.values()} == {not undone}
    if undone:
        assert model.wiring.networks == {"genes": [0]}
        assert model.wiring.features == {"genes": 0}
        assert not model.wiring.logits
        assert weights_hash(model.encoders[0]) == pristine
    else:
        assert model.wiring.networks == {"genes": [0, 1, 2]}
        assert model.wiring.features == ({"genes as pretrained": 3} if beside else {})
        assert all(weights_hash(encoder) != pristine for encoder in model.encoders[:3])


@pytest.mark.parametrize(("rate", "undone"), [(3.0, True), (1e-2, False)])
def test_one_network_that_fine_tuning_did_not_help_is_read_once_and_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, undone: bool
) -> None:
    ctx = with_normed(tmp_path, vector__train__lr=rate, head__pretrained=True)
    for module in (unimodal, crossfit):
        monkeypatch.setattr(module, "is_pretrained", lambda encoder: True)
    model = fit_two_stage(ctx).network
    assert (ctx.histories["genes"].best_epoch < 0) == undone
    assert model.wiring.features == ({"genes": 0} if undone else {"genes": 0, "genes as pretrained": 1})
    assert (weights_hash(model.encoders[0]) == weights_hash(ctx.pristine["genes"])) == undone


def test_networks_that_are_not_pretrained_are_never_undone(tmp_path: Path) -> None:
    """What they were before the first step is one of the candidates within each fold, and no encoder worth reading."""
    ctx = with_normed(tmp_path, crossfit__how="k", vector__train__lr=3.0)
    model = fit_two_stage(ctx).network
    assert all(history.best_epoch < 0 for history in ctx.histories.values())
    assert model.wiring.networks == {"genes": [0, 1, 2]}


@pytest.mark.parametrize("with_words", [0.4, 0.5, 0.6])
def test_words_are_read_only_where_they_lower_the_nll_of_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_words: float
) -> None:
    ctx = make_context(tmp_path, tiny_table(tmp_path / "data"), ["note", "genes"], crossfit__how="k", train__epochs=0)
    plain = blocks.fit_on

    def said_to_be(ctx: Context, folds: Folds, views: Any, *rest: Any) -> Any:
        fit, held = plain(ctx, folds, views, *rest)
        return replace(fit, valid_nll=with_words if "note words" in views else 0.5), held

    monkeypatch.setattr(blocks, "fit_on", said_to_be)
    model = fit_two_stage(ctx).network
    assert ("note words" in model.wiring.networks) == (with_words < 0.5)
    assert len(model.encoders) == (3 if with_words < 0.5 else 2)
    rows = ctx.split.rows("valid")
    inputs = {name: ctx.plain(name, source.read(rows)) for name, source in ctx.sources.items()}
    present = {name: torch.from_numpy(source.present[rows]) for name, source in ctx.sources.items()}
    assert model(inputs, present).f.shape == (len(rows), 3)


@pytest.mark.parametrize(("drop", "passes"), [(0.0, 1), (0.3, 3)])
def test_views_that_cannot_differ_are_encoded_once(tmp_path: Path, drop: float, passes: int) -> None:
    ctx = make_context(tmp_path, tiny_table(tmp_path / "data"), ["note"], views=3, text__augment__drop=drop)
    rows = ctx.split.rows("train")
    found = ctx.encode("note", ctx.fresh_encoder("note"), rows, ctx.views())
    assert found.shape[:2] == (3, len(rows))
    distinct = len(np.unique(ctx.sources["note"].digests[rows])) if passes == 1 else passes * len(rows)
    assert ctx.store.passes["note"] == distinct
    assert np.array_equal(found[0], found[2]) == (passes == 1)
