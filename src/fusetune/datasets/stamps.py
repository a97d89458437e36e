"""The demo data: the rubber stamps of the drawing program Tux Paint, each a small picture with an English sentence.

They come from Debian's package `tuxpaint-stamps-default`. The result is a folder with `stamps.csv`, `images/` and a
README.txt that names source and licence (GPL-2).
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from fusetune.datasets.debian import check_tools, download_package, unpack_package
from fusetune.datasets.folder import check_free, finished, make_parents
from fusetune.errors import UserError
from fusetune.files import rename_folder
from fusetune.progress import console

PACKAGE = "tuxpaint-stamps-default"
TABLE = "stamps.csv"
COLUMNS = ("id", "image", "text", "folder", "category")
TITLE = "Tux Paint stamps, prepared by fusetune"
# Folders that say how a thing is drawn, not what it is: `fruit/cartoon` and `fruit` show the same fruits under the
# same sentences, `filled` and `outlined` the same letters. Kept apart, they would put copies into train and test.
STYLES = frozenset({"cartoon", "toys", "plastic", "filled", "outlined", "lowercase", "uppercase"})

README = f"""{TITLE}
{"=" * len(TITLE)}

Source:  Debian package {PACKAGE} (https://packages.debian.org/{PACKAGE}),
         made from the stamps of Tux Paint (https://tuxpaint.org).
Licence: GNU General Public License, version 2 or later (GPL-2): pictures and sentences alike.
         Copyright 2002-2022 Bill Kendrick and contributors.

{TABLE} has one row per stamp:
  id        an opaque name, so that it cannot give the category away
  image     the picture, relative to this folder
  text      the English sentence that goes with it
  folder    the related stamps it belongs to; split by it, or copies end up in train and test
            - the stamp's folder, without parts that only name a style
              ({", ".join(sorted(STYLES))})
            - a stamp lying directly in its category's folder: the category and the first word of its file name
  category  the top folder: the label

Left out: pictures without a sentence (mirrored copies), vector drawings, and small categories.
"""


@dataclass(frozen=True)
class Stamp:
    """One stamp.

    Attributes:
        path: Where the PNG lies below the stamps' root, with forward slashes.
        text: The English sentence.
    """

    path: PurePosixPath
    text: str

    @property
    def category(self) -> str:
        """The top folder."""
        return self.path.parts[0]

    @property
    def folder(self) -> str:
        """The group of related stamps (see `group_folder`)."""
        return group_folder(self.path)

    def row(self) -> tuple[str, ...]:
        """The values of `COLUMNS`. The id is a hash: a path would tell the category to a model that reads it."""
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:12]
        return (name, f"images/{self.path}", self.text, self.folder, self.category)


def fetch_stamps(out: Path, archive: Path | None = None) -> Path:
    """Fetch the stamps, unpack them and write the table.

    Everything is built beside `out` and renamed at the end, so `out` is either complete or untouched. A complete
    earlier result is used again. About 400 MB are needed meanwhile; 25 MB stay.

    Args:
        out: The folder to make; it must not exist, be empty, or hold an earlier result.
        archive: The package as a .deb file, if already downloaded.

    Returns:
        The path of `stamps.csv` in `out`.

    Raises:
        UserError: `out` holds something else, `archive` is unusable, or `apt-get` or `dpkg-deb` is not installed.
        RunError: The download failed.
    """
    out = Path(out)
    if finished(out, TABLE, TITLE):
        console.print(f"Using the stamps already in {out}", markup=False, soft_wrap=True)
        return out / TABLE
    check_free(out)
    _check_archive(archive)
    check_tools("dpkg-deb", *([] if archive else ["apt-get"]))
    make_parents(out)
    with TemporaryDirectory(prefix=".stamps-", dir=out.parent) as scratch:
        package = archive or download_package(PACKAGE, Path(scratch))
        unpack_package(package, Path(scratch) / "tree")
        root = _stamps_root(Path(scratch) / "tree", package)
        stamps = read_stamps(root)
        rename_folder(write_stamps(stamps, root, Path(scratch) / "finished"), out)
    categories = len({stamp.category for stamp in stamps})
    line = f"Wrote {len(stamps)} stamps in {categories} categories to {out / TABLE}"
    console.print(line, markup=False, soft_wrap=True)
    return out / TABLE


def read_stamps(root: Path, least: int = 15) -> list[Stamp]:
    """Find the stamps below `root` that have a PNG and a sentence, in the categories with at least `least` of them.

    Args:
        root: The folder whose sub-folders are the categories.
        least: How many stamps a category needs: fewer cannot be divided into train, validation and test.

    Returns:
        The stamps, sorted by path.

    Raises:
        UserError: No category has enough stamps.
    """
    pictured = [Stamp(path, text) for path in _pictures(root) if (text := _sentence(root / path))]
    sizes = Counter(stamp.category for stamp in pictured)
    kept = [stamp for stamp in pictured if sizes[stamp.category] >= least]
    if not kept:
        raise UserError(
            f"{root} holds {len(pictured)} stamps and no category with at least {least}. "
            f"Is the archive really Debian's package {PACKAGE}?"
        )
    return kept


def group_folder(path: PurePosixPath) -> str:
    """Return the group of related stamps that a stamp belongs to.

    Stamps of one folder are related (a series by one hand, one kind of thing), so the folder is the group, without
    the parts in `STYLES`. Stamps lying directly in the category's folder are mostly unrelated; as one group they
    would leave a small category like `clothes` with too few groups to divide. They are grouped by the first word of
    their name, which keeps a series such as `t_jacket`, `t_sock` together.
    """
    category, *inner = path.parts[:-1]
    if not inner:
        return f"{category}/{path.stem.split('_')[0]}"
    plain = [part for part in inner if part not in STYLES]
    return "/".join([category, *(plain or inner)])


def write_stamps(stamps: Sequence[Stamp], root: Path, out: Path) -> Path:
    """Write table, pictures and README.txt into the new folder `out`, and return it."""
    out.mkdir()
    for stamp in stamps:
        target = out / "images" / stamp.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / stamp.path, target)
    with (out / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(stamp.row() for stamp in stamps)
    (out / "README.txt").write_text(README, encoding="utf-8")
    return out


def _stamps_root(tree: Path, archive: Path) -> Path:
    root = tree / "usr/share/tuxpaint/stamps"
    if not root.is_dir():
        raise UserError(f"{archive} holds no stamps. It must be Debian's package {PACKAGE}.")
    return root


def _pictures(root: Path) -> Iterator[PurePosixPath]:
    """Yield the PNGs in category folders that have a description file, relative to `root`, sorted."""
    for path in sorted(root.glob("*/**/*.png")):
        if path.with_suffix(".txt").is_file():
            yield PurePosixPath(path.relative_to(root).as_posix())


def _sentence(picture: Path) -> str:
    """Return the first line of the picture's description; the lines after it are translations (`de.utf8=...`)."""
    with picture.with_suffix(".txt").open(encoding="utf-8") as file:
        return file.readline().strip()


def _check_archive(archive: Path | None) -> None:
    if archive is not None and not archive.is_file():
        raise UserError(f"The archive {archive} does not exist.")
