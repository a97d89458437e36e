"""What benchmarks say beyond this machine: hours by the formula, and one sentence where there is no GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import gpu
import pytest
import scale
import torch
from _beyond import Assumed, Rates, markdown, taken

RATES = Rates(20, 100, 1.5, 1664, {"predict": 1e-5, "fit": 1e-4}, {"predict": (1.5, 0.0), "fit": (1.0, 2e-6)}, 200)


def test_hours_and_cost_follow_from_the_rates() -> None:
    assumed = Assumed(efficiency=0.5, price=2, views=3, line=50)
    rows = 10**6
    alone = rows * (1 / 20 + 1 / 100) / 0.5
    found = taken("predict", rows, 4, RATES, assumed)
    assert found.hours == pytest.approx((alone / 4 + 10) / 3600)
    assert found.cost == pytest.approx(2 * (alone + 10) / 3600)
    assert found.disk == pytest.approx(2 * rows * 250 / 2**30)
    fit = taken("fit", rows, 1, RATES, assumed)
    assert fit.hours == pytest.approx((4 * alone + 100) / 3600)
    assert (fit.memory, found.memory) == (pytest.approx(3.0), 1.5)
    assert fit.disk == pytest.approx(rows * (200 + 3 * 4 * 1664 * 4) / 2**30)
    assert taken("fit", rows, 64, RATES, assumed).cost == fit.cost, "workers share the work, they do not add to it"


def test_a_page_gets_the_table_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- scale -->\nold\n<!-- scale -->\nafter\n", encoding="utf-8")
    for _ in range(2):
        scale._put(page, RATES, Assumed(), (10, 100), quick=True)
        text = page.read_text("utf-8")
        assert text.startswith("before\n<!-- scale -->\n\nMade on ")
        assert text.endswith("<!-- scale -->\nafter\n")
        assert "old" not in text
        assert markdown(RATES, Assumed()) in text
        assert "scale.py --quick --markdown docs/page.md" in text
        assert all(line in text for line in Assumed().lines(RATES))


def test_without_a_gpu_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    gpu.main()
    assert capsys.readouterr().out == f"{gpu.NO_GPU}\n"
    assert gpu.NO_GPU.count(".") == 1
