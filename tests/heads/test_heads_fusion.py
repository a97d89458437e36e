"""Heads of single strategies, and the Transformer: formulas row by row, and what an absent modality may not do."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn

from fusetune.heads import HEADS, build_head
from fusetune.heads.base import Head, HeadData
from fusetune.heads.cache import CacheHead
from fusetune.heads.late import SumHead
from fusetune.heads.linear import LinearHead
from fusetune.heads.replacing import ReplacingHead
from fusetune.heads.shared import SharedHead, certainty
from fusetune.heads.transformer import TransformerHead

WIDTHS = {"a": 4, "b": 3, "c": 6, "d": 2, "e": 5}


def features(modalities: int, rows: int = 12, classes: int = 0, seed: int = 0) -> tuple[dict[str, Tensor], Any]:
    """Return features, or with `classes` logits, and all patterns of absence that so many rows can show."""
    torch.manual_seed(seed)
    names = list(WIDTHS)[:modalities]
    z = {name: torch.randn(rows, classes or WIDTHS[name]) for name in names}
    patterns = list(itertools.islice(itertools.cycle(itertools.product([True, False], repeat=modalities)), rows))
    return z, {name: torch.tensor([pattern[at] for pattern in patterns]) for at, name in enumerate(names)}


def scaled(head: Head, z: dict[str, Tensor], has: dict[str, Tensor]) -> Head:
    rows = len(next(iter(z.values())))
    present = {name: bits.numpy() for name, bits in has.items()}
    data = HeadData({name: own.numpy()[None] for name, own in z.items()}, present, np.zeros(rows, np.int64),
                    np.ones(rows), np.arange(rows))  # fmt: skip
    head.fit_scale(data)
    return head


def shaken(head: Head, seed: int = 1) -> Head:
    """Give every weight a random value, those that start from zero too."""
    torch.manual_seed(seed)
    for p in head.parameters():
        nn.init.normal_(p, std=0.5)
    return head.eval()


def dims(modalities: int, classes: int = 0) -> dict[str, int]:
    return {name: classes or WIDTHS[name] for name in list(WIDTHS)[:modalities]}


def made(kind: str, modalities: int) -> tuple[Head, dict[str, Tensor], Any]:
    """Return a head of each kind with nothing in it left at its start, and rows for it."""
    z, has = features(modalities, 40, 3 if kind == "sum" else 0)
    widths = dims(modalities, 3 if kind == "sum" else 0)
    arguments: dict[str, Any] = {"cache": {"rows": 9}, "sum": {"rate": 0.5}, "shared": {"width": 7}}.get(kind, {})
    head = shaken(scaled(HEADS[kind](widths, 3, **arguments), z, has))
    for name, buffer in head.named_buffers():
        if not name.startswith(("mean", "scale")):
            buffer.copy_(torch.rand(buffer.shape) if buffer.is_floating_point() else torch.rand(buffer.shape) < 0.5)
    return head, z, has


@pytest.mark.parametrize("modalities", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["transformer", "replacing", "shared", "sum", "cache"])
def test_absent_features_do_not_matter_and_a_row_does_not_know_its_company(kind: str, modalities: int) -> None:
    head, z, has = made(kind, modalities)
    said = head(z, has)
    assert torch.isfinite(said).all()
    assert len({tuple(row) for row in said.tolist()}) >= 2**modalities  # every pattern has something of its own to say
    rubbish = {name: torch.where(has[name][:, None], own, math.nan) for name, own in z.items()}
    assert torch.equal(head(rubbish, has), said)
    some = torch.tensor([3, 17, 30])
    alone = head({name: own[some] for name, own in z.items()}, {name: bits[some] for name, bits in has.items()})
    torch.testing.assert_close(alone, said[some])
    nothing = head(z, {name: torch.zeros_like(bits) for name, bits in has.items()})
    torch.testing.assert_close(nothing, nothing[:1].expand_as(nothing))


@pytest.mark.parametrize("kind", ["transformer", "replacing", "shared", "sum", "cache"])
def test_a_described_head_is_built_again(kind: str) -> None:
    head, z, has = made(kind, 3)
    again = build_head(head.describe())
    again.load_state_dict(head.state_dict())
    assert torch.equal(again.eval()(z, has), head(z, has))


def test_the_transformer_reads_the_tokens_of_present_modalities_alone() -> None:
    """Absent tokens are left out of the attention: a row says what a head without that modality says of it."""
    head, z, _ = made("transformer", 3)
    assert isinstance(head, TransformerHead)
    has = {"a": torch.ones(40).bool(), "b": torch.zeros(40).bool(), "c": torch.ones(40).bool()}
    less = TransformerHead({"a": 4, "c": 6}, 3)
    state = {name: own for name, own in head.state_dict().items() if name in less.state_dict()}
    state |= {f"project.1.{part}": head.state_dict()[f"project.2.{part}"] for part in ("weight", "bias")}
    state |= {f"{part}_1": head.get_buffer(f"{part}_2") for part in ("mean", "scale")}
    less.load_state_dict(state | {"modality": head.modality[[0, 2]]})
    torch.testing.assert_close(less.eval()({"a": z["a"], "c": z["c"]}, {"a": has["a"], "c": has["c"]}), head(z, has))


def test_the_transformer_is_a_pre_norm_layer_written_down() -> None:
    head, z, has = made("transformer", 2)
    assert isinstance(head, TransformerHead)
    (layer,) = head.layers

    def norm(x: Tensor, layer: Any) -> Tensor:
        scaled = (x - x.mean()) / (x.var(correction=0) + layer.eps).sqrt()
        return scaled * layer.weight + layer.bias  # type: ignore[no-any-return]

    attention: Any = layer.attention
    blocks = head.blocks(z, has)
    for row in range(8):
        tokens = [head.class_token]
        for at, name in enumerate(head.dims):
            if has[name][row]:
                tokens.append(head.project[at](blocks[at][row] * WIDTHS[name] ** 0.5) + head.modality[at])
        normed = torch.stack([norm(token, layer.attention_norm) for token in tokens])
        mixed = []
        for part in range(4):
            place = slice(16 * part, 16 * part + 16)
            query, key, value = (one(normed)[:, place] for one in (attention.query, attention.key, attention.value))
            mixed.append(torch.softmax(query[0] @ key.T / 4, 0) @ value)
        first = tokens[0] + attention.out(torch.cat(mixed))
        first = first + layer.dense(norm(first, layer.dense_norm))  # type: ignore[operator]
        torch.testing.assert_close(head.outer(norm(first, head.norm)), head(z, has)[row], rtol=1e-4, atol=1e-4)


def test_certainty_is_that_of_each_row() -> None:
    """The published numbers, worked out apart; and a naive loop."""
    f1 = torch.tensor([[2, 0, -1], [0.5, 1, 0], [0, 0, 1], [-1, 2, 0.5]], dtype=torch.float64)
    f2 = torch.tensor([[0.2, 0.1, 0], [1, 0, 0], [0.3, -0.2, 0.1], [0, 0.4, 0.6]], dtype=torch.float64)
    known = [0.6389986518834699, 0.48878600394630617, 0.5257703405168326, 0.6102860202990587]
    everything = torch.ones(2, 4).bool()
    assert certainty(torch.stack([f1, f2]), everything)[0].tolist() == pytest.approx(known, abs=1e-8)
    one = certainty(torch.stack([f1, f2])[:, 2:3], everything[:, 2:3])
    assert float(one[0, 0]) == pytest.approx(known[2], abs=1e-8)  # whatever its batch mates are
    for modalities in (2, 3, 5):
        z, has = features(modalities, 32, classes=4)
        logits, bits = torch.stack(list(z.values())), torch.stack(list(has.values()))
        weights = certainty(logits, bits)
        for row in range(32):
            there = [m for m in range(modalities) if bits[m, row]]
            p = softmax(logits[:, row].numpy().astype(np.float64), axis=1)
            entropy = {m: -float((p[m] * np.log(p[m])).sum()) for m in there}
            raw = {m: math.exp(max(entropy.values()) - entropy[m]) for m in there}
            expected = [raw[m] / sum(raw.values()) if m in raw else 0.0 for m in range(modalities)]
            assert weights[:, row].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_shared_head_mixes_what_one_classifier_says() -> None:
    head, z, has = made("shared", 3)
    assert isinstance(head, SharedHead)
    blocks = dict(zip(head.dims, head.blocks(z, has), strict=True))
    alone = {name: head.shared(layer(blocks[name])) for name, layer in zip(head.dims, head.project, strict=True)}
    for name, own in head.alone(z, has).items():
        torch.testing.assert_close(own, alone[name])
    weights = certainty(torch.stack(list(alone.values())), torch.stack([has[name] for name in head.dims]))
    expected = sum(weights[at][:, None] * own for at, own in enumerate(alone.values()))
    some = torch.stack(list(has.values())).any(0)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(head(z, has)[some], expected[some])
    assert torch.equal(head(z, has)[~some][0], head.get_buffer("prior"))


@pytest.mark.parametrize(("width", "exact"), [(3, True), (9, True), (2, False)])
def test_the_shared_head_starts_from_the_classifiers(width: int, exact: bool) -> None:
    torch.manual_seed(0)
    z, has = features(3, 40)
    classifiers = [nn.Linear(WIDTHS[name], 3) for name in z]
    head = SharedHead(dims(3), 3, width)
    scaled(head, z, has)
    head.start_from(classifiers)
    full = {name: torch.ones(40).bool() for name in z}
    gaps = [
        float((head.alone(z, full)[name] - layer(z[name])).detach().abs().max())
        for name, layer in zip(z, classifiers, strict=True)
    ]
    assert (max(gaps) < 1e-5) == exact
    loss = head.alone(z, full)["a"].square().sum()
    loss.backward()
    used = torch.linalg.matrix_rank(head.shared.weight.grad.T)  # type: ignore[union-attr]
    assert used == min(3, width)
    if width > 3:  # the dimensions beside those of the classifiers can be learnt
        assert float(head.shared.weight.grad[:, 3:].abs().min()) > 0  # type: ignore[index]


def test_the_sum_is_over_what_is_there() -> None:
    head, z, has = made("sum", 3)
    assert isinstance(head, SumHead)
    for row in range(40):
        parts = [0.5 * z[name][row] for name in z if has[name][row]]
        expected = torch.stack(parts).sum(0) if parts else head.get_buffer("prior")
        # Blocks are logits here; `made` has standardised them, which no strategy does.
        if not parts:
            assert torch.equal(head(z, has)[row], expected)
    plain = SumHead(dims(3, 3), 3, 0.5)
    for row, said in enumerate(plain(z, has)):
        parts = [0.5 * z[name][row] for name in z if has[name][row]]
        torch.testing.assert_close(said, torch.stack(parts).sum(0) if parts else torch.zeros(3))


@pytest.mark.parametrize(("learnt", "bits"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_replacement_stands_in_for_what_is_absent(learnt: bool, bits: bool) -> None:
    z, has = features(3, 40)
    linear = LinearHead(dims(3), 3)
    shaken(scaled(linear, z, has))
    head = ReplacingHead.of(linear, learnt, bits)
    full = {name: torch.ones(40).bool() for name in z}
    assert torch.equal(head(z, full), linear(z, full))
    torch.testing.assert_close(head.shares(z, has).sum(0), head(z, has))
    if bits:
        assert torch.equal(head(z, has), linear(z, has))  # vectors start from zero
    if not learnt:
        assert len(list(head.parameters())) == len(list(linear.parameters()))
        return
    assert head.vectors is not None
    with torch.no_grad():
        for vector in head.vectors:
            vector.normal_()
    *weights, constants = torch.split(linear.linear.weight, [*linear.dims.values(), 3], 1)
    for row in range(8):
        expected = linear.linear.bias.clone()
        for at, (name, block) in enumerate(zip(z, linear.blocks(z, full), strict=True)):
            expected += weights[at] @ (block[row] if has[name][row] else head.vectors[at])
            expected += constants[:, at] * (bits and not has[name][row])
        torch.testing.assert_close(head(z, has)[row], expected)


def test_the_cache_adds_what_stored_rows_near_by_answer() -> None:
    z, has = features(3, 40)
    stored, there = features(3, 16, seed=5)
    linear = LinearHead(dims(3), 4)
    shaken(scaled(linear, z, has))
    labels = np.arange(16) % 3
    views, present = {n: own.numpy()[None] for n, own in stored.items()}, {n: bits.numpy() for n, bits in there.items()}
    data = HeadData(views, present, labels, np.ones(16), np.arange(16))
    head = CacheHead.of(linear, data)
    assert torch.equal(head(z, has), linear(z, has))  # alpha 0
    delta = (0.5, 0.2, 0.3)
    head.choose(2.0, 3.0, delta)
    own, theirs = linear.blocks(z, has), linear.blocks(stored, there)
    said, plain = head(z, has), linear(z, has)
    for row in range(40):
        extra = np.zeros(4)
        for other in range(16):
            both = [at for at, name in enumerate(z) if has[name][row] and there[name][other]]
            if not both:
                continue
            cosines = [float(torch.cosine_similarity(own[at][row], theirs[at][other], 0)) for at in both]
            weights = [delta[at] for at in both]
            affinity = sum(w * c for w, c in zip(weights, cosines, strict=True)) / sum(weights)
            extra[labels[other]] += 2 * 4 / 16 * math.exp(-3 * (1 - affinity))
        assert (said - plain)[row].tolist() == pytest.approx(extra.tolist(), abs=1e-5)
