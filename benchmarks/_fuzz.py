"""Random damage to real bytes of images and tables; whatever comes out is fine, or one clear error of fusetune."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _bad_images import FORMATS, picture

from fusetune.data.images import ImageInput
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.stored import Encoded
from fusetune.data.table import read_table
from fusetune.errors import FusetuneError

Generator = np.random.Generator
# More pixels than any of the pictures has, few enough that a changed header cannot ask for much memory.
_PIXELS = 1_000_000
_CSV = (
    "id,name,note,age,day,ok,code\n"
    '1,"Smith, J.","two\nlines",40.5,2020-01-31,yes,007\n'
    '2,Großmann,"he said ""no""",41,2021-12-01,no,008\n'
    "3,李,,,31/12/1999,yes,009\n"
    "4,=1+1,nan,-1e3,2022-02-30,no,1234567890123456789\n"
).encode()


def fuzz_images(count: int, seed: int) -> dict[str, Counter[str]]:
    """Return what became of damaged pictures, per format: ok, clear error, or the name of any other exception."""
    reader = ImageInput(column="image", size=32, fit="stretch", pixel_limit=_PIXELS)

    def look(data: bytes) -> None:
        reader.square(Encoded(data))

    return {
        form: _outcomes(picture(form), count, np.random.default_rng([seed, place]), look)
        for place, form in enumerate(FORMATS)
    }


def fuzz_tables(count: int, seed: int) -> dict[str, Counter[str]]:
    """Return what became of damaged CSV files, read and looked at."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"

        def read(data: bytes) -> None:
            path.write_bytes(data)
            infer_schema(read_table(path), Roles())

        return {"csv": _outcomes(_CSV, count, np.random.default_rng(seed), read)}


def _outcomes(data: bytes, count: int, generator: Generator, use: Callable[[bytes], object]) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(count):
        broken = _damaged(data, generator)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # parsers complain about what they can still read
                use(broken)
            found["ok"] += 1
        except FusetuneError:
            found["clear error"] += 1
        except Exception as error:  # whatever it is, it is what this looks for
            found[f"{type(error).__name__}: {error}"[:200]] += 1
    return found


def _damaged(data: bytes, generator: Generator) -> bytes:
    """Return the bytes with one to four changes: bytes replaced, cut off, cut out, doubled, or moved in."""
    changed = bytearray(data)
    for _ in range(generator.integers(1, 5)):
        start, stop = sorted(generator.integers(0, len(changed) + 1, 2).tolist())
        match generator.integers(6):
            case 0 if changed:
                # Headers are where a parser is led astray.
                changed[generator.integers(min(len(changed), 200))] = generator.integers(256)
            case 1 if changed:
                for place in generator.integers(0, len(changed), 8):
                    changed[place] = generator.integers(256)
            case 2:
                del changed[stop:]
            case 3:
                del changed[start : start + 16]
            case 4:
                changed[start:start] = changed[start : start + 64]
            case _:
                changed[start:start] = generator.bytes(8)
    return bytes(changed)
