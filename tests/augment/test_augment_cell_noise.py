"""Cells: marginals stay, a number and its missing flag stay together, noise and shares are right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from fusetune.augment.cell_noise import CellAugment, VectorAugment
from fusetune.augment.random import Moment
from fusetune.config import ColumnPolicy, Config
from fusetune.data.cells import MISSING, CellInput
from fusetune.data.choices import Kind
from fusetune.data.schema import Modality
from fusetune.data.table import read_table
from fusetune.inputs import Reader

TRAIN, ROWS = 60, 2000
KEYS = torch.arange(ROWS)


def donors() -> dict[str, Tensor]:
    """Training rows in which every number tells its row, and every seventh one is missing."""
    numbers = torch.arange(1, TRAIN + 1).float()[:, None] * torch.tensor([1.0, 1000.0])
    missing = torch.zeros(TRAIN, 2, dtype=torch.bool)
    missing[::7, 0] = True
    numbers[missing] = 0
    codes = torch.arange(TRAIN)[:, None].remainder(5).expand(-1, 3) + torch.tensor([0, 100, 200])
    return {"numbers": numbers, "missing": missing, "codes": codes.clone()}


def strangers(rows: int = ROWS) -> dict[str, Tensor]:
    """Rows whose values no training row has."""
    return {
        "numbers": torch.full((rows, 2), -1.0),
        "missing": torch.zeros(rows, 2, dtype=torch.bool),
        "codes": torch.full((rows, 3), -1),
    }


def augment(share: float) -> CellAugment:
    return CellAugment(ColumnPolicy(corrupt=share), donors())


def test_the_share_of_corrupted_cells_is_the_one_asked_for() -> None:
    for share in (0.1, 0.7):
        view = augment(share).draw(strangers(), KEYS, Moment(0))
        for cells in (view["numbers"], view["codes"]):
            for column in (cells != -1).T:
                assert stats.binomtest(int(column.sum()), ROWS, share).pvalue > 1e-4


def test_new_values_follow_the_training_marginals() -> None:
    pool, view = donors(), augment(0.8).draw(strangers(), KEYS, Moment(1))
    for column in range(2):
        changed = view["numbers"][:, column][view["numbers"][:, column] != -1].numpy()
        values, expected = np.unique(pool["numbers"][:, column].numpy(), return_counts=True)
        seen = np.array([(changed == value).sum() for value in values])
        assert seen.sum() == len(changed)  # of this column's values only
        assert stats.chisquare(seen, expected / expected.sum() * len(changed)).pvalue > 1e-4
    for column in range(3):
        changed = view["codes"][:, column][view["codes"][:, column] != -1]
        assert stats.chisquare(torch.bincount(changed - 100 * column, minlength=5).numpy()).pvalue > 1e-4


def test_a_number_and_its_missing_flag_come_from_one_row() -> None:
    view = augment(0.5).draw(strangers(), KEYS, Moment(2))
    assert bool(view["missing"].any())
    assert bool((view["missing"] == (view["numbers"] == 0)).all())


def test_columns_are_corrupted_independently() -> None:
    view = augment(0.5).draw(strangers(), KEYS, Moment(3))
    hits = torch.cat([view["numbers"] != -1, view["codes"] != -1], 1).double().numpy()
    correlation = np.corrcoef(hits.T)
    assert np.abs(correlation - np.eye(5)).max() < 0.1
    both = (view["numbers"] > 0).all(1)
    rows = torch.stack([view["numbers"][both, 0], view["numbers"][both, 1] / 1000]).numpy()
    assert abs(np.corrcoef(rows)[0, 1]) < 0.2


def test_a_row_gets_the_same_view_in_any_batch() -> None:
    inputs = strangers(20)
    whole = augment(0.5).draw(inputs, KEYS[:20], Moment(4))
    order = torch.tensor([7, 0, 19, 3])
    part = augment(0.5).draw({name: cells[order] for name, cells in inputs.items()}, KEYS[order], Moment(4))
    for name, cells in whole.items():
        assert torch.equal(part[name], cells[order])
        assert cells.dtype == inputs[name].dtype
    assert not torch.equal(augment(0.5).draw(inputs, KEYS[:20], Moment(4, 1))["codes"], whole["codes"])


def test_tables_without_numbers_or_without_categories_work() -> None:
    pool, inputs = donors(), strangers(50)
    for name in ("numbers", "codes"):
        empty = {"numbers": ("numbers", "missing"), "codes": ("codes",)}[name]
        few = {n: c[:, :0] if n in empty else c for n, c in pool.items()}
        rows = {n: c[:, :0] if n in empty else c for n, c in inputs.items()}
        view = CellAugment(ColumnPolicy(corrupt=0.5), few).draw(rows, KEYS[:50], Moment(0))
        assert view[name].shape == (50, 0)
        assert any(bool((view[other] != -1).any()) for other in ("numbers", "codes") if other != name)


def test_vectors_take_single_dimensions_from_training_rows() -> None:
    pool = torch.arange(TRAIN).float()[:, None] + 1000 * torch.arange(8)
    vectors = torch.full((ROWS, 8), -1.0)
    view = VectorAugment(ColumnPolicy(corrupt=0.3), pool).draw(vectors, KEYS, Moment(5))
    hit = view != -1
    assert stats.binomtest(int(hit.sum()), ROWS * 8, 0.3).pvalue > 1e-4
    place = torch.arange(8).expand(ROWS, -1)[hit]
    assert torch.equal((view[hit] // 1000).long(), place)
    taken = torch.bincount((view[hit] % 1000).long(), minlength=TRAIN)
    assert stats.chisquare(taken.numpy()).pvalue > 1e-4


def test_without_corruption_nothing_changes() -> None:
    inputs = strangers(5)
    assert augment(0).draw(inputs, KEYS[:5], Moment(0)) is inputs
    assert augment(0.9).plain(inputs) is inputs
    vectors = torch.ones(3, 2)
    assert VectorAugment(ColumnPolicy(corrupt=0), vectors).draw(vectors, KEYS[:3], Moment(0)) is vectors


def test_the_description_names_policy_and_donors() -> None:
    other = donors()
    other["codes"] = other["codes"].flip(0)
    base = augment(0.5).describe()
    assert base == augment(0.5).describe()
    assert base != augment(0.4).describe()
    assert base != CellAugment(ColumnPolicy(corrupt=0.5), other).describe()
    vectors = torch.ones(3, 2)
    policy = ColumnPolicy()
    assert VectorAugment(policy, vectors).describe() != VectorAugment(policy, vectors * 2).describe()


def test_the_numbers_of_one_column_come_from_one_donor() -> None:
    values = torch.arange(40.0)[:, None] + torch.tensor([0.0, 100.0, 200.0])
    pool = {"numbers": values, "missing": torch.zeros(40, 3, dtype=torch.bool), "codes": torch.zeros(40, 0).long()}
    together = CellAugment(ColumnPolicy(corrupt=0.5), pool, columns=(0, 0, 0)).draw(pool, KEYS[:40], Moment(0))
    assert torch.equal(together["numbers"][:, 1] - together["numbers"][:, 0], torch.full((40,), 100.0))
    assert (together["numbers"][:, 0] != values[:, 0]).any()
    apart = CellAugment(ColumnPolicy(corrupt=0.5), pool).draw(pool, KEYS[:40], Moment(0))
    assert not torch.equal(apart["numbers"][:, 1] - apart["numbers"][:, 0], torch.full((40,), 100.0))


def test_jitter_is_gaussian_and_of_the_size_asked_for() -> None:
    inputs = strangers() | {"numbers": torch.zeros(ROWS, 2)}
    numbers = CellAugment(ColumnPolicy(corrupt=0, jitter=0.3), donors()).draw(inputs, KEYS, Moment(0))["numbers"]
    for column in numbers.T:
        assert stats.kstest(column.numpy() / 0.3, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(numbers.T.numpy())[0, 1]) < 0.1
    vectors = VectorAugment(ColumnPolicy(corrupt=0, jitter=0.5), torch.empty(0)).draw(
        torch.ones(ROWS, 4), KEYS, Moment(0)
    )
    assert stats.kstest((vectors.flatten().numpy() - 1) / 0.5, "norm").pvalue > 1e-4


def test_missing_cells_and_truth_values_are_never_jittered() -> None:
    numbers = torch.zeros(ROWS, 3)
    missing = torch.zeros(ROWS, 3, dtype=torch.bool)
    missing[::3, 0] = True
    inputs = {"numbers": numbers, "missing": missing, "codes": torch.zeros(ROWS, 0, dtype=torch.int64)}
    augments = CellAugment(ColumnPolicy(corrupt=0, jitter=1.0), inputs, truths=(2,))
    view = augments.draw(inputs, KEYS, Moment(0))
    assert torch.equal(view["missing"], missing)
    assert torch.equal(view["numbers"] == 0, missing | torch.tensor([False, False, True]))


def test_a_jittered_date_is_a_date() -> None:
    """Days and season move together: the season is the one of the new day, in the units of training."""
    table = read_table(pd.DataFrame({"when": pd.date_range("2001-03-05", periods=ROWS, freq="3D"), "x": range(ROWS)}))
    cells = CellInput.fit(table, {"x": Kind.NUMBER, "when": Kind.DATE}, np.arange(ROWS))
    reader = Reader(Modality("columns", "columns", ["x", "when"]), cells)
    config = Config(columns={"augment": {"corrupt": 0, "jitter": 0.05}})
    source = cells.bind(table)
    inputs = source.read(np.arange(ROWS))
    augment = reader.augment(config, source, np.arange(ROWS))
    numbers = augment.draw(inputs, KEYS, Moment(0))["numbers"].double().numpy()
    days, sine, cosine = (numbers[:, i] * cells.numbers[i].std + cells.numbers[i].mean for i in (1, 2, 3))
    before = inputs["numbers"][:, 1].double().numpy() * cells.numbers[1].std + cells.numbers[1].mean
    assert stats.kstest((days - before) / (0.05 * cells.numbers[1].std), "norm").pvalue > 1e-4
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * days / 365.2425), rtol=0, atol=1e-3)
    np.testing.assert_allclose(cosine, np.cos(2 * np.pi * days / 365.2425), rtol=0, atol=1e-3)


def test_cells_go_missing_with_their_own_code_a_date_as_a_whole() -> None:
    inputs = strangers() | {"numbers": torch.full((ROWS, 4), 5.0), "missing": torch.zeros(ROWS, 4, dtype=torch.bool)}
    augments = CellAugment(ColumnPolicy(corrupt=0, missing=0.3), inputs, columns=(0, 1, 1, 1))
    view = augments.draw(inputs, KEYS, Moment(0))
    assert torch.equal(view["numbers"] == 0, view["missing"])
    assert bool((view["missing"][:, 1:2] == view["missing"][:, 2:]).all())
    assert set(view["codes"].unique().tolist()) == {-1, MISSING}
    hits = torch.cat([view["missing"][:, :2], view["codes"] == MISSING], 1)
    for column in hits.T:
        assert abs(float(column.float().mean()) - 0.3) < 0.05
    assert np.abs(np.corrcoef(hits.T.double().numpy()) - np.eye(5)).max() < 0.1
    assert bool(hits.any(1).any())
    assert not bool(hits.all(1).any())  # no row loses everything


def test_a_row_of_which_little_is_known_keeps_something() -> None:
    inputs = {
        "numbers": torch.zeros(ROWS, 2),
        "missing": torch.tensor([[True, False]]).expand(ROWS, -1),
        "codes": torch.full((ROWS, 1), MISSING),
    }
    view = CellAugment(ColumnPolicy(corrupt=0, missing=0.9), inputs).draw(inputs, KEYS, Moment(0))
    assert torch.equal(view["missing"], inputs["missing"])


def test_all_operations_give_the_same_view_in_any_batch() -> None:
    policy = ColumnPolicy(corrupt=0.3, jitter=0.2, missing=0.2)
    inputs, order = strangers(20), torch.tensor([7, 0, 19, 3])
    whole = CellAugment(policy, donors()).draw(inputs, KEYS[:20], Moment(4))
    part = CellAugment(policy, donors()).draw({n: c[order] for n, c in inputs.items()}, KEYS[order], Moment(4))
    assert all(torch.equal(part[name], cells[order]) for name, cells in whole.items())
    augment = VectorAugment(ColumnPolicy(corrupt=0.3, jitter=0.2), torch.ones(9, 4))
    vectors = torch.zeros(20, 4)
    assert torch.equal(
        augment.draw(vectors[order], KEYS[order], Moment(1)), augment.draw(vectors, KEYS[:20], Moment(1))[order]
    )
