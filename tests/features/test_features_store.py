from __future__ import annotations

import gc
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from fusetune.augment import Augment
from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment, uniform
from fusetune.config import Config, ImagePolicy
from fusetune.encoders import Encoder, SmallCNN
from fusetune.errors import RunError
from fusetune.features import store as store_module
from fusetune.features.store import Encoding, FeatureStore, blank, default_folder, weights_hash
from fusetune.progress import Log
from fusetune.runtime import Runtime, start_runtime

VIEWS = [Moment(0, 1_000_000, view) for view in range(3)]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    yield start_runtime(Config(device="cpu", threads=1))


class Counting(Encoder):
    """A small network that counts the rows it has seen; its state is one matrix and one buffer."""

    def __init__(self, dim: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.dim, self.rows, self.calls = dim, 0, 0
        self.weight = nn.Parameter(torch.randn(dim, 6, generator=torch.Generator().manual_seed(seed)))
        self.norm = nn.BatchNorm1d(dim)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        self.rows, self.calls = self.rows + len(inputs), self.calls + 1
        return self.dropout(self.norm(inputs @ self.weight.T))

    def blocks(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def describe(self) -> dict[str, Any]:
        return {"encoder": "Counting", "dim": self.dim}


@dataclass
class Vectors:
    values: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.int64] | None = None
    problems: dict[int, str] = field(default_factory=dict)

    def read(self, rows: npt.NDArray[np.int64]) -> Tensor:
        assert self.present[rows].all(), "an absent row was read"
        return torch.from_numpy(self.values[rows])


@dataclass(frozen=True)
class Noise(Augment):
    size: float = 0.5

    @property
    def varies(self) -> bool:
        return True

    def describe(self) -> dict[str, object]:
        return {"noise": self.size}

    def draw(self, inputs: Tensor, keys: Tensor, moment: Moment) -> Tensor:
        return inputs + self.size * uniform(moment, keys, "noise", inputs.shape[1])


def make_source(rows: int = 30, distinct: int = 20) -> Vectors:
    values = np.random.default_rng(0).normal(size=(distinct, 6)).astype(np.float32)[np.arange(rows) % distinct]
    present = np.arange(rows) % 7 != 3
    return Vectors(values, present, (np.arange(rows) % distinct + 1).astype(np.uint64))


def make_encoding(encoder: Encoder, source: Vectors, **more: Any) -> Encoding:
    keys = np.arange(len(source.present), dtype=np.int64) * 1_000_003
    facts = {"augment": Noise(), "keys": keys, "batch_size": 8} | more
    return Encoding("vectors", encoder, source, **facts)


def make_store(folder: Path, runtime: Runtime, **more: Any) -> FeatureStore:
    return FeatureStore(folder, runtime, Log(quiet=True), **{"onnx": False} | more)


ROWS = np.arange(2, 30)


def test_every_distinct_row_is_encoded_once(runtime: Runtime, tmp_path: Path) -> None:
    source, encoder = make_source(), Counting()
    store = make_store(tmp_path, runtime)
    has = ROWS[source.present[ROWS]]
    z = store.encode(make_encoding(encoder, source), ROWS)
    distinct = len(np.unique(source.digests[has]))
    assert encoder.rows == store.passes["vectors"] == distinct < len(has)
    with torch.inference_mode():
        expected = encoder.eval()(torch.from_numpy(source.values[ROWS])).numpy()
    np.testing.assert_allclose(z[0][source.present[ROWS]], expected[source.present[ROWS]], rtol=0, atol=1e-6)
    assert not z[0][~source.present[ROWS]].any()


def test_every_view_of_every_present_row_is_encoded_once(runtime: Runtime, tmp_path: Path) -> None:
    source, encoder = make_source(), Counting()
    store = make_store(tmp_path, runtime)
    z = store.encode(make_encoding(encoder, source), ROWS, VIEWS)
    present = int(source.present[ROWS].sum())
    assert encoder.rows == store.passes["vectors"] == 3 * present
    assert z.shape == (3, len(ROWS), 4)
    assert len(np.unique(z[:, source.present[ROWS]].round(5).reshape(-1, 4), axis=0)) == 3 * present
    assert not z[:, ~source.present[ROWS]].any()


def test_views_equal_running_the_encoder_in_every_epoch(runtime: Runtime, tmp_path: Path) -> None:
    """With as many views as epochs, epoch e sees the features that the encoder would give in epoch e."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (12, 3, 40, 40), dtype=torch.uint8)
    source = Vectors(pixels.numpy(), np.ones(12, bool), np.arange(12, dtype=np.uint64))  # type: ignore[arg-type]
    encoder, rows = SmallCNN().eval(), np.arange(12)
    augment = ImageAugment(ImagePolicy(rotate=15, scale=0.1, flip_horizontal=0.5, erase=0.5), 32)
    what = make_encoding(encoder, source, augment=augment)
    stored = make_store(tmp_path, runtime).encode(what, rows, VIEWS)
    keys = torch.from_numpy(what.keys)
    for epoch, moment in enumerate(VIEWS):
        order = np.random.default_rng(epoch).permutation(rows)
        again = np.zeros_like(stored[0])
        for batch in np.array_split(order, 5):  # other batches, in another order
            with torch.inference_mode():
                again[batch] = encoder(augment.draw(source.read(batch), keys[batch], moment)).numpy()
        np.testing.assert_allclose(stored[epoch], again, rtol=0, atol=1e-5)
    assert np.abs(stored[0] - stored[1]).max() > 1e-3


def test_known_features_are_reused_by_other_runs(runtime: Runtime, tmp_path: Path) -> None:
    source = make_source()
    first = make_store(tmp_path, runtime).encode(make_encoding(Counting(), source), ROWS, VIEWS)
    encoder, store = Counting(), make_store(tmp_path, runtime)
    second = store.encode(make_encoding(encoder, source, batch_size=3), ROWS, VIEWS)
    assert encoder.rows == 0
    assert store.passes["vectors"] == 0
    assert store.reused["vectors"] == 3 * int(source.present[ROWS].sum())
    assert np.array_equal(first, second)
    assert isinstance(second, np.memmap)
    assert not second.flags.writeable


@dataclass(frozen=True)
class Fleeting(Noise):
    word: str | None = "this run"

    @property
    def fleeting(self) -> str | None:
        return self.word


def test_views_that_depend_on_more_than_can_be_told_belong_to_one_run(runtime: Runtime, tmp_path: Path) -> None:
    source, encoder = make_source(), Counting()
    one, other, named = Fleeting(), Fleeting(word="that run"), Fleeting(word=None)
    store = make_store(tmp_path, runtime)
    first = store.encode(make_encoding(encoder, source, augment=one), ROWS, VIEWS)
    passes = 3 * int(source.present[ROWS].sum())
    assert np.array_equal(store.encode(make_encoding(encoder, source, augment=one), ROWS, VIEWS), first)
    assert encoder.rows == passes  # within the run once
    for augment in (other, named):
        store.encode(make_encoding(encoder, source, augment=augment), ROWS, VIEWS)
    assert encoder.rows == 3 * passes
    plain = store.encode(make_encoding(encoder, source, augment=one), ROWS)
    assert np.array_equal(store.encode(make_encoding(encoder, source, augment=other), ROWS), plain)
    rows, kept = encoder.rows, np.array(first)
    del store
    gc.collect()
    assert len(list(tmp_path.rglob("features.npy"))) == 2  # the named one's views and the plain features
    assert np.array_equal(first, kept)  # what is mapped stays readable
    make_store(tmp_path, runtime).encode(make_encoding(encoder, source, augment=one), ROWS, VIEWS)
    assert encoder.rows == rows + passes


def test_plain_features_do_not_depend_on_row_keys(runtime: Runtime, tmp_path: Path) -> None:
    source, encoder = make_source(), Counting()
    store = make_store(tmp_path, runtime)
    store.encode(make_encoding(encoder, source), ROWS)
    store.encode(make_encoding(encoder, source, keys=np.arange(30) + 77), ROWS)
    assert encoder.rows == store.passes["vectors"] == len(np.unique(source.digests[ROWS][source.present[ROWS]]))


@pytest.mark.parametrize(
    "change", ["weights", "buffers", "rows", "order", "content", "augment", "views", "seed", "keys", "present"]
)
def test_whatever_matters_changes_the_key(runtime: Runtime, tmp_path: Path, change: str) -> None:
    source, rows, views = make_source(), ROWS, VIEWS
    store = make_store(tmp_path, runtime)
    store.encode(make_encoding(Counting(), source), rows, views)
    encoder, more = Counting(seed=1 if change == "weights" else 0), {}
    match change:
        case "buffers":
            encoder.norm.running_mean += 1e-3
        case "rows":
            rows = ROWS[:-1]
        case "order":
            rows = ROWS[::-1].copy()
        case "content":
            source.digests[5] += 100
        case "augment":
            more["augment"] = Noise(0.4)
        case "views":
            views = VIEWS[:2]
        case "seed":
            views = [replace(moment, seed=1) for moment in VIEWS]
        case "keys":
            more["keys"] = np.arange(30) + 5
        case "present":
            source.present[4] = False
    store.encode(make_encoding(encoder, source, **more), rows, views)
    assert encoder.rows > 0
    assert store.reused["vectors"] == 0


def test_precision_and_engine_change_the_key(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, what = make_source(), make_encoding(Counting(), make_source())
    make_store(tmp_path, runtime).encode(what, ROWS)
    other = make_store(tmp_path, Runtime(runtime.device, "bf16"))
    other.encode(what, ROWS)
    assert other.passes["vectors"] > 0
    monkeypatch.setattr(store_module, "onnx_available", lambda: True)
    faster = make_store(tmp_path, runtime, onnx=True)
    faster.encode(replace(what, batch_size=64), ROWS)  # too few rows for ONNX, but it could have been used
    assert faster.passes["vectors"] > 0
    del source


def test_frozen_means_frozen(runtime: Runtime, tmp_path: Path) -> None:
    encoder = Counting().train()
    before = weights_hash(encoder)
    make_store(tmp_path, runtime).encode(make_encoding(encoder, make_source()), ROWS, VIEWS)
    assert weights_hash(encoder) == before
    assert all(p.grad is None for p in encoder.parameters())


def test_an_encoder_that_changes_itself_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    class Restless(Counting):
        def forward(self, inputs: Tensor) -> Tensor:
            self.norm.num_batches_tracked += 1
            return super().forward(inputs)

    with pytest.raises(RunError, match="changed the frozen encoder 'vectors'"):
        make_store(tmp_path, runtime).encode(make_encoding(Restless(), make_source()), ROWS)
    assert not list(tmp_path.rglob("features.npy"))


def test_rows_without_the_modality_cost_nothing(runtime: Runtime, tmp_path: Path) -> None:
    source, encoder = make_source(), Counting()
    source.present[:] = False
    for views in (None, VIEWS):
        z = make_store(tmp_path, runtime).encode(make_encoding(encoder, source), ROWS, views)
        assert not z.any()
        assert z.shape == (len(views or [0]), len(ROWS), 4)
    assert encoder.rows == 0


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "empty", "no array", "no facts", "facts cut", "facts list", "other format", "a file"]
)
def test_damaged_features_are_made_again(runtime: Runtime, tmp_path: Path, damage: str) -> None:
    source = make_source()
    good = np.array(make_store(tmp_path, runtime).encode(make_encoding(Counting(), source), ROWS))
    (array,) = tmp_path.rglob("features.npy")
    facts = array.with_suffix(".json")
    match damage:
        case "flip":
            data = bytearray(array.read_bytes())
            data[-5] ^= 1
            array.write_bytes(data)
        case "cut":
            array.write_bytes(array.read_bytes()[:-8])
        case "empty":
            array.write_bytes(b"")
        case "no array":
            array.unlink()
        case "no facts":
            facts.unlink()
        case "facts cut":
            facts.write_text(facts.read_text()[:20])
        case "facts list":
            facts.write_text("[]")
        case "other format":
            facts.write_text(json.dumps(json.loads(facts.read_text()) | {"format": 99}))
        case "a file":
            array.unlink()
            facts.unlink()
            array.parent.rmdir()
            array.parent.write_text("in the way")
    encoder = Counting()
    again = make_store(tmp_path, runtime).encode(make_encoding(encoder, source), ROWS)
    assert encoder.rows > 0
    assert np.array_equal(again, good)


def test_the_oldest_features_go_first(runtime: Runtime, tmp_path: Path) -> None:
    source = make_source()
    keep = tmp_path / "mine" / "photos"
    keep.mkdir(parents=True)
    (keep / "cat.txt").write_text("not ours")
    store = make_store(tmp_path, runtime)
    for seed in range(3):
        store.encode(make_encoding(Counting(seed=seed), source), ROWS)
        newest = max(tmp_path.rglob("features.npy"), key=lambda p: p.stat().st_mtime_ns).parent
        os.utime(newest, (seed, seed))
    store.encode(make_encoding(Counting(seed=0), source), ROWS)  # used again: no longer the oldest
    size = next(tmp_path.rglob("features.npy")).stat().st_size
    small = make_store(tmp_path, runtime, limit_gb=2.5 * size / 2**30)
    small.encode(make_encoding(Counting(seed=9), source), ROWS)
    left = []
    for seed in (0, 1, 2, 9):
        encoder = Counting(seed=seed)
        make_store(tmp_path, runtime).encode(make_encoding(encoder, source), ROWS)
        left.append(encoder.rows == 0)
    assert left == [True, False, False, True]
    assert (keep / "cat.txt").read_text() == "not ours"


def test_the_newest_features_stay_whatever_their_size(runtime: Runtime, tmp_path: Path) -> None:
    source, store = make_source(), make_store(tmp_path, runtime, limit_gb=1e-9)
    for seed in range(3):
        assert store.encode(make_encoding(Counting(seed=seed), source), ROWS).any()
    assert len(list(tmp_path.rglob("features.npy"))) == 1


def test_half_written_features_of_a_killed_process_go_after_a_day(runtime: Runtime, tmp_path: Path) -> None:
    for age, name in ((0, "a"), (3 * 86400, "b")):
        folder = tmp_path / "aa" / f".{name * 64}.12345678"
        folder.mkdir(parents=True)
        (folder / "features.npy").write_bytes(b"half")
        when = time.time() - age
        os.utime(folder, (when, when))
    make_store(tmp_path, runtime).encode(make_encoding(Counting(), make_source()), ROWS)
    assert [p.name[1] for p in (tmp_path / "aa").glob(".*")] == ["a"]


def test_what_others_keep_in_the_folder_is_never_touched(runtime: Runtime, tmp_path: Path) -> None:
    source = make_source()
    make_store(tmp_path, runtime).encode(make_encoding(Counting(), source), ROWS)
    (entry,) = (path.parent for path in tmp_path.rglob("features.npy"))
    theirs = [
        tmp_path / "aa" / "study" / "features.npy",
        tmp_path / "aa" / ("a" * 64) / "photo.png",
        tmp_path / "aa" / ("a" * 64) / "features.npy",
        tmp_path / "aa" / ("b" * 64),
        entry / "notes.txt",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        os.utime(path.parent, (0, 0))
    store = make_store(tmp_path, runtime, limit_gb=1e-9)
    for seed in range(3):  # the first would be found, were it not for the notes
        assert store.encode(make_encoding(Counting(seed=seed), source), ROWS).any()
    assert all(path.read_bytes() == b"mine" for path in theirs)
    assert [text for text in store.log.warnings if "could not be kept" in text and "has this name" in text]


def test_a_folder_that_cannot_be_written_costs_the_cache_not_the_run(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store, encoder = make_store(tmp_path / "file" / "store", runtime), Counting()
    z = store.encode(make_encoding(encoder, make_source()), ROWS)
    assert z.any()
    assert any("could not be kept" in text for text in store.log.warnings)


def _encode_often(folder: Path, ready: Any, results: Any) -> None:
    runtime = start_runtime(Config(device="cpu", threads=1))
    source = make_source()
    ready.wait()
    sums = []
    for turn in range(25):
        store = make_store(folder, runtime, limit_gb=1e-6)  # every process removes what the others wrote
        sums.append(float(store.encode(make_encoding(Counting(seed=turn % 2), source), ROWS).astype(float).sum()))
    results.put((len(set(sums[::2])), len(set(sums[1::2])), [float(sums[0]), float(sums[1])]))


def test_processes_that_share_a_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, results = context.Barrier(3), context.SimpleQueue()
    workers = [context.Process(target=_encode_often, args=(tmp_path, ready, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    sums_of_each = [results.get() for _ in workers]
    assert {(a, b) for a, b, _ in sums_of_each} == {(1, 1)}
    assert len({tuple(sums) for _, _, sums in sums_of_each}) == 1


def test_the_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUSETUNE_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "features"
    monkeypatch.delenv("FUSETUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "fusetune" / "features"


@pytest.mark.parametrize("lengths", [None, np.arange(30)[::-1].copy()])
def test_rows_are_read_once_for_all_views(runtime: Runtime, tmp_path: Path, lengths: Any) -> None:
    """And the features are those of reading them again for every view, to the bit."""

    class Watched(Vectors):
        def read(self, rows: npt.NDArray[np.int64]) -> Tensor:
            read.append(rows)
            return super().read(rows)

    read: list[npt.NDArray[np.int64]] = []
    plain = make_source()
    source = Watched(plain.values, plain.present, plain.digests, lengths)
    encoder = Counting()
    features = make_store(tmp_path, runtime).encode(make_encoding(encoder, source), ROWS, VIEWS)
    has = ROWS[source.present[ROWS]]
    assert sorted(np.concatenate(read)) == sorted(has)
    batches = [rows.copy() for rows in read]
    keys = make_encoding(encoder, source).keys
    for view, moment in enumerate(VIEWS):
        for rows in batches:
            seen = Noise().draw(plain.read(rows), torch.from_numpy(keys[rows]), moment)
            with torch.inference_mode():
                assert np.array_equal(features[view, rows - ROWS[0]], encoder.eval()(seen).numpy())


def test_features_in_use_stay_and_what_goes_is_said(runtime: Runtime, tmp_path: Path) -> None:
    encoder, source, said = Counting(), make_source(), list[str]()
    old = make_store(tmp_path, runtime)
    for rows in (ROWS[:10], ROWS[:12]):
        old.encode(make_encoding(encoder, source), rows)
    entries = sorted(tmp_path.glob("*/*"), key=lambda path: (path / "features.npy").stat().st_size)
    for age, path in enumerate(entries):
        os.utime(path, (path.stat().st_mtime - 100 + age,) * 2)
    store = make_store(tmp_path, runtime, limit_gb=900 / 2**30)
    store.log.say = said.append  # type: ignore[method-assign, assignment]
    view = store.encode(make_encoding(encoder, source), ROWS[:10])[0, 2:]
    os.utime(entries[0], (0, 0))  # as a clock that was wrong would leave it
    store.encode(make_encoding(encoder, source), ROWS)
    assert [path.exists() for path in entries] == [True, False], "somebody holds a view of the first"
    assert view.shape == (8, 4)
    assert len(said) == 1
    assert "1 set(s) of stored features dropped, the least recently used" in said[0]
    assert "(store.limit_gb)" in said[0]


def test_features_beyond_memory_are_made_on_disk_to_the_same_bits(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, encoder = make_source(), Counting()
    expected = [
        make_store(tmp_path / "a", runtime).encode(make_encoding(encoder, source), ROWS, views)
        for views in (None, VIEWS)
    ]
    assert type(blank((2, 3), tmp_path)) is np.ndarray
    monkeypatch.setattr(store_module, "IN_MEMORY", 0)
    monkeypatch.setattr(store_module, "_ROWS", 3)
    scratch = blank((2, 3), tmp_path / "c")
    assert isinstance(scratch, np.memmap)
    assert not scratch.any()
    assert not list((tmp_path / "c").iterdir()), "nobody sees the file"
    found = [
        make_store(tmp_path / "b", runtime).encode(make_encoding(encoder, source), ROWS, views)
        for views in (None, VIEWS)
    ]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError("full")))
    assert type(blank((2, 3), tmp_path / "c")) is np.ndarray, "a full disk must not end the process"
