"""Where faults are injected: a clean table with pictures, a trained model, and what it takes to survive a fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import fusetune
from fusetune.errors import FusetuneError
from fusetune.model import Model

ROWS = 48
# Small networks, fitted in one way: what is tried is the way in and the way out.
_SETTINGS: dict[str, Any] = {
    "threads": 1,
    "onnx": False,
    "device": "cpu",
    "views": 1,
    "crossfit": {"how": "off"},
    "image": {"encoder": "builtin", "size": 16, "encode_size": 16},
    "text": {"encoder": "builtin", "max_tokens": 16},
    "columns": {"width": 8},
    "head": {"kind": "ridge"},
    "evaluate": {"resamples": 100, "baselines": False},
    "strategy": {"name": "two-stage"},
    "tries": False,
}


def settings(store: Path, epochs: int = 0) -> dict[str, Any]:
    """Return the configuration of all runs here."""
    train = {"epochs": epochs, "batch_size": 16, "patience": 0}
    return _SETTINGS | {"train": train, "store": {"folder": str(store)}}


class CannotTryError(Exception):
    """A fault cannot be injected on this machine; the message says why."""


@dataclass(frozen=True)
class Workshop:
    """Where one fault is injected.

    Attributes:
        folder: An empty folder, of this fault alone.
        frame: A clean table: id, scan (absolute paths), note, age, site, part, patient, organ.
        made: The folder of a run on that table with all inputs.
    """

    folder: Path
    frame: pd.DataFrame
    made: Path

    def fit(self, table: pd.DataFrame | Path | None = None, label: str = "organ", **how: Any) -> fusetune.Run:
        """Train on a table, by default the clean one, in the folder `run`, on the columns age and site."""
        options: dict[str, Any] = {"inputs": ["age", "site"], "split": "part", "out": self.folder / "run"}
        options["config"] = settings(self.made.parent / "store")
        return fusetune.fit(self.frame if table is None else table, label, quiet=True, **(options | how))

    def fit_pictures(self, frame: pd.DataFrame | Path, *sets: str) -> fusetune.Run:
        """Train on pictures alone."""
        return self.fit(frame, inputs=["scan"], sets=sets)

    def model(self) -> Model:
        """Load the model of the clean table."""
        return fusetune.load(self.made)

    def changed(self, column: str, value: Any, *rows: int) -> pd.DataFrame:
        """Return the clean table with another value in some rows of a column."""
        frame = self.frame.copy()
        frame[column] = frame[column].astype(object)
        for row in rows:
            frame.at[row, column] = value
        return frame

    def file(self, content: bytes, name: str = "table.csv") -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def csv(self, frame: pd.DataFrame | None = None) -> bytes:
        """Return a table, by default the clean one, as CSV."""
        return (self.frame if frame is None else frame).to_csv(index=False).encode()


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: What the table of results calls it and others of its sort.
        case: Which one of them it is.
        inject: Does it.
        message: What the error must say (a regular expression: where it is, and what to do); empty: work must go on.
        code: The exit code of that error.
    """

    name: str
    case: str
    inject: Callable[[Workshop], object]
    message: str = ""
    code: int = 2


def open_workshop(folder: Path) -> Workshop:
    """Draw pictures, make the table, and train the model that all faults share."""
    frame = clean(folder / "pictures")
    shop = Workshop(folder, frame, folder / "run")
    shop.fit(inputs=["scan", "note", "age", "site"], row_id="id")
    return shop


def went_wrong(fault: Fault, shop: Workshop) -> str:
    """Inject a fault; return why it was not survived, or nothing.

    It was, if work went on where it can, or one error of fusetune says what has to be said, with its exit code; and in
    both cases nothing half-written is left.
    """
    try:
        fault.inject(shop)
    except CannotTryError:
        raise
    except FusetuneError as error:
        if not fault.message or not re.search(fault.message, str(error), re.DOTALL) or error.exit_code != fault.code:
            return f"{type(error).__name__} with exit code {error.exit_code}: {error}"
        return _half_written(shop.folder) or _half_a_run(shop.folder / "run")
    except Exception as error:  # whatever it is, it is what this looks for
        return f"{type(error).__name__}: {error}"
    return "nothing was said" if fault.message else _half_written(shop.folder)


def _half_written(folder: Path) -> str:
    left = [str(path) for path in folder.rglob(".*") if path.name != ".lock"]
    return f"left behind: {', '.join(left)}" if left else ""


def _half_a_run(folder: Path) -> str:
    left = [name for name in ("metrics.json", "predictions.parquet") if (folder / name).exists()]
    return f"a refused run left {', '.join(left)}" if left else ""


def clean(folder: Path) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    code = np.arange(ROWS) // 2 % 2
    for row in range(ROWS):
        pixels = generator.integers(0, 160, (24, 24, 3)) + 80 * code[row]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{row}.png")
    return pd.DataFrame(
        {
            "id": [f"case-{row}" for row in range(ROWS)],
            "scan": [str(folder / f"{row}.png") for row in range(ROWS)],
            "note": [f"seen on the {'left' if k else 'right'} side, number {i}" for i, k in enumerate(code)],
            "age": (40 + 9 * code + generator.normal(0, 6, ROWS)).round(1),
            "site": [f"site {(k + generator.integers(0, 2)) % 3}" for k in code],
            "part": np.where(np.arange(ROWS) < 32, "train", np.where(np.arange(ROWS) < 40, "valid", "test")),
            "patient": [f"p{row // 2}" for row in range(ROWS)],
            "organ": np.where(code == 1, "lung", "heart"),
        }
    )
