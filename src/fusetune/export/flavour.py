"""The model as MLflow loads it: `mlflow.pyfunc` finds `_load_pyfunc` here by the name of this module. No pickle."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from fusetune.bundle import load_bundle
from fusetune.data.images import ImageInput
from fusetune.errors import UserError
from fusetune.model import Model
from fusetune.process import without_warnings
from fusetune.version import VERSION


class Flavour:
    """What MLflow holds: `predict` returns one line per row, as `Model.predict_table` does."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict a table; there are no parameters."""
        del params
        return self.model.predict_table(model_input)


def _load_pyfunc(path: str) -> Flavour:
    """Return the model in a folder: what MLflow calls."""
    return Flavour(load_bundle(path))


def needed() -> Any:
    """Return the package.

    Raises:
        UserError: If it is not installed.
    """
    # It would otherwise ask its makers' server, at import, what to report to them.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        with without_warnings():
            import_module("mlflow.pyfunc")
        return import_module("mlflow")
    except ImportError as error:
        raise UserError(f'--to mlflow needs mlflow-skinny ({error}): pip install "fusetune[track]"') from error


def write_flavour(model: Model, bundle: Path, folder: Path) -> None:
    """Write a folder that `mlflow.pyfunc.load_model` reads.

    Args:
        model: The model, for the names of its columns.
        bundle: Its folder, which is copied.
        folder: The folder to write, which must not exist.
    """
    mlflow = needed()
    types = import_module("mlflow.types.schema")
    # MLflow leaves out what the signature does not name.
    scales = [one.fitted.spacing for one in model.readers.values() if isinstance(one.fitted, ImageInput)]
    columns = [name for one in model.schema.modalities().values() for name in one.columns]
    columns = [*dict.fromkeys([*filter(None, [model.schema.named("id"), *scales]), *columns])]
    # Of any type: the model itself says what does not fit, where MLflow would refuse a whole number as a fraction.
    inputs = types.Schema([types.ColSpec(types.AnyType(), name, required=False) for name in columns])
    extra = "[ocr]" if any(column.read_in is not None for column in model.schema.inputs) else ""
    with without_warnings():
        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module=__name__,
            data_path=str(bundle),
            signature=import_module("mlflow.models").ModelSignature(inputs=inputs),
            pip_requirements=[f"fusetune{extra}=={VERSION}"],
            metadata={"fusetune": VERSION},
        )
