"""The list of faults that tests have to notice cannot rot: every place and every test that it names is there.

`python benchmarks/mutants.py` plants them, which takes too long for here.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from _mutants import Mutant
from mutants import ALL, plant

ROOT = Path(__file__).parents[1]


@cache
def names(file: Path) -> frozenset[str]:
    """Return the names of all functions of a file."""
    nodes = ast.walk(ast.parse(file.read_text("utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.what)
def test_every_mutant_has_its_place_and_its_tests(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.file} must hold this once:\n{mutant.old}"
    ast.parse(text.replace(mutant.old, mutant.new))
    assert mutant.new != mutant.old
    assert mutant.tests
    for test in mutant.tests:
        file, _, function = test.partition("::")
        assert not function or function in names(ROOT / file), f"there is no {test}"
        assert any(name.startswith("test_") for name in names(ROOT / file))


def test_no_mutant_is_listed_twice() -> None:
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in ALL}) == len(ALL)
    assert len({mutant.what for mutant in ALL}) == len(ALL)


def test_a_place_that_is_not_there_once_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one = 1\none = 1\ntwo = 2\n")
    plant(Mutant("a.py", "", "two = 2", "two = 3", ()), tmp_path)
    assert (tmp_path / "a.py").read_text() == "one = 1\none = 1\ntwo = 3\n"
    for old, times in (("one = 1", 2), ("two = 2", 0)):
        with pytest.raises(SystemExit, match=f"a.py holds {times} times"):
            plant(Mutant("a.py", "", old, "", ()), tmp_path)
