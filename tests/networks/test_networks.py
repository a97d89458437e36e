from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table
from torch import Tensor, nn

from fusetune.context import Context
from fusetune.encoders import ColumnsMLP, Encoder, VectorMLP
from fusetune.heads.linear import LinearHead
from fusetune.networks import (
    EnsembleNetwork,
    FusionNetwork,
    Network,
    Outputs,
    WeightedNetwork,
    Wiring,
    build_network,
)
from fusetune.networks.run import outputs_of

PRESENT = {"a": torch.tensor([True, True, False, True, False]), "b": torch.tensor([True, False, True, True, False])}


def fusion() -> FusionNetwork:
    """Two networks for `a`, whose logits the head reads; one for `b`, whose features it reads."""
    torch.manual_seed(0)
    encoders: list[Encoder] = [VectorMLP(4, 6), VectorMLP(4, 6), VectorMLP(3, 5)]
    classifiers = [nn.Linear(encoder.dim, 3) for encoder in encoders]
    head = LinearHead({"a": 3, "b": encoders[2].dim}, 3)
    nn.init.normal_(head.linear.weight)
    return FusionNetwork(
        encoders, classifiers, head, Wiring(["a", "a", "b"], {"a": [0, 1], "b": [2]}, {"b": 2}, ["a"])
    ).eval()


def ensemble() -> EnsembleNetwork:
    torch.manual_seed(1)
    encoders: list[Encoder] = [VectorMLP(4, 6), VectorMLP(4, 6), ColumnsMLP(2, [4], width=8)]
    classifiers = [nn.Linear(encoder.dim, 3) for encoder in encoders]
    prior = torch.log_softmax(torch.randn(3), 0)
    return EnsembleNetwork(encoders, ["a", "a", "b"], classifiers, prior, {"a": 2.0}).eval()


def weighted() -> WeightedNetwork:
    """The fusion network, and the second network of `a` alone, which shares its encoder with it."""
    whole = fusion()
    torch.manual_seed(2)
    shared = whole.encoders[1]
    assert isinstance(shared, Encoder)
    alone = EnsembleNetwork([shared], ["a"], [nn.Linear(shared.dim, 3)], torch.randn(3).log_softmax(0)).eval()
    return WeightedNetwork.gathered([whole, alone], [0.9, 0.4], [1.5, 0.7], torch.randn(3).log_softmax(0)).eval()


def inputs_for(network: Network) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(int(PRESENT["a"].sum()), 4, generator=generator)
    count = int(PRESENT["b"].sum())
    b: Any = torch.randn(count, 3, generator=generator)
    if isinstance(network, EnsembleNetwork):
        cells = {"numbers": torch.randn(count, 2, generator=generator), "missing": torch.zeros(count, 2).bool()}
        b = cells | {"codes": torch.randint(0, 4, (count, 1), generator=generator)}
    return {"a": a, "b": b}


@pytest.mark.parametrize("make", [fusion, ensemble, weighted])
def test_a_network_is_its_two_halves(make: Any) -> None:
    network = make()
    inputs = inputs_for(network)
    with torch.inference_mode():
        whole = network(inputs, PRESENT)
        z = network.encode(inputs, PRESENT)
        halves = network.fuse(z, PRESENT)
    assert torch.equal(whole.f, halves.f)
    for name, has in PRESENT.items():
        assert z[name].shape == (5, sum(int(e.dim) for owner, e in network.members if owner == name))
        assert not z[name][~has].any()
    again = network.again(whole, PRESENT)
    assert torch.equal(again.f, whole.f)
    nothing = {name: torch.zeros(5).bool() for name in PRESENT}
    bare = network.again(whole, nothing).f
    assert torch.equal(bare, bare[:1].expand(5, -1))
    torch.testing.assert_close(whole.f[4], bare[0])  # the row that has neither


@pytest.mark.parametrize("make", [fusion, ensemble, weighted])
def test_a_description_makes_the_same_network(make: Any) -> None:
    network = make()
    twin = build_network(network.describe())
    assert type(twin) is type(network)
    assert twin.classes == network.classes == 3
    twin.load_state_dict(network.state_dict())
    inputs = inputs_for(network)
    with torch.inference_mode():
        assert torch.equal(twin.eval()(inputs, PRESENT).f, network(inputs, PRESENT).f)


def test_weights_are_of_networks_that_read_something_of_a_row() -> None:
    network, whole = weighted(), fusion()
    assert len(network.encoders) == 3  # the shared one is kept once
    inputs = inputs_for(network)
    with torch.inference_mode():
        outputs, own = network(inputs, PRESENT), whole(inputs, PRESENT)
    first = torch.log_softmax(own.f / 1.5, 1)
    for row, (a, b) in enumerate(zip(PRESENT["a"].tolist(), PRESENT["b"].tolist(), strict=True)):
        if not a and not b:
            torch.testing.assert_close(outputs.f[row], network.get_buffer("prior"))
        elif not a:  # the second network reads nothing of it, and the first counts for both
            torch.testing.assert_close(outputs.f[row], 1.3 * first[row])
        else:
            second = outputs.f[row] - 0.9 * first[row]
            torch.testing.assert_close(second.exp().pow(1 / 0.4).sum(), torch.tensor(1.0))


def test_weights_that_are_none_are_refused() -> None:
    network, prior = fusion(), torch.zeros(3)
    for weights, heats in (([-1.0], [1.0]), ([0.0], [1.0]), ([math.nan], [1.0]), ([1.0], [0.0]), ([1.0, 1.0], [1.0])):
        with pytest.raises(ValueError, match=r"weight|temperature"):
            WeightedNetwork.gathered([network], weights, heats, prior)
    described = weighted().describe()
    for odd in ({"places": [[0, 1, 2], [2]]}, {"places": [[0, 1, 7], [1]]}, {"parts": [described, described]}):
        with pytest.raises(ValueError, match=r"encoders|weighted"):
            build_network({**described, **odd})


def test_logits_of_several_networks_are_averaged() -> None:
    network = fusion()
    inputs = inputs_for(network)
    with torch.inference_mode():
        outputs = network(inputs, PRESENT)
        pairs = list(zip(network.members, network.classifiers, strict=True))[:2]
        one, other = (layer(encoder(inputs["a"])) for (_, encoder), layer in pairs)
    torch.testing.assert_close(outputs.f_m["a"][PRESENT["a"]], (one + other) / 2)


def test_other_features_change_what_is_said_of_rows_that_have_them() -> None:
    network = fusion()
    with torch.inference_mode():
        outputs = network(inputs_for(network), PRESENT)
    other = network.again(outputs, PRESENT, {"b": outputs.z["b"] + 1})
    changed = (other.f != outputs.f).any(1)
    assert changed.tolist() == PRESENT["b"].tolist()


def test_outputs_are_joined_and_picked_row_by_row() -> None:
    network = fusion()
    with torch.inference_mode():
        outputs = network(inputs_for(network), PRESENT)
    parts = [outputs.some(slice(0, 2)), outputs.some(torch.tensor([2, 3])), outputs.some(np.array([4]))]
    joined = Outputs.joined(parts)
    for one, other in ((joined.f, outputs.f), (joined.z["a"], outputs.z["a"]), (joined.f_m["b"], outputs.f_m["b"])):
        assert torch.equal(one, other)
    assert torch.equal(joined.present["b"], outputs.present["b"])


class Counting(nn.Module):
    """An encoder that counts the rows that it sees."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.dim, self.rows = encoder, encoder.dim, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows += len(inputs)
        return self.encoder(inputs)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[1, 2, 70], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    return make_context(tmp_path, frame, ["genes", "age"], vector__encoder="mlp")


@pytest.mark.parametrize("views", [0, 2])
def test_an_encoder_that_networks_share_runs_once_per_row_and_view(ctx: Context, views: int) -> None:
    ctx.config.evaluate.test_views = views
    shared, own = Counting(ctx.fresh_encoder("genes").eval()), ctx.fresh_encoder("genes").eval()
    prior, rows = torch.zeros(3), np.arange(80)
    torch.manual_seed(0)
    networks: dict[str, Network] = {
        "one": EnsembleNetwork([shared], ["genes"], [nn.Linear(shared.dim, 3)], prior),  # type: ignore[list-item]
        "two": EnsembleNetwork([shared, own], ["genes", "genes"], [nn.Linear(shared.dim, 3) for _ in "12"], prior),  # type: ignore[list-item]
    }
    how: dict[str, Any] = {"config": ctx.config, "runtime": ctx.runtime, "description": "testing"}
    together = outputs_of(networks, ctx.readers, ctx.sources, rows, **how)
    # Vectors have no random views at prediction, so that several would be the same: they are not drawn.
    assert shared.rows == 77
    for name, network in networks.items():
        alone = outputs_of({name: network}, ctx.readers, ctx.sources, rows, **how)[name]
        assert torch.equal(alone.f, together[name].f)
        assert alone.f.shape == (80, 3)
        assert not alone.z["genes"][1].any()
