"""The text stage: which rows a score comes from, the class that is never learned, and the scores' columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made import TEXT, bench, titles
from torch.nn import functional as F

from fusetune_papers.reproduce import texts
from fusetune_papers.reproduce.texts import shifted_targets, text_scores

LONGER = TEXT.model_copy(update={"epochs": 20})


def remembering(trained: list[np.ndarray]) -> object:
    """Return a stand-in for a network: its score of a row is 1 if it was trained on the row, else 0."""

    def score(bench: object, stage: object, rows: np.ndarray, name: str) -> np.ndarray:
        trained.append(rows)
        count = len(bench.material.labels)  # type: ignore[attr-defined]
        return np.isin(np.arange(count), rows)[:, None] * np.ones((1, 3))

    return score


@pytest.mark.parametrize("flaws", [(), ("L4",), ("L5",), ("L4", "L5"), ("L6",), ("L4", "L6")])
def test_in_sample_scores_with_l4_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaws: tuple[str, ...]
) -> None:
    trained: list[np.ndarray] = []
    monkeypatch.setattr(texts, "_score", remembering(trained))
    made = bench(titles(), tmp_path, *flaws)
    scores = text_scores(made, TEXT)
    assert len(trained) == (1 if "L4" in flaws else 5)
    assert len(scores.train) == len(made.parts.head)
    known = np.isin(made.parts.source, made.parts.text)
    assert (scores.train[known] == (1 if "L4" in flaws else 0)).all()
    valid = scores.all[made.parts.valid]
    leaked = {("L5",): 0.8, ("L4", "L5"): 1.0}.get(flaws, 0.0)
    assert valid == pytest.approx(np.full_like(valid, leaked))  # four of the five networks saw a leaked row


def test_l6_gives_rows_the_scores_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        texts, "_score", lambda bench, *_: np.arange(len(bench.material.labels))[:, None] * np.ones((1, 3))
    )
    made = bench(titles(), tmp_path, "L4", "L6")
    scores = text_scores(made, TEXT)
    assert scores.train[:, 0].tolist() == made.parts.source.tolist() != made.parts.head.tolist()
    right = bench(titles(), tmp_path, "L4")
    assert text_scores(right, TEXT).train[:, 0].tolist() == right.parts.head.tolist()


def test_the_first_class_has_no_gradient_with_l7() -> None:
    logits = torch.zeros(4, 3, requires_grad=True)
    targets = torch.tensor([0, 0, 1, 2])
    loss = F.cross_entropy(logits, shifted_targets(targets, shifted=True), ignore_index=-1)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:2] == 0).all()
    assert (logits.grad[2:] != 0).all()
    assert (logits.grad[:, 2] >= 0).all()  # the last column is only ever pushed down
    assert shifted_targets(targets, shifted=False) is targets


def test_the_first_class_is_never_predicted_with_l7(tmp_path: Path) -> None:
    material = titles()
    published = text_scores(bench(material, tmp_path, "L4", "L7", "L9"), LONGER).all.argmax(1)
    sound = text_scores(bench(material, tmp_path, "L4"), LONGER).all.argmax(1)
    assert not (published == 0).any()
    others = material.labels > 0
    assert (published[others] == material.labels[others]).mean() > 0.95
    assert (sound == material.labels).mean() > 0.95


def test_networks_without_the_shifted_labels_have_no_l7(tmp_path: Path) -> None:
    stage = LONGER.model_copy(update={"one_based": False})  # as GPT-2's notebook
    assert (text_scores(bench(titles(), tmp_path, "L4", "L7"), stage).all.argmax(1) == 0).any()


def test_same_seed_same_scores(tmp_path: Path) -> None:
    first, second = (text_scores(bench(titles(), tmp_path, "L4"), TEXT).all for _ in range(2))
    assert (first == second).all()


def test_padding_counts_with_l9_alone(tmp_path: Path) -> None:
    for flaws in ((), ("L9",)):
        made = bench(titles(), tmp_path, *flaws)
        _, encoder = texts._network(made, TEXT, made.parts.text)
        ids = torch.tensor([[2, 3, 4]])
        longer = torch.tensor([[2, 3, 4, 0, 0, 0]])
        with torch.inference_mode():
            alone = encoder({"ids": ids, "mask": ids > 0})
            padded = encoder({"ids": longer, "mask": longer > 0})
        assert torch.allclose(alone, padded, atol=1e-6) == (not flaws)
