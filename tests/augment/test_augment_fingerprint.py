"""Fingerprints of callables: equal for equal functions, different for everything that changes what they do."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusetune.augment.fingerprint import fingerprint

STRENGTH = 0.5


class Dark:
    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __call__(self, batch: Any) -> Any:
        return batch * self.factor


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, batch: Any) -> Any:
        return batch * self.factor


class Network(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([factor, 1.0]))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch * self.weight[0]


def closure(factor: float) -> Callable[[Any], Any]:
    return lambda batch: batch * factor


def scaled(batch: Any, factor: float) -> Any:
    return batch * factor


def lists(factor: float) -> Dark:
    return Dark([{"a": (factor, np.array([factor])), "b": {1, 2}}, slice(0, 3), range(4)])


MAKERS: dict[str, Callable[[float], Any]] = {
    "attribute": Dark,
    "slot": Slotted,
    "parameter": Network,
    "closure": closure,
    "partial": lambda factor: functools.partial(scaled, factor=factor),
    "bound method": lambda factor: Dark(factor).__call__,
    "partial of an object": lambda factor: functools.partial(Dark(factor)),
    "array": lambda factor: Dark(np.array([factor])),
    "array of objects": lambda factor: Dark(np.array([factor, "a"], dtype=object)),
    "tensor": lambda factor: Dark(torch.tensor([factor])),
    "containers": lists,
    "object in an object": lambda factor: Dark(Dark(factor)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_a_callable_holds_counts(name: str) -> None:
    make = MAKERS[name]
    assert fingerprint(make(0.05)) == fingerprint(make(0.05)) != fingerprint(make(0.95))


def test_values_and_functions_of_its_module_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def dark(batch: Any) -> Any:
        return scaled(batch, STRENGTH)

    before = fingerprint(dark)
    with monkeypatch.context() as patch:
        patch.setitem(dark.__globals__, "STRENGTH", 0.6)
        assert fingerprint(dark) != before
    with monkeypatch.context() as patch:
        patch.setitem(dark.__globals__, "scaled", lambda batch, factor: batch + factor)
        assert fingerprint(dark) != before
    assert fingerprint(dark) == before


def test_the_code_of_its_class_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(Dark(1))
    monkeypatch.setattr(Dark, "__call__", lambda self, batch: batch - self.factor)
    assert fingerprint(Dark(1)) != before


def test_the_code_of_other_files_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def found(strength: float) -> str:
        for name in ("my_helpers_of_a_test", "my_transforms_of_a_test"):
            sys.modules.pop(name, None)
        (tmp_path / "my_helpers_of_a_test.py").write_text(f"def dark(batch):\n    return batch * {strength}\n")
        (tmp_path / "my_transforms_of_a_test.py").write_text(
            "from my_helpers_of_a_test import dark\n\ndef apply(batch):\n    return dark(batch)\n"
        )
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return fingerprint(importlib.import_module("my_transforms_of_a_test").apply)

    assert found(0.5) == found(0.5) != found(0.75)


def test_random_states_do_not_count_and_circles_end() -> None:
    one, other = Dark(np.random.default_rng(0)), Dark(np.random.default_rng(1))
    assert fingerprint(one) == fingerprint(other)
    one.factor = [one]
    assert len(fingerprint(one)) == 16


def test_what_cannot_be_looked_into_is_equal_to_nothing() -> None:
    assert fingerprint(Dark(object())) != fingerprint(Dark(object()))


def test_what_fails_when_it_is_looked_into_stops_nothing() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError("no words")

    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    for held in (Silent(), deep):
        assert len(fingerprint(Dark(held))) == 16
        assert fingerprint(Dark(held)) != fingerprint(Dark(held))


def test_a_transform_that_was_used_is_still_the_same() -> None:
    albumentations = pytest.importorskip("albumentations")
    kornia = pytest.importorskip("kornia.augmentation")

    def arrays(limit: int) -> Any:
        return albumentations.Compose([albumentations.Rotate(limit=limit, p=1.0), albumentations.GaussNoise(p=1.0)])

    def tensors(degrees: float) -> Any:
        return kornia.AugmentationSequential(kornia.RandomAffine(degrees=degrees), kornia.RandomHorizontalFlip(p=0.5))

    for make, picture in ((arrays, np.zeros((20, 20, 3), np.uint8)), (tensors, torch.rand(1, 3, 20, 20))):
        used = make(20)
        used(image=picture) if make is arrays else used(picture)
        assert fingerprint(used) == fingerprint(make(20)) != fingerprint(make(30))
