"""An image as it is stored: the bytes of a file, found by its path or address, and no more of them than allowed.

Whatever the protocol, a local file is opened here and nowhere else, after a look at what it is: devices and pipes have
no end. fsspec gets what lies inside archives, in memory or beyond a network.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, unquote_to_bytes

import fsspec

from fusetune.data.paths import BASE64, DATA_ADDRESS, split_frame
from fusetune.errors import ImageError, ShortageError, clipped

_FOLDER, _FILES, _CACHES = "dir", ("file", "local"), ("simplecache", "filecache", "blockcache")
_LOCAL_PROTOCOLS = (*_FILES, "memory", "zip", "tar", _FOLDER, *_CACHES)
_LOCAL = re.compile(r"(?:file|local):(?://(?:localhost(?=/))?)?(?=.)", re.IGNORECASE)
# 16 bits for each of four channels; files of many frames or pages have more, hence the least.
_PER_PIXEL, _LEAST = 8, 64 * 2**20
_PIECE = 2**20
_HELP = "make the paths relative to the table's folder"


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored.

    Attributes:
        content: The file's bytes.
        frame: Which frame or page of the file, from 1; None where none was named.
    """

    content: bytes
    frame: int | None = None


def byte_limit(pixel_limit: int) -> int:
    """Return how many bytes a file may have, packed or unpacked, whose picture may have so many pixels."""
    return max(_LEAST, _PER_PIXEL * pixel_limit)


def read_encoded(
    value: str, root: Path, allow_remote: bool, confined: bool = False, most: int = byte_limit(200_000_000)
) -> Encoded:
    """Read a file whole.

    Args:
        value: Path relative to `root`, absolute path, or address; `#frame=3` at its end chooses a frame or page. Or the
            file itself, as a data: address or in base64.
        root: The table's folder.
        allow_remote: May addresses be opened that need a network?
        confined: Must it be a file within `root`, links followed?
        most: How many bytes the file may have.

    Raises:
        ImageError: Saying why the file cannot be opened.
        ShortageError: If there is not enough memory for it.
    """
    if (inside := _inside(value, most)) is not None:
        return Encoded(inside)
    address, frame = split_frame(value)
    try:
        if "://" in address:
            _check_address(address, allow_remote, confined)
        place = _place(address, root, confined)
        return Encoded(_read_local(place, most) if isinstance(place, Path) else _read_address(place, most), frame)
    except ImageError:
        raise
    except MemoryError as error:
        raise ShortageError("there is not enough memory to read the file") from error
    except FileNotFoundError as error:
        raise ImageError(f"there is no such file{_hint(address, root)}") from error
    except Exception as error:  # every kind of remote storage has errors of its own
        raise ImageError(f"cannot be opened: {clipped(str(error) or type(error).__name__, 300)}") from error


def _inside(value: str, most: int) -> bytes | None:
    """Return the bytes of a picture that is written into its cell, or None."""
    if (head := DATA_ADDRESS.match(value)) is not None:
        words = value[head.end() :].strip()
        if not head[0].rstrip(",").lower().endswith(";base64"):
            return unquote_to_bytes(words)
        words = unquote(words)
    elif BASE64.fullmatch(value):
        words = value
    else:
        return None
    if len(words) * 3 // 4 > most:
        raise ImageError(_too_long(most))
    words = "".join(words.split())
    try:
        return base64.b64decode(words + "=" * (-len(words) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"its base64 is damaged: {error}") from error


def _place(address: str, root: Path, confined: bool) -> Path | str:
    """Return the local file that an address stands for, else the address for fsspec, the file of an archive checked."""
    if "://" not in address:
        return _found(address, root, confined)
    *outer, inner = address.split("::")
    local = "://" not in inner or _protocol(inner) in _FILES
    place: Path | str = _found(inner, root, confined) if local else inner
    for layer in reversed(outer):
        protocol, target = _protocol(layer), layer.partition("://")[2]
        if local and protocol in _CACHES:
            continue  # what is on this machine needs no copy
        if isinstance(place, Path) and protocol == _FOLDER:
            place = _found(target.lstrip("/"), place, confined)
        else:
            place = f"{layer}::{f'file://{_regular(place)}' if isinstance(place, Path) else place}"
    return place


def _protocol(part: str) -> str:
    return part.partition("://")[0].lower()


def _found(words: str, root: Path, confined: bool) -> Path:
    """Return the existing file that a path means: as it is written, else by a spelling that can mean nothing else."""
    problem: Exception | None = None
    for spelling in _spellings(words):
        try:
            # Only a leading "~/" is the home folder; "~x.png" is a file's name.
            path = Path(spelling).expanduser() if spelling.startswith("~/") else Path(spelling)
            place = (root / path).resolve()
            if confined and not place.is_relative_to(root.resolve()):
                raise ImageError(
                    f"it is outside the table's folder {root.resolve()}, and data.outside=refuse reads nothing there"
                )
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, RuntimeError) as error:
            problem = problem or error
        else:
            return place
    if isinstance(problem, OSError) and problem.errno == errno.ENAMETOOLONG:
        raise ImageError(f"cannot be opened: {len(words):,} letters are too many for a path; is this the right column?")
    raise problem or FileNotFoundError(words)


def _spellings(words: str) -> list[str]:
    """Return the paths that words may mean: an address's path, without quotes, with slashes, accents either way."""
    found = [words, words.strip().strip("\"'")]
    if (head := _LOCAL.match(found[1])) is not None:
        rest = found[1][head.end() :]
        found += [rest, unquote(rest)]
    found += [spelling.replace("\\", "/") for spelling in found]
    found += [unicodedata.normalize(form, spelling) for form in ("NFC", "NFD") for spelling in found]
    return [spelling for spelling in dict.fromkeys(found) if spelling]


def _hint(address: str, root: Path) -> str:
    """Return what may be wrong with a path that leads nowhere, for the end of a message."""
    if "#frame=" in address:
        return ": '#frame=' takes a number from 1, at the end of the path"
    words = address.strip().strip("\"'")
    if "://" in words or "::" in words:
        return ""
    try:
        return _hint_of(words.replace("\\", "/"), root, "\\" in words)
    except (OSError, ValueError, RuntimeError):
        return ""


def _hint_of(words: str, root: Path, backslashes: bool) -> str:
    if (root / unquote(words)).is_file():
        return f": '{unquote(words)}' is there, and the path is written as in an address (%20); correct it"
    like = _lookalike(Path(os.path.normpath(root / words)))
    if like is not None:
        return f": '{like.name}' in {like.parent} is spelt otherwise (capital letters, spaces); correct the path"
    parts = re.split("/+", words)
    foreign = re.match(r"[A-Za-z]:/|/", words) is not None
    for start in range(1, len(parts)):
        end = root.joinpath(*parts[start:])
        if foreign and end.is_file():
            return f": but {'/'.join(parts[start:])} is, in the table's folder; is the path of another machine? {_HELP}"
    if foreign and not Path(*parts[:2] if parts[0] else ("/", *parts[1:2])).exists():
        return f": nor is there '{'/'.join(parts[:2])}', so the path may be one of another machine; {_HELP}"
    return ": the path holds backslashes, which separate folders on Windows only" if backslashes else ""


def _lookalike(path: Path) -> Path | None:
    """Return the file whose path differs in capital letters, spaces or accents only, if there is one such."""
    place = Path(path.anchor)
    for name in path.parts[1:]:
        near = [name]
        if not (place / name).exists():
            near = _names(place, place.stat().st_mtime_ns).get(_folded(name), [])
        if len(near) != 1:
            return None
        place /= near[0]
    return place if place.is_file() else None


@lru_cache(maxsize=64)
def _names(folder: Path, changed: int) -> dict[str, list[str]]:
    """Return a folder's names by what is left of them without capital letters and spaces; once per change."""
    del changed
    names: dict[str, list[str]] = {}
    for path in folder.iterdir():
        names.setdefault(_folded(path.name), []).append(path.name)
    return names


def _folded(name: str) -> str:
    return "".join(unicodedata.normalize("NFC", name).casefold().split())


def _regular(path: Path) -> Path:
    # A device such as /dev/zero has no end, and a pipe keeps its reader waiting for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError("cannot be opened: it is a folder, a device or a pipe, not a file")
    return path


def _read_local(path: Path, most: int) -> bytes:
    if _regular(path).stat().st_size > most:
        raise ImageError(_too_long(most))
    with path.open("rb") as file:
        return _bounded(file, most)


def _read_address(address: str, most: int) -> bytes:
    place = fsspec.open(address, "rb")
    # A cache copies all of a file before it gives any of it.
    if any(_protocol(part) in _CACHES for part in address.split("::")):
        size = place.fs.size(place.path)
        if size is None or size > most:
            raise ImageError(_too_long(most) if size else "nobody says how large it is; leave out the cache")
    with place as file:
        return _bounded(file, most)


def _bounded(file: BinaryIO, most: int) -> bytes:
    parts, total = [], 0
    while part := file.read(_PIECE):
        parts.append(part)
        total += len(part)
        if total > most:
            raise ImageError(_too_long(most))
    return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


def _too_long(most: int) -> str:
    return f"it has more than {most:,} bytes, the most that data.pixel_limit allows; raise it to read this one"


def _check_address(address: str, allow_remote: bool, confined: bool) -> None:
    # Addresses can be chained: in "zip://a.png::https://host/b.zip" it is the last one that needs the network.
    parts = address.split("::")
    if confined and (len(parts) > 1 or _protocol(address) not in _FILES):
        raise ImageError("it is an address, and data.outside=refuse reads nothing but files in the table's folder")
    if allow_remote:
        return
    for part in parts:
        if "://" in part and _protocol(part) not in _LOCAL_PROTOCOLS:
            name = part.partition("://")[0]
            raise ImageError(f"'{name}://' needs a network; set allow_download=true to read images from there")
