"""`fusetune reproduce`: the paper's experiments as published and repaired, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.table import Table as Grid
from rich.text import Text

from fusetune.cli.frame import Debug, app, guarded, out
from fusetune.cli.words import commas
from fusetune.config import Config
from fusetune.errors import ConfigError, did_you_mean
from fusetune.files import written_aside
from fusetune.progress import Log
from fusetune.reproduce.flaws import DATA, FLAWS, FOOD101, FPUS23, PHANTOM, chosen, flaws_of
from fusetune.reproduce.load import TASKS, load_material, thinned
from fusetune.reproduce.published import PRINTED
from fusetune.reproduce.recipe import Recipe, load_recipe, quicker, recipe_names, recipes_of
from fusetune.reproduce.run import Series, run_series
from fusetune.reproduce.words import bounds, cost_lines, fact_lines, flaw_lines, outcome_grid
from fusetune.runtime import start_runtime

_FORMS = ("paper", "sound", "both")


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
        str, typer.Option(metavar="NAME", help="paper: every flaw; sound: none; both: side by side.")
    ] = "both",
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
    if data not in DATA:
        raise ConfigError(f"'{data}' is no data set of the paper{did_you_mean(data, DATA)}; known: {', '.join(DATA)}")
    if recipe not in _FORMS:
        raise ConfigError(f"--recipe {recipe}: use one of {', '.join(_FORMS)}{did_you_mean(recipe, _FORMS)}")
    if folder is None:
        raise ConfigError("name the folder with --data DIR" + (" (it may be new)" if data == PHANTOM else ""))
    plans, names = _plans(data, recipe, commas(flaws)), _names(data, commas(only))
    with TemporaryDirectory() as temporary:
        kept = out_folder or Path(temporary)
        log = Log(kept / "log.jsonl" if out_folder else None)
        runtime = start_runtime(Config())
        results = []
        for name in commas(task) or TASKS[data]:
            material = load_material(data, folder, name)
            material = thinned(material) if quick else material
            if not material.has("image"):
                log.warn(f"{folder} has no pictures: only what needs none is run")
            for form, published, switches in plans:
                log.say(f"{name}, {form}: {len(material.table):,} rows")
                series = run_series(
                    material,
                    _recipes(names, published, encoder, quick, material.has("image")),
                    form,
                    switches,
                    runtime=runtime,
                    log=log,
                    seed=seed,
                    cache=kept / "features",
                    allow_download=allow_download,
                )
                results.append(series)
    _show(data, results, quick)
    if json_file:
        with written_aside(json_file) as aside:
            rows = [outcome.as_dict() for series in results for outcome in series.outcomes]
            facts = [{"task": s.task, "form": s.form, **s.facts.as_dict()} for s in results if s.facts]
            aside.write_text(json.dumps({"outcomes": rows, "facts": facts, "quick": quick}, indent=1), encoding="utf-8")


def _plans(data: str, recipe: str, flaws: list[str] | None) -> list[tuple[str, str, frozenset[str]]]:
    """Return (name, form of the recipe, switches that are on) of each series to run."""
    if flaws:
        switches = chosen(flaws, data)
        single = [(f"sound + {name}", "sound", frozenset({name})) for name in FLAWS if name in switches]
        together = [("sound + these", "sound", switches)] if len(single) > 1 else []
        return [("sound", "sound", frozenset()), *single, *together]
    plans = [("paper", "paper", flaws_of(data)), ("sound", "sound", frozenset[str]())]
    return [plan for plan in plans if recipe in (plan[0], "both")]


def _names(data: str, only: list[str] | None) -> list[str]:
    """Return the experiments on a data set that were asked for."""
    known = [recipe.name for recipe in recipes_of(data, "paper")]
    for name in only or ():
        if name not in known:
            raise ConfigError(f"--only {name}: not an experiment on {data}{did_you_mean(name, known)}; see --list")
    return [name for name in known if name in (only or known)]


def _recipes(names: list[str], form: str, encoder: str | None, quick: bool, pictures: bool) -> list[Recipe]:
    """Return the experiments to run; without pictures, those that need none."""
    found = [load_recipe(name, "paper" if form == "paper" else "sound") for name in names]
    found = [recipe for recipe in found if pictures or recipe.stage == "text"]
    if encoder:
        found = [r.model_copy(update={"encoder": encoder}) if r.encoder else r for r in found]
    return [quicker(recipe) for recipe in found] if quick else found


def _show(data: str, results: list[Series], quick: bool) -> None:
    if any(series.outcomes for series in results):
        out.print(outcome_grid(results))
    for line in [*fact_lines(results), *cost_lines(results), *flaw_lines(data, results)]:
        out.print(line, soft_wrap=True)
    if data == PHANTOM:
        out.print("These frames were drawn, not scanned: they show what the flaws do, not how good anything is.")
    if quick:
        out.print("--quick: these numbers mean nothing.")


def _list() -> None:
    grid = Grid("experiment", "notebook", "data", "what", "published test [95 %, rows independent]")
    for name in recipe_names():
        recipe = load_recipe(name, "paper")
        number = recipe.notebook
        published = "" if number is None else bounds(PRINTED[number].interval)
        grid.add_row(Text(name), str(number or ""), recipe.data, Text(recipe.title), Text(published))
    out.print(grid)
    switches = Grid("flaw", "what is done", "what sound does instead", "no switch on")
    for flaw in FLAWS.values():
        where = ", ".join(name for name in (FPUS23, FOOD101, PHANTOM) if name in flaw.elsewhere)
        switches.add_row(flaw.name, Text(flaw.title), Text(flaw.repair), Text(where))
    out.print(switches)
