"""A finished run as notebooks hold it: its scores as tables, what it confuses, and one screen to look at."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from fusetune.display import show_file, with_bounds
from fusetune.model import Model
from fusetune.progress import visible
from fusetune.telling import telling_of


@dataclass(repr=False)
class Run:
    """A finished run.

    Attributes:
        folder: Where its files are.
        model: The trained model.
        metrics: The content of `metrics.json`.
    """

    folder: Path
    model: Model
    metrics: dict[str, Any]

    @property
    def report(self) -> Path:
        """Path of the HTML report."""
        return self.folder / "report.html"

    def gain(self) -> pd.DataFrame:
        """Return what each model of the run is worth on the test part, the model itself last.

        Columns: score and loss (accuracy and NLL; of numbers R2 and MAE) with the bounds of their 95 % intervals, the
        loss on validation rows, and what it is.
        """
        told = telling_of(self.metrics)
        scores, valid = (told.score.key, told.loss.key), f"valid_{told.loss.key}"
        rows = [
            {
                "model": row["name"],
                **with_bounds(row, scores),
                f"validation {scores[1]}": row[valid],
                "what": row["note"],
            }
            for row in self.metrics["gain"]
        ]
        return pd.DataFrame(rows).set_index("model")

    def confusion(self) -> pd.DataFrame:
        """Return how often each class was taken for each on the test part: what is, down, by what was said, across.

        Raises:
            UserError: If no classes are predicted.
        """
        telling_of(self.metrics).check_classes()
        said = pd.read_parquet(self.folder / "predictions.parquet", columns=["part", "label", "prediction"])
        test, classes = said[said["part"] == "test"], self.metrics["classes"]
        table = pd.crosstab(test["label"], test["prediction"]).reindex(index=classes, columns=classes, fill_value=0)
        return table.rename_axis(index="is", columns="said")

    def recalls(self) -> pd.DataFrame:
        """Return the share of each class's (each label's) test rows that is decided right, with its 95 % interval.

        Raises:
            UserError: If a number is predicted.
        """
        rows = telling_of(self.metrics).recalls()
        shares = {key: [row["share"][key] for row in rows] for key in ("value", "low", "high")}
        names = pd.Index([row["name"] for row in rows], name="class")
        return pd.DataFrame({"rows": [row["rows"] for row in rows], **shares}, index=names)

    def summary(self) -> str:
        """Return the answer in a few lines: how good, how sure, on how many rows, and what was not shown."""
        groups, told, acted = self.metrics["groups"], telling_of(self.metrics), self.metrics.get("acted")
        among = "" if not groups else f" of {groups['test']:,} groups"
        lines = [
            f"{self.metrics['strategy']['name']}: {told.right(bounds=True)} on {self.metrics['rows']['test']:,} test "
            f"rows{among}; {told.further()}"
        ]
        if acted:
            plain = f"{self.metrics['test'][told.score.key]['value']:.1%}"
            lines.append(f"  decided by {self.metrics['rule']}; by {told.plainly} {plain}, which compares:")
        frequent = self.metrics.get("frequent")
        compared = [] if frequent is None else [frequent]
        for one in [*compared, *self.metrics["comparisons"]]:
            verdict = {"not shown": "not shown better than", "better": "better than", "worse": "worse than"}
            more = f", {told.surer}" if one["verdict"] == "not shown" and one["surer"] else ""
            lines.append(f"  {verdict[one['verdict']]} {one['against']}{more}")
        lines += [f"  warning: {text}" for text in self.metrics["warnings"][:3]]
        more_warnings = len(self.metrics["warnings"]) - 3
        lines += [f"  and {more_warnings} more warnings"] if more_warnings > 0 else []
        return "\n".join([*lines, f"  report: {self.report}"])

    def __repr__(self) -> str:
        told = telling_of(self.metrics).right()
        return f"Run({str(self.folder)!r}, {told} on {self.metrics['rows']['test']:,} test rows)"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the answer and the gain table."""
        told = telling_of(self.metrics)
        score, loss = told.score, told.loss
        forms = {f"{score.key}{end}": score.figure for end in ("", " low", " high")} | {loss.key: loss.figure}
        printed: list[Any] = list(forms.values())
        table = self.gain()[list(forms)].to_html(formatters=printed, na_rep="-")
        return f"<pre>{escape(visible(self.summary()))}</pre>{table}"

    def show(self) -> None:
        """Show the report: in a notebook below the cell; else print its path, and on a desktop open it in a browser.

        Raises:
            UserError: If it is not there any more.
        """
        show_file(self.report, "report")
