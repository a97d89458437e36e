"""Encoders of columns: missing cells hide their value, unseen categories are neutral, FT-Transformer is the paper's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusetune.encoders import ColumnsMLP, Encoder, FTTransformer
from fusetune.encoders.columns import CategoryEmbedding, ColumnTokenizer

NETWORKS: list[type[Any]] = [ColumnsMLP, FTTransformer]


def cells(numbers: int, categories: int, rows: int = 4) -> dict[str, Tensor]:
    return {
        "numbers": torch.randn(rows, numbers),
        "missing": torch.zeros(rows, numbers, dtype=torch.bool),
        "codes": torch.randint(2, 4, (rows, categories)),
    }


def make(network: type[Any], numbers: int, categories: list[int]) -> Encoder:
    torch.manual_seed(0)
    encoder: Encoder = network(numbers, categories, width=16).eval()
    with torch.no_grad():  # away from the start, where some vectors are zero
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("hidden", [7.0, 1e30, float("inf"), float("nan")])
def test_value_of_a_missing_cell_is_never_seen(network: type[Any], hidden: float) -> None:
    encoder = make(network, 2, [4])
    inputs = cells(2, 1)
    inputs["missing"][1, 0] = True
    expected = encoder(inputs)
    inputs["numbers"][1, 0] = hidden
    features = encoder(inputs)
    assert torch.equal(features, expected)
    features.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_missing_is_not_the_same_as_zero(network: type[Any]) -> None:
    encoder = make(network, 2, [4])
    inputs = cells(2, 1)
    inputs["numbers"][1, 0] = 0.0
    present = encoder(inputs)
    inputs["missing"][1, 0] = True
    missing = encoder(inputs)
    assert not torch.allclose(present[1], missing[1])
    assert torch.equal(present[0], missing[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_row_of_missing_cells_is_finite(network: type[Any]) -> None:
    encoder = make(network, 3, [4, 5])
    inputs = cells(3, 2)
    inputs["numbers"][:] = float("nan")
    inputs["missing"][:] = True
    inputs["codes"][:] = 0
    assert encoder(inputs).isfinite().all()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("numbers", "categories"), [(0, [4, 5]), (3, []), (1, [])])
def test_one_kind_of_column_is_enough(network: type[Any], numbers: int, categories: list[int]) -> None:
    encoder = make(network, numbers, categories)
    inputs = cells(numbers, len(categories))
    features = encoder(inputs)
    assert features.shape == (4, 16)
    # Neither the order of the rows nor their company matters.
    alone = torch.cat([encoder({name: values[i : i + 1] for name, values in inputs.items()}) for i in range(4)])
    torch.testing.assert_close(features, alone)


@pytest.mark.parametrize("network", NETWORKS)
def test_columns_that_cannot_be_are_refused(network: type[Any]) -> None:
    with pytest.raises(ValueError, match="at least one column"):
        network(0, [])
    with pytest.raises(ValueError, match=r"at least 2 codes \(missing, unseen\), got \[1\]"):
        network(1, [3, 1])


def test_embedding_gives_each_column_rows_of_its_own() -> None:
    embedding = CategoryEmbedding([3, 4], 2)
    with torch.no_grad():
        embedding.table.weight.copy_(torch.arange(14.0).view(7, 2))
    vectors = embedding(torch.tensor([[0, 0], [2, 3]]))
    assert vectors.tolist() == [[[0, 1], [6, 7]], [[4, 5], [12, 13]]]


def test_missing_and_unseen_start_neutral_and_known_ones_do_not() -> None:
    embedding = CategoryEmbedding([4, 5], 8)
    vectors = embedding(torch.tensor([[0, 0], [1, 1], [2, 2], [3, 4]]))
    assert (vectors[:2] == 0).all()
    assert (vectors[2:] != 0).all()


def test_tokens_are_the_papers() -> None:
    """T_j = b_j + x_j W_j for numbers, b_j + e_j[code] for categories (arXiv 2106.11959, section 3.3)."""
    torch.manual_seed(0)
    tokenizer = ColumnTokenizer(2, [4], 8)
    nn.init.normal_(tokenizer.missing)
    inputs = cells(2, 1, rows=1)
    x = inputs["numbers"][0]
    vector = tokenizer.embedding.table.weight[inputs["codes"][0, 0]]  # type: ignore[union-attr]
    expected = torch.stack([x[0] * tokenizer.weight[0], x[1] * tokenizer.weight[1], vector]) + tokenizer.bias
    torch.testing.assert_close(tokenizer(inputs)[0], expected)
    inputs["missing"][0, 1] = True
    torch.testing.assert_close(tokenizer(inputs)[0, 1], tokenizer.bias[1] + tokenizer.missing[1])


def test_ft_transformer_is_the_papers_formula() -> None:
    """One row, worked out layer by layer from the weights: pre-norm except the first, ReGLU, class token read out."""
    encoder = make(FTTransformer, 2, [4])
    inputs = cells(2, 1, rows=1)
    x = torch.cat([encoder.class_token[None], encoder.tokenizer(inputs)[0]])  # type: ignore[index, operator]
    for number, layer in enumerate(encoder.layers):  # type: ignore[arg-type]
        y = x if number == 0 else layer.attention_norm(x)
        heads = []
        for head in range(8):
            part = slice(head * 2, head * 2 + 2)
            q, k, v = ((f(y))[:, part] for f in (layer.attention.query, layer.attention.key, layer.attention.value))
            heads.append((q @ k.T / 2**0.5).softmax(1) @ v)
        x = x + layer.attention.out(torch.cat(heads, 1))
        value, gate = layer.expand(layer.dense_norm(x)).split(21, dim=1)  # 16 * 4 // 3
        x = x + layer.shrink(value * gate.clamp(min=0))
    expected = encoder.norm(x[0]).clamp(min=0)  # type: ignore[operator]
    torch.testing.assert_close(encoder(inputs)[0], expected, rtol=1e-4, atol=1e-5)


def test_columns_mlp_is_its_formula() -> None:
    encoder = make(ColumnsMLP, 2, [4])
    inputs = cells(2, 1, rows=1)
    inputs["missing"][0, 1] = True
    first, second = (layer[0] for layer in encoder.layers)  # type: ignore[union-attr]
    x = inputs["numbers"][0]
    vector = encoder.embedding(inputs["codes"])[0, 0]  # type: ignore[operator]
    row = torch.cat([x[:1], torch.tensor([0.0, 0.0, 1.0]), vector])
    expected = second(first(row).clamp(min=0)).clamp(min=0)
    torch.testing.assert_close(encoder(inputs)[0], expected)
