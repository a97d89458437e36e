"""Cells, names and models that mean harm, or look as if they did: kinds 13, 14 and 18."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _bad_images import picture
from _kinds import Case, bounded, need
from _workshop import ROWS, Workshop
from rich.console import Console
from typer.testing import CliRunner

import fusetune
from fusetune import progress
from fusetune.cli.frame import app
from fusetune.config import Config

# Kind 13: one cell ends everything.


def _one_cell(column: str, value: Any, shop: Workshop) -> str:
    """Ask with one odd cell: the other rows are predicted as before, and the odd one has a problem or an answer."""
    model = shop.model()
    before = model.predict_table(shop.frame)
    told = model.predict_table(shop.changed(column, value, 3))
    others = np.arange(ROWS) != 3
    if not np.allclose(told["probability"][others], before["probability"][others], rtol=0, atol=1e-6):
        return "other rows are predicted otherwise"
    if column != "note" and not told["problem"][3]:
        return "no problem is told of the odd cell"
    return need(np.isfinite(told["probability"][3]), "no probability")


def _one_cell_file(column: str, value: str, shop: Workshop) -> str:
    path = shop.file(shop.csv(shop.changed(column, value, 3)).replace(b"\xed\xa0\xbd", b"\xed\xa0\xbd"))
    told = shop.model().predict_table(path)
    return need(len(told) == ROWS and (column == "note" or told["problem"][3]), "no problem is told of the odd cell")


def _called(names: list[str], shop: Workshop) -> str:
    """Text columns of these names train and predict."""
    frame = shop.frame[["organ", "part", "age"]].assign(
        **{name: shop.frame["note"] + f" {n}" for n, name in enumerate(names)}
    )
    run = shop.fit(frame, inputs=[*names, "age"], kinds=dict.fromkeys(names, "text"))
    told = run.model.predict_table(frame)
    return need((told["problem"] == "").all() and run.report.exists(), told["problem"].iloc[0])


ONE_CELL = [
    *(
        Case(13, f"a path {name}", partial(_one_cell, "scan", value))
        for name, value in {
            "of 300 letters": "x" * 300 + ".png", "of 100,000 letters": "x/" * 50_000 + ".png", "with NUL": "a\0b.png",
            "with half a letter": "a\ud83d.png", "of two frames": "x.dcm#frame=1#frame=2",
            "of a far frame": "x.dcm#frame=" + "9" * 40, "of a user": "~nobody-at-all/x.png",
            "that is data": "data:image/png;base64," + base64.b64encode(picture("png")).decode()[:200],
            "of odd protocols": "a::b://c::d", "that is a number": 7, "that is a list": ["a.png"],
            "of spaces": " x ", "with brackets": "[/1].png",
        }.items()
    ),
    *(
        Case(13, f"a text {name}", partial(_one_cell, "note", value))
        for name, value in {
            "with half a letter": "seen \ud83d here", "with NUL": "seen\0here", "of 300,000 letters": "left " * 60_000,
            "of nothing but marks": "\u200b\u200b", "of escapes": "\x1b[31m red", "of markup": "[/1] [red]",
        }.items()
    ),
    *(
        Case(13, f"a number {value[:9]!r}", partial(_one_cell, "age", value))
        for value in ("1e999", "x" * 5000, "\ud83d", "--5", "0x1F")
    ),
    Case(13, "a file with a path of 300 letters", partial(_one_cell_file, "scan", "y" * 300 + ".png")),
    *(
        Case(13, f"columns called {', '.join(map(repr, names))}", partial(_called, names))
        for names in (
            ["key words"], ["note", "note words"], ["x as pretrained"], ["scan [/1]"], ["[bold]"], ["a\nb"],
            ["\x1b[31m"], ["problem"], ["row_id"],
        )
    ),
    Case(13, "a column called 'columns'", partial(_called, ["columns"]), "called columns; rename"),
]  # fmt: skip

# Kind 14: a model of a stranger.


def _strange(change: Callable[[Path, dict[str, Any]], object], shop: Workshop) -> str:
    """Load a model whose manifest was changed and signed anew; it is refused at once, whatever it asks for."""
    folder = Path(shutil.copytree(shop.made / "model", shop.folder / "model"))
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    facts.pop("checksum")
    change(folder, facts)
    for name in facts["files"]:
        if (folder / name).is_file():
            facts["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    facts["checksum"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    started = time.process_time()  # which other work on the machine does not prolong
    try:
        with bounded(300), patch("builtins.input", return_value="y") as asked:
            fusetune.load(folder).predict(shop.frame)
    finally:
        assert not asked.called, "a question is asked"
        assert not (shop.folder / "ran").exists(), "code of the model was run"
        taken = time.process_time() - started
        assert taken < 8, f"it took {taken:.0f} s of the processor"
    return "loaded as if nothing were wrong"


def _encoders(facts: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    waiting: list[Any] = [facts]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            found += [node] if "encoder" in node and isinstance(node["encoder"], str) else []
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return found


def _custom(folder: Path, facts: dict[str, Any]) -> None:
    """Name code of the model's own as its encoder."""
    code = f"open({str(folder.parent / 'ran')!r}, 'w').close()\nimport torch\nclass Own(torch.nn.Module):\n    pass\n"
    (folder / "own.py").write_text(code, encoding="utf-8")
    config = {"model_type": "aimv2_text_model", "_name_or_path": str(folder), "auto_map": {"AutoModel": "own.Own"}}
    encoder = _encoders(facts)[0]
    encoder.clear()
    encoder.update({"encoder": "TransformersText", "pooling": "mean", "normalise": False, "config": config})


def _wide(folder: Path, facts: dict[str, Any]) -> None:
    del folder
    for encoder in _encoders(facts):
        if "width" in encoder:
            encoder["width"] = 20_000


def _aliases(folder: Path, facts: dict[str, Any]) -> None:
    del facts
    lines = "x0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    lines += "".join(f"x{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 7))
    (folder / "config.yaml").write_text(lines + "views: *a6\n", encoding="utf-8")


def _unlisted(folder: Path, facts: dict[str, Any]) -> None:
    name = next(name for name in facts["files"] if name.endswith("tokenizer.json"))
    del facts["files"][name]
    (folder / name).unlink()
    (folder / name).symlink_to("/etc/hostname")


def _no_tokenizer(folder: Path, facts: dict[str, Any]) -> None:
    name = next(name for name in facts["files"] if name.endswith("tokenizer.json"))
    (folder / name).write_text('{"version": "1.0", "model": 7}', encoding="utf-8")


def _deep(shop: Workshop) -> str:
    """A manifest of lists in lists, deeper than any reader goes."""
    folder = Path(shutil.copytree(shop.made / "model", shop.folder / "model"))
    (folder / "bundle.json").write_text(
        '{"format": 2, "deep": ' + "[" * 100_000 + "]" * 100_000 + "}", encoding="utf-8"
    )
    fusetune.load(folder)
    return "loaded"


def _yaml(shop: Workshop) -> str:
    """A configuration of a few hundred bytes that names lists by each other."""
    _aliases(shop.folder, {})
    with bounded(200):
        Config.build(shop.folder / "config.yaml")
    return "taken"


STRANGERS = [
    *(
        Case(14, name, partial(_strange, change), "model|bundle.json|config.yaml")
        for name, change in {
            "code of its own": _custom, "sizes that take gigabytes": _wide,
            "aliases in its configuration": _aliases, "a file that leads outside": _unlisted,
            "words that are none": _no_tokenizer,
        }.items()
    ),
    Case(14, "lists in lists in its manifest", _deep, "bundle.json"),
    Case(14, "aliases in a configuration", _yaml, "alias|config.yaml|views"),
]  # fmt: skip

# Kind 18: the terminal.

_ESCAPE = "\x1b[31mred\x1b]0;title\x07"


def _printed(command: Callable[[Workshop, str], list[str]], name: str, shop: Workshop) -> str:
    """What a user calls something is shown as it is, with escapes spelt out."""
    answer = CliRunner().invoke(app, command(shop, name), color=False)
    if answer.exit_code not in (0, 2) or (answer.exception and not isinstance(answer.exception, SystemExit)):
        return f"exit code {answer.exit_code}: {answer.output[-200:]} {answer.exception!r}"
    if "\x1b]0" in answer.output or "\x1b[31m" in answer.output or "\x07" in answer.output:
        return "escapes reach the terminal"
    shown = "".join(answer.output.split())
    wanted = "".join(name.replace("\x1b", "\\x1b").replace("\x07", "\\x07").split())
    return need(wanted in shown, f"the name is not shown: {answer.output[:300]}")


def _of_column(shop: Workshop, name: str) -> list[str]:
    table = shop.file(shop.csv(shop.frame.drop(columns=["scan", "note"]).rename(columns={"organ": name})))
    return ["check", str(table), "--label", "nothing of the kind"]


def _of_class(shop: Workshop, name: str) -> list[str]:
    frame = shop.frame.drop(columns=["scan", "note"]).replace({"organ": {"lung": name}})
    frame.loc[5, "organ"] = name + "x"
    return ["check", str(shop.file(shop.csv(frame))), "--label", "organ"]


def _of_file(shop: Workshop, name: str) -> list[str]:
    return ["check", str(shop.folder / f"{name.replace('/', '-')}.csv"), "--label", "organ"]


def _bar(name: str, shop: Workshop) -> str:
    """A bar of a column with such a name, on a terminal, with a note that looks like markup."""
    del shop
    screen = io.StringIO()
    with (
        patch.object(progress, "console", Console(file=screen, force_terminal=True, width=200)),
        patch.object(progress, "_DELAY", -1.0),
        progress.bar(f"reading {name}", 2) as moving,
    ):
        moving.advance(1, note=name)
        moving.advance(1, note=name)
    shown = screen.getvalue()
    if "\x1b]0" in shown or "\x1b[31mred" in shown:
        return "escapes reach the terminal"
    wanted = name.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    return need(wanted in shown, f"shown as {shown[:200]!r}")


_COMMON = ("[red]x[/red]", "WBC [/nl]", "[/]", "[link=http://x.invalid]y[/link]", _ESCAPE)
TERMINAL = [
    *(
        Case(18, f"{what} {name!r}", partial(_printed, command, name))
        for what, command in (("a column", _of_column), ("a class", _of_class), ("a file", _of_file))
        for name in _COMMON
        if what != "a file" or "/" not in name
    ),
    *(Case(18, f"a bar {name!r}", partial(_bar, name)) for name in (*_COMMON, "scan [/1]", ":smile:")),
]
HOSTILE_KINDS = [*ONE_CELL, *STRANGERS, *TERMINAL]
