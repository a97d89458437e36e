"""A small real table that comes with the library: emoji, each a picture with a name, in seven categories.

It needs no download and no rights, on any system, so that somebody can see a report before having a table. The pictures
are Google's Noto Emoji, names and categories Unicode's, gathered by emoji-data; how the file was made is
`examples/emoji_table.py`.
"""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from fusetune.datasets.folder import README, check_free, finished, make_parents
from fusetune.files import rename_folder
from fusetune.progress import console

TABLE = "emoji.csv"
TITLE = "Emoji, prepared by fusetune"
TEXT = f"""{TITLE}
{"=" * len(TITLE)}

Pictures:  Noto Emoji, copyright Google, Apache License 2.0 (https://github.com/googlefonts/noto-emoji), made smaller.
Names:     Unicode Character Database, copyright Unicode, Inc., Unicode License v3.
Gathered:  emoji-data 16.0.0 by Cal Henderson, MIT License (https://github.com/iamcal/emoji-data).

{TABLE} has one row per emoji:
  id        an opaque name, since code points tell the category
  picture   48 x 48 pixels, relative to this folder
  name      its Unicode name
  since     the version of the emoji list that brought it
  kind      the part of its category; all emoji of a kind are in one category, so that it is no input. To ask how
            a model fares on kinds that it never saw, split by it: --group kind
  category  the label

Left out: people (hundreds of variants of a few), flags, and parts of others.
"""


def write_emoji(out: Path) -> Path:
    """Write the table and its pictures into a new folder, and return the path of the table.

    A complete earlier result is used again; otherwise `out` is complete or untouched.

    Args:
        out: The folder to make; it must not exist, be empty, or hold an earlier result.

    Raises:
        UserError: If `out` holds something else.
    """
    import pandas as pd  # noqa: PLC0415 - it takes a second, which only who writes the table should wait

    out = Path(out)
    if finished(out, TABLE, TITLE):
        return out / TABLE
    check_free(out)
    rows = pd.read_parquet(io.BytesIO((files(__package__) / "emoji.parquet").read_bytes()))
    make_parents(out)
    with TemporaryDirectory(prefix=".emoji-", dir=out.parent) as scratch:
        made = Path(scratch) / "finished"
        (made / "pictures").mkdir(parents=True)
        for name, picture in zip(rows["id"], rows["picture"], strict=True):
            (made / "pictures" / f"{name}.webp").write_bytes(picture)
        paths = [f"pictures/{name}.webp" for name in rows["id"]]
        rows.assign(picture=paths).to_csv(made / TABLE, index=False, lineterminator="\n")
        (made / README).write_text(TEXT, encoding="utf-8")
        rename_folder(made, out)
    console.print(f"Wrote {len(rows)} emoji to {out / TABLE}", markup=False, soft_wrap=True)
    return out / TABLE
