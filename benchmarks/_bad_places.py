"""Disks that are full, folders that nobody may write to, processes that die, and files that changed on their way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import yaml
from _killed import STAGES, run_to
from _workshop import CannotTryError, Fault, Workshop, settings
from typer.testing import CliRunner

import fusetune
from fusetune.cli.frame import INTERRUPTED, app
from fusetune.data.images import ImageSource
from fusetune.errors import UserError
from fusetune.folder import held

_SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGKILL": signal.SIGKILL}
_MODEL = (
    "bundle.json", "config.yaml", "schema.json", "weights.safetensors", "seen.safetensors", "inputs/0/reader.json",
    "inputs/1/tokenizer.json",
)  # fmt: skip


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory; what is left half-written there is an error."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise CannotTryError("a small file system can be mounted by root only")
    try:
        yield folder
    finally:
        left = [path for path in folder.rglob(".*") if path.name != ".lock"]
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        assert not left, left


def _full(kilobytes: int, shop: Workshop) -> None:
    with mounted(shop.folder / "disk", f"size={kilobytes}k") as disk:
        shop.fit(out=disk / "run")


def _full_predictions(shop: Workshop) -> None:
    with mounted(shop.folder / "disk", "size=4k") as disk:
        _predict(shop, disk / "told.csv")


def _full_store(shop: Workshop) -> None:
    """What is only kept for later costs time, not the run."""
    with mounted(shop.folder / "disk", "size=16k") as disk:
        run = shop.fit_pictures(shop.frame, f"store.folder={disk / 'store'}")
        assert any("features could not be kept" in text for text in run.metrics["warnings"])


def _read_only(shop: Workshop, name: str) -> None:
    with mounted(shop.folder / "disk", "ro") as disk:
        shop.fit(out=disk / name)


def _read_only_predictions(shop: Workshop) -> None:
    with mounted(shop.folder / "disk", "ro") as disk:
        _predict(shop, disk / "told.csv")


def _predict(shop: Workshop, out: Path) -> None:
    table = shop.file(shop.csv(pd.concat([shop.frame] * 4)))
    answer = CliRunner().invoke(app, ["predict", str(shop.made), str(table), "--out", str(out)])
    assert answer.exit_code in (0, UserError.exit_code), answer.output
    if answer.exit_code:
        assert not out.exists()
        raise UserError(" ".join(answer.output.split()))


def _held(shop: Workshop) -> None:
    (shop.folder / "run").mkdir()
    with held(shop.folder / "run"):
        shop.fit()


def _killed(
    stage: str, number: signal.Signals, meanwhile: Callable[[Path], object] = lambda _: None
) -> Callable[[Workshop], object]:
    """End a run in a stage; the same command with --resume must end as a run that nobody stopped.

    Args:
        stage: In which the run ends.
        number: The signal.
        meanwhile: Done to the run's folder before it is resumed.
    """

    def inject(shop: Workshop) -> None:
        table, out = shop.file(shop.csv()), shop.folder / "run"
        config = shop.file(yaml.safe_dump(settings(shop.folder / "store", epochs=2)).encode(), "config.yaml")
        words = [str(table), "--label", "organ", "--inputs", "note,age", "--split", "part", "--config", str(config)]
        code = run_to(stage, number, [*words, "--out", str(out)], shop.folder / "said.txt")
        said = (shop.folder / "said.txt").read_text(encoding="utf-8")[-2000:]
        assert code == (-number if number == signal.SIGKILL else INTERRUPTED), said
        assert number == signal.SIGKILL or "--resume" in said, said
        assert not (out / "metrics.json").exists()
        meanwhile(out)
        how: dict[str, Any] = {"inputs": ["note", "age"], "config": config}
        shop.fit(table, resume=True, **how)
        whole = shop.made.parent / "whole"
        if not whole.exists():
            shop.fit(table, out=whole, **how)
        _assert_equal(out, whole)

    return inject


def _assert_equal(run: Path, other: Path) -> None:
    told, expected = (pd.read_parquet(folder / "predictions.parquet") for folder in (run, other))
    pd.testing.assert_frame_equal(told, expected, check_exact=True)


def _damaged_checkpoints(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def inject(out: Path) -> None:
        kept = sorted((out / "stages").rglob("*.pt"))
        assert kept
        for file in kept:
            file.write_bytes(change(file.read_bytes()))

    return inject


def _middle_flipped(data: bytes) -> bytes:
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def _damaged_result(name: str) -> Callable[[Workshop], object]:
    """Damage a file of a finished run, and resume it."""

    def inject(shop: Workshop) -> None:
        out = shop.folder / "finished"
        file = shop.fit(row_id="id", out=out).folder / name
        file.write_bytes(file.read_bytes()[:-40])
        shop.fit(row_id="id", out=out, resume=True)

    return inject


def _beside(shop: Workshop, **how: Any) -> None:
    """Work in a folder where the user's own files have names like those that fusetune writes aside; they stay."""
    mine = [
        shop.folder / "run" / name
        for name in (".bashrc.20240131", ".vault.deadbeef/keys", ".metrics.json.cafe0001.json")
    ]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine", encoding="utf-8")
    try:
        shop.fit(**how)
    finally:
        assert [file.read_text(encoding="utf-8") for file in mine] == ["mine"] * len(mine)
        shutil.rmtree(shop.folder / "run")  # nothing else that begins with a dot may be left


def _over_its_table(shop: Workshop) -> None:
    table = shop.file(shop.csv())
    answer = CliRunner().invoke(app, ["predict", str(shop.made), str(table), "--out", str(table)])
    assert table.read_bytes() == shop.csv(), "the table is gone"
    assert answer.exit_code == UserError.exit_code, answer.output
    raise UserError(" ".join(answer.output.split()))


def _copied(shop: Workshop) -> Path:
    return Path(shutil.copytree(shop.made / "model", shop.folder / "model"))


def _changed_byte(name: str) -> Callable[[Workshop], object]:
    def inject(shop: Workshop) -> None:
        file = _copied(shop) / name
        _flip(file)
        fusetune.load(file.parents[len(Path(name).parts) - 1])

    return inject


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _missing_file(name: str) -> Callable[[Workshop], object]:
    def inject(shop: Workshop) -> None:
        model = _copied(shop)
        (model / name).unlink()
        fusetune.load(model)

    return inject


def _newer(shop: Workshop) -> None:
    model = _copied(shop)
    facts = json.loads((model / "bundle.json").read_text(encoding="utf-8"))
    (model / "bundle.json").write_text(json.dumps(facts | {"format": 99, "fusetune": "9.0"}), encoding="utf-8")
    fusetune.load(model)


def _damaged_cache(pattern: str) -> Callable[[Workshop], object]:
    """Damage what a first run has kept; the second one must not believe it."""

    def inject(shop: Workshop) -> None:
        sets = [f"store.folder={shop.folder / 'store'}"]
        first = shop.fit(inputs=["scan"], sets=sets)
        kept = [path for path in (shop.folder / "store").rglob("*") if path.match(pattern)]
        assert kept
        for file in kept:
            _flip(file)
        before = {file: file.read_bytes() for file in kept}
        second = shop.fit(inputs=["scan"], sets=sets, out=shop.folder / "again")
        _assert_equal(second.folder, first.folder)
        assert all(not file.exists() or file.read_bytes() != content for file, content in before.items())

    return inject


def _thread_dies(shop: Workshop) -> None:
    with patch.object(ImageSource, "_take", side_effect=ZeroDivisionError("by chance")):
        shop.fit_pictures(shop.frame)


PLACES = [
    *(
        Fault("disk full", f"{size} kB for a run", partial(_full, size), "cannot write .*space.*free some")
        for size in (4, 8, 16, 32, 64, 128)
    ),
    Fault("disk full", "predictions", _full_predictions, "cannot write .*told.csv.*free some space"),
    Fault("disk full", "the store", _full_store),
    Fault("read-only folder", "new folder", lambda s: _read_only(s, "run"), "cannot create the folder .*run.*ead-only"),
    Fault("read-only folder", "as it is", lambda s: _read_only(s, "."), "cannot write in .*ead-only"),
    Fault(
        "read-only folder", "predictions", _read_only_predictions, "cannot write .*told.csv.*ead-only.*choose a place"
    ),
    Fault("two runs in one folder", "at once", _held, "another run is working in .*choose another --out"),
    *(
        Fault(f"{name} and --resume", stage, _killed(stage, number))
        for name, number in _SIGNALS.items()
        for stage in STAGES
    ),
    *(
        Fault(f"checkpoint: {how}", "in stage U", _killed("stage U", signal.SIGKILL, _damaged_checkpoints(change)))
        for how, change in {
            "a changed byte": _middle_flipped,
            "cut short": lambda data: data[: len(data) // 2],
            "empty": lambda _: b"",
        }.items()
    ),
    *(
        Fault("result cut short", name, _damaged_result(name), name)
        for name in ("metrics.json", "split.parquet", "schema.json", "config.yaml")
    ),
    Fault("files of the user", "beside a run", _beside),
    Fault("files of the user", "beside a mistyped label", lambda s: _beside(s, label="organs"), "no column 'organs'"),
    Fault("files of the user", "beside nothing to resume", lambda s: _beside(s, resume=True)),
    Fault("files of the user", "the table itself", _over_its_table, "table.csv.*(another|other|choose)"),
    *(
        Fault("model: a changed byte", name, _changed_byte(name), f"{name} (was changed|is damaged).*copy")
        for name in _MODEL
    ),
    *(
        Fault("model: a missing file", name, _missing_file(name), f"{name} is missing; copy|it has no {name}")
        for name in _MODEL
    ),
    Fault(
        "model: a newer format", "99", _newer, "format 99, this fusetune .* reads formats .*9.0: install that version"
    ),
    Fault("damaged cache", "features", _damaged_cache("features.npy")),
    Fault("damaged cache", "features' description", _damaged_cache("features.json")),
    Fault("damaged cache", "decoded images", _damaged_cache("pixels.npy")),
    Fault("damaged cache", "index of images", _damaged_cache("index.npy")),
    Fault(
        "reading thread dies", "unexpectedly", _thread_dies, "reading .*png.*column 'scan', table row.*ZeroDiv", code=1
    ),
]
