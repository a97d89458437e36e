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

        Columns: accuracy and NLL with the bounds of their 95 % intervals, NLL on validation rows, and what it is.
        """
        rows = [
            {"model": row["name"], **with_bounds(row), "validation nll": row["valid_nll"], "what": row["note"]}
            for row in self.metrics["gain"]
        ]
        return pd.DataFrame(rows).set_index("model")

    def confusion(self) -> pd.DataFrame:
        """Return how often each class was taken for each on the test part: what is, down, by what was said, across."""
        said = pd.read_parquet(self.folder / "predictions.parquet", columns=["part", "label", "prediction"])
        test, classes = said[said["part"] == "test"], self.metrics["classes"]
        table = pd.crosstab(test["label"], test["prediction"]).reindex(index=classes, columns=classes, fill_value=0)
        return table.rename_axis(index="is", columns="said")

    def recalls(self) -> pd.DataFrame:
        """Return the share of each class's test rows that the model decides right, with its 95 % interval."""
        rows = self.metrics["recalls"]
        shares = {key: [row["share"][key] for row in rows] for key in ("value", "low", "high")}
        names = pd.Index([row["name"] for row in rows], name="class")
        return pd.DataFrame({"rows": [row["rows"] for row in rows], **shares}, index=names)

    def summary(self) -> str:
        """Return the answer in a few lines: how good, how sure, on how many rows, and what was not shown."""
        accuracy, groups, acted = _accuracy(self.metrics), self.metrics["groups"], self.metrics.get("acted")
        among = "" if not groups else f" of {groups['test']:,} groups"
        bounds = "" if accuracy["low"] is None else f" [{accuracy['low']:.1%}, {accuracy['high']:.1%}]"
        lines = [
            f"{self.metrics['strategy']['name']}: {accuracy['value']:.1%}{bounds} right on "
            f"{self.metrics['rows']['test']:,} test rows{among}; NLL {self.metrics['test']['nll']['value']:.3f}"
        ]
        if acted:
            plain = f"{self.metrics['test']['accuracy']['value']:.1%}"
            lines.append(f"  decided by {self.metrics['rule']}; by the most probable class {plain}, which compares:")
        frequent = self.metrics.get("frequent")
        compared = [] if frequent is None else [frequent]
        for one in [*compared, *self.metrics["comparisons"]]:
            verdict = {"not shown": "not shown better than", "better": "better than", "worse": "worse than"}
            more = ", but its probabilities are better" if one["verdict"] == "not shown" and one["surer"] else ""
            lines.append(f"  {verdict[one['verdict']]} {one['against']}{more}")
        lines += [f"  warning: {text}" for text in self.metrics["warnings"][:3]]
        more_warnings = len(self.metrics["warnings"]) - 3
        lines += [f"  and {more_warnings} more warnings"] if more_warnings > 0 else []
        return "\n".join([*lines, f"  report: {self.report}"])

    def __repr__(self) -> str:
        accuracy = _accuracy(self.metrics)["value"]
        return f"Run({str(self.folder)!r}, {accuracy:.1%} right on {self.metrics['rows']['test']:,} test rows)"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the answer and the gain table."""
        table = self.gain()[["accuracy", "accuracy low", "accuracy high", "nll"]]
        return f"<pre>{escape(visible(self.summary()))}</pre>{table.round(3).to_html()}"

    def show(self) -> None:
        """Show the report: in a notebook below the cell; else print its path, and on a desktop open it in a browser.

        Raises:
            UserError: If it is not there any more.
        """
        show_file(self.report, "report")


def _accuracy(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the share of test rows that is decided right, by the model's threshold where it has one."""
    acted = metrics.get("acted")  # runs of earlier versions do not have it
    return dict((acted or metrics["test"])["accuracy"])
