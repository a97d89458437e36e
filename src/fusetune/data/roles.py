"""What is said of a table's columns before anybody looks at them; `infer` finds the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fusetune.data.schema import Role


@dataclass(frozen=True)
class Roles:
    """Which column is what; None leaves it open.

    Attributes:
        label: Column to predict.
        inputs: Columns to use; default: all that are not label, group, split or an id. Vector groups are always used.
        kinds: Column -> image, text, number, category, boolean, date or vector, where the guess would be wrong.
        vectors: Name -> pattern such as ``{"mrna": "mrna__*"}``: number columns that together form one vector.
        group: Column whose rows belong together (patient, video).
        split: Column that says train, valid or test.
        row_id: Column that identifies rows; default: a column named like an id with unique values.
    """

    label: str | None = None
    inputs: Iterable[str] | None = None
    kinds: Mapping[str, str] | None = None
    vectors: Mapping[str, str] | None = None
    group: str | None = None
    split: str | None = None
    row_id: str | None = None

    def named(self) -> dict[Role, str]:
        """Return the column of each role that one column has."""
        columns: dict[Role, str | None] = {
            "label": self.label, "group": self.group, "split": self.split, "id": self.row_id,
        }  # fmt: skip
        return {role: name for role, name in columns.items() if name is not None}
