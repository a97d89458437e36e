"""Run a frozen encoder through ONNX Runtime, which is several times faster than eager PyTorch on CPU.

The exported network is compared with the eager one before it is used, at another batch size and text length than it
was traced with; whoever asks for it falls back to eager PyTorch when the two differ.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusetune.encoders import Encoder
from fusetune.errors import RunError
from fusetune.process import without_warnings

Inputs = Tensor | dict[str, Tensor]
TOLERANCE = 1e-4
_PIXELS = "pixels"
_LENGTH_VARIES = ("ids", "mask")  # inputs whose second axis is the text's length


class OnnxError(RunError):
    """The encoder cannot be exported, or its exported form gives other features."""


def onnx_available() -> bool:
    """Return whether ONNX Runtime and the exporter's package are installed."""
    return all(importlib.util.find_spec(package) is not None for package in ("onnx", "onnxruntime"))


class OnnxEncoder:
    """An encoder's evaluation-mode `forward`, run by ONNX Runtime on the CPU.

    The batch size and the text length may differ from call to call; height and width of images may not.

    Args:
        encoder: The encoder, on the CPU; left as it was.
        example: A few rows of its inputs; of images, of the size that will be encoded.

    Attributes:
        difference: Largest difference from eager PyTorch of any feature value, as a share of the root mean square of
            all feature values. Relative to that scale since single values may be zero.

    Raises:
        OnnxError: The encoder cannot be exported, or its exported form gives other features.
    """

    def __init__(self, encoder: Encoder, example: Inputs) -> None:
        with evaluation(encoder):
            self._session = _session(encoder, example)
            self.difference = self._compare(encoder, example)
        if not self.difference <= TOLERANCE:  # also refuses NaN
            raise OnnxError(
                f"{type(encoder).__name__} differs by {self.difference:.1e} of the features' scale when it is run by "
                f"ONNX Runtime; {TOLERANCE:.0e} is allowed."
            )

    def __call__(self, inputs: Inputs) -> Tensor:
        """Encode a batch on the CPU to ``[batch, dim]``, float32."""
        named = _named(inputs)
        (features,) = self._session.run(
            None, {node.name: named[node.name].numpy() for node in self._session.get_inputs()}
        )
        return torch.from_numpy(features)

    def _compare(self, encoder: Encoder, example: Inputs) -> float:
        try:
            return max(_difference(encoder(inputs), self(inputs)) for inputs in (example, _reshaped(example)))
        except Exception as error:  # a shape that tracing froze; the runtime's exceptions have no common base
            raise OnnxError(f"{type(encoder).__name__} does not run in ONNX Runtime: {first_line(error)}") from error


def _named(inputs: Inputs) -> dict[str, Tensor]:
    return inputs if isinstance(inputs, dict) else {_PIXELS: inputs}


@contextlib.contextmanager
def evaluation(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode without gradients, and every part back as it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _session(encoder: Encoder, example: Inputs) -> Any:
    """Export the encoder and load it into ONNX Runtime."""
    named = _named(example)
    axes = {name: {0: "batch"} for name in (*named, "features")}
    axes |= {name: {0: "batch", 1: "tokens"} for name in named if name in _LENGTH_VARIES}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "encoder.onnx"
            # An empty dict at the end, or the exporter would take the example's names for arguments.
            traced(encoder, (example, {}), path, list(named), axes)
            return session(path)
    except Exception as error:  # the exporter raises whatever a traced operation raises
        raise OnnxError(f"{type(encoder).__name__} cannot be exported: {first_line(error)}") from error


def session(path: Path) -> Any:
    """Return an ONNX file as ONNX Runtime runs it, on the CPU and with PyTorch's number of threads."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    options.enable_mem_pattern = False  # one is kept for each shape, and texts come in every length
    # Threads that wait for work by spinning take a core from who reads the next request.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def traced(
    network: nn.Module, example: tuple[Any, ...], path: Path, inputs: list[str], axes: dict[str, dict[int, str]]
) -> None:
    """Write a network in evaluation mode as an ONNX file.

    The tracing exporter (``dynamo=False``) is used: it takes a second where the newer one takes ten, needs no further
    package, and both give networks of the same speed. What tracing could freeze by mistake must be looked for after.

    Args:
        network: The network.
        example: What it is called with.
        path: The file.
        inputs: Names of its inputs, in their order.
        axes: Input or output -> axis -> name of those axes whose length varies; outputs come in their order here.
    """
    outputs = [name for name in axes if name not in inputs]
    with without_warnings():
        torch.onnx.export(
            network, example, str(path), input_names=inputs, output_names=outputs, dynamic_axes=axes, dynamo=False
        )


def first_line(error: Exception) -> str:
    """Return what kind of error it is, and the first line of what it says."""
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]


def _reshaped(inputs: Inputs) -> Inputs:
    """Return the inputs at another batch size and, for texts, another length."""
    reshaped = {name: _reshape(name, values) for name, values in _named(inputs).items()}
    return reshaped.get(_PIXELS, reshaped)


def _reshape(name: str, values: Tensor) -> Tensor:
    doubled = torch.cat([values, values.flip(0)])
    return doubled[:, : max(1, doubled.shape[1] * 2 // 3)] if name in _LENGTH_VARIES else doubled


def _difference(eager: Tensor, onnx: Tensor) -> float:
    """Return the largest difference as a share of the root mean square of the eager features."""
    scale = eager.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return float((eager - onnx).abs().max() / scale)
