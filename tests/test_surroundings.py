"""Users without a home folder, homes that cannot be written, and paths that begin with `~`."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import settings, tiny_table

import fusetune
from fusetune.errors import TableError
from fusetune.files import cache_folder, expanded, written_aside

# Commands, one after the other, since importing the libraries takes most of the time; each is told apart on stderr.
HOMELESS = """
import json, pwd, sys
def unknown(*_): raise KeyError("uid not found")
pwd.getpwuid = pwd.getpwnam = unknown
from fusetune.cli import main
for words in json.loads(sys.argv.pop()):
    sys.argv[1:] = words
    print("COMMAND", file=sys.stderr)
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take home, cache and the user's entry away; return the folder for temporary files."""

    def unknown(_: Any) -> Any:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "FUSETUNE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    cache_folder.__globals__["_own_temporary"].cache_clear()
    return tmp_path / "temporary"


def test_without_a_home_the_cache_is_temporary_and_nobody_elses(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache_folder("features")
    assert folder == homeless / f"fusetune-{os.getuid()}" / "features"
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    for name, expected in {"XDG_CACHE_HOME": "/x/fusetune/features", "FUSETUNE_CACHE": "/x/features"}.items():
        monkeypatch.setenv(name, "/x")
        assert str(cache_folder("features")) == expected


@pytest.mark.parametrize("trap", ["open to all", "a link", "a file"])
def test_a_temporary_folder_that_others_laid_out_is_not_used(trap: str, homeless: Path) -> None:
    place = homeless / f"fusetune-{os.getuid()}"
    if trap == "a link":
        (homeless / "elsewhere").mkdir()
        place.symlink_to(homeless / "elsewhere")
    elif trap == "a file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777)
    try:
        assert place not in cache_folder("features").parents
    finally:
        cache_folder.__globals__["_own_temporary"].cache_clear()


def test_paths_that_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x/y.csv") == tmp_path / "x" / "y.csv"
    for name in ("~x.csv", "~nobody/x.csv", "a/~/b", "~$table.csv", "plain.csv", "/~/x"):
        assert expanded(name) == Path(name)
    with written_aside(Path("~/folder/file.txt")) as aside:
        aside.write_text("here")
    assert (tmp_path / "folder" / "file.txt").read_text() == "here"


@pytest.mark.parametrize("name", ["~/t.csv", "~t.csv", "~nobody-of-that-name/t.csv", "~"])
def test_a_table_in_no_home_is_one_that_is_not_there(name: str, homeless: Path) -> None:
    with pytest.raises(TableError, match=r"t\.csv|~"):
        fusetune.fit(name, "label", out=homeless / "run")


@pytest.mark.parametrize("home", [None, "/dev/null"])
def test_a_run_and_a_prediction_need_no_home(home: str | None, tmp_path: Path) -> None:
    table = tiny_table(tmp_path / "pictures").drop(columns=["scan"])
    table.to_csv(tmp_path / "t.csv", index=False)
    config = settings(tmp_path, train__epochs=0, evaluate__baselines=False)
    config.pop("store")
    fusetune.Config.build(config).to_yaml()
    (tmp_path / "c.yaml").write_text(fusetune.Config.build(config).to_yaml())
    around = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "FUSETUNE_CACHE")
    }
    around |= {"TMPDIR": str(tmp_path)} | ({} if home is None else {"HOME": home})

    how = ["--label", "organ", "--inputs", "note,age", "--config", tmp_path / "c.yaml", "--out", tmp_path / "run"]
    fit = ["fit", tmp_path / "t.csv", *how]
    predict = ["predict", tmp_path / "run", tmp_path / "t.csv", "--out", tmp_path / "p.csv"]
    commands = json.dumps([list(map(str, words)) for words in (fit, predict)])
    found = subprocess.run(
        [sys.executable, "-c", HOMELESS, commands], env=around, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    _, said, _ = found.stderr.split("COMMAND\n")
    assert ("no home folder" in " ".join(said.split())) == (home is None)
    assert (tmp_path / f"fusetune-{os.getuid()}" / "features").is_dir() == (home is None)
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(table)
