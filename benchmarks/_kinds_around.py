"""The program around a run, and the path of its penalties: kinds 16 and 17."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from _kinds import Case, Loud, need
from _workshop import ROWS, Workshop, settings
from sklearn.linear_model import LogisticRegression

from fusetune.config import HeadConfig
from fusetune.heads.base import HeadData
from fusetune.heads.solver import fit_logistic

# Kind 16: the program around.


def _states() -> dict[str, Any]:
    return {
        "NumPy": str(np.random.get_state()),
        "random": random.getstate(),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _left_alone(call: Callable[[Workshop], object], shop: Workshop) -> str:
    """What the caller has set is the same afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        before = _states()
        call(shop)
        after = _states()
    finally:
        torch.set_num_threads(threads)
    changed = [name for name in before if before[name] != after[name]]
    return need(not changed, f"changed: {', '.join(changed)}")


_SERVER = """
import os, sys, signal, time, fusetune
model = fusetune.load(sys.argv[1])
pid = os.fork()
if pid == 0:
    model.predict(sys.argv[2]); os._exit(0)
for _ in range(300):
    done, status = os.waitpid(pid, os.WNOHANG)
    if done: sys.exit(status)
    time.sleep(.1)
os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); sys.exit(9)
"""


def _forked(shop: Workshop) -> str:
    """A process that is forked from one that has loaded a model predicts."""
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    table = shop.file(shop.csv())
    program = [sys.executable, "-c", _SERVER, str(shop.made), str(table)]
    code = subprocess.run(program, env=env, check=False, capture_output=True).returncode
    return need(code == 0, "hangs" if code == 9 else f"ends with code {code}")


def _homeless(shop: Workshop) -> str:
    """Neither HOME nor an entry of the user: caches go elsewhere, or are gone without."""
    without = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "FUSETUNE_CACHE", "XDG_CACHE_HOME")
    }
    config = settings(shop.folder)
    config.pop("store")
    error = RuntimeError("Could not determine home directory.")
    with patch.dict(os.environ, without, clear=True), patch.object(Path, "home", side_effect=error):
        run = shop.fit(config=config)
    return need(run.report.exists(), "no report")


def _column_names(names: list[str], shop: Workshop) -> str:
    """Columns of any name train, and leave nothing outside the run's folder."""
    place = shop.folder / "place"
    place.mkdir()
    frame = shop.frame[["organ", "part", "age"]].assign(
        **{name: shop.frame["note"] + f" {n}" for n, name in enumerate(names)}
    )
    how: dict[str, Any] = {"inputs": [*names, "age"], "out": place / "run", "kinds": dict.fromkeys(names, "text")}
    how["config"] = settings(shop.folder / "store", epochs=1)
    run = shop.fit(frame, **how)
    outside = [path.name for path in place.iterdir() if path.name != "run"]
    told = run.model.predict_table(frame)
    return need(not outside and (told["problem"] == "").all(), f"outside the folder: {outside}")


def _slip(names: list[str], absent: str, shop: Workshop) -> str:
    """A column that is left out is not taken for a slip of another input."""
    frame = shop.frame.assign(**{name: shop.frame["note"] if n else shop.frame["age"] for n, name in enumerate(names)})
    model = shop.fit(frame, inputs=names).model
    told = model.predict_table(frame.drop(columns=absent))
    if not (told["problem"].str.contains(absent, regex=False)).all():
        return "rows without a problem"
    raise Loud(told["problem"][0])


def _groups(cells: Callable[[pd.Series], Any], right: int, shop: Workshop) -> str:
    """Judge on a table whose groups are partly empty, or of two types."""
    model = shop.fit(shop.frame.assign(patient=np.arange(ROWS) // 2), split=None, group="patient", row_id="id").model
    scores = model.evaluate(shop.frame.assign(patient=cells(pd.Series(np.arange(ROWS) // 2, dtype=object))))
    return need(scores["groups"] == right, f"{scores['groups']} groups")


def _class_apart(part: str, shop: Workshop) -> str:
    frame = shop.frame.copy()
    frame.loc[frame["part"] == part, "organ"] = "spleen"
    return need(shop.fit(frame).report.exists(), "no report")


_EMPTY = "patient.*(row|empty)"
AROUND = [
    Case(
        16,
        "fit leaves the caller's generators alone",
        partial(_left_alone, lambda s: s.fit(config=settings(s.folder) | {"threads": None})),
    ),
    Case(
        16,
        "fit with pictures and texts",
        partial(_left_alone, lambda s: s.fit(inputs=["scan", "note"], config=settings(s.folder, epochs=1))),
    ),
    Case(16, "load", partial(_left_alone, lambda s: s.model())),
    Case(16, "predict", partial(_left_alone, lambda s: s.model().predict(s.frame))),
    Case(16, "evaluate", partial(_left_alone, lambda s: s.model().evaluate(s.frame))),
    Case(16, "a server that loads and forks", _forked, slow=True),
    Case(16, "no home", _homeless, "FUSETUNE_CACHE|home|store.folder"),
    *(
        Case(16, f"columns called {', '.join(repr(name[:12]) for name in names)}", partial(_column_names, names))
        for names in (["x" * 270], [".."], ["."], ["a/b", "a_b"], ["a b", "a-b"], ["CON", "con"], ["é" * 130], ["/abs"])
    ),
    *(
        Case(16, f"inputs {', '.join(names)} without {absent}", partial(_slip, names, absent), f"'?{absent}'?.*missing")
        for names, absent in (
            (["scan_age", "scan_note"], "scan_note"),
            (["stage", "image"], "image"),
            (["x1", "x2"], "x2"),
        )
    ),
    Case(16, "empty groups to judge", partial(_groups, lambda g: g.where(g > 8), 24), _EMPTY),
    Case(16, "no groups to judge", partial(_groups, lambda g: g.where(g > 999), 24), _EMPTY),
    Case(
        16,
        "groups of two types",
        partial(_groups, lambda g: [str(one) if i % 2 else one for i, one in enumerate(g)], 24),
        _EMPTY,
    ),
    *(
        Case(16, f"a class that is in {part} alone", partial(_class_apart, part), "spleen.*part|part.*spleen")
        for part in ("test", "valid")
    ),
]

# Kind 17: the penalty path.


def _separable(classes: int, width: int, noise: float) -> tuple[HeadData, HeadData]:
    """Return made-up features of rows to learn from and to choose on."""
    draw = np.random.default_rng(classes * width)
    centres = draw.normal(0, 1, (classes, width))
    labels = np.arange(12 * classes) % classes

    def some(seed: int) -> HeadData:
        drawn = np.random.default_rng(seed)
        z = (centres[labels] + drawn.normal(0, noise, (len(labels), width))).astype(np.float32)
        ones = np.ones(len(labels), dtype=bool)
        return HeadData({"x": z[None]}, {"x": ones}, labels, ones.astype(float), np.arange(len(labels)))

    return some(1), some(2)


def _solved(classes: int, width: int, noise: float, shop: Workshop) -> str:
    """Every step of the path has the NLL of a solution that scikit-learn took to convergence."""
    del shop
    data, valid = _separable(classes, width, noise)
    fit = fit_logistic(data, valid, HeadConfig(penalties=(1e-2, 1e-4, 1e-6, 1e-8)), classes, 0)
    off = []
    for penalty, nll in fit.path:
        true = _true_nll(data, valid, penalty, classes)
        if abs(nll - true) > 0.01 * true + 1e-4:
            off.append(f"{penalty:g}: {nll:.4f}, not {true:.4f}")
    return need(not off, "; ".join(off))


def _true_nll(data: HeadData, valid: HeadData, penalty: float, classes: int) -> float:
    train = data.z["x"][0].astype(np.float64)
    mean, scale = train.mean(0), train.std(0) * train.shape[1] ** 0.5
    strength = penalty / (2 if classes == 2 else 1) * len(train)
    solver = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=20_000, solver="lbfgs")
    solver.fit((train - mean) / scale, data.labels)
    shares = solver.predict_proba((valid.z["x"][0] - mean) / scale)
    return float(-np.log(shares[np.arange(len(shares)), valid.labels]).mean())


def _goes_on(shop: Workshop) -> str:
    """Where the smallest penalty of the list is the best one, the path goes on, or that is said."""
    del shop
    data, valid = _separable(9, 12, 0.2)
    fit = fit_logistic(data, valid, HeadConfig(penalties=(1.0, 0.3, 0.1)), 9, 0)
    best = min(fit.path, key=lambda step: step[1])
    if best[0] > min(penalty for penalty, _ in fit.path):
        return ""
    if fit.doubts:
        raise Loud(fit.doubts[0])
    return f"the best of {[penalty for penalty, _ in fit.path]} is the last"


PENALTY = [
    *(
        Case(17, f"{classes} classes, {width} features, noise {noise}", partial(_solved, classes, width, noise))
        for classes, width, noise in ((2, 10, 1.0), (5, 30, 0.8), (40, 60, 0.5))
    ),
    Case(17, "the end of the path", _goes_on),
]
AROUND_KINDS = [*AROUND, *PENALTY]
