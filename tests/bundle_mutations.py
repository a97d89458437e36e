"""A small model folder and every way in which a stranger or a disk may change it: for tests, and for longer fuzzing.

A changed folder either loads and predicts, or is refused by a `BundleError`. Where the change was not made consistent
with the manifest's digests, predictions that come out are those of the whole model, bit by bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

import fusetune
from fusetune.bundle import save_bundle
from fusetune.encoders import Encoder, TransformersText
from fusetune.errors import BundleError, UserError

FIRST = Path(__file__).parent / "bundles" / "format_1"
ROWS = FIRST / "rows.csv"
BERT = {"model_type": "bert", "hidden_size": 200, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10,
        "intermediate_size": 8, "max_position_embeddings": 64, "type_vocab_size": 1}  # fmt: skip
DEEP = 100_000
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 20_000, 10**6, 10**7, 10**12, 10**30, -(10**18), 0.5, 1e308, float("nan"),
    float("inf"), "", "x", "0", "../../x", "/dev/zero", "\0", "\ud800", "x" * 5000, [], {}, [[]], [0] * 1000,
    {"a": {"b": 1}}, [None], ["x"],
)  # fmt: skip
KEYS: dict[str, Any] = {
    "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
    "_name_or_path": ".",
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation": "x/y",
    "trust_remote_code": True,
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "backbone": "microsoft/resnet-50",
    "backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:a/b"},
    "num_labels": 10**8,
    "model_type": "gpt2",
    "dtype": "float16",
    "encoder": "TimmImage",
    "network": {"kind": "ensemble"},
}
Outcome = Literal["refused", "same", "other", "asks another table"]


@dataclass(frozen=True)
class Change:
    """What was done to a folder.

    Attributes:
        what: In words.
        consistent: Were the manifest's digests made right again, as by somebody who means harm?
    """

    what: str
    consistent: bool


def small_model(folder: Path, text: Encoder | None = None) -> Path:
    """Write a model of a text, cells and vectors into a folder; `text` replaces its encoder of texts, of width 200."""
    model = fusetune.load(FIRST / "model")
    model.network.encoders[0] = (text or TransformersText(BERT)).eval().requires_grad_(False)
    save_bundle(model, folder)
    return folder


def outcome(folder: Path, rows: Path, expected: pd.DataFrame) -> Outcome:
    """Return what becomes of a changed folder; anything but these few outcomes is an exception."""
    try:
        model = fusetune.load(folder)
    except BundleError:
        return "refused"
    try:
        found = model.predict_table(rows)
    except UserError:
        return "asks another table"
    return "same" if found.equals(expected) else "other"


def change(folder: Path, draw: random.Random) -> Change:
    """Change a model folder in one random way."""
    ways = [_change_bytes] * 2 + [_change_json] * 2 + [_change_header, _change_yaml, _change_place]
    return draw.choice(ways)(folder, draw)


def repair(folder: Path) -> None:
    """Make the manifest consistent with the files again, where it is one."""
    path = folder / "bundle.json"
    try:
        facts = json.loads(path.read_bytes())
        facts.pop("checksum", None)
        for name in facts["files"]:
            if (folder / name).is_file():
                facts["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        text = json.dumps(facts, sort_keys=True)
        path.write_text(json.dumps(facts | {"checksum": hashlib.sha256(text.encode()).hexdigest()}), encoding="utf-8")
    except (KeyError, TypeError, AttributeError, ValueError, OSError, RecursionError):
        return


def files(folder: Path) -> list[Path]:
    """Return the files of a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _change_bytes(folder: Path, draw: random.Random) -> Change:
    path = draw.choice(files(folder))
    data, how = bytearray(path.read_bytes()), draw.choice(["flip", "cut", "add", "zero", "repeat", "swap", "splice"])
    at = draw.randrange(len(data) or 1)
    match how:
        case "flip":
            for _ in range(draw.choice([1, 1, 5])):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case "cut":
            del data[at:]
        case "add":
            data += draw.randbytes(draw.choice([1, 100]))
        case "zero":
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        case "repeat":
            data[at:at] = data[: draw.randrange(200)]
        case "swap":
            data = bytearray(draw.choice(files(folder)).read_bytes())
        case "splice":
            some = [b"[", b"{", b'"', b"\0", b"\xff", b"," * 9, b"[" * DEEP, b'{"a":' * DEEP, b"9" * 6000]
            data[at:at] = draw.choice(some)
    path.write_bytes(data)
    if consistent := draw.random() < 0.5:
        repair(folder)
    return Change(f"{how} in {path.name}", consistent)


def _change_json(folder: Path, draw: random.Random) -> Change:
    path = draw.choice([folder / "bundle.json"] * 4 + [file for file in files(folder) if file.suffix == ".json"])
    facts = json.loads(path.read_bytes())
    if path.name == "bundle.json":
        facts.pop("checksum")
    where, key = draw.choice(list(_leaves(facts)))
    how = draw.choice(["value", "value", "value", "gone", "key", "key", "twice", "order"])
    value = draw.choice(HOSTILE)
    match how:
        case "value":
            where[key] = value
        case "gone":
            del where[key]
        case "key" if isinstance(where, dict):
            key, value = draw.choice(list(KEYS.items()))
            where[key] = value
        case "twice" if isinstance(where, list):
            where.append(where[key])
        case _:
            if isinstance(where, dict):
                turned = list(where.items())[::-1]
                where.clear()
                where.update(turned)
    path.write_text(json.dumps(facts), encoding="utf-8")
    repair(folder)
    return Change(f"{how} of {key} = {value!r:.60} in {path.name}", consistent=True)


def _leaves(facts: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a JSON value as its holder and its key."""
    pairs = facts.items() if isinstance(facts, dict) else enumerate(facts) if isinstance(facts, list) else ()
    for key, value in list(pairs):
        yield facts, key
        yield from _leaves(value)


def _change_header(folder: Path, draw: random.Random) -> Change:
    path = folder / draw.choice(["weights.safetensors", "weights.safetensors", "seen.safetensors"])
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    facts = json.loads(content[8 : 8 + length])
    where, key = draw.choice(list(_leaves(facts)))
    if draw.random() < 0.2:
        length, text = draw.choice([0, 1, length - 1, length + 8, 2**31, 2**63, 2**64 - 1]), content[8 : 8 + length]
    else:
        shapes = [[20_000, 20_000], [0], [2**40, 2**40], [-1, -1]]
        where[key] = draw.choice([*HOSTILE, "F64", "I64", "F16", "U8", "BF16", *shapes])
        text = json.dumps(facts).encode()
        length = len(text)
    path.write_bytes(struct.pack("<Q", length) + text + content[8 + int.from_bytes(content[:8], "little") :])
    repair(folder)
    return Change(f"header of {path.name}, {key}", consistent=True)


def _change_yaml(folder: Path, draw: random.Random) -> Change:
    path = folder / "config.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    at = draw.randrange(len(lines))
    bomb = "x0: &a [x,x]\nx1: &b [*a,*a]"
    lines[at] = draw.choice(
        [bomb, "&a", "*a", "", lines[draw.randrange(len(lines))], "\tx: 1", "\0", "? [a]", "x: !!python/name:os.system",
         "strategy: {name: 'import:evil:Evil'}", "device: cuda", "[" * DEEP,
         lines[at].partition(":")[0] + ": 1" + "0" * 5000,
         lines[at].partition(":")[0] + ": " + str(draw.choice([-1, 0, 1e308, "x", ".nan", 10**9]))]
    )  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    repair(folder)
    return Change(f"line {at + 1} of config.yaml = {lines[at]:.60}", consistent=True)


def _change_place(folder: Path, draw: random.Random) -> Change:
    path, how = draw.choice(files(folder)), draw.choice(["gone", "pipe", "folder", "outside", "device", "loop", "huge"])
    content = path.read_bytes()
    path.unlink()
    make: dict[str, Callable[[], Any]] = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "outside": lambda: path.symlink_to(_put(folder.parent / f"outside {path.name}", content)),
        "device": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
        "huge": lambda: os.truncate(_put(path, content), 1 << 40),
    }
    make.get(how, lambda: None)()
    return Change(f"{path.name}: {how}", consistent=False)


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def fuzz(source: Path, work: Path, seeds: range) -> Iterator[tuple[int, Change, Outcome]]:
    """Change copies of a model folder, and yield what becomes of each."""
    expected = fusetune.load(source).predict_table(ROWS)
    for seed in seeds:
        shutil.rmtree(work, ignore_errors=True)
        folder = Path(shutil.copytree(source, work / "model"))
        done = change(folder, random.Random(seed))
        yield seed, done, outcome(folder, ROWS, expected)
    shutil.rmtree(work, ignore_errors=True)
