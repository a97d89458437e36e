"""What leaves for a terminal or a page: names and cells are text there, and a closed output ends a command quietly."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import DictLoader
from rich.table import Table as Grid
from rich.text import Text
from typer.testing import CliRunner

from fusetune import cli, progress
from fusetune.cli.frame import app
from fusetune.cli.words import gain_grid
from fusetune.progress import Bar, Log, OutputClosedError, Terminal, visible
from fusetune.report.template import environment
from fusetune.report.template import page as filled

NASTY = {
    "scan [/1]": "scan [/1]",
    "WBC [/nl] [bold]x[/bold] :smile:": "WBC [/nl] [bold]x[/bold] :smile:",
    "\x1b[31mred\x1b[0m\x07": r"\x1b[31mred\x1b[0m\x07",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "over\rwritten\x08": r"over\rwritten\x08",
    "\u202eabc\u202c\u2066": r"\u202eabc\u202c\u2066",
    "\x9b2J\x7f\x85": r"\x9b2J\x7f\x85",
    "half \ud83d": r"half \ud83d",
    "naïve 日本 😀 \u200d": "naïve 日本 😀 \u200d",
}


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal that keeps what it is shown."""
    shown = Screen()
    terminal = Terminal(stderr=True)
    terminal.file, terminal._force_terminal, terminal._width = shown, True, 400
    terminal._environ, terminal.is_interactive = {"TERM": "xterm"}, True
    monkeypatch.setattr(progress, "console", terminal)
    monkeypatch.setattr(progress, "_DELAY", -1.0)
    return shown


def without_styles(shown: str) -> str:
    """Take rich's own sequences away: what is left is what somebody else put there."""
    return "".join(
        part[part.index("m") + 1 :] if at else part
        for at, part in enumerate(shown.split("\x1b["))
        if "m" in part or not at
    )


@pytest.mark.parametrize("name", NASTY)
def test_names_are_shown_as_they_are_or_written_out(name: str, screen: Screen, tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.say(f"input {name}: image")
    log.warn(f"column '{name}' holds nothing")
    progress.console.print(f"[{name}]", style="red")
    assert screen.getvalue().count(NASTY[name]) == 3
    progress.console.print(Text(name))
    grid = Grid(name, title=name)
    grid.add_row(Text(name))
    progress.console.print(grid)
    shown = screen.getvalue()
    assert not set(without_styles(shown)) & {"\x1b", "\x07", "\r", "\x08", "\u202e", "\x9b", "\ud83d"}
    assert json.loads((tmp_path / "log.jsonl").read_text("utf-8"))["text"] == f"column '{name}' holds nothing"


@pytest.mark.parametrize("name", NASTY)
def test_bars_show_names_as_text(name: str, screen: Screen) -> None:
    with progress.bar(f"encoding {name}", 2) as bar:
        bar.advance(note=f"loss of {name}")
        assert bar.progress is not None
        bar.progress.refresh()
        shown = screen.getvalue()
    assert f"encoding {NASTY[name]}" in shown
    assert f"loss of {NASTY[name]}" in shown


def test_bars_of_one_thread_at_a_time_are_shown(screen: Screen) -> None:
    def shown() -> bool:
        with progress.bar("other", 1) as bar:
            bar.advance()
            return bar.progress is not None

    outer = Bar("outer", 2)
    outer.advance()
    assert outer.progress is not None
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(shown).result()
        outer.close()
        outer.close()
        assert pool.submit(shown).result()


@given(st.text(st.characters()))
def test_what_is_visible_can_be_printed_and_commands_nothing(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in shown)
    assert visible(shown) == shown
    assert shown == text or len(shown) > len(text)


def test_a_gain_table_names_rows_as_they_are_called() -> None:
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = [{"name": f"{name} alone", "accuracy": interval, "nll": interval} for name in NASTY]
    terminal = Terminal()
    terminal.file, terminal._width = io.StringIO(), 200
    terminal.print(gain_grid({"rows": {"test": 3}, "groups": None, "gain": rows}))
    assert [f"{shown} alone" in terminal.file.getvalue() for shown in NASTY.values()] == [True] * len(NASTY)


@pytest.mark.parametrize("name", NASTY)
def test_complaints_of_the_command_line_are_text(name: str, tmp_path: Path) -> None:
    for words in ([name], ["fit", name, "--label", name], ["predict", "x", "--nope" + name], ["show", name]):
        told = CliRunner().invoke(app, words)
        assert told.exit_code == 2, told.output
        assert not set(told.output) & {"\x1b", "\x07", "\r", "\u202e", "\x9b"}


def test_pages_write_out_what_hides_the_rest() -> None:
    with pytest.MonkeyPatch.context() as patch:
        source = environment().overlay(loader=DictLoader({"x": '<p title="{{ name }}">{{ name }}</p>'}))
        patch.setattr("fusetune.report.template.environment", lambda: source)
        for name, shown in NASTY.items():
            assert filled("x", name=name) == f'<p title="{shown}">{shown}</p>'
        assert filled("x", name="</p><script>") == '<p title="&lt;/p&gt;&lt;script&gt;">&lt;/p&gt;&lt;script&gt;</p>'


def run(folder: Path) -> Path:
    """Return a folder with the metrics of a run whose names are nasty."""
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    row = {"name": "\x1b[31mred [/b]", "accuracy": interval, "nll": interval}
    facts: dict[str, Any] = {
        "rows": {"test": 3},
        "rows_hash": "0",
        "test": {},
        "groups": None,
        "gain": [row] * 400,
        "comparisons": [],
        "warnings": [],
    }
    (folder / "metrics.json").write_text(json.dumps(facts))
    return folder


COMMANDS = ("show", "config", "help", "full")
# Each ends as a process of its own, forked from one that has imported the libraries, which takes most of the time.
FORKS = """
import json, os, runpy, sys
import fusetune.cli
for name, output, words in json.loads(sys.argv.pop()):
    if not (child := os.fork()):
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(os.open(output, os.O_WRONLY) if output else writing, 1)
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), 2)
        sys.argv[1:] = words
        runpy.run_module("fusetune", run_name="__main__")
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Return with what code, and saying what, commands end that cannot write to their output."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are not forked here")
    folder = tmp_path_factory.mktemp("ends")
    show, full = ["show", str(run(folder))], "/dev/full"
    asked = [("show", "", show), ("config", "", ["show", "config"]), ("help", "", ["--help"]), ("full", full, show)]
    words = [sys.executable, "-c", FORKS, json.dumps(asked)]
    told = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    codes = map(int, told.stdout.split())
    return {name: (code, (folder / name).read_text()) for name, code in zip(COMMANDS, codes, strict=True)}


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_a_closed_output_ends_a_command_quietly(command: str, ends: dict[str, tuple[int, str]]) -> None:
    assert ends[command] == (141, "")


def test_a_full_output_is_named(ends: dict[str, tuple[int, str]]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    code, said = ends["full"]
    assert code == 2
    assert "error: cannot write the output: No space left on device" in said


def test_a_terminal_of_few_letters_is_shown_the_others_written_out(tmp_path: Path) -> None:
    around = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "fusetune", "fit", "naïve\x1b[31m.csv", "--label", "y"]
    told = subprocess.run(words, env=around, capture_output=True, cwd=tmp_path, check=False)
    assert told.returncode == 2
    assert rb"error: there is no file or folder na\xefve\x1b[31m.csv" in told.stderr


class Broken(io.StringIO):
    """A stream that nobody reads."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_a_run_goes_on_without_somebody_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(stderr=True)
    terminal.file = Broken()
    monkeypatch.setattr(progress, "console", terminal)
    log = Log(tmp_path / "log.jsonl")
    for word in ("one", "two"):
        log.say(word)
        log.record(word)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    results = Terminal()
    results.file = Broken()
    with pytest.raises(OutputClosedError):
        results.print("a result")


def test_warnings_of_the_command_line_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(cli, "app", lambda **_: None)
    cli.main()
    assert r"\x1b[31m" in warnings.formatwarning("\x1b[31m", UserWarning, "file", 1)
