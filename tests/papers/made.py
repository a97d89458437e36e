"""Made-up rows for the experiments: streams of near-equal pictures, titles, and what a stream's name says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from typer.testing import CliRunner

import fusetune_papers.cli  # noqa: F401  # adds the commands
from fusetune.cli.frame import app
from fusetune.config import Config
from fusetune.data.table import Table
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune_papers.datasets.streams import LOCATIONS
from fusetune_papers.reproduce.head import Frozen
from fusetune_papers.reproduce.lab import Lab, untrained
from fusetune_papers.reproduce.material import Material, material_of
from fusetune_papers.reproduce.recipe import Recipe, Stage, TextStage
from fusetune_papers.reproduce.series import Series, run_series

IMAGE = Stage(epochs=2, batch_size=16, lr=0.02)
HEAD = Stage(epochs=3, batch_size=16, lr=0.01)
TEXT = TextStage(epochs=2, batch_size=16, lr=0.01)


def streams(folder: Path, count: int = 10, frames: int = 8) -> Material:
    """Return frames of streams with pictures; the target changes in the middle of each stream."""
    generator = np.random.default_rng(0)
    rows = []
    for stream in range(count):
        colour = generator.integers(20, 200, 3)
        for frame in range(frames):
            target = int((frame >= frames // 2) ^ (stream % 2))
            pixels = generator.normal(colour, 8, (24, 24, 3)) + 50 * target
            name = f"{stream}_{frame}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            rows.append({"image": name, "stream": f"s{stream}", "frame": frame, "head": target, **place(stream)})
    frame = pd.DataFrame(rows)
    frame.insert(0, "id", frame["stream"] + "/" + frame["frame"].astype(str))
    frame["text"] = [f"view {i % 7} {'skull' if t else 'fluid'}" for i, t in enumerate(frame["head"])]
    return material_of("phantom", Table(frame, "made up", folder), "head")


def place(stream: int) -> dict[str, object]:
    """Return what a stream's name says."""
    probe = "horizontal" if stream % 3 else "vertical"
    return {"head_up": stream % 2, "front_view": stream // 2 % 2, "location": LOCATIONS[stream % 5], "probe": probe}


def titles(classes: int = 3, rows: int = 60, short: int | None = None) -> Material:
    """Return titles with given train and test parts, sorted by class as the notebooks' files are."""
    part = np.where(np.arange(rows) % 4 == 3, "test", "train")
    label = np.arange(rows) * classes // rows
    text = [f"{['apple', 'bread', 'cake'][k % 3]} recipe {i % 5}" for i, k in enumerate(label)]
    frame = pd.DataFrame({"id": [f"r{i}" for i in range(rows)], "text": text, "label": label, "split": part})
    if short is not None:
        frame.loc[np.flatnonzero(part == "train")[short], "text"] = "x"
    return material_of("upmc-food101", Table(frame, "made up", Path()), "label")


def recipe(**more: object) -> Recipe:
    """Return a fused experiment of seconds."""
    settings = {
        "name": "made-up", "title": "made up", "data": "phantom", "stage": "fused", "encoder": "builtin", "size": 16,
        "canvas": 18, "side": ("place",), "head": HEAD, "views": 2, **more,
    }  # fmt: skip
    return Recipe.model_validate(settings)


def lab(material: Material, folder: Path, *flaws: str, seed: int = 0) -> Lab:
    """Return a lab on one thread that says nothing."""
    runtime = start_runtime(Config.build({"threads": 1, "device": "cpu"}))
    return Lab(material, frozenset(flaws), runtime, Log(None, quiet=True), seed, folder / "store", resamples=20)


def frozen(made: Lab, plan: Recipe) -> Frozen:
    """Return an experiment's image network as it was pretrained."""
    run = made.images(plan)
    return Frozen(made, run, untrained(run, made.draws))


def command(*words: str) -> tuple[int, str]:
    """Return the exit code and the output of `fusetune reproduce`."""
    done = CliRunner().invoke(app, ["reproduce", *words], terminal_width=200)
    return done.exit_code, done.output


def run(material: Material, plans: list[Recipe], flaws: frozenset[str], folder: Path, form: str = "x") -> Series:
    """Run some experiments on one thread and return what came of them."""
    series = Series(material.task, form, flaws)
    run_series(series, plans, lambda its: lab(material, folder, *its))
    return series
