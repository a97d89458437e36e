"""The folder of a contest: what marks it, what it was made from, and whether it may be gone on with."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusetune.data.table import Table
from fusetune.errors import UserError, listed
from fusetune.files import expanded, facts_hash, plain_name, sweep, write_text
from fusetune.folder import LOG, probe
from fusetune.record import NAME as RUN
from fusetune.record import is_run
from fusetune.version import VERSION

# The first file of a contest, and its last.
NAME, RESULTS = "contest.json", "results.csv"
SUMMARY, REPORT, LATEX, PREDICTIONS = "summary.json", "report.html", "results.tex", "predictions.parquet"
_FORMAT = 1


def find_place(out: str | Path | None, table: Table, label: str, resume: bool) -> Path:
    """Return the folder of a contest, which need not exist; nothing there is changed.

    Without `out`, it is `runs/<table>-<label>-compare`, with a number where that is taken by a finished one.

    Raises:
        UserError: If nothing can be written there, or it holds something else.
    """
    if out is None:
        first = Path("runs") / plain_name(f"{Path(table.name).stem}-{label}-compare")
        numbered = itertools.chain([first], (first.with_name(f"{first.name}-{n}") for n in itertools.count(2)))
        taken = list(itertools.takewhile(Path.exists, numbered))
        folder = first if not taken else taken[-1]
        if taken and not resume and (folder / RESULTS).exists():
            folder = first.with_name(f"{first.name}-{len(taken) + 1}")
    else:
        folder = expanded(out)
    try:
        probe(folder)
        refuse_taken(folder, resume)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use the folder {folder}: {getattr(error, 'strerror', None) or error}") from error
    return folder


def refuse_taken(folder: Path, resume: bool) -> None:
    """Refuse a folder with something in it that a contest would replace, or that is no contest's and is to be resumed.

    Raises:
        UserError: Saying what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder with --out")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()
    if not names:
        return
    if resume and NAME not in names:
        what = "the run of a fit" if RUN in names or is_run(folder) else listed(sorted(names))
        raise UserError(
            f"{folder} holds no comparison that could be continued, but {what}; name the folder of the comparison, or "
            "leave out --resume and choose a new folder with --out"
        )
    if not resume:
        raise UserError(
            f"{folder} is not empty; choose another folder with --out"
            + (", or continue the comparison in it with --resume" if NAME in names else "")
        )


def begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Mark a folder as that of a contest made from this, or go on with it if it is.

    Raises:
        UserError: If it is of another contest, naming what differs, or its mark is damaged.
    """
    path = folder / NAME
    whole = {"format": _FORMAT, "fusetune": VERSION, **facts}
    if path.exists():
        before = _read(path)
        differing = [name for name in _flat(whole) if _flat(before).get(name) != _flat(whole)[name]]
        differing = [name for name in differing if name != "fusetune"]
        if differing:
            then, now = _flat(before), _flat(whole)
            said = "; ".join(f"{name}: {then.get(name)} then, {now[name]} now" for name in differing[:12])
            raise UserError(
                f"the comparison in {folder} was made from something else: {said}. Resume it with what it was made "
                "from, or choose another --out"
            )
        sweep(folder, "|".join(map(re.escape, (NAME, RESULTS, SUMMARY, REPORT, LATEX, PREDICTIONS))))
        return
    write_text(path, json.dumps(whole | {"checksum": facts_hash(whole)}, indent=1))


def log_of(folder: Path) -> Path:
    """Return where a contest's log is."""
    return folder / LOG


def _read(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
        whole = facts.pop("checksum") == facts_hash(facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); put it back from a copy, or choose another --out") from error
    if not whole:
        raise UserError(f"{path} was changed or damaged after it was written; put it back, or choose another --out")
    return facts


def _flat(facts: Mapping[str, Any], before: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = listed(value, 40) if isinstance(value, list) else str(value)
    return flat
