from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tiny import CLASSES, settings, tiny_table

import fusetune
from fusetune import cli
from fusetune.cli.words import commas
from fusetune.config import Config
from fusetune.strategies import STRATEGIES, strategy_of
from fusetune.version import VERSION

COMMANDS = [
    [],
    ["augment"],
    ["check"],
    ["compare"],
    ["diagnose"],
    ["doctor"],
    ["fit"],
    ["guide"],
    ["evaluate"],
    ["explain"],
    ["export"],
    ["predict"],
    ["show"],
    ["data"],
    ["data", "stamps"],
    ["data", "emoji"],
    ["demo"],
]


@dataclass
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command line in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["fusetune", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        told = capsys.readouterr()
        return Answer(int(stop.value.code or 0), told.out, told.err)

    return run


@dataclass
class Made:
    folder: Path
    table: Path
    config: Path
    run: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("cli")
    tiny_table(folder / "data").to_csv(folder / "data" / "table.csv", index=False)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings(folder / "store", train__epochs=0, views=1)))
    words = ["fit", folder / "data" / "table.csv", "--label", "organ", "--inputs", "scan,age,site", "--split", "part"]
    words += ["--config", config, "--out", folder / "run", "--group", "patient"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["fusetune", *map(str, words)])
        cli.main()
    assert not stop.value.code
    return Made(folder, folder / "data" / "table.csv", config, folder / "run")


def fit(made: Made, *more: object) -> list[object]:
    return [
        "fit",
        made.table,
        "--label",
        "organ",
        "--inputs",
        "age,site",
        "--split",
        "part",
        "--config",
        made.config,
        *more,
    ]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_teaches_within_80_columns(ask: Any, words: list[str]) -> None:
    answer = ask(*words, "--help")
    assert answer.code == 0
    assert answer.err == ""
    assert re.search(r"(Example|Start with): +fusetune ", answer.out)
    assert f"Usage: fusetune{''.join(f' {word}' for word in words)} " in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80
    for ugly in ("<bool>", "<list", "TEXT", "None", "python -m"):
        assert ugly not in answer.out


def test_help_names_everything_that_fit_takes(ask: Any) -> None:
    text = ask("fit", "--help").out
    for option in ("--label", "--inputs", "--kind", "--vectors", "--group", "--split", "--preset", "--seed",
                   "--strategy", "--config", "--set", "--out", "--resume", "--debug", "--id"):  # fmt: skip
        assert f"  {option} " in text
    assert "runs/<table>-<label>" in text


def test_version_and_no_words(ask: Any) -> None:
    assert ask("--version").out == f"fusetune {VERSION}\n"
    nothing = ask()
    assert nothing.code == 2
    assert "Usage: fusetune" in nothing.out + nothing.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["fit"], "TABLE"),
        (["fit", "table.csv"], "--label"),
        (["fit", "table.csv", "--lable", "x"], "--label"),
        (["fitt", "table.csv"], "'fit'"),
        (["fit", "table.csv", "--label", "x", "--seed", "one"], "--seed"),
        (["predict", "a", "b"], "--out"),
        (["evaluate", "a"], "TABLE"),
    ],
)
def test_wrong_use_ends_with_2(ask: Any, words: list[str], text: str) -> None:
    answer = ask(*words)
    assert answer.code == 2
    assert text in answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("more", "texts"),
    [
        (["--set", "train.epoch=3"], ["train.epoch: unknown setting, did you mean 'epochs'?"]),
        (["--set", "imagee.size=3", "--set", "viewz=1"], ["did you mean 'image'?", "did you mean 'views'?"]),
        (["--set", "image.size=big"], ["image.size"]),
        (["--set", "views"], ["--set views: write it as KEY=VALUE"]),
        (["--preset", "god"], ["preset", "'god'"]),
        (["--strategy", "umtt"], ["there is no strategy 'umtt', did you mean 'umt'?"]),
        (["--strategy", "umt", "--set", "strategy.wight=1"], ["did you mean 'weight'?"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--kind", "age"], ["--kind age: write it as age=number"]),
        (["--kind", "age=numbr"], ["did you mean 'number'?"]),
        (["--vectors", "x=y_*"], ["no column of table.csv matches 'y_*'"]),
        (["--group", "patiend"], ["patiend"]),
        (["--label", "orgon"], ["orgon"]),
        (["--inputs", "age,sight"], ["sight"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_ends_with_2_in_one_block(ask: Any, made: Made, tmp_path: Path, more: Any, texts: Any) -> None:
    answer = ask(*fit(made, "--out", tmp_path / "run", *more))
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert "Traceback" not in answer.err
    assert answer.out == ""
    for text in texts:
        assert text in answer.err
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "nowhere.csv", "--label", "x"],
        ["evaluate", "nowhere", "nowhere.csv"],
        ["predict", "nowhere", "nowhere.csv", "--out", "x.csv"],
        ["predict", "nowhere", "nowhere.csv", "--out", "x.pdf"],
        ["show", "nowhere"],
        ["show", "confg"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_named(
    ask: Any, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ask(*words)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert "nowhere" in answer.err or "x.pdf" in answer.err or "did you mean 'config'" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_wherever_it_stands(ask: Any, place: str) -> None:
    words = ["show", "nowhere"]
    answer = ask(*(["--debug", *words] if place == "before" else [*words, "--debug"]))
    assert answer.code == 2
    assert "Traceback (most recent call last)" in answer.err
    assert "UserError: nowhere is no finished run" in answer.err


@pytest.mark.parametrize("debug", [False, True])
def test_what_nobody_expected_ends_with_1(ask: Any, made: Made, monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(fusetune, "load", fail)
    answer = ask("evaluate", made.run, made.table, *(["--debug"] if debug else []))
    assert answer.code == 1
    assert ("Traceback" in answer.err) == debug
    assert "ZeroDivisionError: a bug" in answer.err
    assert debug or "run again with --debug" in answer.err


def test_a_failure_while_running_ends_with_1(ask: Any, made: Made, tmp_path: Path) -> None:
    sets = ("--set", "columns.train.epochs=3", "--set", "columns.train.lr=1e30", "--set", "columns.train.clip=0")
    answer = ask(*fit(made, "--out", tmp_path / "run", *sets))
    assert answer.code == 1
    assert "failed: columns: the " in answer.err
    assert "case-" in answer.err
    assert "Traceback" not in answer.err


def test_stopping_by_hand_tells_how_to_continue(ask: Any, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fusetune, "fit", stop)
    answer = ask("fit", made.table, "--label", "organ")
    assert answer.code == 130
    assert answer.err == "stopped; continue with the same command and --resume\n"
    monkeypatch.setattr(fusetune, "load", stop)
    assert ask("evaluate", made.run, made.table).err == "stopped\n"


def test_show_config_is_a_configuration_with_explanations(ask: Any, tmp_path: Path) -> None:
    answer = ask("show", "config")
    assert answer.code == 0
    (tmp_path / "config.yaml").write_text(answer.out)
    assert Config.build(tmp_path / "config.yaml") == Config()
    assert "views: 4  # augmented views per training row" in answer.out
    assert answer.out.count("# passes over the training part") == 4


def test_the_command_line_prints_a_card(ask: Any) -> None:
    answer = ask("show", "strategies", "ogm-ge")
    assert answer.code == 0
    for part in ("arXiv 2203.15332", "k_m = 1 - tanh(alpha rho_m)", "cost ", "measured ", "alpha: 0.3  # strength"):
        assert part in answer.out
    wrong = ask("show", "strategies", "ogm")
    assert wrong.code == 2
    assert "there is no strategy 'ogm', did you mean 'ogm-ge'?" in wrong.err
    stray = ask("show", "config", "ogm-ge")
    assert stray.code == 2
    assert "only `show strategies NAME` takes a second word" in stray.err


def test_show_strategies_is_a_table_and_configurations_of_each(ask: Any, tmp_path: Path) -> None:
    answer = ask("show", "strategies")
    assert answer.code == 0
    table, *parts = answer.out.split("\nstrategy:\n")
    words = " ".join(re.sub("[│┃]", " ", table).split())
    assert len(parts) == len(STRATEGIES)
    for text, strategy in zip(parts, STRATEGIES.values(), strict=True):
        assert f"the {strategy.title} model" in words
        (tmp_path / "config.yaml").write_text("strategy:\n" + text)
        config = Config.build(tmp_path / "config.yaml")
        written = config.strategy
        assert written.name == strategy.name
        assert strategy_of(config)[1] == strategy.Settings()
        assert set(strategy.Settings.model_fields) <= set(written.model_extra or {}) or "the settings of" in text
    assert "arXiv" in words
    assert "weight: 10.0  # lambda, of the sum of the modalities' distances" in answer.out
    assert answer.out.count("passes over the training part") == 1  # what strategies share is said once
    assert "see `fusetune show strategies`" in ask("show", "config").out


def test_fit_takes_a_strategy_and_show_names_it(ask: Any, made: Made, tmp_path: Path) -> None:
    answer = ask(*fit(made, "--out", tmp_path / "run", "--strategy", "alone", "--set", "evaluate.baselines=false"))
    assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["strategy"]["title"] == "single-input"
    told = ask("show", tmp_path / "run").out
    assert "strategy alone: stage U of arXiv 2505.06592" in told
    assert "two-stage" not in told


def test_show_of_a_run_from_before_strategies_were_named(ask: Any, made: Made, tmp_path: Path) -> None:
    metrics = json.loads((made.run / "metrics.json").read_text())
    del metrics["strategy"]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    answer = ask("show", tmp_path)
    assert answer.code == 0
    assert "two-stage against scan alone" in answer.out


def test_show_prints_the_results(ask: Any, made: Made) -> None:
    answer = ask("show", made.run)
    assert answer.code == 0
    for text in ("test part: 12 rows in 6 groups", "majority", "scan alone", "two-stage", "McNemar p", "report.html"):
        assert text in answer.out
    assert max(map(len, answer.out.splitlines()[:8])) <= 80


def test_fit_ends_with_the_results(ask: Any, made: Made, tmp_path: Path) -> None:
    answer = ask(*fit(made, "--out", tmp_path / "run", "--seed", "3", "--set", "data.class_weights=balanced"))
    assert answer.code == 0
    assert "two-stage" in answer.out
    assert str(tmp_path / "run" / "report.html") in answer.out
    assert "fusetune" in answer.err  # what happens meanwhile goes to the other stream
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["seed"] == 3
    assert saved["data"]["class_weights"] == "balanced"
    again = ask(*fit(made, "--out", tmp_path / "run"))
    assert again.code == 2
    assert "--out" in again.err


def test_evaluate_prints_and_writes_the_scores(ask: Any, made: Made, tmp_path: Path) -> None:
    answer = ask("evaluate", made.run, made.table, "--json", tmp_path / "deep" / "scores.json")
    assert answer.code == 0
    assert "96 rows in 48 groups" in answer.out
    scores = json.loads((tmp_path / "deep" / "scores.json").read_text())
    expected = fusetune.load(made.run).evaluate(made.table)
    assert scores == json.loads(json.dumps(expected))
    assert f"{scores['accuracy']['value']:.3f}" in answer.out
    assert scores["seen"] == 84
    assert "84 of these rows have the inputs of rows that the model was made from" in answer.out


def test_evaluate_does_not_warn_about_rows_it_never_saw(ask: Any, made: Made) -> None:
    frame = pd.read_csv(made.table)
    fresh = made.table.with_name("fresh.csv")
    frame[frame["part"] == "test"].to_csv(fresh, index=False)
    assert fusetune.load(made.run).evaluate(fresh)["seen"] == 0
    assert "the model was made from" not in ask("evaluate", made.run, fresh).out


def test_a_column_name_with_a_comma_can_be_given_in_quotes() -> None:
    assert commas('scan, "age, in years",site') == ["scan", "age, in years", "site"]
    assert commas("scan") == ["scan"]
    assert commas(" ") == []
    assert commas(None) is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_predict_writes_every_format(ask: Any, made: Made, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"told{suffix}"
    answer = ask("predict", made.run, made.table, "--out", path)
    assert answer.code == 0
    assert "96 rows" in answer.out
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda p: pd.read_json(p, lines=True)}
    told = readers[suffix](path)
    expected = fusetune.load(made.run).predict_table(made.table)
    assert told["prediction"].tolist() == expected["prediction"].tolist()
    assert told["row_id"].tolist() == expected["row_id"].tolist()
    for name in CLASSES:
        assert told[f"p({name})"].to_numpy() == pytest.approx(expected[f"p({name})"].to_numpy(), abs=1e-9)


def test_explain_writes_a_page_and_prints_the_shares(ask: Any, made: Made, tmp_path: Path) -> None:
    answer = ask("explain", made.run, made.table, "--row", "case-040", "--out", tmp_path / "deep" / "why.html")
    assert answer.code == 0, answer.err
    why = fusetune.load(made.run).explain(made.table, "case-040")
    assert f"row case-040: {why.decision} ({why.probability:.1%})" in answer.out
    for name, share in why.shares.items():
        assert f"  {name}: {100 * share:+.1f} points" in answer.out
    assert f"{why.decision}, " in (tmp_path / "deep" / "why.html").read_text(encoding="utf-8")
    wrong = ask("explain", made.run, made.table, "--row", "case-999", "--out", tmp_path / "no.html")
    assert wrong.code == 2
    assert "no row 'case-999'" in wrong.err
    assert not (tmp_path / "no.html").exists()


def test_predict_says_how_many_rows_have_a_problem(ask: Any, made: Made, tmp_path: Path) -> None:
    frame = pd.read_csv(made.table)
    frame.loc[[3, 8], "scan"] = "nowhere.png"
    frame.to_csv(made.table.with_name("broken.csv"), index=False)
    answer = ask("predict", made.run, made.table.with_name("broken.csv"), "--out", tmp_path / "told.csv")
    assert answer.code == 0
    assert "2 with a problem" in answer.out
    assert pd.read_csv(tmp_path / "told.csv")["problem"].notna().sum() == 2


def test_what_is_said_of_a_table_is_printed_as_plain_lines(ask: Any, made: Made, tmp_path: Path) -> None:
    frame = pd.read_csv(made.table).assign(scan="[bold]nowhere.png")
    table, told = made.table.with_name("[lost].csv"), tmp_path / "told.csv"
    frame.drop(columns="case_id").to_csv(table, index=False)
    for words in (["predict", "--out", told], ["evaluate"]):
        answer = ask(words[0], made.run, table, *words[1:])
        assert answer.code == 2
        assert answer.err.startswith("error: [lost].csv: no picture can be read at all:\n  - scan: 96 of 96 cells")
        assert "[bold]nowhere.png: there is no such file" in answer.err
        assert f"Relative paths start from {table.parent}; make" in answer.err
        assert not told.exists()
    answer = ask("predict", made.run, table, "--out", told, "--on-problem", "mask")
    assert answer.code == 0
    # Once, and without a line of source code.
    assert answer.err == "warning: [lost].csv:\n  - no id column 'case_id': row_id is the row's number, from 0\n"
    assert pd.read_csv(told)["row_id"].tolist() == list(range(96))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_predictions_keep_the_words_of_ids(ask: Any, made: Made, tmp_path: Path, suffix: str) -> None:
    words = ["1e3", "007", "1.10", "1.10", "x" * 300, "é", None, "12345678901234567890"]
    frame = pd.read_csv(made.table).iloc[: len(words)]
    frame["scan"] = [str(made.table.parent / name) for name in frame["scan"]]
    frame.assign(case_id=words).to_parquet(tmp_path / "t.parquet")
    told = tmp_path / f"told{suffix}"
    answer = ask("predict", made.run, tmp_path / "t.parquet", "--out", told)
    assert answer.code == 0, answer.err
    assert "empty in row(s) 6" in answer.err
    assert "repeats 1.10, 2 rows in all" in answer.err
    readers = {
        ".csv": lambda p: pd.read_csv(p, dtype={"row_id": "str"}),
        ".parquet": pd.read_parquet,
        ".jsonl": lambda p: pd.read_json(p, lines=True, dtype=False),
    }
    found = readers[suffix](told)
    assert found["row_id"].astype(object).where(found["row_id"].notna(), None).tolist() == words
    assert found[[f"p({name})" for name in CLASSES]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-8)


def test_explain_says_what_is_wrong_with_its_row(ask: Any, made: Made, tmp_path: Path) -> None:
    frame = pd.read_csv(made.table)
    frame.loc[[3, 8], "scan"] = "nowhere.png"
    frame.loc[9, "case_id"] = "case-008"
    frame.to_csv(made.table.with_name("unsure.csv"), index=False)
    words = ["explain", made.run, made.table.with_name("unsure.csv"), "--out", tmp_path / "why.html", "--row"]
    answer = ask(*words, "case-003")
    assert answer.code == 0
    assert "warning: unsure.csv: 1 of 1 rows have a problem:\n  - scan: 1 of 1 cells, row(s) 3: nowhere" in answer.err
    assert ask(*words, "case-003", "--on-problem", "raise").code == 2
    assert "'case-008' is the id of rows 8, 9 of unsure.csv" in ask(*words, "case-008").err


def test_a_file_that_cannot_be_written_is_named(ask: Any, made: Made, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for words in (["predict", made.run, made.table, "--out", tmp_path / "file" / "told.csv"],
                  ["evaluate", made.run, made.table, "--json", tmp_path / "file" / "scores.json"]):  # fmt: skip
        answer = ask(*words)
        assert answer.code == 2
        assert "cannot write" in answer.err


SPELLINGS: dict[str, Callable[[Path, Path], Path]] = {
    "the path": lambda file, folder: file,
    "a detour": lambda file, folder: file.parent / ".." / file.parent.name / file.name,
    "a link": lambda file, folder: _linked(folder / f"link{file.suffix}", lambda link: link.symlink_to(file)),
    "a linked folder": lambda file, folder: (
        _linked(folder / "link", lambda link: link.symlink_to(file.parent)) / file.name
    ),
    "a hard link": lambda file, folder: _linked(folder / f"link{file.suffix}", lambda link: link.hardlink_to(file)),
    "a new folder and back": lambda file, folder: file.parent / "new" / ".." / file.name,
}
# What a command reads, and its output, which is put into the place of that.
LOSSES: dict[str, tuple[str, list[str]]] = {
    "predict over its table": ("table.csv", ["predict", "RUN", "TABLE", "--out"]),
    "explain over its table": ("table.csv", ["explain", "RUN", "TABLE", "--row", "case-001", "--out"]),
    "evaluate over its table": ("table.csv", ["evaluate", "RUN", "TABLE", "--json"]),
    "diagnose over its table": ("table.csv", ["diagnose", "RUN", "TABLE", "--json"]),
    "diagnose over a picture": ("7.png", ["diagnose", "RUN", "TABLE", "--out"]),
    "check over its table (json)": ("table.csv", ["check", "TABLE", "--label", "organ", "--json"]),
    "check over its table (html)": ("table.csv", ["check", "TABLE", "--label", "organ", "--html"]),
    "explain over a picture": ("7.png", ["explain", "RUN", "TABLE", "--row", "case-001", "--out"]),
    "evaluate over a picture": ("7.png", ["evaluate", "RUN", "TABLE", "--json"]),
    "check over a picture": ("7.png", ["check", "TABLE", "--label", "organ", "--html"]),
    "augment over a picture": ("7.png", ["augment", "TABLE", "--out"]),
    "evaluate over the run's metrics": ("../run/metrics.json", ["evaluate", "RUN", "TABLE", "--json"]),
    "predict over the run's predictions": ("../run/predictions.parquet", ["predict", "RUN", "TABLE", "--out"]),
    "predict over the run's, by its model": ("../run/predictions.parquet", ["predict", "MODEL", "TABLE", "--out"]),
    "explain over the report": ("../run/report.html", ["explain", "MODEL", "TABLE", "--row", "case-001", "--out"]),
    "evaluate over the manifest": ("../run/model/bundle.json", ["evaluate", "MODEL", "TABLE", "--json"]),
}


def _linked(link: Path, make: Callable[[Path], None]) -> Path:
    make(link)
    return link


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("loss", LOSSES)
def test_an_output_in_the_place_of_an_input_is_refused(
    ask: Any, made: Made, tmp_path: Path, loss: str, spelling: str
) -> None:
    name, words = LOSSES[loss]
    file = (made.table.parent / name).resolve()
    before = file.read_bytes()
    places = {"RUN": made.run, "MODEL": made.run / "model", "TABLE": made.table}
    answer = ask(*[places.get(word, word) for word in words], SPELLINGS[spelling](file, tmp_path))
    assert answer.code == 2, answer.out + answer.err
    assert f"error: {words[-1]}" in answer.err
    assert "choose another name" in answer.err
    assert file.read_bytes() == before


def test_an_output_beside_them_is_written_over_an_earlier_one(ask: Any, made: Made, tmp_path: Path) -> None:
    for path in (tmp_path / "told.csv", made.table.with_name("told.csv")):
        for _ in range(2):
            assert ask("predict", made.run, made.table, "--out", path).code == 0
        assert len(pd.read_csv(path)) == 96
        path.unlink()


def test_the_module_runs_as_a_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fusetune", "--version"])
    monkeypatch.delitem(sys.modules, "fusetune.cli")
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("fusetune.cli", run_name="__main__")
    assert not stop.value.code
    assert VERSION in capsys.readouterr().out


def test_the_program_itself_ends_with_the_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fusetune.cli", "show", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere is no finished run")
    assert done.stdout == ""


def test_check_finds_what_is_wrong_and_says_so_by_its_exit_code(ask: Any, made: Made, tmp_path: Path) -> None:
    words = ["--label", "organ", "--inputs", "scan,note,age,site", "--group", "patient", "--split", "part"]
    clean = ask("check", made.table, *words)
    assert clean.code == 0
    assert "0 error(s)" in clean.out
    frame = pd.read_csv(made.table)
    frame["scan"] = [str(made.table.parent / name) for name in frame["scan"]]
    frame.loc[3, "scan"] = "nowhere.png"
    frame.loc[4, "note"] = "..."
    frame.to_csv(tmp_path / "broken.csv", index=False)
    files = {"--json": tmp_path / "found.json", "--html": tmp_path / "found.html"}
    broken = ask("check", tmp_path / "broken.csv", *words, *(word for pair in files.items() for word in pair))
    assert broken.code == 2
    assert "image_missing" in broken.out
    assert "case-003" in broken.out
    findings = json.loads(files["--json"].read_text())["findings"]
    assert all(list(f) == ["kind", "severity", "rows", "columns", "evidence", "remedy", "certainty"] for f in findings)
    assert [f["rows"] for f in findings if f["kind"] == "image_missing"] == [["case-003"]]
    page = files["--html"].read_text()
    assert "case-003" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    frame.loc[3, "scan"] = frame.loc[2, "scan"]
    frame.to_csv(tmp_path / "warned.csv", index=False)
    assert ask("check", tmp_path / "warned.csv", *words).code == 0
    assert ask("check", tmp_path / "warned.csv", *words, "--strict").code == 3


def test_a_broken_package_of_commands_is_named_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fusetune.cli import added

    (tmp_path / "broken_commands.py").write_text("raise ZeroDivisionError('on import')")
    (tmp_path / "whole_commands.py").write_text("import fusetune.cli.frame")
    monkeypatch.syspath_prepend(tmp_path)
    modules = {"a": "broken_commands", "b": "no_such_commands", "c": "whole_commands"}
    points = [EntryPoint(name, module, added.GROUP) for name, module in modules.items()]
    monkeypatch.setattr(added, "entry_points", lambda group: points if group == added.GROUP else [])
    added.add_commands()
    told = capsys.readouterr().err
    assert "the commands of 'a' (broken_commands) are missing: ZeroDivisionError: on import" in told
    assert "the commands of 'b' (no_such_commands) are missing: ModuleNotFoundError" in told
    assert "whole_commands" not in told
    assert "whole_commands" in sys.modules


def test_without_other_packages_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fusetune.cli import added

    monkeypatch.setattr(added, "entry_points", lambda group: [])
    added.add_commands()
    assert capsys.readouterr() == ("", "")
