"""What all commands share: the application, exit codes, errors as one readable block, tables written whole."""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from typer.core import TyperGroup

from fusetune.data.choices import WRITTEN, OnProblem
from fusetune.errors import FusetuneError, InputWarning, UserError, did_you_mean, listed
from fusetune.progress import OutputClosedError, Terminal, visible
from fusetune.progress import console as errors
from fusetune.version import VERSION

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
INTERRUPTED = 130  # as shells say of what Ctrl-C ended
_CLOSED = 128 + 13  # as of a program that SIGPIPE ended
_NO_CHOICE = re.compile(r"'([^']*)' is not one of (.*)")  # as Typer complains of a word that an option does not take
_MOST = 3  # options that are offered instead of one that there is not
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")]
OnProblemOption = Annotated[
    OnProblem,
    typer.Option(
        help="Cells that cannot be used, such as lost pictures: go on and say so, stop, or go on without a word."
    ),
]


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a command's errors into one readable block and an exit code; with --debug they keep their traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _warnings_printed():
                command(*args, **kwargs)
        except (typer.Exit, OutputClosedError):
            raise
        except KeyboardInterrupt:
            errors.print("stopped" + ("; continue with the same command and --resume" if "resume" in kwargs else ""))
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if "--debug" in sys.argv:
                errors.print(traceback.format_exc(), end="", soft_wrap=True)
            else:
                _print_error(error)
            raise typer.Exit(getattr(error, "exit_code", 1)) from error

    return run


@contextmanager
def _warnings_printed() -> Iterator[None]:
    """Print what is said of the input as plain lines, each time; leave other warnings to Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any, **facts: Any) -> None:
            if issubclass(category, InputWarning):
                errors.print(f"warning: {message}", markup=False, soft_wrap=True)
            else:
                others(message, category, *more, **facts)

        warnings.showwarning = show
        yield


def _print_error(error: Exception) -> None:
    if isinstance(error, FusetuneError):
        text = f"{'error' if error.exit_code == UserError.exit_code else 'failed'}: {error}"
    else:
        text = (
            f"failed: {type(error).__name__}: {error}\nThis is not an error that fusetune expects; "
            "run again with --debug and report the traceback."
        )
    errors.print(text, style="red", soft_wrap=True)


class Commands(TyperGroup):
    """The group of all commands: complaints about arguments help and are text, and a closed output ends it quietly."""

    def make_context(self, *args: Any, **how: Any) -> Any:
        """Read the arguments."""
        with _as_text():
            return super().make_context(*args, **how)

    def invoke(self, *args: Any, **how: Any) -> Any:
        """Run the command."""
        with _as_text():
            return super().invoke(*args, **how)


@contextmanager
def _as_text() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise typer.Exit(_CLOSED) from None
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            message = message.removeprefix("Value error, ")  # which tells a user nothing
            error.message = visible(message + _meant(error, message))  # type: ignore[attr-defined]
        raise


def _meant(error: Any, message: str) -> str:
    """Return which word a complaint's user may have meant, as `Did you mean '--label'?`."""
    if options := getattr(error, "possibilities", None):
        error.possibilities = None  # which would be listed without a word
        return f". Did you mean {' or '.join(repr(option) for option in sorted(options)[:_MOST])}?"
    words = _NO_CHOICE.search(message)
    if words is None:
        return ""
    return did_you_mean(words[1], re.findall(r"'([^']*)'", words[2])).replace(", did", " Did")


app = typer.Typer(
    name="fusetune",
    cls=Commands,
    help="Train, judge and use classifiers on images + text + table columns.\n\n"
    "Each modality's encoder is fine-tuned alone, then one head is fitted on all features (arXiv 2505.06592).",
    epilog="Start with:  fusetune fit table.csv --label diagnosis --group patient",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    help="Make tables of published data sets, fetch example data, or draw synthetic frames.",
    epilog="Example:  fusetune data stamps --out stamps",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
out = Terminal()


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Debug = False,
) -> None:
    """Handle the options that come before a command."""
    del debug  # read from the arguments by `guarded`, wherever it stands
    if version:
        out.print(f"fusetune {VERSION}")
        raise typer.Exit


def starting(what: str) -> None:
    """Say on a terminal what a command does, before the libraries are imported, which takes some seconds."""
    if errors.is_terminal:
        errors.print(f"{what} ...", style="dim", soft_wrap=True)


def check_table_name(path: Path) -> None:
    """Refuse a name of a table to write that does not say which format is meant."""
    if path.suffix not in WRITTEN:
        raise UserError(f"--out {path}: the name must end in {listed(WRITTEN)}")


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table in the format that its name ends in, whole or not at all."""
    from fusetune.data.written import rows_written

    check_table_name(path)
    with rows_written(path) as write:
        write(frame)
