"""`fusetune reproduce`: the paper's experiments as published and repaired, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from fusetune.cli.frame import Debug, app, guarded, out
from fusetune.cli.words import commas
from fusetune.config import Config
from fusetune.errors import ConfigError, did_you_mean
from fusetune.files import write_text
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune_papers.reproduce.flaws import DATA, FLAWS, FOOD101, FPUS23, PHANTOM, chosen, flaws_of, in_order
from fusetune_papers.reproduce.load import TASKS, load_material, thinned
from fusetune_papers.reproduce.published import PRINTED
from fusetune_papers.reproduce.recipe import Recipe, load_recipe, quicker, recipe_names, recipes_of, with_batches_of
from fusetune_papers.reproduce.run import Series, run_series
from fusetune_papers.reproduce.words import bounds, cost_lines, fact_lines, flaw_lines, outcome_grid

_FORMS, _MISSING = ("paper", "sound", "both"), ("error", "drop")


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
    plans, names = _plans(data, recipe, commas(flaws)), _names(data, commas(only))
    with TemporaryDirectory() as temporary:
        kept = out_folder or Path(temporary)
        log = Log(kept / "log.jsonl" if out_folder else None)
        runtime = start_runtime(Config())
        results: list[Series] = []
        try:
            for name in commas(task) or TASKS[data]:
                material = load_material(data, folder, name, seed, "drop" if missing == "drop" else "error")
                material = thinned(material) if quick else material
                if not material.has("image"):
                    log.warn(f"{folder} has no pictures: only what needs none is run")
                    _warn_of_idle(plans, log)
                for form, published, switches in plans:
                    log.say(f"{name}, {form}: {len(material.table):,} rows")
                    run_series(
                        material,
                        _recipes(names, published, encoder, quick, material.has("image"), switches),
                        form,
                        switches,
                        runtime=runtime,
                        log=log,
                        seed=seed,
                        cache=kept / "features",
                        allow_download=allow_download,
                        into=results,
                    )
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
    if recipe not in _FORMS:
        raise ConfigError(f"--recipe {recipe}: use one of {', '.join(_FORMS)}{did_you_mean(recipe, _FORMS)}")
    if missing not in _MISSING:
        raise ConfigError(f"--missing {missing}: use one of {', '.join(_MISSING)}{did_you_mean(missing, _MISSING)}")
    if folder is None:
        raise ConfigError("name the folder with --data DIR" + (" (it may be new)" if data == PHANTOM else ""))
    return recipe


def _warn_of_idle(plans: list[tuple[str, str, frozenset[str]]], log: Log) -> None:
    """Say which of the single flaws that were asked for act on nothing where there are no pictures."""
    asked = set().union(*(switches for _, form, switches in plans if form == "sound"))
    idle = in_order(name for name in asked if FLAWS[name].pictures)
    if idle:
        log.warn(f"without pictures, nothing is measured of {', '.join(idle)}")


def _save(path: Path, results: list[Series], quick: bool) -> None:
    rows = [outcome.as_dict() for series in results for outcome in series.outcomes]
    facts = [{"task": s.task, "form": s.form, **s.facts.as_dict()} for s in results if s.facts]
    write_text(path, json.dumps({"outcomes": rows, "facts": facts, "quick": quick}, indent=1))


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


def _recipes(
    names: list[str], form: str, encoder: str | None, quick: bool, pictures: bool, flaws: frozenset[str]
) -> list[Recipe]:
    """Return the experiments to run; without pictures, those that need none."""
    found = [load_recipe(name, "paper" if form == "paper" else "sound") for name in names]
    if "L15" in flaws:
        found = [with_batches_of(recipe, load_recipe(recipe.name, "paper")) for recipe in found]
    found = [recipe for recipe in found if pictures or recipe.stage == "text"]
    if encoder:
        said = f" (here: {encoder})"
        found = [r.model_copy(update={"encoder": encoder, "title": r.title + said}) if r.encoder else r for r in found]
    return [quicker(recipe) for recipe in found] if quick else found


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
    for name in recipe_names():
        recipe = load_recipe(name, "paper")
        printed = (
            "" if recipe.notebook is None else f", printed test accuracy {bounds(PRINTED[recipe.notebook].interval)}"
        )
        number = "" if recipe.notebook is None else f", notebook {recipe.notebook}"
        out.print(name)
        out.print(Padding(Text(f"{recipe.data}{number}: {recipe.title}{printed}"), (0, 0, 0, 5)))
    out.print("\nIntervals are Wilson's at 95 %, as if rows were independent.\n")
    for flaw in FLAWS.values():
        where = ", ".join(name for name in (FPUS23, FOOD101, PHANTOM) if name in flaw.elsewhere)
        out.print(f"{flaw.name}  {flaw.title}")
        out.print(Padding(Text(f"evidence: {flaw.evidence}\nsound: {flaw.repair}"), (0, 0, 0, 5)))
        if where:
            out.print(Padding(Text(f"changes nothing on: {where}"), (0, 0, 0, 5)))
