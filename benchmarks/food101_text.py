"""UPMC Food-101 from 5,000 titles: the paper's shallow network and stronger text classifiers on the official test part.

Every route is trained on the 5,000 development titles alone; which of the strong routes is the answer is decided by
5-fold cross-validation inside them. The 22,715 test titles are read once, after that. Scores are given separately for
titles that name their dish (73 %) and for those that do not: the first are a matter of reading, the second of guessing
from a web site's name, and the average of both says little about either.

References: TF-IDF and logistic regression 82.6 % from the same 5,000 titles; the paper's networks, trained on 67,970
titles, 83.4 % (shallow) and 84.6 % (GPT-2). Aim: 86 %.

Tried inside the 5,000 and left out, since it was no better than the mean (.8448): the dishes' names as further training
texts, words and vectors in one model (.8452).

Prediction for the mean with a second encoder, written before the test titles were read: cross-validation says 84.5 %
(99 % of the titles with the dish's name, 45 % of the others), so the test says about 84.8 %, above the paper's networks
at one fourteenth of their titles, and the aim of 86 % is missed: TF-IDF trained on four times as many titles only
reached 85.2 %. For fine-tuning MiniLM, added later: one point above the frozen encoder, half a point beside the words.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix, hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

import fusetune
from fusetune.augment.token_noise import TextAugment
from fusetune.config import Config, TextPolicy
from fusetune.data.table import Table, row_keys
from fusetune.data.tokens import TextInput
from fusetune.encoders import load_text_encoder, special_ids
from fusetune.evaluate.intervals import wilson
from fusetune.features.store import Encoding, FeatureStore
from fusetune.progress import Log, track
from fusetune.runtime import Runtime, start_runtime
from fusetune_papers.reproduce.alone import text_scores
from fusetune_papers.reproduce.flaws import FOOD101, flaws_of
from fusetune_papers.reproduce.lab import Lab
from fusetune_papers.reproduce.material import material_of
from fusetune_papers.reproduce.recipe import load_recipe

Array = npt.NDArray[Any]
Features = tuple[pd.Series, dict[str, Array]]
Route = Callable[[Features, Array, Features], Array]
_FOLDS = 5


def main() -> None:
    args = _arguments()
    if not args.data.is_dir():
        print(f"left out, there is no {args.data}")
        return
    table = pd.read_csv(args.data / "manifest.csv.gz", keep_default_na=False)  # one title reads "nan"
    if args.quick:
        table = table.groupby(["label", "split"]).head(7)
    runtime = start_runtime(Config())
    with TemporaryDirectory() as temporary:
        cache = args.cache or Path(temporary)
        encoders = {"MiniLM": "all-MiniLM-L6-v2"} | ({"second": args.encoder} if args.encoder else {})
        dev = table[table["split"] == "dev"].reset_index(drop=True)
        classes, labels = np.unique(dev["label"], return_inverse=True)
        train = _features(dev["text"], encoders, runtime, cache)
        routes = _routes(list(encoders))
        inside = {name: _cross_validated(route, name, train, labels) for name, route in routes.items()}
        inside |= _average(inside)
        best = max(inside, key=lambda name: float((inside[name].argmax(1) == labels).mean()))
        test = table[table["split"] == "test"].reset_index(drop=True)  # from here on nothing is chosen any more
        target = np.searchsorted(classes, test["label"])
        asked = _features(test["text"], encoders, runtime, cache)
        scores = {name: route(train, labels, asked) for name, route in track(list(routes.items()), "on all 5,000")}
        scores |= _average(scores)
        scores |= {f"shallow network, {form}": _shallow(table, form, runtime, cache) for form in ("paper", "sound")}
        if args.fine_tune:
            scores["MiniLM, fine-tuned, and words: fusetune.fit"] = _fitted(table, classes, 0 if args.quick else 2)
    rows = [_row(name, scores[name], target, test, inside.get(name), labels) for name in scores]
    result = {"rows": rows, "chosen by cross-validation": best, "titles": len(dev), "quick": args.quick}
    _show(result)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    data = Path(os.environ.get("FUSETUNE_DATA", "../shared/data")) / "upmc_food101_text"
    parser.add_argument("--data", type=Path, default=data, help="folder with manifest.csv.gz")
    parser.add_argument("--encoder", help="folder of a second sentence encoder, such as all-mpnet-base-v2")
    parser.add_argument(
        "--fine-tune", action="store_true", help="also a whole run that fine-tunes MiniLM (half an hour)"
    )
    parser.add_argument("--cache", type=Path, help="keep encoded titles here")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="a few titles of every class: does it run?")
    return parser.parse_args()


def _features(texts: pd.Series, encoders: dict[str, str], runtime: Runtime, cache: Path) -> Features:
    """Return the texts and, by encoder, their vectors of length 1."""
    vectors = {}
    for name, place in encoders.items():
        encoder, tokenizer = load_text_encoder(place, max_tokens=64)
        table = Table(pd.DataFrame({"text": texts}), "titles", Path())
        pad = special_ids(tokenizer).pad
        source = TextInput("text", tokenizer, pad, 64).bind(table)
        plain = TextAugment(TextPolicy(drop=0), (), pad)
        rows = np.arange(len(texts))
        store = FeatureStore(cache, runtime, Log(None, quiet=True))
        z = store.encode(Encoding(name, encoder, source, plain, row_keys(texts), 128), rows)[0]
        vectors[name] = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)
    return texts, vectors


def _routes(encoders: list[str]) -> dict[str, Route]:
    """Return (training titles with labels, new titles) -> class probabilities, by name."""
    words, chars = {"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 5), "min_df": 2}

    def logistic(strength: float, counts: list[dict[str, Any]], dense: list[str]) -> Route:
        def route(train: Features, labels: Array, asked: Features) -> Array:
            blocks = [TfidfVectorizer(sublinear_tf=True, **options) for options in counts]
            x = hstack([*(b.fit_transform(train[0]) for b in blocks), *(csr_matrix(train[1][name]) for name in dense)])
            model = LogisticRegression(C=strength, max_iter=200).fit(x.tocsr().astype(np.float32), labels)
            new = hstack([*(b.transform(asked[0]) for b in blocks), *(csr_matrix(asked[1][name]) for name in dense)])
            return np.asarray(model.predict_proba(new.tocsr().astype(np.float32)))

        return route

    alone = {f"{name}, frozen": logistic(30, [], [name]) for name in encoders}
    return {
        "TF-IDF of words": logistic(50, [words], []),
        "TF-IDF of words and characters": logistic(30, [words, chars], []),
        **alone,
    }


def _average(scores: dict[str, Array]) -> dict[str, Array]:
    """Return the mean of the log-probabilities of characters and vectors."""
    parts = ["TF-IDF of words and characters", *(name for name in scores if name.endswith("frozen"))]
    return {"mean of the latter": softmax(np.mean([np.log(scores[part] + 1e-9) for part in parts], axis=0), axis=1)}


def _cross_validated(route: Route, name: str, titles: Features, labels: Array) -> Array:
    folds = list(StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(labels, labels))
    result = np.zeros((len(labels), int(labels.max()) + 1))
    for train, held in track(folds, f"cross-validating {name}"):
        result[held] = route(_some(titles, train), labels[train], _some(titles, held))
    return result


def _some(features: Features, rows: Array) -> Features:
    return features[0].iloc[rows], {name: z[rows] for name, z in features[1].items()}


def _shallow(table: pd.DataFrame, form: str, runtime: Runtime, cache: Path) -> Array:
    """Return the paper's shallow network's probabilities of the test rows, with all flaws or with none."""
    flaws = flaws_of(FOOD101) if form == "paper" else frozenset[str]()
    material = material_of(FOOD101, Table(table.reset_index(drop=True), "titles", Path()), "label")
    stage = load_recipe("food101-text-shallow", "paper").text
    assert stage is not None
    lab = Lab(material, flaws, runtime, Log(None, quiet=True), 0, cache)
    # All test titles, also the first, which the notebook loses: one row in 22,716.
    asked = np.flatnonzero(material.table.frame["split"] == "test")
    return np.asarray(softmax(text_scores(lab, stage).all[asked], axis=1))


def _fitted(table: pd.DataFrame, classes: Array, epochs: int) -> Array:
    """Return the test rows' probabilities of a whole run that fine-tunes MiniLM and also reads the words."""
    rows = table[["text", "label"]].assign(split=table["split"].replace("dev", "train"))
    settings = {"max_tokens": 32, "train": {"epochs": epochs, "lr": 1e-4, "head_lr": 1e-3}}
    # When the test titles were read, the head read MiniLM both ways and the words whether or not they helped; the first
    # is no longer the default, the second no longer possible, and the run says what it reads.
    config = {"text": settings, "head": {"pretrained": True}}
    config |= {"doctor": {"check": False}, "evaluate": {"resamples": 200}}
    how: dict[str, Any] = {"inputs": ["text"], "kinds": {"text": "text"}, "split": "split", "config": config}
    with TemporaryDirectory() as folder:
        run = fusetune.fit(rows, "label", out=Path(folder) / "run", **how)
        predictions = pd.read_parquet(run.folder / "predictions.parquet")
    return predictions[predictions["part"] == "test"][[f"p({name})" for name in classes]].to_numpy()


def _row(name: str, p: Array, target: Array, test: pd.DataFrame, inside: Array | None, labels: Array) -> dict[str, Any]:
    right, named = p.argmax(1) == target, test["name_in_text"].to_numpy() == 1
    return {
        "route": name,
        "cross-validated": None if inside is None else float((inside.argmax(1) == labels).mean()),
        "test": float(right.mean()),
        "interval": wilson(int(right.sum()), len(right)),
        "named": float(right[named].mean()),
        "not named": float(right[~named].mean()),
        "share named": float(named.mean()),
        "n": len(right),
    }


def _show(result: dict[str, Any]) -> None:
    print(
        f"trained on {result['titles']:,} titles{'':26}{'cross-val.':>10}{'test':>8}  95 %{'':14}{'named':>7}{'not':>7}"
    )
    for row in result["rows"]:
        inside = "" if row["cross-validated"] is None else f"{row['cross-validated']:.4f}"
        low, high = row["interval"]
        chosen = "  <- chosen" if row["route"] == result["chosen by cross-validation"] else ""
        print(
            f"{row['route']:48}{inside:>10}{row['test']:>8.4f}  [{low:.4f}, {high:.4f}]{row['named']:>7.3f}"
            f"{row['not named']:>7.3f}{chosen}"
        )
    print("references: TF-IDF + logistic regression .826; trained on 67,970 titles: shallow .834, GPT-2 .846; aim .86")


if __name__ == "__main__":
    main()
