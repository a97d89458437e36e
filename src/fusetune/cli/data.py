"""`fusetune data`: example data. Packages beside this one add published data sets and synthetic frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusetune.cli.frame import Debug, data_app, guarded, out, starting


@data_app.command(
    short_help="Write the emoji that come with fusetune.", epilog="Example:  fusetune data emoji --out emoji"
)
@guarded
def emoji(
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for table and pictures.")],
    debug: Debug = False,
) -> None:
    """Write a small real table that needs no download: 1,250 emoji, each a picture with a name, in 7 categories."""
    del debug
    starting("data emoji: write a table and its pictures")
    from fusetune.datasets.emoji import write_emoji

    out.print(f"table   {write_emoji(folder)}", soft_wrap=True)


@data_app.command(short_help="Fetch the Tux Paint stamps.", epilog="Example:  fusetune data stamps --out stamps")
@guarded
def stamps(
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for table and pictures.")],
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A tuxpaint-stamps-default .deb that is already here.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Fetch the Tux Paint stamps: pictures with an English sentence, 10 categories (GPL-2, needs apt)."""
    del debug
    starting("data stamps: fetch the pictures and make a table of them")
    from fusetune.datasets.stamps import fetch_stamps

    out.print(f"table   {fetch_stamps(folder, archive)}", soft_wrap=True)
