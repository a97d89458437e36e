"""Progress on the terminal: bars with the time left for anything over a second, one line per event, and a JSON log."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from fusetune.errors import UserError
from fusetune.files import cannot_write

# Control characters but for tabs and line ends, marks that turn the direction of reading, halves of surrogate pairs.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_DELAY = 1.0
_INTERVAL = 10.0  # seconds between lines where there is no terminal to show a bar on
T = TypeVar("T")
# How every line of a log begins.
_BEGINS = b'{"time": "'
# Called with the name and the facts of each record.
Listener = Callable[[str, Mapping[str, Any]], None]


class OutputClosedError(BrokenPipeError):
    """Nobody reads the output any more, as after `| head`."""


class Terminal(Console):
    """A console on which names and cells are text: they hold no markup, and what cannot be seen is written out."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as rich does; messages that cannot be written are lost, and results raise `WriteError`."""
        try:
            # Rich leaves some control characters out when it makes text of a string: they are written out before.
            super().print(*(visible(item) if isinstance(item, str) else item for item in objects), **how)
        except OutputClosedError:
            raise
        except OSError as error:
            self._give_up(cannot_write(Path("the output"), error))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield what is shown of anything: the one way to the screen for tables and bars, too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Go on without messages; raise `OutputClosedError` where it is the results that nobody reads."""
        self._give_up(OutputClosedError())

    def _give_up(self, error: OSError) -> None:
        """Fall silent, and raise an error if this is where the results go."""
        self.quiet = True
        with suppress(OSError):  # else what is left is written, and fails, once more when the process ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)
        if not self.stderr:
            raise error


console = Terminal(stderr=True)
_SCREEN = RLock()  # held by the thread whose bars are shown


def visible(text: str) -> str:
    """Return a text in which what cannot be seen, and may command a screen, is written out in letters."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Steps:
    """The steps of one command, each said when it begins: `step 2 of 3: reading the table`.

    On a terminal each step is a line. Elsewhere nothing is said of a step that is over within seconds; bars of a longer
    one write a line now and then (see `lines_at_intervals`).

    Args:
        names: What is done in each step.
    """

    current: ClassVar[str] = ""

    def __init__(self, *names: str) -> None:
        self.names, self.place = names, 0

    def begin(self) -> None:
        """Say the next step."""
        self.place += 1
        Steps.current = f"step {self.place} of {len(self.names)}: {visible(self.names[self.place - 1])}"
        if console.is_terminal:
            console.print(Steps.current, style="dim", soft_wrap=True)


class _Lines:
    """Whether bars write lines where there is no terminal: a command does, a library in somebody's process does not."""

    wanted = False
    hidden = False


@contextmanager
def without_bars() -> Iterator[None]:
    """Show no bars within the block: another process shows the same ones."""
    before, _Lines.hidden = _Lines.hidden, True
    try:
        yield
    finally:
        _Lines.hidden = before


@contextmanager
def lines_at_intervals() -> Iterator[None]:
    """Let bars write a line every few seconds within the block, where standard error is no terminal."""
    before, _Lines.wanted = _Lines.wanted, True
    try:
        yield
    finally:
        _Lines.wanted, Steps.current = before, ""


@contextmanager
def bar(description: str, total: int, begun: str = "") -> Iterator[Bar]:
    """Show a bar that appears only if the work takes longer than a second and vanishes at the end.

    Args:
        description: What is done.
        total: In how many steps.
        begun: What the first step is. If it is named, the bar is there at once: such steps take long.
    """
    progress = Bar(description, total)
    if begun:
        progress.begin(begun)
    try:
        yield progress
    finally:
        progress.close()


class Bar:
    """A progress bar with a changeable note; see `bar`."""

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total, self.done = visible(description), total, 0
        self.started = self.said = time.monotonic()
        self.progress: Progress | None = None

    def begin(self, note: str) -> None:
        """Show the bar before any step is done."""
        if console.is_terminal and not _Lines.hidden:
            self._show()
        if self.progress is not None:
            self.progress.update(self.task, note=visible(note))

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by some steps."""
        self.done += steps
        if _Lines.hidden:
            return
        now = time.monotonic()
        if not console.is_terminal:
            if _Lines.wanted and now - self.said >= _INTERVAL:
                self.said = now
                console.print(self._line(now - self.started), soft_wrap=True)
            return
        if self.progress is None and now - self.started > _DELAY:
            self._show()
        if self.progress is not None:
            self.progress.update(self.task, completed=self.done, note=visible(note))

    def _line(self, spent: float) -> str:
        """Return what the bar would show."""
        left = spent / max(1, self.done) * max(0, self.total - self.done)
        step = f"{Steps.current}; " if Steps.current else ""
        return f"{step}{self.description} {self.done:,} of {self.total:,}, {timedelta(seconds=round(left))} left"

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
            _SCREEN.release()

    def _show(self) -> None:
        if not _SCREEN.acquire(blocking=False):
            return
        self.progress = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task(self.description, total=self.total, note="")
        self.progress.start()


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """Iterate with a progress bar."""
    with bar(description, len(items)) as progress:
        for item in items:
            yield item
            progress.advance()


class Log:
    """What happened in a run: lines on the terminal and records in `log.jsonl`, which is made when there is one.

    Raises:
        UserError: If there is a file of that name that is no log.
    """

    def __init__(self, path: Path | None = None, quiet: bool = False) -> None:
        self.path: Path | None = None
        self.quiet = quiet
        self.warnings: list[str] = []
        self.listeners: list[Listener] = []
        self._steps: Steps | None = None
        if path is not None:
            self.keep(path)

    def keep(self, path: Path) -> None:
        """Write records into a file from now on; raises as the constructor does."""
        if path.is_file():
            _refuse_other_file(path)
        self.path = path

    def plan(self, *steps: str) -> None:
        """Name the steps of a run, of which `step` begins one after the other."""
        self._steps = Steps(*steps)

    def step(self) -> None:
        """Say the next step of the plan."""
        if not self.quiet and self._steps is not None:
            self._steps.begin()

    def say(self, text: str, style: str | None = None) -> None:
        """Print one line."""
        if not self.quiet:
            console.print(text, style=style, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning and keep it for the report."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.say(f"warning: {text}", style="yellow")
            self.record("warning", text=text)

    def record(self, event: str, **facts: Any) -> None:
        """Append one JSON line and tell the listeners; raises `WriteError` where the line cannot be written."""
        if self.path is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = json.dumps({"time": now, "event": event, **facts}, ensure_ascii=False) + "\n"  # see `_BEGINS`
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                begun = _open_line(self.path)
                with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write("\n" + line if begun else line)
            except OSError as error:
                raise cannot_write(self.path, error) from error
        for listener in list(self.listeners):
            listener(event, facts)

    def spent(self) -> float:
        """Return the seconds that earlier sessions of the same run took, from their starts to their last lines."""
        sessions: list[list[datetime]] = []
        for line in self.path.read_bytes().splitlines() if self.path is not None and self.path.is_file() else ():
            try:
                facts = json.loads(line)
                now = datetime.fromisoformat(facts["time"])
            except (ValueError, KeyError, TypeError):  # cut short when the machine stopped
                continue
            if facts.get("event") == "start":
                sessions.append([])
            for session in sessions[-1:]:
                session.append(now)
        return sum((session[-1] - session[0]).total_seconds() for session in sessions)

    @contextmanager
    def timed(self, seconds: dict[str, float], name: str) -> Iterator[None]:
        """Add the time that the block takes to ``seconds[name]``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def _refuse_other_file(path: Path) -> None:
    with path.open("rb") as file:
        first = file.readline(len(_BEGINS)).removesuffix(b"\n")
    if not _BEGINS.startswith(first):  # of a killed process, less than a line may be there
        raise UserError(f"{path} is no log of fusetune and stays as it is; move it away, or choose another folder")


def _open_line(path: Path) -> bool:
    """Return whether the last line of a file was left unfinished, by a killed process or a full disk."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
