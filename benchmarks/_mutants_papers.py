"""Faults in the experiments' package that would make figures dishonest, and the tests that have to notice."""

from __future__ import annotations

from _mutants import Mutant

_STRUCTURES = "tests/papers/test_structures.py"
PAPERS = (
    Mutant(
        "src/fusetune_papers/reproduce/series.py",
        "a number that was printed of one task stands beside another",
        " if recipe.printed and material.task in TASKS[material.data] else {}",
        " if recipe.printed else {}",
        (f"{_STRUCTURES}::test_what_a_notebook_printed_stands_beside_its_own_task",),
    ),
    Mutant(
        "src/fusetune_papers/reproduce/head.py",
        "the head of several labels learns classes",
        "run.keys[rows], target=type(run.target))",
        "run.keys[rows])",
        (f"{_STRUCTURES}::test_both_forms_are_judged_by_label_and_the_baselines_are_exact",),
    ),
    Mutant(
        "src/fusetune_papers/phantom/script.py",
        "some sets of structures are drawn more often than others",
        ".permutation(COMBINATIONS)",
        ".integers(0, COMBINATIONS, COMBINATIONS)",
        ("tests/papers/datasets/test_datasets_phantom.py::test_every_combination_is_as_frequent_in_every_stream",),
    ),
    Mutant(
        "benchmarks/fpus23_structures.py",
        "a stream is among those that it is judged by",
        "near = others & (places == places[stream])",
        "near = places == places[stream]",
        (f"{_STRUCTURES}::test_the_real_frames_hold_several_structures",),
    ),
)
