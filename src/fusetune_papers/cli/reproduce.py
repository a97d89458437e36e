"""`fusetune reproduce`: the paper's experiments as published and repaired, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusetune.cli.frame import Debug, app, guarded, starting
from fusetune.cli.outputs import refuse_loss
from fusetune.cli.words import commas
from fusetune.errors import ConfigError, did_you_mean
from fusetune_papers.reproduce.flaws import DATA, PHANTOM


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
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="FPUS23's tasks: head (default), abdomen, arms, legs; structures: which of the four, in one model.",
        ),
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
        from fusetune_papers.cli.experiments import print_list

        print_list()
        return
    recipe = _refuse_nonsense(data, folder, recipe, flaws, missing)
    assert folder is not None
    refuse_loss("--json", json_file, folder)
    starting(f"reproduce: the experiments on {data}, {recipe}")
    from fusetune_papers.cli.experiments import Asked, run_experiments

    asked = Asked(data, folder, recipe, commas(flaws), commas(task), commas(only), encoder, seed, missing, quick)
    run_experiments(asked, json_file, out_folder, allow_download)


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
