"""What is said of a table's columns before anybody looks at them; `infer` finds the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fusetune.config.items import as_items
from fusetune.data.choices import JOIN
from fusetune.data.schema import Role
from fusetune.errors import SchemaError, listed, shown

Share = str | Sequence[str] | Sequence[Sequence[str]] | Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Roles:
    """Which column is what; None leaves it open.

    Attributes:
        label: Column to predict.
        inputs: Columns to use, a word being one; default: all that are not label, group, split, weight or an id. Vector
            groups are always used.
        kinds: Column -> image, text, number, category, boolean, date or vector, where the guess would be wrong;
            image+ocr for pictures, and the words in them as one more input of texts.
        vectors: Name -> pattern such as ``{"mrna": "mrna__*"}``: number columns that together form one vector.
        group: Column whose rows belong together (patient, video).
        split: Column that says train, valid or test.
        row_id: Column that identifies rows; default: a column named like an id with unique values.
        share: Columns of pictures (or of texts) that are one input with one encoder: a list of names, several such
            lists, or such lists by the input's name. They are always used.
        gather: Column of ids: rows with the same one become one row, with all their pictures and texts.
        weight: Column that says what each row counts, a number from 0 on; never an input.
    """

    label: str | None = None
    inputs: str | Iterable[str] | None = None
    kinds: Mapping[str, str] | None = None
    vectors: Mapping[str, str] | None = None
    group: str | None = None
    split: str | None = None
    row_id: str | None = None
    share: Share | None = None
    gather: str | None = None
    weight: str | None = None

    def __post_init__(self) -> None:
        if self.inputs is not None:  # a generator can be read once only
            object.__setattr__(self, "inputs", tuple(as_items(self.inputs)))
        for name, example in (("kinds", {"age": "number"}), ("vectors", {"mrna": "mrna__*"})):
            given = getattr(self, name)
            if given is not None and not isinstance(given, Mapping):
                raise SchemaError(f"{name} is {shown(given)}, but must be a dict such as {example}")

    def named(self) -> dict[Role, str]:
        """Return the column of each role that one column has; gathered rows are named by what gathers them."""
        columns: dict[Role, str | None] = {
            "label": self.label, "group": self.group, "split": self.split, "id": self.row_id or self.gather,
            "weight": self.weight,
        }  # fmt: skip
        return {role: name for role, name in columns.items() if name is not None}

    def shared(self) -> dict[str, list[str]]:
        """Return the columns of each shared input by its name: one that was given, or those of the columns in a row.

        Raises:
            SchemaError: If there are not two columns.
        """
        if self.share is None:
            return {}
        if isinstance(self.share, Mapping):
            found = {name: as_items(columns) for name, columns in self.share.items()}
        else:
            given = [self.share] if isinstance(self.share, str) else list(self.share)
            names = [one for one in given if isinstance(one, str)]
            if names and len(names) < len(given):
                raise SchemaError(f"share is {shown(given)}: give the columns of one input, or a list for each input")
            lists = [names] if names else [list(one) for one in given]
            found = {JOIN.join(columns): columns for columns in lists}
        for columns in found.values():
            if len(columns) < 2:
                raise SchemaError(f"--share {listed(columns)}: name two columns or more, separated by commas")
        return found
