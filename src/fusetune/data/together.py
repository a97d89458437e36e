"""What belongs together in a row: columns that share an encoder, cells with several, and rows that are gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fusetune.data.choices import Kind
from fusetune.data.gather import gathered
from fusetune.data.roles import Roles
from fusetune.data.schema import SEVERAL_KINDS, Column
from fusetune.data.several import holds_lists, holds_several
from fusetune.data.spelling import repeated
from fusetune.data.table import Table
from fusetune.errors import SchemaError, listed


def with_several(column: Column, table: Table, gather: str | None) -> Column:
    """Say of a column of pictures or texts whether a row can have several of them, in its cells or by gathering."""
    if column.kind not in SEVERAL_KINDS or column.role != "input":
        return column
    cells, reason = table.frame[column.name], column.reason
    inside = holds_several(cells, column.kind is Kind.IMAGE, table.root)
    reason += "; several in a cell" if inside and not holds_lists(cells) else ""
    if gather is not None:
        both = replace(table, frame=table.frame[[gather, column.name]])
        alone = gathered(both, gather, {column.name: column.kind is Kind.IMAGE}, ())
        inside = holds_several(alone.frame[column.name], column.kind is Kind.IMAGE, table.root)
        reason += f"; gathered by '{gather}'"
    return column.model_copy(update={"several": inside, "reason": reason})


def refuse_gathering(table: Table, roles: Roles) -> None:
    """Refuse a column that gathers rows and has another role too."""
    table.column(str(roles.gather))
    others = {"--label": roles.label, "--group": roles.group, "--split": roles.split, "--weight": roles.weight}
    for option, name in others.items():
        if name == roles.gather:
            raise SchemaError(
                f"--gather {name}: rows with the same '{name}' become one row, so that {option} {name} has nothing "
                "left to say; name another column, or leave one of the two out"
            )
    if roles.row_id not in (None, roles.gather):
        raise SchemaError(f"--gather {roles.gather} names the rows that are made; leave out --id {roles.row_id}")


def refuse_sharing(shared: Mapping[str, list[str]], columns: list[Column]) -> None:
    """Refuse inputs that cannot share an encoder."""
    found = {column.name: column for column in columns}
    for names in shared.values():
        if twice := repeated(names):
            raise SchemaError(f"--share {listed(names)}: {listed(twice)} is named twice")
        for name in names:
            column = found[name]
            if column.role != "input":
                raise SchemaError(
                    f"--share: column '{name}' is no input ({column.reason}), and cannot share an encoder"
                )
            if column.kind not in SEVERAL_KINDS:
                raise SchemaError(
                    f"--share {listed(names)}: '{name}' is a column of kind {column.kind}; pictures or texts can share "
                    "an encoder (if the guess is wrong: --kind COLUMN=image)"
                )
            if column.kind is not found[names[0]].kind:
                raise SchemaError(
                    f"--share {listed(names)}: '{name}' is a column of kind {column.kind}, and '{names[0]}' of kind "
                    f"{found[names[0]].kind}; one encoder reads pictures only, or texts only (if a guess is wrong: "
                    "--kind COLUMN=image)"
                )
    if twice := repeated(name for names in shared.values() for name in names):
        raise SchemaError(f"--share names column(s) {listed(twice)} twice")
