"""Runs that lose, mix up or trust what they must not: kinds 1, 3, 4 and 15."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _fuzz_text import damaged
from _kinds import Case, Loud, listening, need
from _workshop import Workshop
from typer.testing import CliRunner

from fusetune.cli.frame import app
from fusetune.errors import FusetuneError
from fusetune.train.checkpoint import Checkpoints

# Kind 1: data of the user destroyed.

_PRECIOUS = (
    ".bashrc.20240131",
    ".notes.20231224.bak",
    ".metrics.json.1a2b3c4d.old",
    ".vault.deadbeef/keys",
    ".model.cafe0001/x",
)


def _kept(call: Callable[[Workshop, Path], object], others: tuple[str, ...], shop: Workshop) -> str:
    """Do something with a folder in which files of the user lie; all of them are still there."""
    home = shop.folder / "run"
    files = [home / name for name in (*_PRECIOUS, *others)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("precious", encoding="utf-8")
    with suppress(FusetuneError):
        call(shop, home)
    lost = [file.name for file in files if not file.exists() or file.read_text(encoding="utf-8") != "precious"]
    return need(not lost, f"gone: {lost}")


def _over(command: Callable[[Workshop, Path], list[str]], by: str, shop: Workshop) -> str:
    """Name the input table as the file to write; it stays as it is."""
    table = shop.file(shop.csv())
    before, out = table.read_bytes(), table
    if by == "a link":
        out = shop.folder / "link.csv"
        out.symlink_to(table)
    elif by == "another spelling":
        out = shop.folder / ".." / shop.folder.name / "table.csv"
    answer = CliRunner().invoke(app, [*command(shop, table), str(out)])
    if table.read_bytes() != before:
        return f"the table is overwritten, exit code {answer.exit_code}"
    if answer.exit_code == 2 and "table.csv" in " ".join(answer.output.split()):
        raise Loud(answer.output)
    if by == "a link" and answer.exit_code == 0:
        return ""  # what is written takes the link's place
    return f"exit code {answer.exit_code}: {answer.output[-200:]}"


_COMMANDS: dict[str, Callable[[Workshop, Path], list[str]]] = {
    "predict": lambda shop, table: ["predict", str(shop.made), str(table), "--out"],
    "explain": lambda shop, table: ["explain", str(shop.made), str(table), "--row", "case-3", "--out"],
    "evaluate": lambda shop, table: ["evaluate", str(shop.made), str(table), "--json"],
    "check": lambda _, table: ["check", str(table), "--label", "organ", "--json"],
}
DESTROYED = [
    Case(1, "a mistyped label", partial(_kept, lambda s, out: s.fit(label="organs", out=out), ())),
    Case(1, "a run in a folder with hidden files", partial(_kept, lambda s, out: s.fit(out=out), ())),
    Case(1, "--resume in any folder", partial(_kept, lambda s, out: s.fit(out=out, resume=True), ("thesis.tex",))),
    Case(
        1,
        "--resume, mistyped label",
        partial(_kept, lambda s, out: s.fit(label="organs", out=out, resume=True), ("thesis.tex",)),
    ),
    Case(
        1,
        "a run in a folder that is not empty",
        partial(_kept, lambda s, out: s.fit(out=out), ("thesis.tex", "model/x")),
    ),
    Case(
        1,
        "--resume beside the user's own stages",
        partial(_kept, lambda s, out: s.fit(out=out, resume=True), ("stages/mine.txt",)),
    ),
    *(
        Case(1, f"{name} over its table by {by}", partial(_over, command, by))
        for name, command in _COMMANDS.items()
        for by in ("its name", "a link", "another spelling")
    ),
]

# Kind 3: identity rests on too little.


def _repeated(change: Callable[[list[Any]], list[Any]], shop: Workshop) -> str:
    """Ids of a table to predict stay what they are, and what is odd about them is said."""
    ids = change(shop.frame["id"].tolist())
    with listening() as said:
        told = shop.model().predict_table(shop.frame.assign(id=pd.Series(ids, dtype=object)))
    wrong = [
        row
        for row, (one, other) in enumerate(zip(told["row_id"], ids, strict=True))
        if pd.notna(other) and str(one) != str(other)
    ]
    if wrong:
        return f"{len(wrong)} of {len(ids)} row ids are not those of the table, such as {told['row_id'][wrong[0]]}"
    if len(set(map(str, ids))) == len(ids):
        return ""
    if "id" in said.text or (told["problem"] != "").any():
        raise Loud(said.text or str(set(told["problem"])))
    return "repeated ids, and not a word"


def _resumed(change: Callable[[Workshop, pd.DataFrame], pd.DataFrame], inputs: list[str], shop: Workshop) -> str:
    """Resume a finished run on a table with other inputs; its scores are not handed out as those of the new table."""
    how: dict[str, Any] = {"inputs": inputs, "row_id": "id"}
    frame = shop.frame
    if "scan" in inputs:
        names = [shutil.copy(name, shop.folder / Path(name).name) for name in frame["scan"]]
        frame = frame.assign(scan=[str(name) for name in names])
    first = shop.fit(frame, **how)
    changed = change(shop, frame)
    again = shop.fit(changed, resume=True, **how)
    return need(again.metrics != first.metrics, "the old scores are handed out")


def _other_picture(shop: Workshop, frame: pd.DataFrame) -> pd.DataFrame:
    shutil.copy(frame["scan"][4], frame["scan"][3])
    del shop
    return frame


_OTHER = "(other|changed|differ).*(--out|start|choose)"
IDENTITY = [
    Case(3, "one id repeated", partial(_repeated, lambda ids: [*ids[:-1], ids[0]]), "'id'"),
    Case(3, "all ids equal", partial(_repeated, lambda ids: ["same"] * len(ids)), "'id'"),
    Case(3, "one id empty", partial(_repeated, lambda ids: [*ids[:-1], None]), "'id'"),
    Case(
        3,
        "ids of two types",
        partial(_repeated, lambda ids: [row if row % 2 else word for row, word in enumerate(ids)]),
        "'id'",
    ),
    Case(
        3,
        "resumed with other numbers",
        partial(_resumed, lambda s, f: f.assign(age=f["age"] + 5), ["age", "site"]),
        _OTHER,
    ),
    Case(
        3,
        "resumed with one other number",
        partial(_resumed, lambda s, f: s.changed("age", 99.5, 3), ["age", "site"]),
        _OTHER,
    ),
    Case(
        3,
        "resumed with other texts",
        partial(_resumed, lambda s, f: f.assign(note="nothing " + f["note"]), ["note", "age"]),
        _OTHER,
    ),
    Case(3, "resumed with another picture", partial(_resumed, _other_picture, ["scan", "age"]), _OTHER),
    Case(
        3,
        "resumed with another category",
        partial(_resumed, lambda s, f: s.changed("site", "site 0", 1, 2, 3, 5), ["age", "site"]),
        _OTHER,
    ),
    Case(
        3,
        "resumed with columns exchanged",
        partial(_resumed, lambda s, f: f.assign(age=f["age"][::-1].to_numpy()), ["age", "site"]),
        _OTHER,
    ),
]

# Kind 4: every way of asking tells of problems.


def _tells(ask: str, change: Callable[[Workshop], pd.DataFrame], shop: Workshop) -> str:
    """What `problem` would say, `predict` and `predict_proba` say too."""
    model, frame = shop.model(), change(shop)
    with listening() as said:
        answer = getattr(model, ask)(frame)
    if isinstance(answer, pd.DataFrame) and answer.isna().to_numpy().any():
        return "NaN among probabilities"
    if "scan" in said.text or "age" in said.text or "note" in said.text:
        raise Loud(said.text)
    return "an answer for every row, and not a word"


_MISSING: dict[str, Callable[[Workshop], pd.DataFrame]] = {
    "one picture that is not there": lambda s: s.changed("scan", "/nowhere/x.png", 3),
    "every picture missing": lambda s: s.frame.assign(scan="/nowhere/x.png"),
    "a number too large": lambda s: s.changed("age", 1e39, 3),
    "no column of texts": lambda s: s.frame.drop(columns="note"),
}
TELLS = [
    Case(4, f"{ask}: {name}", partial(_tells, ask, change), "scan|age|note")
    for ask in ("predict", "predict_proba")
    for name, change in _MISSING.items()
]


def _all_unreadable(shop: Workshop) -> str:
    """A table of which no picture of a column can be read is refused, unless it was said to be so."""
    told = shop.model().predict_table(shop.frame.assign(scan="/nowhere/x.png"))
    if (told["problem"] == "").any():
        return "rows without a problem"
    raise Loud(told["problem"][0])


TELLS += [Case(4, "predict_table: every picture missing", _all_unreadable, "scan")]

# Kind 15: checkpoints and results that were damaged.


def _flipped(draw: int, shop: Workshop) -> str:
    """Flip bits of a checkpoint; it is not read as another one."""
    random_of, kept = np.random.default_rng(draw), Checkpoints(shop.folder / "stage", "key", 2)
    weights = torch.arange(500.0)
    kept.save(1, {"weights": weights})
    file = next(kept.folder.glob("epoch-*"))
    good, silent = file.read_bytes(), 0
    for _ in range(40):
        bad = bytearray(good)
        bad[int(random_of.integers(len(bad)))] ^= 1 << int(random_of.integers(8))
        file.write_bytes(bad)
        try:
            found = kept.latest()
        except FusetuneError:
            continue
        silent += found is not None and not torch.equal(found["weights"], weights)
    return need(not silent, f"{silent} of 40 are read with other weights")


def _damaged_result(name: str, how: str, shop: Workshop) -> str:
    """Damage a file of a finished run; whoever resumes it is told which one, or gets the same numbers again."""
    first = shop.fit(row_id="id")
    file = first.folder / name
    data = file.read_bytes()
    match how:
        case "a changed byte":
            file.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
        case "cut short":
            file.write_bytes(data[: len(data) // 2])
        case _:
            file.write_bytes(damaged(data, np.random.default_rng(3)))
    again = shop.fit(row_id="id", resume=True)
    return need(again.metrics["test"] == first.metrics["test"], "other numbers, and not a word")


TRUSTED = [
    *(Case(15, f"flipped bits, draw {draw}", partial(_flipped, draw)) for draw in range(3)),
    *(
        Case(
            15,
            f"{name}: {how}",
            partial(_damaged_result, name, how),
            f"{name.split('.', maxsplit=1)[0]}|other settings",
        )
        for name in ("metrics.json", "split.parquet", "schema.json", "config.yaml", "model/weights.safetensors")
        for how in ("a changed byte", "cut short")
    ),
]

RUN_KINDS = [*DESTROYED, *IDENTITY, *TELLS, *TRUSTED]
