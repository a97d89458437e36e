"""`fusetune reproduce`: the paper's experiments as published and repaired, side by side."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from fusetune.cli.frame import Debug, app, guarded, out
from fusetune.cli.outputs import refuse_loss
from fusetune.cli.words import commas
from fusetune.config import Config
from fusetune.errors import ConfigError, did_you_mean
from fusetune.files import write_text
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune_papers.reproduce.flaws import DATA, FLAWS, PHANTOM, chosen, flaws_of, in_order
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
from fusetune_papers.reproduce.report import bounds, cost_lines, fact_lines, flaw_lines, outcome_grid
from fusetune_papers.reproduce.series import Series, run_series

# What a series is called, the form of its recipes, and the switches that are on.
Plan = tuple[str, Form, frozenset[str]]


@app.command(
    short_help="Run the paper's experiments, flaws included or repaired.",
    epilog="Example:  fusetune reproduce phantom --data phantom --recipe both",
)
@guarded
def reproduce(
    data: Annotated[str, typer.Argument(metavar="DATA", help=f"{', '.join(DATA)}.")] = "",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder as downloaded. A phantom that is not there is drawn into it first."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="paper: every flaw; sound: none; both (the default): side by side."),
    ] = None,
    flaws: Annotated[
        str | None,
        typer.Option(metavar="L1,L2,...", help="Single flaws on top of `sound`: what is each worth? See --list."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="FPUS23's tasks: head (default), abdomen, arms, legs.")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="NAME,...", help="Some of the experiments; see --list.")] = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another image encoder: a folder, a package or a hub id.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides split, start and augmentation.")] = 0,
    missing: Annotated[
        str, typer.Option(metavar="HOW", help="Rows whose picture is not there: error (the default), or drop.")
    ] = "error",
    quick: Annotated[
        bool, typer.Option("--quick", help="Few rows, small network, one epoch: does it run? The numbers mean nothing.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the results here.")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Keep log and encoded features here for the next run.")
    ] = None,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Weights may be fetched from a model hub.")
    ] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List experiments and flaws, and stop.")] = False,
    debug: Debug = False,
) -> None:
    """Run the paper's experiments (arXiv 2505.06592) and print what was published, what comes out, and how sure it is.

    `paper` has every flaw of the published procedure, `sound` none of them. Each flaw is a switch of its own (--flaws).
    """
    del debug
    if show_list:
        _list()
        return
    recipe = _refuse_nonsense(data, folder, recipe, flaws, missing)
    assert folder is not None
    refuse_loss("--json", json_file, folder)
    plans, names = _plans(data, recipe, commas(flaws)), _names(data, commas(only))
    with TemporaryDirectory() as temporary:
        kept = out_folder or Path(temporary)
        log = Log(kept / "log.jsonl" if out_folder else None)
        how: dict[str, Any] = {"runtime": start_runtime(Config()), "log": log, "seed": seed}
        how |= {"cache": kept / "features", "allow_download": allow_download}
        results: list[Series] = []
        try:
            for name in commas(task) or TASKS[data]:
                material = load_material(data, folder, name, seed, "drop" if missing == "drop" else "error")
                material = thinned(material) if quick else material
                pictures = material.has("image")
                if not pictures:
                    log.warn(f"{folder} has no pictures: only what needs none is run")
                    _warn_of_idle(plans, log)
                for form, published, switches in plans:
                    log.say(f"{name}, {form}: {len(material.table):,} rows")
                    results.append(Series(name, form, switches))
                    recipes = _recipes(names, published, encoder, quick, pictures, switches)
                    run_series(results[-1], recipes, functools.partial(Lab, material, **how))
        finally:  # what was found before something failed took hours
            if any(series.outcomes or series.facts for series in results):
                _show(data, results, quick)
                if json_file:
                    _save(json_file, results, quick)


def _refuse_nonsense(data: str, folder: Path | None, recipe: str | None, flaws: str | None, missing: str) -> str:
    """Return the recipe, if what was asked for makes sense."""
    if data not in DATA:
        raise ConfigError(f"'{data}' is no data set of the paper{did_you_mean(data, DATA)}; known: {', '.join(DATA)}")
    if recipe is not None and flaws:
        raise ConfigError("--flaws turns single flaws on on top of `sound`, beside it; leave --recipe out")
    recipe = recipe or "both"
    choices = (("--recipe", recipe, ("paper", "sound", "both")), ("--missing", missing, ("error", "drop")))
    for option, word, possible in choices:
        if word not in possible:
            raise ConfigError(f"{option} {word}: use one of {', '.join(possible)}{did_you_mean(word, possible)}")
    if folder is None:
        raise ConfigError("name the folder with --data DIR" + (" (it may be new)" if data == PHANTOM else ""))
    return recipe


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
    for line in [*fact_lines(results), *cost_lines(results), *flaw_lines(data, results)]:
        out.print(line, soft_wrap=True)
    if any(outcome.synthetic for series in results for outcome in series.outcomes):
        out.print("SYNTHETIC: drawn, not scanned. These frames show what the flaws do, not how good anything is.")
    if quick:
        out.print("--quick: these numbers mean nothing.")


def _list() -> None:
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
