"""`check`: what is wrong with a table, before anything is trained on it; nothing is written or changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fusetune.config import Config
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles, Share
from fusetune.data.table import Table, TableLike
from fusetune.display import card, show_page
from fusetune.doctor.examine import Examination, examine
from fusetune.doctor.findings import Finding, counts
from fusetune.doctor.images import Look, look_at_pictures
from fusetune.files import expanded, written_aside
from fusetune.intake import read_for, with_target, with_weight, words_read
from fusetune.report.checks import render_checks

_SHOWN = 12


@dataclass(frozen=True, eq=False, repr=False)
class Checked:
    """What was found in a table.

    Attributes:
        examination: All that was looked at.
    """

    examination: Examination

    @property
    def findings(self) -> list[Finding]:
        """What was found, errors first."""
        return self.examination.findings

    @property
    def words(self) -> str:
        """How much was found."""
        tally = counts(self.findings)
        return f"{tally['error']} error(s), {tally['warn']} warning(s), {tally['info']} note(s)"

    def table(self) -> pd.DataFrame:
        """Return a line per finding: severity, kind, certainty, what, rows (a list of ids), columns, remedy."""
        names = ["severity", "kind", "certainty", "what", "rows", "columns", "remedy"]
        lines = [{**one.as_dict(), "what": one.evidence["what"]} for one in self.findings]
        return pd.DataFrame(lines, columns=names)

    def html(self, *, redact: bool = False) -> str:
        """Return the page that `fusetune check --html` writes; redacted, without ids, texts and pictures of rows."""
        return render_checks(self.examination, redact=redact)

    def save(self, path: str | Path, *, redact: bool = False) -> Path:
        """Write the page to a file, and return its path.

        Raises:
            WriteError: If it cannot be written.
        """
        file = expanded(path)
        with written_aside(file) as aside:
            aside.write_text(self.html(redact=redact), encoding="utf-8")
        return file

    def show(self) -> None:
        """Show the page, as an explanation's `show` does."""
        show_page(self.html(), f"checks of {self.examination.examined.table.name}")

    def __repr__(self) -> str:
        return f"Checked({self.examination.examined.table.name}: {self.words})"

    def _repr_html_(self) -> str:
        """Return what notebooks show: each finding with what it says and what to do."""
        facts = {
            f"{one.severity}: {one.kind}": one.evidence["what"] + ("" if one.severity == "info" else f" → {one.remedy}")
            for one in self.findings[:_SHOWN]
        }
        return card(f"{self.examination.examined.table.name}: {self.words}", facts)


def check(
    table: TableLike,
    label: str | None = None,
    *,
    inputs: str | Iterable[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    vectors: Mapping[str, str] | None = None,
    group: str | None = None,
    split: str | None = None,
    row_id: str | None = None,
    share: Share | None = None,
    gather: str | None = None,
    weight: str | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    sets: str | Iterable[str] = (),
) -> Checked:
    """Look for what is wrong with a table: broken images, copies, leaks, likely label errors. Nothing is changed.

    Args:
        table: As `fit` takes it.
        label: Column to predict; without, nothing is said of labels.
        inputs: As `fit` takes it.
        kinds: As `fit` takes it.
        vectors: As `fit` takes it.
        group: As `fit` takes it.
        split: As `fit` takes it.
        row_id: As `fit` takes it.
        share: As `fit` takes it.
        gather: As `fit` takes it.
        weight: As `fit` takes it; rows of weight 0 are not looked at.
        config: A `Config`, a mapping or a YAML file.
        sets: As `fit` takes it.

    Raises:
        UserError: If the table or the configuration cannot be used.
    """
    settings = Config.build(config, sets=sets)
    roles = Roles(label, inputs, kinds, vectors, group, split, row_id, share, gather, weight)
    return checked(read_for(table, roles, settings), roles, settings)


def checked(data: Table, roles: Roles, config: Config, look: Look = look_at_pictures) -> Checked:
    """Look at a table that was read; see `check`. `look` opens its pictures."""
    schema = with_target(infer_schema(data, roles, config.data.outside == "refuse"), data, config)
    limits: dict[str, Any] = {"pixel_limit": config.data.pixel_limit, "allow_remote": config.allow_download}
    looked_at = with_weight(words_read(schema.read(data), schema, config), schema)
    return Checked(examine(looked_at, schema, outside=config.data.outside, look=look, **limits))
