"""What the values of a column are, with the reason; and whether others are of the same kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.carried import are_pictures, is_absent, is_picture
from fusetune.data.choices import Kind
from fusetune.data.paths import image_share, looks_like_paths
from fusetune.data.several import are_parts, holds_lists, is_list, is_part, parts_of, written_list
from fusetune.data.split import PART_WORDS
from fusetune.data.words import (
    CODE,
    FALSE_WORDS,
    TRUE_WORDS,
    are_numbers,
    are_vectors,
    day_order,
    is_words,
    numeric,
    open_order,
    parse_dates,
    present,
    spelled_vector,
    truth,
)
from fusetune.errors import listed

# A year of four digits first or last, or day, month and two digits of a year; 1.2.3 is a version, not a date.
_DATE_SHAPE = re.compile(
    r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T]\d{1,2}:\d{2}(:\d{2})?.*)?\s*$"
)
_NESTED = re.compile(r"(?s)\[.*[\"'{\[].*\]|\{.*:.*\}")
_SAMPLE = 2000
# Values of several words, this many and on average in fewer rows each, are read as text: a value that no row taught
# (another job title) still shares words with others, which as a category it would not.
_MANY_NAMES, _SELDOM = 100, 50
# However long they are, this many phrases are a category where each is on average in so many rows.
_FEW_PHRASES, _OFTEN = 20, 10
_EXAMPLES = 100  # values that are kept to be shown


def infer_kind(series: pd.Series) -> tuple[Kind, str, bool]:
    """Return a column's kind, the reason, and whether it is of use as an input."""
    values = present(series)
    if values.empty:
        return Kind.CATEGORY, "empty in every row", False
    if are_pictures(values):
        return Kind.IMAGE, "the cells are pictures", True
    if is_words(values) and are_vectors(values.drop_duplicates().head(_SAMPLE)):
        values = values.map(spelled_vector).astype(object)
    if holds_lists(values):
        return _infer_lists(values)
    if is_words(series) and (numbers := numeric(values)) is not None:
        series = values = numbers
    if isinstance(series.dtype, pd.CategoricalDtype):
        return _unless_constant(values, Kind.CATEGORY, "the column's own type is categorical")
    if pd.api.types.is_bool_dtype(series):
        return _unless_constant(values, Kind.BOOLEAN, "true/false values")
    if pd.api.types.is_complex_dtype(series) or pd.api.types.infer_dtype(values) == "complex":
        return Kind.CATEGORY, "complex numbers, which no input can hold", False
    if pd.api.types.is_timedelta64_dtype(series):
        return _unless_constant(values, Kind.NUMBER, "all values are durations, read as days")
    if pd.api.types.is_numeric_dtype(series):
        return _unless_constant(values, Kind.NUMBER, "all values are numbers")
    if pd.api.types.is_datetime64_any_dtype(series):
        return _unless_constant(values, Kind.DATE, "all values are dates")
    return _infer_strings(values.map(str).astype("str"))


def _unless_constant(values: pd.Series, kind: Kind, reason: str) -> tuple[Kind, str, bool]:
    if values.nunique() == 1:
        return kind, f"the same {kind} in every row ({values.iloc[0]})", False
    return kind, reason, True


def _infer_lists(values: pd.Series) -> tuple[Kind, str, bool]:
    if (found := _infer_parts(values)) is not None:
        return found
    sizes = {len(value) if is_list(value) and np.ndim(value) else -1 for value in values}
    if -1 in sizes:
        return Kind.CATEGORY, "lists beside single values, which no input can hold", False
    if len(sizes) > 1:
        return Kind.VECTOR, f"lists of different lengths ({min(sizes)} to {max(sizes)}), which no input can hold", False
    if not all(_is_vector(value) for value in values):
        return Kind.VECTOR, "lists of something other than numbers, which no input can hold", False
    return Kind.VECTOR, f"lists of {min(sizes)} numbers", min(sizes) > 0


def _infer_parts(values: pd.Series) -> tuple[Kind, str, bool] | None:
    """Return the kind of what lists hold, single cells beside them too, where these are words or pictures."""
    first = next((part for value in values if is_list(value) for part in value if not is_absent(part)), "")
    if not is_part(first):  # vectors, all of whose numbers need no look
        return None
    try:
        cells = [parts_of(value, pictures=False) for value in values]
    except ValueError:
        return None
    parts = pd.Series([part for cell in cells for part in cell if not is_absent(part)], dtype=object)
    if parts.empty:
        return Kind.CATEGORY, "empty in every row", False
    if not all(map(is_part, parts)):
        return None
    sizes = [sum(not is_absent(part) for part in cell) for cell in cells]
    many = f"lists of {min(sizes)} to {max(sizes)}"
    if are_pictures(parts):
        return Kind.IMAGE, f"{many} pictures", True
    kind, reason, useful = _infer_strings(parts.map(str).astype("str"))
    if kind is Kind.IMAGE:
        return kind, f"{many} paths, of which {reason}", useful
    if kind is Kind.TEXT:
        return kind, f"{many} texts: {reason}", useful
    return kind, f"{many} words ({reason}); if each is a text, say so: --kind COLUMN=text", False


def _is_vector(value: Sequence[object]) -> bool:
    try:
        return np.asarray(value, dtype=np.float64).ndim == 1
    except (TypeError, ValueError, OverflowError):
        return False


def _infer_strings(values: pd.Series) -> tuple[Kind, str, bool]:
    distinct = values.nunique()
    sample = values.drop_duplicates().head(_SAMPLE).str.strip()
    share = image_share(sample)
    if share >= 0.9:
        return Kind.IMAGE, f"{share:.0%} of the values end like image files", True
    if distinct == 1:
        return Kind.CATEGORY, "the same value in every row", False
    if set(sample.str.lower()) <= set(PART_WORDS):
        parts = listed(sorted(set(sample)))
        return Kind.CATEGORY, f"only the words {parts}, parts of a split: name it with --split", False
    if set(sample.str.lower()) <= TRUE_WORDS | FALSE_WORDS:
        return Kind.BOOLEAN, f"only the words {listed(sorted(set(sample)))}", True
    numbers = pd.to_numeric(sample, errors="coerce").notna()
    if numbers.mean() >= 0.95 and not sample.str.match(CODE).any():
        return Kind.NUMBER, _with_rest(sample, numbers, "numbers"), True
    dates = sample.str.match(_DATE_SHAPE)
    if dates.mean() >= 0.95 and parse_dates(sample, day_order(sample) or "month").notna().mean() >= 0.95:
        unclear = day_order(values) is None and open_order(values).any()
        note = "; no row tells whether the day or the month comes first, so the month does" if unclear else ""
        return Kind.DATE, _with_rest(sample, dates, "dates") + note, True
    if sample.map(lambda word: written_list(word) is not None).mean() >= 0.9:
        return _infer_lists(values.map(written_list))
    if sample.str.fullmatch(_NESTED).mean() >= 0.9:
        seen = f"lists or objects written as words, such as {sample.iloc[0][:40]}"
        return Kind.CATEGORY, f"{seen}: give each part (a path, a number) a column of its own, or name the kind", False
    if (paths := looks_like_paths(sample)) is not None:
        return Kind.CATEGORY, paths, False
    words = float(sample.str.count(r"\s+").mean()) + 1
    length = float(sample.str.len().mean())
    seen = f"{distinct:,} distinct values in {len(values):,} rows, {words:.1f} words on average"
    few = distinct <= _FEW_PHRASES
    if (words >= 4 or length >= 40) and not (few and len(values) >= _OFTEN * distinct):
        return Kind.TEXT, seen, True
    if distinct == len(values) and words < 1.5 and len(values) > 20:
        return Kind.CATEGORY, f"every value differs ({seen}), so it can only name the row", False
    if words < 1.5 or few:
        return Kind.CATEGORY, seen, True
    seldom = distinct > _MANY_NAMES and len(values) < _SELDOM * distinct
    return (Kind.TEXT if seldom or distinct > 0.3 * len(values) else Kind.CATEGORY), seen, True


def _with_rest(sample: pd.Series, fitting: pd.Series, what: str) -> str:
    if fitting.all():
        return f"all values are {what}"
    rest = listed(sample[~fitting].str.slice(0, 40), 3)
    return f"{fitting.mean():.0%} of the values are {what}; others, such as {rest}, count as missing"


def _most(fitting: npt.NDArray[np.bool_]) -> bool:
    # A single cell that does not fit is a fault of its row, whatever else the table has or lacks.
    return len(fitting) == 1 or bool(fitting.mean() >= 0.5)


def _readable(values: pd.Series, kind: Kind) -> npt.NDArray[np.bool_]:
    """Return which values can be read as one of the kinds of which that is a question of values (`VALUED`)."""
    match kind:
        case Kind.NUMBER:
            return are_numbers(values)
        case Kind.DATE:
            return parse_dates(values, day_order(values) or "month").notna().to_numpy()
        case _:
            return np.isfinite(truth(values))


# What numbers can be read as or not, one by one.
VALUED = (Kind.NUMBER, Kind.DATE, Kind.BOOLEAN)


@dataclass
class Readable:
    """How many values of a column can be read as its kind, counted over pieces of it.

    Attributes:
        kind: One of `VALUED`.
        examples: The first values.
    """

    kind: Kind
    examples: pd.Series = field(default_factory=lambda: pd.Series(dtype=object))
    _fitting: int = 0
    _count: int = 0

    def add(self, cells: pd.Series) -> None:
        """Count the cells of a piece."""
        values = present(cells)
        if len(values):
            self._fitting += int(_readable(values, self.kind).sum())
            self._count += len(values)
            if len(self.examples) < _EXAMPLES:
                self.examples = pd.Series([*self.examples, *values][:_EXAMPLES])

    @property
    def enough(self) -> bool:
        """Whether at least half of them can, as `fits` asks; a single cell is a fault of its row."""
        return self._count <= 1 or 2 * self._fitting >= self._count


def fits(series: pd.Series, kind: Kind, several: bool = False) -> bool:
    """Return whether at least half of a column's values can be read as a kind; absent ones do not count.

    Args:
        series: The column.
        kind: The kind.
        several: May cells be lists of pictures or texts?
    """
    values = present(series)
    if values.empty:
        return True
    if several and kind in (Kind.IMAGE, Kind.TEXT) and holds_lists(values):
        cells = [value if is_list(value) else [value] for value in values]
        pictures = any(is_picture(part) for parts in cells for part in parts)
        return (kind is Kind.IMAGE) if pictures else _most(np.array(list(map(are_parts, cells))))
    numeric, times = pd.api.types.is_numeric_dtype(series), pd.api.types.is_datetime64_any_dtype(series)
    if are_pictures(values):
        return kind is Kind.IMAGE
    lists = values.dtype == object and bool(values.map(is_list).mean() > 0.5)
    match kind:
        case Kind.NUMBER:
            truths = pd.api.types.is_bool_dtype(series)  # in a text file, True is no number either
            return not (times or lists or truths) and _most(_readable(values, kind))
        case Kind.DATE:
            return not (numeric or lists) and _most(_readable(values, kind))
        case Kind.BOOLEAN:
            return not (times or lists) and _most(_readable(values, kind))
        case Kind.VECTOR:
            return numeric or lists or (is_words(values) and are_vectors(values))
        case Kind.IMAGE | Kind.TEXT:
            return not (numeric or times or lists)
        case _:
            return not lists
