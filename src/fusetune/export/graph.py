"""The whole model as one ONNX graph: what is prepared of each input, and which of them are present -> probabilities.

Every row goes through every encoder; the features of an absent input become zero, as they are in the model. Traced as
`features.onnx` traces one encoder, and compared with the model on every pattern of missing inputs before it is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.data.cells import CellInput
from fusetune.data.images import ImageInput
from fusetune.data.tokens import TextInput
from fusetune.data.vectors import VectorInput
from fusetune.errors import RunError, listed
from fusetune.evaluate.temperature import Heat
from fusetune.features.onnx import evaluation, first_line, session, traced
from fusetune.heads.classifier import ClassifierHead
from fusetune.inputs import Reader
from fusetune.model import Model
from fusetune.networks import Network
from fusetune.progress import bar
from fusetune.targets import Target

# What each kind of input hands to the graph; with the number of the input behind it, it is a name of the graph's.
PARTS = {
    "image": ("pixels",),
    "text": ("ids", "mask"),
    "columns": ("numbers", "missing", "codes"),
    "vector": ("values",),
}
PRESENT = "present"
TOLERANCE = 1e-4
_LARGEST = 2 * 2**30 - 2**20  # bytes of weights: what fits into one file of the format
_MOST_PATTERNS, _ROWS = 1024, 3
Arrays = dict[str, npt.NDArray[Any]]


class ExportError(RunError):
    """The model cannot be exported, or says something else once it is; nothing was written."""


class Whole(nn.Module):
    """A model from prepared inputs to probabilities, as one function of tensors.

    Args:
        network: The network, on the CPU.
        readers: The pre-processing of each input; tensors come in this order, those of an input as `PARTS` has them and
            then bool [rows], whether it is present.
        temperature: Logits are divided by it; of labels it may be one each.
        target: What is predicted.
    """

    def __init__(self, network: Network, readers: Mapping[str, Reader], temperature: Heat, target: Target) -> None:
        super().__init__()
        self.network, self.target = network, target
        self.temperature = temperature if isinstance(temperature, float) else torch.tensor(temperature).double()
        self.kinds = {name: reader.modality.kind for name, reader in readers.items()}
        for place, reader in enumerate(readers.values()):
            if isinstance(reader.fitted, ImageInput) and reader.size is not None:
                self.register_buffer(f"shrink_{place}", _resampling(reader.fitted.size, reader.size))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Return answers, float64 [rows, classes], and logits before the temperature, float32 [rows, classes]."""
        left = iter(tensors)
        inputs: dict[str, Any] = {}
        present: dict[str, Tensor] = {}
        for place, (name, kind) in enumerate(self.kinds.items()):
            parts = {part: next(left) for part in PARTS[kind]}
            inputs[name], present[name] = self._taken(place, kind, parts), next(left)
        z = {}
        for name in dict.fromkeys(self.network.owners):
            features = torch.cat([encoder(inputs[name]).float() for encoder in self.network.of(name)], 1)
            z[name] = features.masked_fill(~present[name][:, None], 0.0)
        f = self.network.fuse(z, present).f.float()
        return self.target.answered(f.double(), self.temperature), f

    def _taken(self, place: int, kind: str, parts: dict[str, Tensor]) -> Any:
        """Return what the encoders of an input take."""
        match kind:
            case "image":
                pixels = parts["pixels"].permute(0, 3, 1, 2).float() / 255
                shrink = self.get_buffer(f"shrink_{place}")
                return shrink @ pixels @ shrink.T
            case "vector":
                return parts["values"]
            case _:
                return parts


def _resampling(side: int, size: int) -> Tensor:
    """Return the matrix [size, side] by which the antialiased resize that prediction uses acts on each axis."""
    if side == size:
        return torch.eye(size)
    return F.interpolate(torch.eye(side)[None, None], (size, side), mode="bilinear", antialias=True)[0, 0]


def refusals(model: Model) -> list[str]:
    """Return why a model's network cannot be one graph; empty where nothing speaks against it before it is tried."""
    weights = sum(tensor.nbytes for tensor in model.network.state_dict().values())
    reasons = []
    if model.config.evaluate.test_views:
        reasons.append("evaluate.test_views draws random views at prediction, which a graph cannot")
    if any(isinstance(module, ClassifierHead) for module in model.network.modules()):
        reasons.append("it weighs classifiers of scikit-learn, which run outside of a graph (strategy.classifiers)")
    if any(column.read_in is not None for column in model.schema.inputs):
        reasons.append("it reads the words in pictures, which its runner would not (--kind COLUMN=image+ocr)")
    if weights > _LARGEST:
        reasons.append(f"its weights have {weights:,} bytes, and one ONNX file holds 2 GiB")
    return reasons


def write_graph(model: Model, path: Path) -> float:
    """Write the graph of a model, compared with it on every pattern of missing inputs.

    Args:
        model: The model, on the CPU.
        path: The file to write.

    Returns:
        The largest difference of any probability; of numbers, in units of their deviation.

    Raises:
        ExportError: If the model cannot be traced, or the graph gives other probabilities.
    """
    whole = Whole(model.network, model.readers, model.calibration.temperature, model.target)
    example = made_up(model.readers, rows=_ROWS, tokens=7, seed=0)
    axes = {name: {0: "rows"} for name in (*example, "probabilities", "logits")}
    axes |= {name: {0: "rows", 1: "tokens"} for name in example if name.startswith(("ids_", "mask_"))}
    with evaluation(whole):
        try:
            traced(whole, tuple(map(torch.from_numpy, example.values())), path, list(example), axes)
            run = session(path)
        except Exception as error:  # the exporter raises whatever a traced operation raises
            raise ExportError(f"{_who(model)} cannot be one ONNX graph: {first_line(error)}") from error
        return _compare(model, whole, run)


def _compare(model: Model, whole: Whole, run: Any) -> float:
    wanted, worst = [node.name for node in run.get_inputs()], 0.0
    patterns = list(itertools.islice(itertools.product((True, False), repeat=len(model.readers)), _MOST_PATTERNS))
    with bar("comparing the graph with the model", len(patterns)) as progress:
        for seed, pattern in enumerate(patterns):
            # Other numbers of rows and lengths of texts than it was traced with, which tracing could have frozen.
            inputs = made_up(model.readers, rows=1 + seed % 4, tokens=3 + 5 * (seed % 4), seed=seed + 1)
            for place, here in enumerate(pattern):
                inputs[f"{PRESENT}_{place}"][:] = here
            p, f = (found.numpy() for found in whole(*map(torch.from_numpy, inputs.values())))
            try:
                q, g = run.run(["probabilities", "logits"], {name: inputs[name] for name in wanted})
            except Exception as error:  # the runtime's exceptions have no common base
                raise ExportError(f"{_who(model)} does not run in ONNX Runtime: {first_line(error)}") from error
            # Of logits as well, as a share of their scale: probabilities near 0 and 1 hide what is wrong.
            scale = max(1.0, float(np.abs(f).max()))
            apart = float(np.abs(p - q).max()) / model.target.unit
            difference = max(apart, float(np.abs(f - g).max()) / scale)
            if not difference <= TOLERANCE:  # also refuses NaN
                absent = [name for name, here in zip(model.readers, pattern, strict=True) if not here]
                raise ExportError(
                    f"{_who(model)} says something else as an ONNX graph: it differs by {difference:.1e} where "
                    f"{listed(absent) or 'nothing'} is absent, and {TOLERANCE:.0e} is allowed"
                )
            worst = max(worst, apart)
            progress.advance()
    return worst


def made_up(readers: Mapping[str, Reader], *, rows: int, tokens: int, seed: int) -> Arrays:
    """Return prepared inputs of rows that nobody has, by the graph's names and in its order.

    Args:
        readers: The pre-processing of each input.
        rows: Number of rows.
        tokens: Length of the longest text; at most the longest that the model takes.
        seed: Decides what they hold.
    """
    draw, inputs = np.random.default_rng(seed), Arrays()
    for place, reader in enumerate(readers.values()):
        for name, values in _drawn(reader, draw, rows, tokens).items():
            inputs[f"{name}_{place}"] = values
        inputs[f"{PRESENT}_{place}"] = np.ones(rows, dtype=bool)
    return inputs


def _drawn(reader: Reader, draw: np.random.Generator, rows: int, tokens: int) -> Arrays:
    match reader.fitted:
        case ImageInput() as image:
            level = draw.integers(0, 200, (rows, 1, 1, 3)) + draw.integers(0, 56, (rows, image.size, image.size, 3))
            return {"pixels": level.astype(np.uint8)}
        case TextInput() as text:
            length = min(tokens, text.max_tokens)
            ids = draw.integers(0, max(text.tokenizer.get_vocab().values()) + 1, (rows, length))
            mask = np.arange(length) < np.maximum(1, length - np.arange(rows)[:, None])
            return {"ids": np.where(mask, ids, text.pad).astype(np.int64), "mask": mask}
        case CellInput() as cells:
            shape = (rows, len(cells.numbers))
            missing = draw.random(shape) < 0.2
            numbers = np.where(missing, 0, draw.normal(size=shape)).astype(np.float32)
            codes = draw.integers(0, np.array(cells.cardinalities, np.int64), (rows, len(cells.cardinalities)))
            return {"numbers": numbers, "missing": missing, "codes": codes.astype(np.int64)}
        case VectorInput() as vector:
            return {"values": draw.normal(size=(rows, len(vector.mean))).astype(np.float32)}


def _who(model: Model) -> str:
    return f"the model of strategy '{model.config.strategy.name}'"
