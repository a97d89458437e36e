"""Which learner of columns: boosted trees (LightGBM), TabM, or logistic regression, cross-validated on real tables.

TabM (Gorishniy et al., ICLR 2025, package `tabm`; `pip install --no-deps tabm rtdl_num_embeddings` beside fusetune) is
an ensemble of 32 MLPs that share most of their weights, here with piecewise-linear embeddings of up to 100 numbers, and
AdamW at 2e-3. Trees are grown with the settings of the strategy `trees`. Both stop early on a tenth of their rows. All
learners read the same cells, texts reduced to 30 components of their TF-IDF, and are judged by five-fold
cross-validation (whole groups together) on rows that are not of the test part. Nothing is tuned.

Prediction, written before it was run: trees ahead by NLL where cells are few and rows thousands (women's clothing),
TabM ahead of trees on hundreds of numbers (rosmap), logistic regression ahead of both there; no difference beyond the
intervals on medpix2.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from _cases import DATA
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fusetune.evaluate import paired_difference
from fusetune.evaluate.metrics import accuracy, nll
from fusetune.heads.boosted import Boosting

Matrix = npt.NDArray[np.float64]
_FOLDS, _REDUCED, _EPOCHS, _PATIENCE = 5, 30, 200, 16
_EMBEDDED = 100  # numbers at most that are given embeddings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("sets", nargs="*", default=list(SETS), help=f"which of {', '.join(SETS)}; default: all")
    parser.add_argument("--rows", type=int, default=4000, help="rows at most")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="300 rows of each: does it run?")
    args = parser.parse_args()
    found = {name: judged(name, 300 if args.quick else args.rows) for name in args.sets}
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


def judged(name: str, most: int) -> dict[str, Any]:
    """Print and return what each learner says of rows that it did not learn from."""
    path, label, numbers, categories, texts, group = SETS[name]
    frame = (pd.read_parquet if path.suffix == ".parquet" else pd.read_csv)(path)
    part = next((column for column in ("split", "part") if column in frame), None)
    frame = frame[frame[part] != "test"] if part else frame
    frame = frame[frame[label].notna()].sample(frac=1, random_state=0).head(most).reset_index(drop=True)
    numbers = numbers or [column for column in map(str, frame) if "__" in column]
    y = frame[label].astype("category").cat.codes.to_numpy(np.int64)
    groups = frame[group].to_numpy() if group else np.arange(len(frame))
    folds = list(StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0).split(frame, y, groups))
    said = {one: np.zeros((len(y), y.max() + 1)) for one in LEARNERS}
    seconds = dict.fromkeys(LEARNERS, 0.0)
    for learns, held in folds:
        x, codes = prepared(frame, learns, numbers, categories, texts)
        for one, learner in LEARNERS.items():
            started = time.process_time()
            said[one][held] = learner(x[learns], codes[learns], y[learns], x[held], codes[held], groups[learns])
            seconds[one] += time.process_time() - started
    what = f"{len(numbers)} numbers, {len(categories)} categories, {len(texts)} texts, {y.max() + 1} classes"
    print(f"\n{name}: {len(y):,} rows of {len(np.unique(groups)):,} groups, {what}")
    rows: dict[str, Any] = {"rows": len(y), "learners": {}}
    said = {one: p / p.sum(1, keepdims=True) for one, p in said.items()}
    for one, p in said.items():
        less = paired_difference(p, said["trees"], y, groups if group else None)["nll"]
        rows["learners"][one] = {
            "nll": nll(p, y), "accuracy": accuracy(p, y), "cpu seconds": seconds[one],
            "nll against trees": [less.value, less.low, less.high],
        }  # fmt: skip
        bounds = "" if one == "trees" else f", against trees {less.value:+.3f} [{less.low:+.3f}, {less.high:+.3f}]"
        print(
            f"  {one:20} NLL {nll(p, y):.3f}, accuracy {accuracy(p, y):.3f}, {seconds[one]:.0f} CPU s{bounds}",
            flush=True,
        )
    return rows


def prepared(
    frame: pd.DataFrame, learns: npt.NDArray[np.int64], numbers: list[str], categories: list[str], texts: list[str]
) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """Return numbers with reduced texts, NaN where missing, and codes of categories, fitted on the rows that learn."""
    blocks = [frame[numbers].to_numpy(np.float64)] if numbers else []
    for text in texts:
        words = frame[text].fillna("")
        model = make_pipeline(TfidfVectorizer(min_df=2, sublinear_tf=True), TruncatedSVD(_REDUCED, random_state=0))
        model.fit(words.iloc[learns])
        blocks.append(model.transform(words))
    codes = np.zeros((len(frame), len(categories)), np.int64)
    for place, category in enumerate(categories):
        known = {value: code for code, value in enumerate(frame[category].iloc[learns].dropna().unique(), 2)}
        codes[:, place] = [0 if pd.isna(value) else known.get(value, 1) for value in frame[category]]
    return (np.concatenate(blocks, 1) if blocks else np.zeros((len(frame), 0))), codes


def _set_aside(groups: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which rows to stop early by: those of a tenth of the groups."""
    names, own = np.unique(groups, return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) < len(names) // 10 + 1)[own]


def trees(x: Matrix, codes: Any, y: Any, new: Matrix, new_codes: Any, groups: Any) -> Matrix:
    """LightGBM, as the strategy `trees` grows them."""
    import lightgbm  # noqa: PLC0415

    aside, usual = _set_aside(groups), Boosting()
    model = lightgbm.LGBMClassifier(
        learning_rate=usual.rate, num_leaves=usual.leaves, n_estimators=usual.rounds,
        min_child_samples=min(20, max(3, len(y) // 50)), colsample_bytree=0.6, subsample=0.8, subsample_freq=1,
        reg_lambda=1.0, random_state=0, n_jobs=torch.get_num_threads(), verbosity=-1,
    )  # fmt: skip
    table, cells = np.concatenate([x, codes], 1), list(range(x.shape[1], x.shape[1] + codes.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of categories that are given as numbers
        model.fit(
            table[~aside], y[~aside], eval_set=[(table[aside], y[aside])], categorical_feature=cells,
            callbacks=[lightgbm.early_stopping(usual.stop_after, verbose=False)],
        )  # fmt: skip
        return _spread(np.asarray(model.predict_proba(np.concatenate([new, new_codes], 1))), model.classes_, y)


def tabm(x: Matrix, codes: Any, y: Any, new: Matrix, new_codes: Any, groups: Any) -> Matrix:
    """TabM with piecewise-linear embeddings, the mean of its 32 probabilities."""
    from rtdl_num_embeddings import PiecewiseLinearEmbeddings, compute_bins  # noqa: PLC0415
    from tabm import TabM  # noqa: PLC0415

    torch.manual_seed(0)
    aside = _set_aside(groups)
    scaler = StandardScaler().fit(x[~aside])
    put = [np.nan_to_num(scaler.transform(one)).astype(np.float32) for one in (x, new)]
    gone = [np.isnan(one).astype(np.int64) for one in (x, new)]
    some = np.flatnonzero(gone[0].any(0))  # that a number is missing is a category of two values
    cells = [torch.from_numpy(np.concatenate(p, 1)) for p in ((codes, gone[0][:, some]), (new_codes, gone[1][:, some]))]
    sizes = [int(max(cells[0][:, i].max(), cells[1][:, i].max())) + 1 for i in range(cells[0].shape[1])]
    numbers = [torch.from_numpy(one) for one in put]
    varies = [i for i in range(x.shape[1]) if len(np.unique(put[0][~aside][:, i])) > 1]
    numbers = [one[:, varies] for one in numbers]
    # With embeddings, an epoch of hundreds of numbers takes five seconds of a core for 200 rows.
    bins = compute_bins(numbers[0][torch.from_numpy(~aside)]) if 0 < len(varies) <= _EMBEDDED else None
    embed = PiecewiseLinearEmbeddings(bins, 16, activation=False, version="B") if bins else None
    model = TabM.make(n_num_features=len(varies), cat_cardinalities=sizes, d_out=int(y.max()) + 1, num_embeddings=embed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=3e-4)
    learns, watch, target = np.flatnonzero(~aside), np.flatnonzero(aside), torch.from_numpy(y)

    def say(which: Any, of: int = 0) -> torch.Tensor:
        given = numbers[of][which] if varies else None, cells[of][which] if sizes else None
        out: torch.Tensor = model(*given)
        return out

    best, kept, waited = np.inf, {}, 0
    for epoch in range(_EPOCHS):
        model.train()
        order = np.random.default_rng(epoch).permutation(learns)
        for batch in np.array_split(order, max(1, len(order) // 256)):
            logits = say(batch)
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), target[batch].repeat_interleave(logits.shape[1])
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        model.eval()
        with torch.no_grad():
            score = float(-say(watch).softmax(-1).mean(1).log()[torch.arange(len(watch)), target[watch]].mean())
        waited = 0 if score < best else waited + 1
        if score < best:
            best, kept = score, {name: value.clone() for name, value in model.state_dict().items()}
        if waited > _PATIENCE:
            break
    model.load_state_dict(kept)
    with torch.no_grad():
        return say(np.arange(len(new)), 1).softmax(-1).mean(1).double().numpy()


def logistic(x: Matrix, codes: Any, y: Any, new: Matrix, new_codes: Any, groups: Any) -> Matrix:
    """Logistic regression on standardised numbers and one-hot cells, its penalty chosen by cross-validation."""
    scaler, cells = StandardScaler().fit(x), OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    cells = cells.fit(codes) if codes.shape[1] else None

    def design(numbers: Matrix, words: Any) -> Matrix:
        parts = [np.nan_to_num(scaler.transform(numbers)), np.isnan(numbers)]
        return np.concatenate([*parts, *([] if cells is None else [cells.transform(words)])], 1)

    folds = list(StratifiedGroupKFold(3, shuffle=True, random_state=0).split(x, y, groups))
    model = LogisticRegressionCV(
        Cs=np.logspace(-4, 1, 6), cv=folds, scoring="neg_log_loss", max_iter=500, use_legacy_attributes=False,
        l1_ratios=(0,),
    ).fit(design(x, codes), y)  # fmt: skip
    return _spread(model.predict_proba(design(new, new_codes)), model.classes_, y)


def _spread(p: Matrix, classes: Any, y: Any) -> Matrix:
    whole = np.full((len(p), int(y.max()) + 1), 1e-9)
    whole[:, classes] = p
    return whole


LEARNERS: dict[str, Callable[..., Matrix]] = {"trees": trees, "TabM": tabm, "logistic regression": logistic}
_REVIEW = DATA / "multabench" / "womens_clothing.parquet"
_TEXTS = ["Title", "Review Text"]
_CELLS = ["Division Name", "Department Name", "Class Name"]
# File, label, numbers (none: all whose names hold two underscores), categories, texts, group.
SETS: dict[str, tuple[Path, str, list[str], list[str], list[str], str | None]] = {
    "rosmap": (DATA / "rosmap" / "manifest.csv", "label", [], [], [], None),
    "womens": (
        _REVIEW, "Rating", ["Age", "Positive Feedback Count", "Recommended IND"], _CELLS, _TEXTS, None,
    ),
    "womens-recommended": (
        _REVIEW, "Recommended IND", ["Age", "Positive Feedback Count"], _CELLS, _TEXTS, None,
    ),
    "medpix2": (DATA / "medpix2" / "manifest.csv", "label", ["age"], ["sex"], ["history"], "uid"),
    "flipkart": (
        DATA / "flipkart_1050" / "manifest.csv", "label", ["retail_price", "discounted_price"], ["brand"], ["title"],
        None,
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
