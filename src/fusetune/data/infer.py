"""What each column of a table is and does, found from its name and values, with the reason written down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from fusetune.data.carried import are_pictures, is_picture
from fusetune.data.choices import OCR, Kind
from fusetune.data.kinds import infer_kind
from fusetune.data.paths import lead_to_pictures
from fusetune.data.roles import Roles
from fusetune.data.schema import Column, Role, Schema, free_name
from fusetune.data.several import holds_lists
from fusetune.data.spelling import as_words, examples, spellings
from fusetune.data.table import Table
from fusetune.data.together import refuse_gathering, refuse_sharing, with_several
from fusetune.data.words import finite_numbers, is_words, numeric
from fusetune.errors import SchemaError, TableError, did_you_mean, listed

# The words of a name: PatientID, patientId, patient-id, "Patient ID" and patient.id are all (patient, id).
_NAME_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+|#")
# What an index is called that was written down with a table.
_INDEX_NAME = re.compile(r"unnamed: \d+(\.\d+)*|level_\d+|index|row_?names?|__index_level_\d+__", re.IGNORECASE)
# Whom rows belong to: names of ids by themselves. Other things are so with a word for an id behind or before them.
_WHO = frozenset(
    ["accession", "animal", "case", "client", "customer", "donor", "encounter", "participant", "passenger", "patient",
     "person", "specimen", "student", "subject", "user"]
)  # fmt: skip
_THINGS = _WHO | frozenset(
    ["exam", "image", "item", "order", "product", "record", "row", "sample", "scan", "series", "session", "slide",
     "study", "video", "visit"]
)  # fmt: skip
_ID_WORDS = frozenset(["id", "ids", "uid", "uids", "uuid", "guid", "mrn", "pk"])
# Also what honest columns are called: of these, the values must look like ids too.
_NUMBERING = frozenset(["no", "nr", "num", "number", "key", "code", "index", "ref", "reference", "#"])
_GLUED = re.compile(rf"({'|'.join(sorted(_THINGS))})({'|'.join(sorted(_ID_WORDS | _NUMBERING))})")
_CODE = re.compile(r"(?=.*\d)[\w./:#-]+")
_MANY, _FEW = 20, 5
# By chance alone, all rows of each value have one label less often than this.
_CHANCE = 1e-3
_UNIQUE = "named like an id, all values differ"
# Numbers that name a place: neighbours in number are no neighbours in anything else.
_PLACES = frozenset(["zip", "zipcode", "zips", "postcode", "postalcode", "plz", "fips", "areacode"])
_PLACE_PAIRS = frozenset([("zip", "code"), ("post", "code"), ("postal", "code"), ("area", "code"), ("country", "code"),
                          ("state", "code"), ("region", "code"), ("county", "code")])  # fmt: skip
_ADVICE = "if its rows belong together, name it with --group; if it says something about a new row, with --inputs"
_ONE = "are spelt in several ways and count as one", "nothing, if they mean the same"
_ALIKE = "differ only in capital letters or spaces and count as several", "make them one if they mean the same"
_ADDRESS = re.compile(r"(?i)([a-z][a-z0-9+.-]*://|www\.)\S+|[\w.+-]+@[\w-]+\.[\w.-]+")
_LONG_CODE = re.compile(r"(?=(?:.*\d){4})[0-9a-fA-F-]{12,}")
_READ_IN = "words in the pictures of '{}'"
# What cells look like, where it is no reason to treat them as anything but what their kind says.
_SHAPES = {
    "addresses": (_ADDRESS, "they are read as words, and nothing is fetched from them"),
    "codes that name something": (_LONG_CODE, "if they name what rows belong to, use --group"),
}


def infer_schema(table: Table, roles: Roles, confined: bool = False) -> Schema:
    """Infer every column's kind and role from what is said of some.

    Words that end like no image file are looked up as paths; with `confined`, in the table's folder only.

    Raises:
        TableError: If a named column does not exist or a kind is unknown.
        SchemaError: If a vector group has no columns or holds something other than numbers, a column would have two
            uses, or what is shared is not all pictures or all texts.
    """
    if roles.gather is not None:
        refuse_gathering(table, roles)
    shared = roles.shared()
    if roles.inputs is not None:
        roles = replace(roles, inputs=[*roles.inputs, *(name for names in shared.values() for name in names)])
    kinds = {name: _kind(name, kind) for name, kind in (roles.kinds or {}).items()}
    vectors = {name: _matching(table, name, pattern) for name, pattern in (roles.vectors or {}).items()}
    chosen = None if roles.inputs is None else [name for name in roles.inputs if name not in vectors]
    inputs = (
        None if chosen is None else _chosen(table, chosen, roles, {it for names in vectors.values() for it in names})
    )
    for name in [*kinds, *sorted(inputs or ()), *(name for names in shared.values() for name in names)]:
        table.column(name)
    role_of = _role_of(table, roles)
    members = _members(vectors, role_of)
    for name in sorted(inputs or ()):
        if name in role_of:
            raise SchemaError(f"column '{name}' is the {role_of[name]} column and cannot be an input too")
    columns, read_in = [], {words_in(name): name for name, kind in (roles.kinds or {}).items() if kind == OCR}
    labels = None if roles.label is None else _as_labels(table.column(roles.label))
    for name in table.frame.columns:
        if name in members:
            column = Column(name=name, kind=Kind.NUMBER, role="input", reason="part of a vector")
        elif name in read_in and name not in role_of:
            column = _words_column(name, read_in[name], kinds.get(name))
        elif name in role_of:
            kind, reason, _ = (kinds[name], "given", True) if name in kinds else infer_kind(table.frame[name])
            kind = Kind.NUMBER if role_of[name] == "weight" else kind
            column = Column(name=name, kind=kind, role=role_of[name], reason=f"{role_of[name]} column; {reason}")
        else:
            asked = kinds.get(name)
            if asked is not None and asked is not Kind.IMAGE and are_pictures(table.frame[name]):
                raise TableError(f"column '{name}' of {table.name} holds pictures, which are no {asked}")
            column = _infer_column(table.frame[name], name, asked, inputs, "id" in role_of.values(), labels)
            if asked is None and _leads_to_pictures(column, table, confined):
                role: Role = "input" if inputs is None or name in inputs else "unused"
                why = "the files that the values name are pictures"
                column = Column(name=name, kind=Kind.IMAGE, role=role, reason=why)
            role_of[name] = column.role
            column = with_several(column, table, roles.gather)
        columns.append(column)
    refuse_sharing(shared, columns)
    columns += _read_in(roles, columns, [*table.frame.columns, *table.unread])
    return Schema(columns=columns, vectors=vectors, shared=shared, gather=roles.gather)


def needed_columns(names: Sequence[str], roles: Roles, more: Iterable[str]) -> set[str] | None:
    """Return the columns of which `infer_schema` would use any: those that are named, and those named like ids.

    Args:
        names: All columns.
        roles: What is said of them.
        more: Columns that settings name.

    Returns:
        None where inputs are found by looking at all columns.
    """
    if roles.inputs is None:
        return None
    shared = [name for columns in roles.shared().values() for name in columns]
    words = [words_in(name) for name, kind in (roles.kinds or {}).items() if kind == OCR]
    asked = [*roles.inputs, *roles.named().values(), *shared, *(roles.kinds or {}), *words, *more]
    patterns = [*asked, *(roles.vectors or {}).values(), *([] if roles.gather is None else [roles.gather])]
    chosen = {name for name in names if any(name == one or fnmatchcase(name, one) for one in patterns)}
    return chosen | {name for name in names if "id" not in roles.named() and _may_identify(name)}


def _as_labels(cells: pd.Series) -> pd.Series:
    """Return labels as words, of a cell with several all of them as one."""
    return as_words(cells.map(str).astype("str").where(cells.notna()) if holds_lists(cells) else cells)


def _leads_to_pictures(column: Column, table: Table, confined: bool) -> bool:
    """Return whether a column of words, without the suffixes of image files, names files that are pictures."""
    words = table.frame[column.name].dropna()
    if column.kind not in (Kind.CATEGORY, Kind.TEXT) or not isinstance(words.dtype, pd.StringDtype):
        return False
    return lead_to_pictures(words, table.root, confined)


def _role_of(table: Table, roles: Roles) -> dict[str, Role]:
    """Return the role of each column that was named for one, refusing two for one column."""
    role_of: dict[str, Role] = {}
    for role, name in roles.named().items():
        table.column(name)
        if name in role_of:
            raise SchemaError(f"column '{name}' cannot be both {role_of[name]} and {role}; name two columns")
        _refuse_unnamed(table, name, role)
        role_of[name] = role
    return role_of


def _refuse_unnamed(table: Table, name: str, role: Role) -> None:
    """Refuse a column of answers that holds pictures or lists, which cannot be compared; labels may be several."""
    series = table.frame[name]
    if series.dtype != object:
        return
    for row, value in enumerate(series):
        if is_picture(value) or (role != "label" and pd.api.types.is_list_like(value)):
            raise TableError(
                f"{role} column '{name}' of {table.name} holds {str(value)[:40]} in row {row}: it needs words or "
                "numbers, not lists or pictures"
            )


def _members(vectors: Mapping[str, list[str]], role_of: Mapping[str, Role]) -> set[str]:
    """Return the columns of all vectors, refusing those that are spoken for: a label would tell the answer."""
    members: set[str] = set()
    for vector, columns in vectors.items():
        for name in columns:
            if name in role_of:
                raise SchemaError(f"--vectors {vector}: its pattern also matches the {role_of[name]} column '{name}'")
            if name in members:
                raise SchemaError(f"--vectors {vector}: column '{name}' is already part of another vector")
            members.add(name)
    return members


def _infer_column(
    series: pd.Series, name: str, asked: Kind | None, inputs: set[str] | None, has_id: bool, labels: pd.Series | None
) -> Column:
    """Describe a column that was named for no role.

    Args:
        series: Its values.
        name: Its name.
        asked: Its kind, where the user says so.
        inputs: The columns that the user chose, if so.
        has_id: Is there a column already that identifies rows?
        labels: The labels as words, if there are any.
    """
    kind, reason, usable = (asked, "given", True) if asked else infer_kind(series)
    identifying = _identifying(series, name, kind, labels) if asked is None else ""
    if asked is None and kind is Kind.NUMBER and usable and named_like_id(name):
        kind, reason = Kind.CATEGORY, "named like an id, so its numbers are names"
    elif asked is None and kind is Kind.NUMBER and usable and _names_places(series, name):
        kind, reason = Kind.CATEGORY, "named like an area code, so its numbers are names"
    role: Role = "input" if usable else "unused"
    if inputs is not None:
        if name in inputs:
            role = "input"
        elif not has_id and _identifying(series, name, kind, labels) == _UNIQUE:
            role, reason = "id", _UNIQUE
        else:
            role, reason = "unused", f"not chosen; {reason}"
    elif identifying == _UNIQUE:
        role, reason = "unused" if has_id else "id", _UNIQUE
    elif identifying and usable:
        role, reason = "unused", f"{identifying}: {_ADVICE}"
    return Column(name=name, kind=kind, role=role, reason=reason)


def named_like_id(name: str) -> bool:
    """Return whether a column's name says that its values only tell rows, patients or other things apart."""
    words = _name_words(name)
    first = len(words) == 2 and words[0] in _ID_WORDS and words[1] in _THINGS
    return first or bool(_INDEX_NAME.fullmatch(name.strip())) or not _ID_WORDS.isdisjoint(words[-1:])


def _names_places(series: pd.Series, name: str) -> bool:
    """Return whether a column of numbers is named like codes of areas, and holds whole numbers as those are."""
    words = _name_words(name)
    if _PLACES.isdisjoint(words[-1:]) and tuple(words[-2:]) not in _PLACE_PAIRS:
        return False
    numbers = finite_numbers(series)
    numbers = numbers[np.isfinite(numbers)]
    return bool(len(numbers) and (numbers >= 0).all() and (numbers < 1e10).all() and (numbers % 1 == 0).all())


def _name_words(name: str) -> list[str]:
    words = [word.lower() for word in _NAME_WORDS.findall(name)]
    if len(words) > 1 and words[-1].isdigit():  # patient_id_2
        words.pop()
    glued = _GLUED.fullmatch(words[-1]) if words else None
    return [*words[:-1], *glued.groups()] if glued else words


def _identifying(series: pd.Series, name: str, kind: Kind, labels: pd.Series | None) -> str:
    """Return how a column tells rows, patients or other things apart, in words; empty where it does not seem to."""
    surely, numbering, things = _named_like(name)
    if not (surely or numbering or things) or kind not in (Kind.CATEGORY, Kind.NUMBER, Kind.TEXT, Kind.DATE):
        return ""
    if (words := _plain_words(series)) is None or (there := words.dropna()).empty:
        return ""
    coded, distinct = bool(there.str.fullmatch(_CODE).all()), there.nunique()
    if distinct == len(words) and (surely or (coded and kind is not Kind.DATE and _counts(there))):
        return _UNIQUE
    spaced = kind is Kind.TEXT and bool(there.str.contains(r"\s").any())
    if kind is Kind.DATE or spaced or not (surely or coded):
        return ""
    if (surely or distinct >= _MANY) and _tells_by_heart(words, labels):
        return f"named like an id, and all rows of each of its {distinct:,} values have one label"
    return "named like an id" if things and distinct > max(_MANY, 0.05 * len(words)) else ""


def _named_like(name: str) -> tuple[bool, bool, bool]:
    """Return whether a column's name is one of ids, one of numbers that may count rows, or tells of what rows are."""
    surely, parts = named_like_id(name), _name_words(name)
    numbering = not _NUMBERING.isdisjoint(parts[-1:])
    things = surely or (
        parts[-2] in _THINGS if numbering and len(parts) > 1 else _WHO.issuperset(parts) and len(parts) == 1
    )
    return surely, numbering, things


def _may_identify(name: str) -> bool:
    return any(_named_like(name))


def _plain_words(series: pd.Series) -> pd.Series | None:
    """Return a column's cells as words, or None where some cells hold several values."""
    if holds_lists(series):
        return None
    return as_words(series)


def _counts(words: pd.Series) -> bool:
    """Return whether words that all differ are codes, or whole numbers that count something rather than measure it."""
    numbers = pd.to_numeric(words, errors="coerce")
    if numbers.isna().any():
        return True
    return bool((numbers % 1 == 0).all() and (numbers.max() - numbers.min() < 2 * len(numbers) or numbers.min() >= 1e4))


def _tells_by_heart(words: pd.Series, labels: pd.Series | None) -> bool:
    """Return whether all rows of each value have one label, more consistently than chance would have it."""
    if labels is None or labels.nunique() < 2:
        return False
    known = words.notna() & labels.notna()
    words, labels = words[known], labels[known]
    if words.empty or (labels.groupby(words.to_numpy()).nunique() > 1).any():
        return False
    again = len(words) - words.nunique()
    return bool(labels.value_counts(normalize=True).iloc[0] ** again < _CHANCE)


@dataclass(frozen=True)
class Note:
    """What is to be said of a column before anything is trained: a kind of finding, a sentence and what to do."""

    kind: str
    column: str
    what: str
    remedy: str


def spelling_notes(table: Table, schema: Schema) -> list[Note]:
    """Return what is to be said of spellings in the columns whose values are names: label, group and categories."""
    names = [c.name for c in schema.columns if c.role in ("label", "group")]
    notes = []
    for name in [*names, *(c.name for c in schema.inputs if c.kind is Kind.CATEGORY)]:
        one, alike = spellings(table.column(name))
        for sets, what, remedy in ((one, *_ONE), (alike, *_ALIKE)):
            if sets:
                text = f"column '{name}': {len(sets):,} value(s) {what}: {examples(sets)}"
                notes.append(Note("value_spellings", name, text, remedy))
    return notes


def column_notes(table: Table, schema: Schema) -> list[Note]:
    """Return what is to be said of columns by which a model could learn rows by heart, and of cells of an odd look."""
    label, group = schema.named("label"), schema.named("group")
    labels = None if label is None else as_words(table.column(label))
    units = None if group is None else as_words(table.column(group)).to_numpy()
    notes = []
    for column in schema.columns:
        if column.role not in ("input", "unused") or column.reason == "part of a vector":
            continue
        series = table.column(column.name)
        if column.kind not in (Kind.CATEGORY, Kind.NUMBER, Kind.TEXT) or _measures(series):
            continue
        if (words := _plain_words(series)) is None:
            continue
        if column.role == "input" and (look := looks_like(words, column.kind)):
            what = f"column '{column.name}' is an input of kind {column.kind}, but {look[0]}"
            notes.append(Note("column_looks_otherwise", column.name, what, look[1]))
        if units is None or (pd.Series(units).groupby(words.to_numpy()).nunique() > 1).any():
            notes += _by_heart(column, words, labels)
    return notes


def _measures(series: pd.Series) -> bool:
    """Return whether a column holds fractions, which name nothing."""
    return pd.api.types.is_float_dtype(series) and bool((series % 1 > 0).any())


def _by_heart(column: Column, words: pd.Series, labels: pd.Series | None) -> list[Note]:
    named = column.role == "unused" and _ADVICE in column.reason
    again = words.value_counts() > 1
    if not named and (column.role == "unused" or again.sum() < _MANY or again.mean() < 0.5):
        return []
    if not _tells_by_heart(words, labels):
        return []
    what = (
        f"column '{column.name}': all rows of each of its {len(again):,} values have one label, so that a model which "
    )
    what += "knows them by heart looks perfect and knows nothing of new ones"
    remedy = f"if its values name patients or the like, add --group {column.name}"
    remedy += "; it is no input" if named else ", else ask when it is filled in"
    return [Note("column_by_heart", column.name, what, remedy)]


def looks_like(words: pd.Series, kind: Kind) -> tuple[str, str] | None:
    """Return what nearly all values of a column look like though their kind says otherwise, and what to do."""
    if kind not in (Kind.CATEGORY, Kind.TEXT):
        return None
    values = words.dropna().drop_duplicates().head(2_000)
    for what, (shape, advice) in _SHAPES.items():
        share = values.str.fullmatch(shape).mean() if len(values) >= _FEW else 0.0
        if share >= 0.9:
            return f"{share:.0%} of its values look like {what}, such as {listed(values.str.slice(0, 40), 2)}", advice
    return None


def _chosen(table: Table, names: Sequence[str], roles: Roles, members: set[str]) -> set[str]:
    """Return the columns that names and patterns choose; a pattern chooses no column that has a use already."""
    columns = {str(name) for name in table.frame.columns}
    taken, chosen = {*roles.named().values(), *members}, set()
    for name in names:
        if name in columns or not any(sign in name for sign in "*?["):
            chosen.add(name)
            continue
        matches = {column for column in columns - taken if fnmatchcase(column, name)}
        if not matches:
            raise SchemaError(f"--inputs {name}: no column of {table.name} that is free matches '{name}'")
        chosen |= matches
    return chosen


def _kind(name: str, kind: str) -> Kind:
    if kind == OCR:
        return Kind.IMAGE
    try:
        return Kind(kind)
    except ValueError:
        known = [*Kind, OCR]
        raise TableError(
            f"kind '{kind}' of column '{name}' is unknown{did_you_mean(kind, known)}; known: {listed(known, 9)}"
        ) from None


def words_in(name: str) -> str:
    """Return what the column of the words in a column of pictures is called."""
    return f"{name} words"


def _words_column(name: str, pictures: str, asked: Kind | None = None) -> Column:
    """Return a column of the words in pictures.

    Raises:
        SchemaError: If it is asked to be of another kind.
    """
    if asked not in (None, Kind.TEXT):
        raise SchemaError(
            f"--kind {name}={asked}: the column holds the words in '{pictures}' ({OCR}), which are text; leave one of "
            "the two out, or rename the column"
        )
    return Column(name=name, kind=Kind.TEXT, role="input", reason=_READ_IN.format(pictures), read_in=pictures)


def _read_in(roles: Roles, columns: Sequence[Column], taken: Iterable[str]) -> list[Column]:
    """Return the columns of words that are to be read in pictures, but for those that the table has.

    Raises:
        SchemaError: If a column of such pictures is no input.
    """
    found, names = list[Column](), {column.name: column for column in columns}
    there = {column.read_in for column in columns}
    for name in (name for name, kind in (roles.kinds or {}).items() if kind == OCR):
        if names[name].role != "input":
            why = names[name].reason
            raise SchemaError(f"--kind {name}={OCR}: column '{name}' is no input ({why}), and no words are read in it")
        if name not in there:
            free = free_name(words_in(name), [*taken, *(column.name for column in found)])
            found.append(_words_column(free, name))
    return found


def _matching(table: Table, name: str, pattern: str) -> list[str]:
    columns = [column for column in table.frame.columns if fnmatchcase(column, pattern)]
    if not columns:
        raise SchemaError(f"--vectors {name}={pattern}: no column of {table.name} matches '{pattern}'")
    wrong = [column for column in columns if not _holds_numbers(table.frame[column])]
    if wrong:
        raise SchemaError(f"--vectors {name}={pattern}: column(s) {listed(wrong)} do not hold numbers")
    return columns


def _holds_numbers(cells: pd.Series) -> bool:
    return numeric(cells) is not None if is_words(cells) else pd.api.types.is_numeric_dtype(cells)
