"""Help, complaints about arguments and a first word come before anything that takes seconds to import."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fusetune
from fusetune import cli, progress
from fusetune.guidance import DELTA
from fusetune.progress import Steps, Terminal, lines_at_intervals

HEAVY = ("torch", "sklearn", "scipy", "pandas", "numpy", "pyarrow", "transformers", "cv2", "PIL", "lightgbm", "optuna")
# Runs a command as `fusetune` does, and prints which of the slow packages it imported.
ASK = """
import json, sys
from fusetune.cli import main
sys.argv = ["fusetune", *json.loads(sys.argv[1])]
try:
    main()
finally:
    print(json.dumps([name for name in json.loads(sys.argv[-1]) if name in sys.modules]), file=sys.__stderr__)
"""


def imported(*words: str, cwd: Path) -> tuple[int, list[str], str]:
    """Return exit code, slow imports and what was said of a command in a process of its own."""
    code = ASK.replace("sys.argv[-1]", repr(json.dumps(HEAVY)))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(words)], capture_output=True, text=True, cwd=cwd, check=False
    )
    said, _, found = done.stderr.rstrip("\n").rpartition("\n")
    return done.returncode, json.loads(found), done.stdout + said


@pytest.mark.parametrize(
    ("words", "exit_code", "text"),
    [
        (["--help"], 0, "Start with"),
        (["fit", "--help"], 0, "--label"),
        (["predict", "--help"], 0, "--out"),
        (["data", "phantom", "--help"], 0, "SYNTHETIC"),
        (["reproduce", "--help"], 0, "--flaws"),
        (["show", "config"], 0, "views: 4"),
        (["ftt"], 2, "'fit'"),
        (["fit", "table.csv", "--lable", "x"], 2, "--label"),
        (["fit", "table.csv", "--label", "x"], 2, "did you mean 'tables.csv'?"),
        (["fit", "tables.csv", "--label", "a", "--set", "train.epoch=3"], 2, "did you mean 'epochs'?"),
        (["fit", "tables.csv", "--label", "c"], 2, "tables.csv has no column 'c'; its columns are a, b"),
        (["check", "tables.csv", "--label", "a", "--group", "bb"], 2, "did you mean 'b'?"),
        (["fit", "tables.csv", "--label", "a", "--preset", "quik"], 2, "did you mean 'quick'?"),
        (["compare", "tables.csv", "--label", "a", "--preset", "quik"], 2, "did you mean 'quick'?"),
        (["fit", "tables.csv", "--label", "a", "--strategy", "umtt"], 2, "did you mean 'umt'?"),
        (["fit", "tables.csv", "--label", "a", "--set", "strategy.name=umtt"], 2, "did you mean 'umt'?"),
        (["compare", "tables.csv", "--label", "a", "--strategies", "ume,jiont"], 2, "did you mean 'joint'?"),
        (["export", ".", "--to", "onx"], 2, "Did you mean 'onnx'?"),
        (["predict", "nowhere", "tables.csv", "--out", "x.csv"], 2, "nowhere"),
        (["predict", ".", "tables.csv", "--out", "x.pdf"], 2, "x.pdf"),
        (["evaluate", "nowhere", "tables.csv"], 2, "nowhere"),
        (["check", "nowhere.csv"], 2, "nowhere.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_no_library_is_imported_for_help_and_typos(tmp_path: Path, words: list[str], exit_code: int, text: str) -> None:
    (tmp_path / "tables.csv").write_text("a,b\n1,2\n")
    code, slow, said = imported(*words, cwd=tmp_path)
    assert text in said
    assert code == exit_code
    assert slow == []


def test_what_the_package_offers_comes_when_it_is_asked_for(tmp_path: Path) -> None:
    code = "import sys, fusetune; print('torch' in sys.modules, sorted(dir(fusetune))); fusetune.Model; "
    code += "print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[0].startswith("False")
    assert told[1] == "True"
    for name in fusetune.__all__:
        assert name in told[0]
        assert getattr(fusetune, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        _ = fusetune.fitt  # type: ignore[attr-defined]


def test_the_help_of_guide_says_its_default(tmp_path: Path) -> None:
    _, _, said = imported("guide", "--help", cwd=tmp_path)
    assert f"Default: {DELTA}." in " ".join(said.split())


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error that is no terminal, where a bar speaks after each step."""
    written = io.StringIO()
    terminal = Terminal(stderr=True)
    terminal.file, terminal._width = written, 200
    monkeypatch.setattr(progress, "console", terminal)
    monkeypatch.setattr(progress, "_INTERVAL", -1.0)
    return written


def test_lines_at_intervals_say_the_step_and_what_is_left(log: io.StringIO) -> None:
    with lines_at_intervals():
        steps = Steps("reading", "predicting \x1b[31m")
        steps.begin()
        assert log.getvalue() == ""  # quiet where there is no terminal
        steps.begin()
        with progress.bar("rows", 4000) as bar:
            bar.started -= 30
            bar.advance(1000)
    assert log.getvalue() == "step 2 of 2: predicting \\x1b[31m; rows 1,000 of 4,000, 0:01:30 left\n"


def test_a_library_writes_no_lines_into_somebodys_output(log: io.StringIO) -> None:
    with progress.bar("rows", 2) as bar:
        bar.advance()
    assert log.getvalue() == ""


def test_a_server_writes_no_lines_of_its_requests(
    log: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn")
    from fusetune.serve import server

    asked = []

    def answer(*how: object) -> None:
        with progress.bar("explaining image", 2) as bar:
            bar.started -= 30
            bar.advance()
        asked.append(how)

    (tmp_path / "bundle.json").write_text("{}")
    monkeypatch.setattr(server, "run", answer)
    monkeypatch.setattr(sys, "argv", ["fusetune", "serve", str(tmp_path), "--port", "0"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert len(asked) == 1
    assert log.getvalue() == ""
