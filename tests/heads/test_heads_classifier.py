"""Classifiers of scikit-learn as a head: cross-fitted, kept without pickle, and nothing foreign is read."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from test_heads_trees import ROWS, data_of, tensors

from fusetune.errors import ConfigError
from fusetune.heads import build_head
from fusetune.heads.base import HeadFit
from fusetune.heads.classifier import ClassifierHead, dumped, fit_classifier, loaded


def fitted(plain: Any, data: Any = None, folds: Any = None) -> HeadFit:
    blank = ClassifierHead({"cells": 8, "wide": 40, "narrow": 2}, 3, {"cells": [3, 2]}, {"wide": 5})
    return fit_classifier(blank, data or data_of(), np.arange(ROWS) % 4 if folds is None else folds, plain, 0)


@pytest.mark.parametrize(
    "plain",
    [
        ExtraTreesClassifier(20),
        HistGradientBoostingClassifier(max_iter=10),
        LogisticRegression(),
        KNeighborsClassifier(),
        make_pipeline(StandardScaler(), SVC(probability=True)),
    ],
    ids=lambda plain: type(plain).__name__,
)
@pytest.mark.filterwarnings("ignore:.*probability.*:FutureWarning")
def test_a_classifier_is_cross_fitted_and_read_again(plain: Any) -> None:
    data = data_of()
    fit = fitted(plain, data)
    assert fit.held is not None
    assert 0.42 < (fit.held.argmax(1) == data.labels).mean() < 0.97  # the largest class: 0.39
    again = build_head(json.loads(json.dumps(fit.head.describe())))
    again.load_state_dict(fit.head.state_dict())
    z, present = tensors(data)
    assert torch.equal(again.eval()(z, present), fit.head.eval()(z, present))
    z["narrow"][~present["narrow"]] = torch.nan  # whatever is stored for what is absent
    assert torch.equal(again(z, present), fit.head(z, present))


def test_a_row_is_told_by_the_classifier_that_did_not_learn_from_it() -> None:
    data, folds = data_of(), np.arange(ROWS) % 4
    turned = data.labels.copy()
    turned[folds == 2] = 2 - turned[folds == 2]
    one, other = (fitted(ExtraTreesClassifier(10), each) for each in (data, replace(data, labels=turned)))
    assert one.held is not None
    assert other.held is not None
    assert np.array_equal(one.held[folds == 2], other.held[folds == 2])
    assert not np.array_equal(one.held[folds == 1], other.held[folds == 1])


def test_what_the_head_says_is_the_mean_of_all_folds() -> None:
    data = data_of()
    fit = fitted(LogisticRegression(), data)
    z, present = tensors(data)
    head = fit.head
    assert isinstance(head, ClassifierHead)
    table = head.table(z, present).numpy()
    files = [head.get_buffer(f"classifier_{at}").numpy().tobytes() for at in range(4)]
    mean = np.mean([loaded(file).predict_proba(table) for file in files], 0)
    np.testing.assert_allclose(head(z, present).exp().numpy(), mean, atol=1e-4)


def test_weights_of_rows_count() -> None:
    data = data_of()
    light = replace(data, weights=np.where(data.labels == 0, 1e-6, 1.0))
    fit = fitted(LogisticRegression(), light)
    assert fit.held is not None
    assert not (fit.held.argmax(1) == 0).any()


def test_a_fold_without_a_class_is_told_no_certainty() -> None:
    data = data_of()
    folds = np.where(data.labels == 2, 0, np.arange(ROWS) % 4)  # class 2 is held out as a whole
    fit = fitted(LogisticRegression(), data, folds)
    assert fit.held is not None
    assert np.isfinite(fit.held).all()


class Own(ClassifierMixin, BaseEstimator):
    """A type that is not scikit-learn's."""

    def fit(self, rows: Any, labels: Any) -> Own:
        self.classes_ = np.unique(labels)
        return self

    def predict_proba(self, rows: Any) -> Any:
        return np.full((len(rows), len(self.classes_)), 1 / len(self.classes_))


def test_what_cannot_be_kept_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"test_heads_classifier\.Own.*without pickle"):
        fitted(Own())


def test_nothing_foreign_is_read_from_a_saved_model() -> None:
    file = dumped(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    evil = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(evil, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                schema["__class__"], schema["__module__"] = "Popen", "subprocess"
                content = json.dumps(schema).encode()
            new.writestr(name, content)
    with pytest.raises(ValueError, match=r"subprocess\.Popen"):
        loaded(evil.getvalue())
    for rubbish in (b"", b"PK", file[: len(file) // 2], b"\0" * 1000):
        with pytest.raises(ValueError, match="cannot be read"):
            loaded(rubbish)


def test_a_classifier_of_another_width_is_refused() -> None:
    file = skops.io.dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    with pytest.raises(ValueError, match="reads 1 features, and there are 3"):
        loaded(file, 3)


def test_the_same_fit_is_the_same_file_in_every_process() -> None:
    script = (
        "import hashlib, numpy as np\n"
        "from sklearn.ensemble import ExtraTreesClassifier\n"
        "from fusetune.heads.classifier import dumped\n"
        "rows = np.random.default_rng(0).random((30, 4))\n"
        "fitted = ExtraTreesClassifier(5, random_state=0).fit(rows, np.arange(30) % 3)\n"
        "print(hashlib.sha256(dumped(fitted)).hexdigest())"
    )
    told = {
        subprocess.run([sys.executable, "-c", more + script], capture_output=True, text=True, check=True).stdout
        for more in ("", "waste = [object() for _ in range(99999)]; import os\n")
    }
    assert len(told) == 1
