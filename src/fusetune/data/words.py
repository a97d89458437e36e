"""What the words of cells mean: numbers, truth values, days, durations and vectors, the same for every carrier.

A CSV file holds words only. They are typed once a column's kind is known, never before: as a name, `1.10` is not `1.1`.
As a number it is. Whatever cannot be read is NaN here, and whoever asks says so.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

# Numbers that are names: a leading zero would be lost as a number, and so would digits beyond a float's 15.
CODE = r"\s*[+-]?(?:0\d|\d{16,}\s*$)"
TRUE_WORDS = frozenset({"true", "yes", "y", "t"})
FALSE_WORDS = frozenset({"false", "no", "n", "f"})
TRUTH = {**dict.fromkeys((*TRUE_WORDS, "1", "1.0"), 1.0), **dict.fromkeys((*FALSE_WORDS, "0", "0.0"), 0.0)}
# Standard deviations from the mean beyond which a number says nothing, and its square nears the limits of a float32.
FARTHEST = 1e9
Numbers = npt.NDArray[np.float64]
Order = Literal["day", "month", "mixed"]

_INTEGER = re.compile(r"0|-?[1-9]\d{0,14}")
_DURATION = r"\s*[+-]?\d+ days?(?: [+-]?\d{1,2}:\d{2}:\d{2}(?:\.\d+)?)?\s*"
_VECTOR = r"\s*\[[-+\d.,\seEnaif]*\]\s*"
# Day and month, in an order that the value does not say; with dots it is always day.month.
_SLASHED = r"^\s*(\d{1,2})[-/](\d{1,2})[-/](?:\d{4}|\d{2})(?!\d)"
_DOTTED = r"\s*\d{1,2}\.\d{1,2}\.\d"
_NO_MONTH = r"\s*\d{1,2}\.(?:1[3-9]|[2-9]\d)\.\d"  # which pandas would read with its parts exchanged
_LARGEST = float(np.finfo(np.float32).max)
# The days that fit into 64 bits of nanoseconds; beyond them, a date stands for "never" or "not known".
_FIRST_DAY, _LAST_DAY = -106_751, 106_751


def is_words(series: pd.Series) -> bool:
    """Return whether a column's cells are words (or missing), whatever the words say."""
    return isinstance(series.dtype, pd.StringDtype) or (
        series.dtype == object and pd.api.types.infer_dtype(series, skipna=True) == "string"
    )


def present(cells: pd.Series) -> pd.Series:
    """Return the cells that are neither missing nor blank."""
    there = cells.dropna()
    return there[there.str.strip() != ""] if is_words(there) else there


def prints_back(word: str) -> bool:
    """Return whether a word is how a whole number or a float of its value is printed: 12 and 0.5, not 012 and 0.50."""
    if _INTEGER.fullmatch(word):
        return True
    try:
        return repr(float(word)) == word and word[-1].isdigit()
    except ValueError:
        return False


def typed(words: pd.Series) -> pd.Series:
    """Turn words into numbers or truth values where each prints back as it was written, and none become equal by it."""
    present = pd.Index(words.dropna().unique())
    if present.empty:
        return words
    if not words.isna().any() and set(present.str.lower()) <= {"true", "false"}:
        return words.str.lower() == "true"
    if not all(map(prints_back, present)):
        return words
    numbers = pd.to_numeric(words)
    return numbers if numbers.nunique() == len(present) else words


def numeric(words: pd.Series) -> pd.Series | None:
    """Return words as numbers (or durations as days) where all of them are, else None; codes such as 007 are none."""
    there = words.dropna()
    if there.empty or there.str.match(CODE).any():
        return None
    if there.str.fullmatch(_DURATION).all():
        return _in_days(words)
    try:
        return pd.to_numeric(words)
    except (ValueError, TypeError):
        return None


def finite_numbers(cells: pd.Series) -> Numbers:
    """Return a column's cells as numbers (durations: days), NaN where one is missing or no number.

    Infinite numbers and those that do not fit into 32 bits are none: a network could do nothing but overflow.
    """
    if pd.api.types.is_timedelta64_dtype(cells):
        cells = _in_days(cells)
    elif is_words(cells) and cells.str.fullmatch(_DURATION).any():
        spans = _in_days(cells.where(cells.str.fullmatch(_DURATION)))
        cells = spans.where(spans.notna(), pd.to_numeric(cells, errors="coerce"))
    elif cells.dtype == object:
        cells = cells.map(_plain_number)
    elif pd.api.types.is_complex_dtype(cells) or isinstance(cells.dtype, pd.PeriodDtype | pd.IntervalDtype):
        return np.full(len(cells), np.nan)  # half of what they say would be lost
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.where(np.abs(numbers) <= _LARGEST, numbers, np.nan)


def _plain_number(value: Any) -> Any:
    if isinstance(value, complex | pd.Period | pd.Interval):
        return np.nan
    return float(value) if isinstance(value, Decimal) else value


def are_numbers(cells: pd.Series) -> npt.NDArray[np.bool_]:
    """Return which cells, bool [rows], are numbers or durations, be they ever so large."""
    read = ~np.isnan(finite_numbers(cells))
    if is_words(cells) or pd.api.types.is_float_dtype(cells):
        read |= pd.to_numeric(cells, errors="coerce").notna().to_numpy(dtype=bool)
    return np.asarray(read)


def are_durations(cells: pd.Series) -> bool:
    """Return whether a column holds durations, as such or in words; a number is none, since nobody knows its unit."""
    if pd.api.types.is_timedelta64_dtype(cells):
        return True
    there = present(cells)
    return len(there) > 0 and is_words(there) and bool(there.str.fullmatch(_DURATION).mean() > 0.5)


def _in_days(durations: pd.Series) -> pd.Series:
    return pd.to_timedelta(durations, errors="coerce").dt.total_seconds() / 86_400


def truth(cells: pd.Series) -> Numbers:
    """Return 1 for yes, 0 for no and NaN for anything else, 2 included."""
    if pd.api.types.is_bool_dtype(cells) or pd.api.types.is_numeric_dtype(cells):
        numbers = finite_numbers(cells)
        return np.where(np.isin(numbers, (0, 1)), numbers, np.nan)
    words = cells.astype("str").str.strip().str.lower().where(cells.notna())
    return np.asarray(words.map(TRUTH).to_numpy(dtype=np.float64, na_value=np.nan))


def day_order(dates: pd.Series) -> Order | None:
    """Return whether dates such as 03/04/2020 of a column begin with the day or the month, by all of its rows.

    One value above 12 decides. None: no row tells; mixed: two rows contradict each other.
    """
    if not is_words(dates):
        return None
    numbers = dates.dropna().drop_duplicates().str.extract(_SLASHED).dropna().astype(np.int64)
    day, month = bool((numbers[0] > 12).any()), bool((numbers[1] > 12).any())
    return "mixed" if day and month else "day" if day else "month" if month else None


def open_order(dates: pd.Series) -> npt.NDArray[np.bool_]:
    """Return which cells, bool [rows], are dates that mean another day if the order of day and month changes."""
    if not is_words(dates):
        return np.zeros(len(dates), dtype=bool)
    numbers = dates.str.extract(_SLASHED).astype("Float64").fillna(99)
    return ((numbers[0] <= 12) & (numbers[1] <= 12) & (numbers[0] != numbers[1])).to_numpy(dtype=bool)


def parse_dates(dates: pd.Series, order: Order | None) -> pd.Series:
    """Return dates as UTC times, missing where a value is no date; those without a zone count as UTC.

    Args:
        dates: Words, or dates of any type.
        order: What 03/04/2020 begins with. None: unknown, so that such dates count as missing.
    """
    if pd.api.types.is_datetime64_any_dtype(dates):
        return pd.to_datetime(dates, utc=True)
    words = dates.astype("str")
    words = words.mask(words.str.match(_NO_MONTH, na=False))
    dotted = words.str.match(_DOTTED, na=False)
    # pandas would also swap day and month of 2020-03-04, where the order is not in doubt.
    swapped = dotted | (words.str.match(_SLASHED, na=False) & (order == "day"))
    times = _times(words.mask(swapped), day_first=False)
    if swapped.any():
        times = times.fillna(_times(words.where(swapped), day_first=True))
    return times.mask(open_order(words)) if order is None else times


def _times(words: pd.Series, *, day_first: bool) -> pd.Series:
    return pd.to_datetime(words, errors="coerce", format="mixed", dayfirst=day_first, utc=True)


def days(dates: pd.Series, order: Order | None) -> Numbers:
    """Return dates as days since 1970 (fractions are hours), NaN where there is none between 1677 and 2262."""
    times = parse_dates(dates, order)
    # In microseconds, since nanoseconds end in 2262 and year 9999 is a usual word for "never".
    since = times.dt.tz_convert(None).to_numpy("datetime64[us]").astype(np.int64) / 86_400e6
    since = np.where(times.isna(), np.nan, since)
    return np.where((since >= _FIRST_DAY) & (since <= _LAST_DAY), since, np.nan)


def are_vectors(words: pd.Series) -> bool:
    """Return whether words are lists of numbers as Python or NumPy print them: [0.1, 0.2] or [0.1 0.2]."""
    return bool(len(words)) and bool(words.str.fullmatch(_VECTOR).all())


def spelled_vector(word: Any) -> Any:
    """Return the list of numbers that a word spells; anything else is returned as it is."""
    if not isinstance(word, str) or not re.fullmatch(_VECTOR, word):
        return word
    inner = word.strip()[1:-1].replace(",", " ").split()
    try:
        return [float(number) for number in inner]
    except ValueError:
        return word
