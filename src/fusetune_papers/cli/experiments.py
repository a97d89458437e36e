"""What `fusetune reproduce` runs and prints."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.padding import Padding
from rich.text import Text

from fusetune.cli.frame import out
from fusetune.config import Config
from fusetune.errors import ConfigError, did_you_mean
from fusetune.files import write_text
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune_papers.datasets.choices import Missing
from fusetune_papers.reproduce.flaws import DATA, FLAWS, chosen, flaws_of, in_order
from fusetune_papers.reproduce.lab import Lab
from fusetune_papers.reproduce.material import TASKS, load_material, thinned
from fusetune_papers.reproduce.recipe import (
    Form,
    Recipe,
    load_recipe,
    quicker,
    recipe_names,
    recipes_of,
    with_batches_of,
)
from fusetune_papers.reproduce.report import bounds, cost_lines, fact_lines, flaw_lines, label_lines, outcome_grid
from fusetune_papers.reproduce.series import Series, run_series

_QUICK_RESAMPLES = 20
# What a series is called, the form of its recipes, and the switches that are on.
Plan = tuple[str, Form, frozenset[str]]


@dataclass(frozen=True)
class Asked:
    """What is to be run; the fields are the options of the command."""

    data: str
    folder: Path
    recipe: str
    flaws: list[str] | None
    tasks: list[str] | None
    only: list[str] | None
    encoder: str | None
    seed: int
    missing: str
    quick: bool


def run_experiments(asked: Asked, json_file: Path | None, out_folder: Path | None, allow_download: bool) -> None:
    """Run them and print what was found, as far as it got; also write it to a file.

    Raises:
        ConfigError: If there are no such experiments or flaws.
    """
    data, quick = asked.data, asked.quick
    plans, names = _plans(data, asked.recipe, asked.flaws), _names(data, asked.only)
    with TemporaryDirectory() as temporary:
        kept = out_folder or Path(temporary)
        log = Log(kept / "log.jsonl" if out_folder else None)
        how: dict[str, Any] = {"runtime": start_runtime(Config()), "log": log, "seed": asked.seed}
        how |= {"cache": kept / "features", "allow_download": allow_download}
        how |= {"resamples": _QUICK_RESAMPLES} if quick else {}
        results: list[Series] = []
        try:
            for name in asked.tasks or TASKS[data]:
                missing: Missing = "drop" if asked.missing == "drop" else "error"
                material = load_material(data, asked.folder, name, asked.seed, missing)
                material = thinned(material) if quick else material
                pictures = material.has("image")
                if not pictures:
                    log.warn(f"{asked.folder} has no pictures: only what needs none is run")
                    _warn_of_idle(plans, log)
                for form, published, switches in plans:
                    log.say(f"{name}, {form}: {len(material.table):,} rows")
                    results.append(Series(name, form, switches))
                    recipes = _recipes(names, published, asked.encoder, quick, pictures, switches)
                    run_series(results[-1], recipes, functools.partial(Lab, material, **how))
        finally:  # what was found before something failed took hours
            if any(series.outcomes or series.facts for series in results):
                _show(data, results, quick)
                if json_file:
                    _save(json_file, results, quick)


def _warn_of_idle(plans: list[Plan], log: Log) -> None:
    """Say which of the single flaws that were asked for act on nothing where there are no pictures."""
    asked = set().union(*(switches for _, form, switches in plans if form == "sound"))
    if idle := in_order(name for name in asked if FLAWS[name].pictures):
        log.warn(f"without pictures, nothing is measured of {', '.join(idle)}")


def _save(path: Path, results: list[Series], quick: bool) -> None:
    rows = [outcome.as_dict() for series in results for outcome in series.outcomes]
    facts = [{"task": s.task, "form": s.form, **s.facts.as_dict()} for s in results if s.facts]
    write_text(path, json.dumps({"outcomes": rows, "facts": facts, "quick": quick}, indent=1))


def _plans(data: str, recipe: str, flaws: list[str] | None) -> list[Plan]:
    """Return the series to run."""
    nothing = frozenset[str]()
    if flaws:
        switches = chosen(flaws, data)
        single: list[Plan] = [(f"sound + {name}", "sound", frozenset({name})) for name in FLAWS if name in switches]
        together: list[Plan] = [("sound + these", "sound", switches)] if len(single) > 1 else []
        return [("sound", "sound", nothing), *single, *together]
    plans: list[Plan] = [("paper", "paper", flaws_of(data)), ("sound", "sound", nothing)]
    return [plan for plan in plans if recipe in (plan[0], "both")]


def _names(data: str, only: list[str] | None) -> list[str]:
    """Return the experiments on a data set that were asked for."""
    names = [recipe.name for recipe in recipes_of(data, "paper")]
    for name in only or ():
        if name not in names:
            raise ConfigError(f"--only {name}: not an experiment on {data}{did_you_mean(name, names)}; see --list")
    return [name for name in names if name in (only or names)]


def _recipes(
    names: list[str], form: Form, encoder: str | None, quick: bool, pictures: bool, flaws: frozenset[str]
) -> list[Recipe]:
    """Return the experiments to run; without pictures, those that need none."""
    recipes = [load_recipe(name, form) for name in names]
    if "L15" in flaws:
        recipes = [with_batches_of(recipe, load_recipe(recipe.name, "paper")) for recipe in recipes]
    recipes = [recipe for recipe in recipes if pictures or recipe.stage == "text"]
    if encoder:
        other = {r.name: {"encoder": encoder, "title": f"{r.title} (here: {encoder})"} for r in recipes if r.encoder}
        recipes = [recipe.model_copy(update=other.get(recipe.name, {})) for recipe in recipes]
    return [quicker(recipe) for recipe in recipes] if quick else recipes


def _show(data: str, results: list[Series], quick: bool) -> None:
    if any(series.outcomes for series in results):
        out.print(outcome_grid(results))
    for line in [*fact_lines(results), *label_lines(results), *cost_lines(results), *flaw_lines(data, results)]:
        out.print(line, soft_wrap=True)
    if any(outcome.synthetic for series in results for outcome in series.outcomes):
        out.print("SYNTHETIC: drawn, not scanned. These frames show what the flaws do, not how good anything is.")
    if quick:
        out.print("--quick: these numbers mean nothing.")


def print_list() -> None:
    """Print all experiments and flaws."""

    def entry(title: str, text: str) -> None:
        out.print(title)
        out.print(Padding(Text(text), (0, 0, 0, 5)))

    for name in recipe_names():
        recipe = load_recipe(name, "paper")
        number = "" if recipe.notebook is None else f", notebook {recipe.notebook}"
        printed = f", printed test accuracy {bounds(recipe.printed.interval)}" if recipe.printed else ""
        entry(name, f"{recipe.data}{number}: {recipe.title}{printed}")
    out.print("\nIntervals are Wilson's at 95 %, as if rows were independent.\n")
    for name, flaw in FLAWS.items():
        where = f"\nchanges nothing on: {', '.join(data for data in DATA if data in flaw.elsewhere)}"
        text = f"evidence: {flaw.evidence}\nsound: {flaw.repair}" + (where if flaw.elsewhere else "")
        entry(f"{name}  {flaw.title}", text)
