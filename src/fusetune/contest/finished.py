"""A finished comparison: what it shows, and the files that are left of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fusetune.contest import place as places
from fusetune.display import card, show_file, with_bounds
from fusetune.errors import UserError
from fusetune.files import write_text
from fusetune.report.contest import latex_table, write_contest
from fusetune.standings import Standings
from fusetune.telling import Telling, telling_of


@dataclass(frozen=True, eq=False, repr=False)
class Contest:
    """A finished comparison.

    Attributes:
        folder: Where its files are; None: nothing was written.
        results: The content of `results.csv`: one row per strategy and seed.
        summary: The content of `summary.json`.
    """

    folder: Path | None
    results: pd.DataFrame
    summary: dict[str, Any]

    @property
    def report(self) -> Path | None:
        """Path of the HTML report."""
        return None if self.folder is None else self.folder / places.REPORT

    def table(self) -> pd.DataFrame:
        """Return how each strategy fared over its seeds, the lowest loss first.

        Columns: score and loss of the test rows (accuracy and NLL of classes) with the bounds of their 95 % intervals,
        rank by the loss, seeds that ended well, mean seconds, and why others failed.
        """
        rows = []
        for one in self.summary["strategies"]:
            more = {"rank": one["rank"]["value"], "seeds": one["seeds"], "seconds": one["seconds"]}
            rows.append(
                {
                    "strategy": one["name"],
                    **with_bounds(one, self._scores),
                    **more,
                    "errors": "; ".join(one["errors"].values()),
                }
            )
        return pd.DataFrame(rows).set_index("strategy")

    def paired(self) -> pd.DataFrame:
        """Return each strategy against each rival on the same rows and seeds; differences are its own less the rival's.

        Columns: rows gained and lost (means over seeds), the differences of score and loss with the bounds of their
        95 % intervals, p-values of both after Holm's correction, and the verdict by the score.
        """
        (score, loss), rows = self._scores, []
        for one in self.summary["paired"]:
            counts = {name: one[name] for name in ("gained", "lost")}
            tests = {f"p {score}": one["p_holm"], f"p {loss}": one[f"p_{loss}_holm"], "verdict": one["verdict"]}
            bounds = with_bounds(one, self._scores)
            rows.append({"strategy": one["name"], "against": one["against"], **counts, **bounds, **tests})
        return pd.DataFrame(rows).set_index(["strategy", "against"])

    def show(self) -> None:
        """Show the report: in a notebook below the cell; else print its path, and on a desktop open it in a browser.

        Raises:
            UserError: If none was written, or it is not there any more.
        """
        if self.report is None:
            raise UserError(
                "runs that are compared without a folder have no report; give one: compare(runs, out=FOLDER)"
            )
        show_file(self.report, "report")

    @property
    def telling(self) -> Telling:
        """How its scores are told, as finely as those of the best, which comes first, ask for."""
        return telling_of({**self.summary, "test": self.summary["strategies"][0]})

    @property
    def _scores(self) -> tuple[str, str]:
        """Names of score and loss."""
        return self.telling.score.key, self.telling.loss.key

    def __repr__(self) -> str:
        best, loss = self.summary["strategies"][0], self.telling.loss
        known = best[loss.key]["value"]
        led = "" if known is None else f", lowest {loss.word}: {best['name']} ({loss.value(known)})"
        where = "" if self.folder is None else f"{str(self.folder)!r}, "
        rows = f"{self.summary['test']['rows']:,} test rows"
        return f"Contest({where}{len(self.summary['strategies'])} strategies on {rows}{led})"

    def _repr_html_(self) -> str:
        """Return what notebooks show: what was compared, and how each fared."""
        test, protocol = self.summary["test"], self.summary["protocol"]
        facts = {"test rows": f"{test['rows']:,}", "level": protocol["level"], "seeds": len(protocol["seeds"])}
        bounds = [f"{name}{end}" for name in self._scores for end in ("", " low", " high")]
        shown = self.table()[[*bounds, "seconds"]]
        return card(self.summary["title"], facts, shown.round(3).to_html())


def written(folder: Path, standings: Standings, table: pd.DataFrame) -> Contest:
    """Write everything that is for readers; a folder with `results.csv`, which comes last, is a finished contest."""
    summary = standings.summary()
    write_text(folder / places.SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False))
    write_text(folder / places.LATEX, latex_table(standings))
    write_contest(folder / places.REPORT, standings)
    write_text(folder / places.RESULTS, table.to_csv(index=False, lineterminator="\n"))
    return Contest(folder, table, summary)


def finished(folder: Path) -> Contest:
    """Read what `written` left.

    Raises:
        UserError: If it is damaged.
    """
    try:
        table = pd.read_csv(folder / places.RESULTS, keep_default_na=True)
        summary = json.loads((folder / places.SUMMARY).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is damaged ({error}); choose another --out and compare again") from error
    return Contest(folder, table, summary)
