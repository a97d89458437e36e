"""Commands that are given something else than they take, or a slip: one sentence, exit code 2, and no trace."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fusetune import cli
from fusetune.cli.given import check_table
from fusetune.data.table import read_table
from fusetune.errors import TableError


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command line in a folder with a table and two folders that look like runs."""
    (tmp_path / "scans.csv").write_text("age,label\n1,a\n2,b\n")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "only.csv").write_text("age,label\n1,a\n2,b\n")
    for run in ("runs/scans", "old runs/one"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "run.json").write_text("{}")
    (tmp_path / "two" / "a").mkdir(parents=True)
    (tmp_path / "two" / "b").mkdir()
    for name in "ab":
        (tmp_path / "two" / name / "metrics.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = sorted(tmp_path.rglob("*"))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fusetune", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert sorted(tmp_path.rglob("*")) == before
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err

    return run


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("predict scans.csv runs/scans --out new/p.csv", "fusetune predict runs/scans scans.csv --out new/p.csv\n"),
        ("evaluate scans.csv runs/scans/", "fusetune evaluate runs/scans scans.csv\n"),
        ("explain scans.csv runs/scans --row 0 --out w.html", "fusetune explain runs/scans scans.csv --row 0"),
        ("diagnose scans.csv runs/scans", "fusetune diagnose runs/scans scans.csv\n"),
        ("predict runs/scans kept --out p.csv", "fusetune predict runs/scans kept/only.csv --out p.csv\n"),
        ("predict scans.csv scans.csv --out p.csv", "scans.csv is a file, and the folder of a run is meant"),
        ("predict runs/scans runs/scans --out p.csv", "runs/scans is the folder of a run, and a table is meant"),
        ("fit runs/scans --label a", "fusetune show runs/scans\n"),
        ("check kept --label a", "fusetune check kept/only.csv --label a\n"),
        ("guide two --label a", "two is a folder, and a table is meant: a file (.csv"),
        ("augment kept --out new/s.png", "fusetune augment kept/only.csv"),
        ("compare kept --label a", "fusetune compare kept/only.csv --label a\n"),
        ("export scans.csv --to onnx", "scans.csv is a file, and the folder of a run is meant"),
        ("export runs/scans/run.json --to onnx", "fusetune export runs/scans --to onnx\n"),
        ("serve scans.csv", "scans.csv is a file, and the folder of a run is meant"),
        ("serve two", "two is no run, but holds several; name one of two/a, two/b"),
        ("serve runs --api-key=12345678", "runs is no run, but holds one; write runs/scans\n"),
        ("show scans.csv", "scans.csv is a file"),
        ("show runs/scans/run.json", "fusetune show runs/scans\n"),
    ],
)  # fmt: skip
def test_another_thing_than_was_meant_is_told_with_the_right_command(ask: Any, words: str, text: str) -> None:
    code, out, err = ask(*words.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert text in err
    assert "12345678" not in err


def test_names_with_spaces_can_be_copied(ask: Any) -> None:
    _, _, err = ask("serve", "old runs")
    assert "fusetune serve 'old runs/one'\n" in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("predct runs/scans scans.csv", "Did you mean 'predict'"),
        ("doctr", "Did you mean 'doctor'?"),
        ("fit scans.csv --lable label", "No such option: --lable. Did you mean '--label'?"),
        ("predict runs/scans scans.csv --out p.csv --by judgd", "'--by': 'judgd' is not one of"),
        ("predict runs/scans scans.csv --out p.csv --by judgd", "Did you mean 'judged'?"),
        ("fit scans.csv --label label --preset god", "did you mean 'good'?"),
        ("fit scans.csv --label label --strategy two-stge --out new/a", "did you mean 'two-stage'?"),
        ("compare scans.csv --label label --strategies umtt --out new/a", "did you mean 'umt'?"),
        ("fit scans.csv --label lable --out new/a", "did you mean 'label'?"),
        ("fit scans.csv --label label --set device=cuda --out new/a", "device: 'cuda' is not available"),
        ("fit scans.csv --label label --kind age=text --set text.encoder=all-MiniLM --out new/a", "all-MiniLM-L6-v2'?"),
        ("demo --preset quik", "did you mean 'quick'?"),
        ("demo --minutes -1", "greater than 0"),
        ("demo --out scans.csv", "cannot write scans.csv/emoji"),
        ("export runs/scans --to onx", "Did you mean 'onnx'?"),
    ],
)  # fmt: skip
def test_a_slip_is_told_what_was_meant_and_leaves_nothing_behind(
    ask: Any, monkeypatch: pytest.MonkeyPatch, words: str, text: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = ask(*words.split())
    assert (code, out) == (2, "")
    assert text in err


def test_help_is_short_too_and_shells_complete(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ([], ["fit"], ["data"], ["data", "emoji"]):
        assert ask(*command, "-h") == ask(*command, "--help")
    # The shell is the process above this one, which may be none.
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    code, out, _ = ask("--show-completion")
    assert (code, "_FUSETUNE_COMPLETE=complete_bash" in out) == (0, True)
    for words, found in (("fusetune pre", ["predict"]), ("fusetune fit --str", ["--strategy"])):
        monkeypatch.setenv("_FUSETUNE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert ask()[1].split() == found
        monkeypatch.delenv("_FUSETUNE_COMPLETE")


def test_folders_made_for_what_could_not_be_written_go_again(tmp_path: Path) -> None:
    from fusetune.files import written_aside

    (tmp_path / "there").mkdir()
    for path in (tmp_path / "there" / "new" / "newer" / "x.txt", tmp_path / "there" / "x.txt"):
        with pytest.raises(KeyError), written_aside(path) as aside:
            aside.write_text("half")
            raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    with pytest.raises(KeyError), written_aside(tmp_path / "a" / "b" / "x.txt"):
        (tmp_path / "a" / "mine.txt").write_text("somebody's")
        raise KeyError
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "mine.txt", "there"]


def test_the_doctor_of_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from fusetune import speed
    from fusetune.cli import installation

    def ask(*words: str) -> tuple[int, str, dict[str, Any]]:
        file = tmp_path / "doctor.json"
        monkeypatch.setattr(sys, "argv", ["fusetune", "doctor", "--json", str(file), *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), capsys.readouterr().out, json.loads(file.read_text("utf-8"))

    monkeypatch.setenv("FUSETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "_SECONDS", 0)
    code, out, facts = ask()
    assert (code, facts["problems"]) == (0, [])
    assert facts["speed"]["pictures"] > 0
    assert facts["speed"]["texts"] > 0
    rows = 1 / facts["speed"]["pictures"] + 1 / facts["speed"]["texts"]
    assert facts["speed"]["minutes"] == pytest.approx(10_000 * rows / 60)
    assert facts["weights"]["all-MiniLM-L6-v2"]["here"]
    assert "10,000 rows" in out
    assert "fusetune check" in out
    assert not (tmp_path / "cache").exists()

    def without(name: str) -> Any:
        if name == "lightgbm":
            raise OSError("libgomp.so.1: cannot open shared object file")
        return import_module(name)

    with monkeypatch.context() as small:
        small.setattr("fusetune.cli.doctor.import_module", without)
        code, _, facts = ask("--quick")
        assert code == 1
        assert "apt-get install libgomp1" in facts["problems"][0]

    real = installation._version
    monkeypatch.setattr(installation, "_version", lambda name: None if name in ("peft", "rich") else real(name))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSETUNE_CACHE", str(tmp_path / "file" / "cache"))
    code, out, facts = ask("--quick")
    assert code == 1
    assert facts["speed"] is None
    assert facts["extras"]["lora"]["missing"] == ["peft"]
    assert 'adapters (lora in the settings):  pip install "fusetune[lora]"' in out
    assert "problem: rich is not installed: pip install 'rich" in out
    assert f"problem: nothing may be written in {tmp_path / 'file' / 'cache' / 'features'}" in out


@pytest.mark.parametrize(
    "header",
    [
        b"age,label",
        b"\xef\xbb\xbfage, label ",
        b'"age","label, of a row"',
        b'age,"la\nbel"',
        b"age;label",
        b"age;label;note, of a row",
        "\u00e4ge,label".encode(),
        b"age,,label",
        b"\n\nage,label",
        b"age",
        b"\xff,label",
    ],
)
def test_a_column_is_refused_early_only_where_the_reader_would_refuse_it(tmp_path: Path, header: bytes) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(header + b"\n" + b"1,2\n" * 3)
    for name in ("age", "label", "label, of a row", "labl"):
        said = []
        for look in (lambda name: check_table(table, name), lambda name: read_table(table).column(name)):
            try:
                said.append(look(name) and None)
            except TableError as error:
                said.append(str(error))
            except Exception as error:
                said.append(type(error).__name__)
        assert said[0] is None or said[0] == said[1]
    if header == b"age,label":
        with pytest.raises(TableError, match="has no column 'labl'; its columns are age, label, did you mean 'label'"):
            check_table(table, "age", None, "labl")
