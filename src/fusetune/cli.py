"""The command line: fit, evaluate, predict, show, data. Exit codes: 0 done, 1 failed while running, 2 wrong input."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

import fusetune
from fusetune.config import Config
from fusetune.datasets.stamps import fetch_stamps
from fusetune.errors import FusetuneError, UserError, did_you_mean, listed
from fusetune.files import written_aside
from fusetune.progress import console as errors

P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a command's errors into one readable block and an exit code; with --debug they keep their traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            errors.print("stopped" + ("; continue with the same command and --resume" if "resume" in kwargs else ""))
            raise typer.Exit(1) from None
        except Exception as error:
            if "--debug" in sys.argv:
                traceback.print_exc()
            else:
                _print_error(error)
            raise typer.Exit(getattr(error, "exit_code", 1)) from error

    return run


def _print_error(error: Exception) -> None:
    if isinstance(error, FusetuneError):
        text = f"{'error' if error.exit_code == UserError.exit_code else 'failed'}: {error}"
    else:
        text = (
            f"failed: {type(error).__name__}: {error}\nThis is not an error that fusetune expects; "
            "run again with --debug and report the traceback."
        )
    errors.print(text, style="red", markup=False, soft_wrap=True)


app = typer.Typer(
    name="fusetune",
    help="Train, judge and use classifiers on images + text + table columns.\n\n"
    "Each modality's encoder is fine-tuned alone, then one head is fitted on all features (arXiv 2505.06592).",
    epilog="Start with:  fusetune fit table.csv --label diagnosis --group patient",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    help="Fetch example data and make a table of it.",
    epilog="Example:  fusetune data stamps --out stamps",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
out = Console(highlight=False, markup=False)
_KINDS = ("image", "text", "number", "category", "boolean", "date", "vector")


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    """Handle the options that come before a command."""
    del debug  # read from the arguments by `guarded`, wherever it stands
    if version:
        out.print(f"fusetune {fusetune.__version__}")
        raise typer.Exit


@app.command(
    short_help="Train and judge a classifier; write a report and a model.",
    epilog="Example:  fusetune fit scans.csv --label region --inputs image,history,age,sex --group patient "
    "--set image.train.epochs=5 --out runs/scans",
)
@guarded
def fit(
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="CSV, TSV, Parquet or JSON Lines file; image paths start at its folder."),
    ],
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict.")],
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN,...",
            help="Columns to use, separated by commas. Default: all but label, group, split and ids.",
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=KIND", help=f"Where the guess is wrong (repeatable). Kinds: {', '.join(_KINDS)}."),
    ] = None,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATTERN", help="Number columns that form one vector, such as 'mrna=mrna__*' (repeatable)."
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column whose rows belong together (patient, video); never split apart."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with train / valid (val, dev) / test.")
    ] = None,
    row_id: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column that names the rows.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="sound (default): every fix; fast: frozen encoders; paper: the published settings."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Decides split, augmentation and training.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file with any setting; see `fusetune show config`. The file named by FUSETUNE_CONFIG, "
            "if set, holds your own defaults.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as train.epochs=3 (repeatable)."),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results. Default: runs/<table>-<label>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    """Train a classifier, judge it on locked test rows, and write a report and a portable model.

    The results folder holds report.html (open it in a browser), metrics.json, predictions.parquet, model/ (the portable
    model), and config.yaml, schema.json, split.parquet (what exactly was done).
    """
    del debug
    run = fusetune.fit(
        table,
        label,
        inputs=_commas(inputs),
        kinds=_pairs(kind, "--kind", "age=number"),
        vectors=_pairs(vectors, "--vectors", "mrna=mrna__*"),
        group=group,
        split=split,
        row_id=row_id,
        recipe=recipe,
        seed=seed,
        config=config,
        sets=set_ or (),
        out=out_folder,
        resume=resume,
    )
    out.print(_gain_grid(run.metrics))
    for line in _verdicts(run.metrics):
        out.print(line, soft_wrap=True)
    out.print(f"model   {run.folder / 'model'}", soft_wrap=True)
    out.print(f"report  {run.report}", soft_wrap=True)


@app.command(
    short_help="Judge a trained model on another labelled table.",
    epilog="Example:  fusetune evaluate runs/scans new_hospital.csv --json scores.json",
)
@guarded
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder or its model folder.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Labelled table with the same columns.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the scores to this file.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    """Judge a trained model on another labelled table, with 95 % intervals."""
    del debug
    scores = fusetune.load(folder).evaluate(table)
    if json_file:
        with _written(json_file) as aside:
            aside.write_text(json.dumps(scores, indent=1), encoding="utf-8")
    grid = Grid("", "value", "95 % interval", title=f"{scores['rows']:,} rows" + _group_words(scores["groups"]))
    for name, score in scores.items():
        if isinstance(score, dict):
            grid.add_row(Text(name.replace("_", " ")), _number(score["value"]), _range(score))
    out.print(grid)
    if scores["unreadable"]:
        out.print(f"{scores['unreadable']:,} rows have inputs that are absent or could not be read")
    if scores["groups"] is None:
        out.print("rows are taken as independent of each other, since there is no group column")


@app.command(
    short_help="Predict every row of a table.",
    epilog="Example:  fusetune predict runs/scans new_patients.csv --out predictions.csv",
)
@guarded
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder or its model folder.")],
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="Table with the same input columns; empty cells are allowed.")
    ],
    out_file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write: .csv, .parquet or .jsonl.")],
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    """Predict every row of a table, in its order; rows that could not be read in full are marked."""
    del debug
    writers = {
        ".csv": lambda frame, path: frame.to_csv(path, index=False),
        ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
        ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True, force_ascii=False),
    }
    if out_file.suffix not in writers:
        raise UserError(f"--out {out_file}: the name must end in {listed(writers)}")
    result = fusetune.load(folder).predict_table(table)
    with _written(out_file) as aside:
        writers[out_file.suffix](result, aside)
    marked = int((result["problem"] != "").sum())
    out.print(
        f"{len(result):,} rows -> {out_file}" + (f"; {marked:,} with a problem, see that column" if marked else ""),
        soft_wrap=True,
    )


@app.command(epilog="Example:  fusetune show runs/scans")
@guarded
def show(
    what: Annotated[
        str,
        typer.Argument(metavar="DIR|config", help="A run folder, or the word `config` for all settings and defaults."),
    ],
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    """Print the results of a run, or every setting with its default."""
    del debug
    if what == "config":
        sys.stdout.write(_explained(Config().to_yaml()))
        return
    path = Path(what) / "metrics.json"
    if not path.exists():
        raise UserError(f"{what} is no finished run: {path} is missing" + did_you_mean(what, ["config"]))
    metrics = json.loads(path.read_text(encoding="utf-8"))
    out.print(_gain_grid(metrics))
    for line in [*_verdicts(metrics), *(f"warning: {text}" for text in metrics["warnings"])]:
        out.print(line, soft_wrap=True)
    out.print(f"report  {Path(what) / 'report.html'}", soft_wrap=True)


@data_app.command(short_help="Fetch the Tux Paint stamps.", epilog="Example:  fusetune data stamps --out stamps")
@guarded
def stamps(
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for table and pictures.")],
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A tuxpaint-stamps-default .deb that is already here.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    """Fetch the Tux Paint stamps: pictures with an English sentence, 10 categories (GPL-2, needs apt)."""
    del debug
    out.print(f"table   {fetch_stamps(folder, archive)}", soft_wrap=True)


def main() -> None:
    """Run the command line."""
    app(prog_name="fusetune")


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file takes its name when it is complete."""
    try:
        with written_aside(path) as aside:
            yield aside
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _explained(text: str) -> str:
    """Add each setting's description to a configuration's YAML, as a comment."""
    lines: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        found, note = re.match(r"( *)(\w+):", line), None
        if found:
            path = [*path[: len(found[1]) // 2], found[2]]
            note = _description(path)
        lines.append(f"{line}  # {note}\n" if note else f"{line}\n")
    return "".join(lines)


def _description(path: list[str]) -> str | None:
    section: Any = Config
    for name in path[:-1]:
        section = section.model_fields[name].annotation
    field = getattr(section, "model_fields", {}).get(path[-1])
    return field.description if field else None


def _commas(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _pairs(items: list[str] | None, option: str, example: str) -> dict[str, str]:
    pairs = {}
    for item in items or ():
        name, sign, value = item.rpartition("=") if option == "--kind" else item.partition("=")
        if not sign or not name or not value:
            raise UserError(f"{option} {item}: write it as {example}")
        pairs[name] = value
    return pairs


def _gain_grid(metrics: dict[str, Any]) -> Grid:
    rows, groups = metrics["rows"], metrics["groups"]
    title = f"test part: {rows['test']:,} rows" + _group_words(groups["test"] if groups else None)
    grid = Grid("", "accuracy", "95 % interval", "NLL", title=title)
    for row in metrics["gain"]:
        grid.add_row(
            Text(row["name"]),
            f"{row['accuracy']['value']:.1%}",
            _range(row["accuracy"], "{:.1%}"),
            _number(row["nll"]["value"]),
        )
    return grid


def _verdicts(metrics: dict[str, Any]) -> list[str]:
    lines = []
    for c in metrics["comparisons"]:
        word = "no difference shown" if c["verdict"] == "not shown" else c["verdict"]
        lines.append(
            f"two-stage against {c['against']}: {word} ({c['gained']} rows gained, {c['lost']} lost, exact McNemar "
            f"p = {c['p']:.2g}, {c['p_holm']:.2g} after Holm's correction; NLL {c['nll']['value']:+.3f})"
        )
    return lines


def _group_words(count: int | None) -> str:
    return "" if count is None else f" in {count:,} groups"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(score: dict[str, Any], form: str = "{:.3f}") -> str:
    return "-" if score["low"] is None else f"{form.format(score['low'])} to {form.format(score['high'])}"


if __name__ == "__main__":
    main()
