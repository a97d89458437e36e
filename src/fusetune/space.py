"""Where rows lie in the features of a model's own encoders: the features as tables, and the nearest training rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusetune.answers import Said
from fusetune.errors import UserError, listed
from fusetune.evaluate.reference import Reference

NO_IDS = (
    "this model does not keep the ids of training rows, which may name people: fit it with evaluate.neighbours=true "
    "(and neither redact=true nor evaluate.reference=0, on a table with rows to spare for validation)"
)


def features_of(pieces: Iterable[Said], index: pd.Index | None) -> dict[str, pd.DataFrame]:
    """Return the features of each modality, float32 [rows, dim], NaN where a row lacks it.

    Args:
        pieces: What was found of the rows, in their order.
        index: Of the rows; None: their numbers.
    """
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for said in pieces:
        for name, z in said.outputs.z.items():
            has = said.outputs.present[name].numpy()
            parts.setdefault(name, []).append(np.where(has[:, None], z.numpy(), np.float32(np.nan)))
    found = {}
    for name, several in parts.items():
        whole = np.concatenate(several)
        columns = pd.Index([f"{name}_{place}" for place in range(whole.shape[1])])
        found[name] = pd.DataFrame(whole, columns=columns, index=index)
    return found


def check_neighbours(reference: Reference | None, count: int) -> Reference:
    """Return what neighbours are looked up in.

    Raises:
        UserError: If the model does not keep it, or not so many rows.
    """
    if reference is None or not reference.ids:
        raise UserError(NO_IDS)
    kept = {name: len(ids) for name, ids in reference.ids.items()}
    if not 1 <= count <= min(kept.values()):
        many = listed(f"{rows:,} of {name}" for name, rows in kept.items())
        raise UserError(
            f"{count} neighbours were asked for, and it must be 1 or more and at most what the model keeps: {many} "
            "(evaluate.reference decides how many)"
        )
    return reference


def neighbours_of(pieces: Iterable[Said], reference: Reference, count: int) -> pd.DataFrame:
    """Return the nearest training rows of each row by modality; see `Model.neighbours` for the columns."""
    whole = []
    for said in pieces:
        ids, frames, places_of = said.ids.to_numpy(), [], []
        for name, one in reference.likeness.items():
            has = np.flatnonzero(said.outputs.present[name].numpy())
            places, far = one.nearest(said.outputs.z[name].numpy()[has], count)
            frame = pd.DataFrame({"row_id": np.repeat(ids[has], count), "input": name})
            frame["rank"] = np.tile(np.arange(1, count + 1), len(has))
            frame["neighbour"] = np.asarray(reference.ids[name], dtype=object)[places].reshape(-1)
            frame["distance"] = far.reshape(-1)
            frames.append(frame)
            places_of.append(np.repeat(has, count))
        # Row by row, the inputs of a row in their order.
        whole.append(pd.concat(frames).iloc[np.argsort(np.concatenate(places_of), kind="stable")])
    return pd.concat(whole, ignore_index=True)
