"""`fusetune data`: example data. Packages beside this one add published data sets and synthetic frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusetune.cli.frame import Debug, data_app, guarded, out, starting


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
