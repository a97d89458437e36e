"""The Open Inference Protocol, version 2, with its binary tensors: one tensor per column or vector.

Source: https://github.com/kserve/open-inference-protocol (REST), and the extension of binary tensor data by Triton.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fusetune.data.choices import Kind
from fusetune.errors import clipped, did_you_mean
from fusetune.model import Model
from fusetune.serve.body import parsed
from fusetune.serve.options import Options
from fusetune.serve.refusal import RefusedError
from fusetune.serve.rows import Asked
from fusetune.serve.told import single_columns

HEADER = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
PLATFORM = "fusetune"
_NUMBERS: dict[str, str] = {
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "BOOL": "|b1",
}  # fmt: skip
_TYPES = {Kind.NUMBER: "FP64", Kind.BOOLEAN: "BOOL", Kind.VECTOR: "FP64"}


def metadata(model: Model, options: Options, version: str) -> dict[str, Any]:
    """Return what the protocol says of a model."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": [-1] if width is None else [-1, width]}
        for name, (datatype, width) in _tensors(model).items()
    ]
    answer = [{"name": "prediction", "datatype": "BYTES" if model.measure.chances else "FP64", "shape": [-1]}]
    if model.measure.decides:
        answer.append({"name": "probability", "datatype": "FP64", "shape": [-1]})
    if model.measure.chances:
        answer.append({"name": "probabilities", "datatype": "FP64", "shape": [-1, len(model.classes)]})
    outputs = [*answer, {"name": "problem", "datatype": "BYTES", "shape": [-1]}]
    labels = {"classes": [str(label) for label in model.classes]}
    return {
        "name": options.name, "versions": [version], "platform": PLATFORM, "inputs": inputs, "outputs": outputs,
        "parameters": labels,
    }  # fmt: skip


def _tensors(model: Model) -> dict[str, tuple[str, int | None]]:
    """Return datatype and width of each input tensor; the width of a row's single cell is None."""
    found: dict[str, tuple[str, int | None]] = {}
    for column in single_columns(model):
        vector = column.kind is Kind.VECTOR
        width = _width(model, column.name) if vector else None
        found[column.name] = (_TYPES.get(column.kind, "BYTES"), width)
    return found | {name: ("FP64", len(columns)) for name, columns in model.schema.vectors.items()}


def _width(model: Model, name: str) -> int:
    return next(len(getattr(r.fitted, "mean", ())) for r in model.readers.values() if r.modality.columns == (name,))


def asked_of(content: bytes, header: str | None, model: Model, options: Options) -> tuple[Asked, dict[str, Any]]:
    """Return the rows of an inference request, and the request without its tensors.

    Args:
        content: The body.
        header: How many bytes of it are JSON, where tensors follow in binary.
        model: Which columns there are.
        options: How many rows there may be.

    Raises:
        RefusedError: If tensors are missing, unknown, or contradict their shapes.
    """
    length = _length(header, len(content))
    body, rest = parsed(content[:length]), memoryview(content)[length:]
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list) or not body["inputs"]:
        raise RefusedError(400, 'the body must be {"inputs": [{"name", "shape", "datatype", "data"}, ...]}')
    tensors, columns, rows = _tensors(model), dict[str, list[Any]](), None
    for tensor in body["inputs"]:
        name, shape, used = _checked(tensor, tensors)
        if name in columns:
            raise RefusedError(400, f"input '{name}' is there twice")
        if rows is not None and shape[0] != rows:
            raise RefusedError(400, f"input '{name}' has {shape[0]:,} rows, and the one before it {rows:,}")
        rows = shape[0]
        if rows > options.rows:
            raise RefusedError(413, f"{rows:,} rows are more than the {options.rows:,} that a request may have")
        flat = _flat(tensor, name, int(np.prod(shape)), rest[:used])
        rest = rest[used:]
        columns[name] = [flat[i * shape[1] : (i + 1) * shape[1]] for i in range(rows)] if len(shape) > 1 else flat
    if len(rest):
        raise RefusedError(400, f"{len(rest):,} bytes follow that no input claims")
    return Asked(_rows(columns, rows or 0, model), {}), {
        name: body.get(name) for name in ("id", "outputs", "parameters")
    }


def _length(header: str | None, total: int) -> int:
    if header is None:
        return total
    if not header.isascii() or not header.isdigit() or len(header) > 12 or int(header) > total:
        raise RefusedError(400, f"{HEADER} is '{clipped(header, 20)}', and the body has {total:,} bytes")
    return int(header)


def _checked(tensor: Any, known: dict[str, tuple[str, int | None]]) -> tuple[str, list[int], int]:
    """Return name, shape and the size of the binary part of a tensor; the shape of single cells as one number."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise RefusedError(400, "each input must be an object with a name")
    name, shape, datatype = tensor["name"], tensor.get("shape"), tensor.get("datatype")
    if name not in known:
        raise RefusedError(400, f"the model has no input '{clipped(name, 60)}'{did_you_mean(clipped(name, 60), known)}")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 2
        or not all(type(n) is int and 0 < n < 2**31 for n in shape)
    ):
        raise RefusedError(400, f"input '{name}': the shape must be one or two positive numbers")
    wanted, width = known[name]
    allowed = {"BYTES"} if wanted == "BYTES" else {"BYTES", *_NUMBERS} if width is None else {*_NUMBERS}
    if wanted == "BYTES":
        allowed |= {"INT64", "INT32", "BOOL"}  # categories that are numbers
    if datatype not in allowed:
        raise RefusedError(400, f"input '{name}' is {wanted}, not {clipped(str(datatype), 20)}")
    if width is None and len(shape) == 2 and shape[1] != 1:
        raise RefusedError(400, f"input '{name}' has one cell per row, not {shape[1]:,}")
    if width is not None and (len(shape) != 2 or shape[1] != width):
        raise RefusedError(400, f"input '{name}' has {width:,} numbers per row; its shape is [rows, {width}]")
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size", 0) if isinstance(parameters, dict) else 0
    if type(size) is not int or size < 0:
        raise RefusedError(400, f"input '{name}': binary_data_size must be a number of bytes")
    return name, shape[:1] if width is None else shape, size


def _flat(tensor: dict[str, Any], name: str, count: int, binary: memoryview) -> list[Any]:
    """Return the values of a tensor, one after the other."""
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        data = _levelled(tensor.get("data"))
        if data is None or len(data) != count:
            raise RefusedError(400, f"input '{name}' must have {count:,} values")
        return data
    if len(binary) != size:
        raise RefusedError(400, f"input '{name}' says that it has {size:,} bytes, and {len(binary):,} are left")
    if tensor["datatype"] == "BYTES":
        return _words(binary, name, count)
    kind = np.dtype(_NUMBERS[tensor["datatype"]])
    if size != count * kind.itemsize:
        raise RefusedError(400, f"input '{name}' must have {count * kind.itemsize:,} bytes, not {size:,}")
    values = np.frombuffer(binary, kind)
    if kind.kind == "f":
        return [None if np.isnan(value) else float(value) for value in values]
    return list(values.astype(bool).tolist() if kind.kind == "b" else values.tolist())


def _levelled(data: Any) -> list[Any] | None:
    """Return data as one list; rows may be lists of their own."""
    if not isinstance(data, list):
        return None
    if data and all(isinstance(row, list) for row in data):
        return [value for row in data for value in row]
    return data


def _words(binary: memoryview, name: str, count: int) -> list[Any]:
    found: list[Any] = []
    place = 0
    while place < len(binary) and len(found) < count:
        size = int.from_bytes(binary[place : place + 4], "little")
        content = bytes(binary[place + 4 : place + 4 + size])
        if len(content) != size:
            raise RefusedError(400, f"input '{name}' ends within a word")
        found.append(content)
        place += 4 + size
    if len(found) != count or place != len(binary):
        raise RefusedError(400, f"input '{name}' must have {count:,} words, each after its length in 4 bytes")
    return found


def _rows(columns: dict[str, list[Any]], rows: int, model: Model) -> list[dict[str, Any]]:
    """Return rows of cells: bytes become words but for pictures, which may be either."""
    pictures = {column.name for column in model.schema.inputs if column.kind is Kind.IMAGE}
    found: list[dict[str, Any]] = [{} for _ in range(rows)]
    for name, values in columns.items():
        for row, value in zip(found, values, strict=True):
            if name in model.schema.vectors:
                row |= dict(zip(model.schema.vectors[name], value, strict=True))
            else:
                row[name] = _cell(value, name in pictures, name)
    return found


def _cell(value: Any, picture: bool, name: str) -> Any:
    if not isinstance(value, bytes):
        return value
    if picture and not value.isascii():
        return value
    try:
        return value.decode("utf-8") or None
    except UnicodeDecodeError as error:
        raise RefusedError(422, f"input '{name}' holds a word that is not UTF-8") from error


def replied(
    table: pd.DataFrame, classes: Sequence[Any], name: str, version: str, asked: dict[str, Any]
) -> tuple[bytes, int | None]:
    """Return the body of a reply, and how much of it is JSON where tensors follow in binary.

    Raises:
        RefusedError: If an output is asked for that there is none of.
    """
    words = np.array([str(word) for word in table["prediction"]], dtype=object)
    outputs: dict[str, tuple[str, Any]] = {"prediction": ("BYTES", words)}
    if "probability" in table:
        outputs["probability"] = ("FP64", table["probability"].to_numpy(dtype="<f8"))
    names = [f"p({label})" for label in classes]
    if set(names) <= set(table.columns):
        outputs["probabilities"] = ("FP64", table[names].to_numpy(dtype="<f8"))
    else:  # a number
        outputs["prediction"] = ("FP64", table["prediction"].to_numpy(dtype="<f8"))
    outputs["problem"] = ("BYTES", table["problem"].to_numpy(dtype=object))
    everything = (
        asked["parameters"].get("binary_data_output") is True if isinstance(asked["parameters"], dict) else False
    )
    wanted = asked["outputs"] or [{"name": output} for output in outputs]
    if not isinstance(wanted, list) or not all(isinstance(one, dict) for one in wanted):
        raise RefusedError(400, "outputs must be a list of objects with names")
    described, binary = [], []
    for one in wanted:
        if one.get("name") not in outputs:
            raise RefusedError(
                400, f"there is no output '{clipped(str(one.get('name')), 60)}'; there are {', '.join(outputs)}"
            )
        datatype, values = outputs[one["name"]]
        parameters = one.get("parameters") if isinstance(one.get("parameters"), dict) else {}
        facts: dict[str, Any] = {"name": one["name"], "datatype": datatype, "shape": list(values.shape)}
        if parameters.get("binary_data", everything) is True:
            binary.append(_binary(datatype, values))
            facts["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            facts["data"] = values.reshape(-1).tolist()
        described.append(facts)
    reply: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": described}
    if isinstance(asked["id"], str):
        reply["id"] = asked["id"]
    content = json.dumps(reply, allow_nan=False).encode()
    return content + b"".join(binary), len(content) if binary else None


def _binary(datatype: str, values: Any) -> bytes:
    if datatype != "BYTES":
        return bytes(np.ascontiguousarray(values).tobytes())
    words = [str(word).encode() for word in values]
    return b"".join(len(word).to_bytes(4, "little") + word for word in words)
