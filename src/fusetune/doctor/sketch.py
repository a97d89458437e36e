"""Cheap features of a sample of rows, without any pretrained encoder: good enough to rank labels and find neighbours.

Pictures: a histogram of gradient directions per cell (as in HOG, Dalal and Triggs 2005) and principal components of the
thumbnail; texts: TF-IDF of words, reduced by a truncated SVD; cells: standardised and one-hot; vectors: principal
components. Each block has unit variance in sum, so that no input drowns another by its width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from fusetune.data.choices import Kind
from fusetune.data.vectors import VectorInput
from fusetune.doctor.columns import cell_matrix
from fusetune.doctor.examined import Codes, Examined
from fusetune.doctor.images import THUMB, Pictures
from fusetune.errors import TableError

Features = npt.NDArray[np.float32]
_WIDTH = 64
_DIRECTIONS, _CELL = 8, 4


def sketch(examined: Examined, pictures: Sequence[Pictures], without: frozenset[str] = frozenset()) -> Features:
    """Return features of the rows in `examined.sample`, float32 [sample, width]; columns in `without` do not enter."""
    rows = examined.sample
    blocks = [block for seen in pictures for block in _picture_blocks(seen, rows)]
    blocks += [_text_block(examined, column, rows) for column in examined.columns(Kind.TEXT) if column not in without]
    names = [name for name in examined.cells if name not in without]
    blocks += [_scaled(cell_matrix(examined, names, rows))] if names else []
    blocks += [_vector_block(examined, names, rows) for names in examined.vectors]
    filled = [block for block in blocks if block.shape[1]]
    return np.concatenate(filled, axis=1) if filled else np.zeros((len(rows), 0), dtype=np.float32)


def _picture_blocks(pictures: Pictures, rows: Codes) -> list[Features]:
    thumbs = (pictures.thumbs[rows] / np.float32(255)).astype(np.float32)
    return [_scaled(gradient_histogram(thumbs)), _reduced(thumbs.reshape(len(rows), -1))]


def gradient_histogram(thumbs: Features) -> Features:
    """Return the strength of edges per direction and cell of 4 x 4 pixels, float32 [rows, 36 x 8], norm 1 per row."""
    down, right = np.gradient(thumbs, axis=(1, 2))
    strength = np.hypot(down, right)
    direction = (np.arctan2(down, right) % np.pi / np.pi * _DIRECTIONS).astype(np.int64) % _DIRECTIONS
    side = THUMB // _CELL
    edges = np.zeros((len(thumbs), side, side, _DIRECTIONS), dtype=np.float32)
    for which in range(_DIRECTIONS):
        some = np.where(direction == which, strength, 0).reshape(len(thumbs), side, _CELL, side, _CELL)
        edges[..., which] = some.sum((2, 4))
    flat = np.sqrt(edges.reshape(len(thumbs), -1))
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def _text_block(examined: Examined, column: str, rows: Codes) -> Features:
    cells = examined.table.column(column).iloc[rows]
    texts = cells.astype("str").where(cells.notna(), "").tolist()
    try:
        words = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=20_000, dtype=np.float32).fit_transform(texts)
    except ValueError:  # no word occurs in two rows
        return np.zeros((len(rows), 0), dtype=np.float32)
    width = min(_WIDTH, words.shape[1] - 1, words.shape[0] - 1)
    if width < 1:
        return _scaled(words.toarray())
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # its share of the variance, which texts that are all alike do not have
        return _scaled(TruncatedSVD(width, random_state=0).fit_transform(words))


def _vector_block(examined: Examined, columns: list[str], rows: Codes) -> Features:
    part = examined.part(rows)
    try:
        return _reduced(VectorInput.fit(part, columns, np.arange(len(rows))).bind(part).values)
    except TableError:  # incomplete in every row
        return np.zeros((len(rows), 0), dtype=np.float32)


def _reduced(values: npt.NDArray[np.float32]) -> Features:
    values = values[:, values.std(0) > 0]  # pictures that are all alike have no components
    width = min(_WIDTH, *values.shape)
    if width in (0, values.shape[1]):
        return _scaled(values)
    return _scaled(PCA(width, svd_solver="randomized", random_state=0).fit_transform(values))


def _scaled(values: npt.NDArray[np.float32]) -> Features:
    centred = values - values.mean(0)
    spread = np.sqrt((centred**2).mean(0).sum())
    return np.asarray(centred / max(float(spread), 1e-9), dtype=np.float32)
