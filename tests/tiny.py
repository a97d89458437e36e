"""A small table with every kind of input, and settings under which it is fitted within seconds."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

CLASSES = ("heart", "liver", "lung")
_WORDS = {
    "heart": ("beats", "chamber", "valve"),
    "liver": ("bile", "lobe", "portal"),
    "lung": ("air", "breath", "bronchus"),
}
_FILLER = ("the", "a", "of", "seen", "left", "right", "patient", "with")


def tiny_table(folder: Path, rows: int = 96, classes: Sequence[Any] = CLASSES, seed: int = 0) -> pd.DataFrame:
    """Write pictures into a folder and return a table: case_id, scan, note, age, site, v_0..v_3, patient, part, organ.

    Every input tells the class, none of them perfectly. Rows of one patient have one class and are in one part; there
    are patients of one, of two and of three rows.
    """
    frame, pictures = _drawn(rows, tuple(classes), seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    return frame.copy()


@lru_cache(maxsize=4)
def _drawn(rows: int, classes: tuple[Any, ...], seed: int) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """Draw the table and the contents of its pictures: once, since most tests ask for the same."""
    generator = np.random.default_rng(seed)
    code = np.arange(rows) // 2 % len(classes)
    pictures = {f"{row}.png": _picture(int(k), generator) for row, k in enumerate(code)}
    frame = pd.DataFrame({"case_id": [f"case-{i:03d}" for i in range(rows)]})
    frame["scan"] = list(pictures)
    frame["note"] = [_sentence(int(k), generator) for k in code]
    frame["age"] = (40 + 12 * code + generator.normal(0, 8, rows)).round(1)
    frame["site"] = [f"site {(k + generator.integers(0, 2)) % 3}" for k in code]
    vectors = np.eye(max(4, len(classes)))[code][:, :4] + generator.normal(0, 0.6, (rows, 4))
    for index in range(4):
        frame[f"v_{index}"] = vectors[:, index]
    block = np.arange(rows) // (2 * len(classes)) % 8
    frame["part"] = np.select([block == 6, block == 7], ["val", "test"], "train")
    frame["organ"] = [classes[k] for k in code]
    frame.insert(frame.columns.get_loc("part"), "patient", _patients(code, frame["part"]))  # type: ignore[arg-type]
    return frame, pictures


def untold_table(folder: Path, columns: int = 60) -> pd.DataFrame:
    """Return a tiny table whose vectors tell rows apart and nothing of their class: only memory scores well on it."""
    frame = tiny_table(folder).drop(columns=[f"v_{i}" for i in range(4)])
    vectors = np.random.default_rng(0).normal(size=(len(frame), columns))
    return pd.concat([frame, pd.DataFrame(vectors, columns=[f"v_{i}" for i in range(columns)])], axis=1)


def settings(store: Path, **more: Any) -> dict[str, Any]:
    """Return settings for a run of seconds; a double underscore in a name stands for a dot."""
    found: dict[str, Any] = {
        "threads": 1,
        "onnx": False,
        "device": "cpu",
        "views": 2,
        "crossfit": {"how": "off"},
        "train": {"epochs": 2, "batch_size": 16, "patience": 0},
        "image": {"encoder": "builtin", "size": 32, "encode_size": 32, "train": {"lr": 3e-3}},
        "text": {"encoder": "builtin", "max_tokens": 16, "train": {"lr": 3e-3}},
        "columns": {"width": 16},
        "store": {"folder": str(store)},
        "evaluate": {"resamples": 100},
        # One way to fit; tests of the others name them.
        "strategy": {"name": "two-stage"},
        "tries": False,
    }
    for name, value in more.items():
        *parents, last = name.split("__")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return found


@contextmanager
def few_trees() -> Iterator[None]:
    """Bound what is grown as a table of a thousand classes bounds it: hundreds of rounds take seconds on any table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fusetune.heads.boosted._MOST", 300)
        yield


def no_network(monkeypatch: Any) -> list[Any]:
    """Refuse and note every attempt to open a connection, to this machine too."""
    tried: list[Any] = []

    def refuse(_: Any, address: Any) -> None:
        tried.append(address)
        raise OSError(f"no connection to {address} in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    return tried


def _patients(code: npt.NDArray[np.int64], part: pd.Series) -> list[str]:
    """Return the patient of each row: within a class and a part, in turn one of 1 row, one of 3 rows, one of 2."""
    place = pd.Series(code).groupby([code, part]).cumcount().to_numpy()
    number = place // 6 * 3 + np.array([0, 1, 1, 1, 2, 2])[place % 6]
    return [f"p{i}" for i in pd.factorize(pd.MultiIndex.from_arrays([code, part, number]))[0]]


def _picture(code: int, generator: np.random.Generator) -> bytes:
    pixels = generator.integers(0, 90, (32, 32, 3))
    pixels[:, :, code % 3] += 60
    pixels[8 : 12 + 4 * code, 8:24] += 80
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def _sentence(code: int, generator: np.random.Generator) -> str:
    words = list(generator.choice(_FILLER, 5))
    words[int(generator.integers(0, 5))] = str(generator.choice(_WORDS[CLASSES[code % 3]]))
    return " ".join(words)
