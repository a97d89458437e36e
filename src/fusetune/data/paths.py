"""Words that name pictures: the formats that are read, what a path may end with, and which columns hold paths.

The list of formats stands here and nowhere else: files in another one are not opened, whatever their names are.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from fusetune.errors import ImageError, clipped

# Names as users know them; in capitals and without spaces, Pillow's. Every other parser of Pillow's stays shut: some
# start other programs (PostScript), unpack before they tell a size (icons), or only know a format by name.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WebP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG 2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "DICOM": (".dcm", ".dicom"),
}
KNOWN_FORMATS = ", ".join(FORMATS)
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# What a path ends with that names a frame or page, from 1; twice is a slip that is said when the file is read.
FRAME = re.compile(r"(?:#frame=\d+)+$")
# What begins with "data:" is the picture itself; so is base64 that begins with the first bytes of a format.
DATA_ADDRESS = re.compile(r"\s*data:[^,]{0,200},", re.IGNORECASE)
BASE64 = re.compile(
    r"\s*(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkq|TU0A|Qk[0-3]|AAAA.[GW]Z0eX|AAAADGpQ)[A-Za-z0-9+/\r\n]{48,}={0,2}\s*"
)
# How files of these formats begin; for columns of names without a suffix.
_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP|II[*+]\0|MM\0[*+]|BM|GIF8[79]a|....ftyp(?:avi|mif)|\0\0\0\x0cjP  |"
    rb"\xff\x4f\xff\x51|P[1-7fF]\s|.{128}DICM",
    re.DOTALL,
)
_ADDRESS = r"(?i:[a-z][a-z0-9+.-]+://\S+|file:/\S+)"
_FOLDERS = r"(?:~?/|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\)\S.*|\S[^\n]*[/\\][^/\\\n]*\.[A-Za-z0-9]{1,8}"
_FILE = (
    r"(?i:[^\s/\\][^/\\\n]*\.(?:heic|heif|ico|svg|psd|eps|pdf|raw|dng|cr2|nef|tga|exr|hdr|nii|nrrd|mha|mhd|npy|npz|h5"
    r"|hdf5?|mat|mp4|avi|mov|mkv|webm|wav|mp3|flac|csv|tsv|txt|json|xml|html?|docx?|xlsx?|zip|tar|gz|7z|svs|ndpi|czi))"
)
_BEHIND = re.compile(r"[?#].*$")  # what follows the path of an address
_PATH = re.compile(rf"\s*[\"']?(?:{_ADDRESS}|{_FOLDERS}|{_FILE})[\"']?\s*")
_LOOKED_AT, _SAMPLE = 5, 2000


def names_picture(word: str) -> bool:
    """Return whether a word is a picture or names one: by the suffix of its path, whatever follows it."""
    path = FRAME.sub("", word.strip().strip("\"'"))
    path = _BEHIND.sub("", path) if "://" in path else path
    inside = DATA_ADDRESS.match(word) or BASE64.fullmatch(word)
    return inside is not None or path.lower().endswith(IMAGE_SUFFIXES)


def image_share(words: pd.Series) -> float:
    """Return the share of words that are pictures or name some."""
    return float(words.map(names_picture).mean())


def looks_like_paths(words: pd.Series) -> str | None:
    """Return why words look like paths, addresses or file names, although too few of them name pictures; else None."""
    sample = words.drop_duplicates().head(_SAMPLE)
    pictures, paths = image_share(sample), float(sample.str.fullmatch(_PATH).mean())
    if max(pictures, paths) < 0.5:
        return None
    seen = f"{paths:.0%} of the values look like paths or addresses, such as {clipped(str(sample.iloc[0]), 60)}"
    if pictures >= 0.3:
        seen = f"only {pictures:.0%} of the values end like image files"
    return f"{seen}; say what they are: --kind COLUMN=image ({KNOWN_FORMATS}), category or text"


def lead_to_pictures(words: pd.Series, root: Path, confined: bool) -> bool:
    """Return whether the first few files that words name exist and begin like pictures, whatever their names are.

    Args:
        words: Cells that may be paths.
        root: Folder that relative paths start from.
        confined: May no file be looked at that is not within `root`?
    """
    seen = 0
    for word in words.drop_duplicates().head(_LOOKED_AT):
        try:
            path = (root / FRAME.sub("", word.strip())).resolve()
            if not path.is_file() or (confined and not path.is_relative_to(root.resolve())):
                continue
            with path.open("rb") as file:
                if not _BEGINNINGS.match(file.read(132)):
                    return False
        except (OSError, ValueError, RuntimeError):
            continue
        seen += 1
    return seen > 0


def begins_like_picture(content: bytes) -> bool:
    """Return whether bytes begin like a file in one of the formats."""
    return _BEGINNINGS.match(content[:132]) is not None


def split_frame(value: str) -> tuple[str, int | None]:
    """Split `#frame=3` off a path; None where no frame is named.

    Raises:
        ImageError: If several frames are named.
    """
    match = FRAME.search(value)
    if match is None:
        return value, None
    numbers = match[0].split("#frame=")[1:]
    if len(numbers) > 1:
        raise ImageError(f"it names {len(numbers)} frames ({clipped(match[0], 60)}); keep one '#frame=N'")
    if len(numbers[0]) > 18:
        raise ImageError(f"there is no frame {clipped(numbers[0], 20)}")
    return value[: match.start()], int(numbers[0])
