"""Values and columns that are taken without a word for what they are not: kinds 8 to 11."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _kinds import Case, Loud, listening, need, told_by
from _workshop import ROWS, Workshop
from PIL import Image

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import read_table

_CODE = np.arange(ROWS) // 2 % 2


# Kind 8: dates.


def _dated(shop: Workshop) -> tuple[Any, pd.DataFrame]:
    """Return a model of a day in a year, trained on ISO dates, and its rows with month and day."""
    draw = np.random.default_rng(1)
    month = np.where(_CODE == 1, draw.integers(9, 12, ROWS), draw.integers(1, 4, ROWS))
    day = draw.integers(1, 28, ROWS)
    day[:6] = [25, 26, 13, 14, 27, 20]
    frame = shop.frame.assign(
        month=month, day=day, when=[f"2020-{m:02d}-{d:02d}" for m, d in zip(month, day, strict=True)]
    )
    return shop.fit(frame, inputs=["when"]).model, frame


def _order(form: str, shop: Workshop) -> str:
    """Ask with the same dates in another form."""
    model, frame = _dated(shop)
    first = model.predict_table(frame)
    other = frame.assign(when=[form.format(d=d, m=m) for m, d in zip(frame["month"], frame["day"], strict=True)])
    told = model.predict_table(other)
    differ = told["probability"] != first["probability"]
    if not differ.any():
        return ""
    if (told["problem"][differ] != "").all():
        raise Loud(told["problem"][differ].iloc[0])
    return f"{differ.sum()} of {ROWS} rows are predicted otherwise"


def _mixed(shop: Workshop) -> str:
    model, frame = _dated(shop)
    words = frame["when"].tolist()
    words[:3] = ["25/12/2020", "12/25/2020", "03/04/2020"]
    told = model.predict_table(frame.assign(when=words))
    if (told["problem"][:3] != "").any():
        raise Loud(told["problem"][:3].tolist())
    return "a day first and a month first in one column, and not a word"


def _far(value: Any, shop: Workshop) -> str:
    """A date out of any calendar is a value or a missing cell with a problem; the other rows are as they were."""
    model, frame = _dated(shop)
    first = model.predict_table(frame)
    words = frame["when"].astype(object).tolist()
    words[7] = value
    told = model.predict_table(frame.assign(when=words))
    others = np.arange(ROWS) != 7
    if not (told["probability"][others] == first["probability"][others]).all():
        return "other rows are predicted otherwise"
    if told["problem"][7]:
        raise Loud(told["problem"][7])
    return need(np.isfinite(told["probability"][7]), f"probability {told['probability'][7]}")


def _far_trained(shop: Workshop) -> str:
    frame = shop.frame.assign(when=[f"2020-0{1 + 5 * k}-{1 + i % 28:02d}" for i, k in enumerate(_CODE)])
    frame.loc[[3, 9], "when"] = "9999-12-31"
    told = shop.fit(shop.file(shop.csv(frame)), inputs=["when"]).model.predict_table(frame)
    return need((told["prediction"] == frame["organ"]).mean() > 0.9, "two dates far away spoil all others")


def _durations(shop: Workshop) -> str:
    stay = pd.to_timedelta(np.where(_CODE, 5, 50) + np.arange(ROWS) / 50, unit="D")
    frame = shop.frame.assign(stay=stay)
    run = shop.fit(frame, inputs=["stay"])
    kind = next(column.kind.value for column in run.model.schema.columns if column.name == "stay")
    right = (run.model.predict(frame) == frame["organ"]).mean()
    return need(kind in ("number", "date") and right == 1, f"durations are taken for {kind}, accuracy {right}")


DATES = [
    *(
        Case(8, f"asked as {form}", partial(_order, form), "when.*row")
        for form in (
            "{d:02d}.{m:02d}.2020",
            "{d:02d}/{m:02d}/2020",
            "{m:02d}/{d:02d}/2020",
            "2020/{m:02d}/{d:02d}",
            "{d}-{m}-2020",
        )
    ),
    Case(8, "days first and months first in one column", _mixed, "when.*row|row.*when"),
    *(
        Case(8, f"a cell {value}", partial(_far, value), "when.*row|row.*when")
        for value in (
            "9999-12-31",
            "0001-01-01",
            "2020-02-30",
            "2020-13-45",
            "99999-01-01",
            "2020-03-01T00:00:00+14:00",
        )
    ),
    Case(8, "9999-12-31 in training", _far_trained, "when.*row|row.*when"),
    Case(8, "durations", _durations, "stay"),
]

# Kind 9: values that the model cannot know.


def _unknown(column: str, change: Callable[[Any], Any], shop: Workshop) -> str:
    """Ask with values that the model has never seen, or cannot read, in every row."""
    with listening() as said:
        told = shop.model().predict_table(shop.frame.assign(**{column: shop.frame[column].map(change)}))
    if not np.isfinite(told["probability"]).all():
        return f"{np.isnan(told['probability']).sum()} probabilities are NaN beside a label"
    if (told["problem"].str.contains(column)).all():
        raise Loud(told["problem"][0])
    if column in said.text:
        raise Loud(said.text)
    return f"{(told['problem'] == '').sum()} rows without a problem"


def _always(value: object) -> Callable[[Any], Any]:
    return lambda _: value


def _truth(value: Callable[[int], object], shop: Workshop) -> str:
    """Ask a model of yes and no with other words for them."""
    frame = shop.frame.assign(smoker=["yes" if k else "no" for k in _CODE])
    model = shop.fit(frame, inputs=["smoker"]).model
    with listening() as said:
        told = model.predict_table(frame.assign(smoker=pd.Series([value(int(k)) for k in _CODE], dtype=object)))
    if (told["prediction"] == frame["organ"]).all():
        return ""
    if (told["problem"] != "").any() or "smoker" in said.text:
        raise Loud(str(told["problem"].iloc[0]) + said.text)
    return f"accuracy {(told['prediction'] == frame['organ']).mean()}, and not a word"


def _units_trained(form: str, shop: Workshop) -> str:
    """Train on numbers with something beside them: numbers, or said not to be."""
    words = [form.format(age) for age in shop.frame["age"]]
    run = shop.fit(shop.file(shop.csv(shop.frame.assign(dose=words))), inputs=["dose", "age"], row_id="id")
    column = next(column for column in run.model.schema.columns if column.name == "dose")
    if column.kind.value == "number":
        told = run.model.predict_table(shop.frame.assign(dose=words))
        return need((told["problem"] == "").all(), "numbers in training, problems at prediction")
    found = told_by(run)
    if "dose" in "".join(map(str, run.metrics["warnings"])) or '"dose"' in (run.folder / "findings.json").read_text():
        raise Loud(found[:200])
    return f"taken for {column.kind.value}, and not a word"


UNKNOWN = [
    Case(9, "every category is new", partial(_unknown, "site", lambda _: "elsewhere"), "site"),
    Case(9, "every category is a number", partial(_unknown, "site", lambda _: 7), "site"),
    *(
        Case(9, f"a number {value!r}", partial(_unknown, "age", _always(value)), "age")
        for value in (
            1e39,
            -1.7976931348623157e308,
            float("inf"),
            "78 y",
            "12 mg",
            "45 %",
            "1,234",
            "40,5",
            "> 90",
            "12'345",
        )
    ),
    Case(9, "1 and 2 for no and yes", partial(_truth, lambda k: k + 1), "smoker"),
    Case(9, "ja and nein for yes and no", partial(_truth, lambda k: ("nein", "ja")[k]), "smoker"),
    Case(9, "2.0 and 1.0 for yes and no", partial(_truth, lambda k: float(k + 1)), "smoker"),
    *(
        Case(9, f"{form} in training", partial(_units_trained, form), "dose")
        for form in ("{} y", "{} mg", "{} %", "<{}")
    ),
]

# Kind 10: objects that become text.


def _pictures_as(change: Callable[[bytes], Any], shop: Workshop) -> str:
    """Hand pictures over in cells; they are the pictures that files of them are."""
    contents = [Path(name).read_bytes() for name in shop.frame["scan"]]
    cells = np.empty(ROWS, dtype=object)
    for row, content in enumerate(contents):
        cells[row] = change(content)
    held = shop.frame.assign(scan=pd.Series(cells))
    run = shop.fit(held, inputs=["scan"])
    column = next(column for column in run.model.schema.columns if column.name == "scan")
    if column.kind.value != "image":
        return f"taken for {column.kind.value}: {column.reason[:80]}"
    fresh = shop.fit(inputs=["scan"], out=shop.folder / "files").model.predict_proba(shop.frame)
    difference = np.abs(run.model.predict_proba(held).to_numpy() - fresh.to_numpy()).max()
    return need(difference < 1e-6, f"probabilities differ by {difference}")


def _as_array(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)))


def _objects(value: Any, shop: Workshop) -> str:
    """A column of things that are no words, numbers or dates is refused, or left out with a reason."""
    cells = np.empty(ROWS, dtype=object)
    for row in range(ROWS):
        cells[row] = value(row)
    run = shop.fit(shop.frame.assign(thing=pd.Series(cells)), inputs=["thing", "age"])
    column = next(column for column in run.model.schema.columns if column.name == "thing")
    return f"taken for {column.kind.value}: {column.reason[:80]}"


class _Own:
    def __init__(self, number: int) -> None:
        self.number = number


_WHERE = "'(scan|thing)'.*(row|holds)"
OBJECTS = [
    Case(10, "PIL pictures", partial(_pictures_as, lambda c: Image.open(io.BytesIO(c)).convert("RGB")), _WHERE),
    Case(10, "bytes of files", partial(_pictures_as, lambda c: c), _WHERE),
    Case(10, "arrays", partial(_pictures_as, _as_array), _WHERE),
    Case(10, "bytes and path", partial(_pictures_as, lambda c: {"bytes": c, "path": None}), _WHERE),
    Case(
        10,
        "data addresses",
        partial(_pictures_as, lambda c: "data:image/png;base64," + base64.b64encode(c).decode()),
        _WHERE,
    ),
    Case(10, "base64", partial(_pictures_as, lambda c: base64.b64encode(c).decode()), _WHERE),
    Case(10, "mappings", partial(_objects, lambda row: {"a": row, "b": "x"}), _WHERE),
    Case(10, "sets", partial(_objects, lambda row: {row, row + 1}), _WHERE),
    Case(10, "objects of a class", partial(_objects, _Own), _WHERE),
    Case(10, "functions", partial(_objects, lambda row: lambda: row), _WHERE),
    Case(10, "bytes that are no picture", partial(_objects, lambda row: b"abc%d" % row), _WHERE),
    Case(10, "complex numbers", partial(_objects, lambda row: complex(row, 1)), _WHERE),
]

# Kind 11: columns of another kind than they look, and copies on both sides.


def _paths(form: str, suffix: str, shop: Workshop) -> str:
    """A column of paths of pictures is one of pictures, whatever their suffix, or is said to look like it."""
    names = []
    for row, name in enumerate(shop.frame["scan"]):
        Image.open(name).convert("RGB").save(shop.folder / f"{row}{suffix}")
        names.append(form.format(f"{shop.folder}/{row}{suffix}"))
    run = shop.fit(
        shop.frame.assign(photo=names), inputs=None, group="patient", row_id="id", sets=["data.unreadable=mask"]
    )
    column = next(column for column in run.model.schema.columns if column.name == "photo")
    if column.kind.value == "image":
        return ""
    if column.role == "unused" and re.search("path|address|picture|image", column.reason):  # a run prints its reason
        raise Loud(column.reason)
    return f"{column.kind.value}, {column.role}: {column.reason[:60]}, and no warning"


def _names_rows(name: str, shop: Workshop) -> str:
    """An id of patients is no input, however its column is called."""
    frame = shop.frame.drop(columns=["patient", "id", "scan", "note"])
    frame[name] = 100_000 + np.arange(ROWS) // 2
    schema = infer_schema(read_table(frame), Roles("organ", split="part"))
    column = next(column for column in schema.columns if column.name == name)
    return need(column.role != "input", f"{name} is an input {column.kind.value}: {column.reason}")


def _copies(inputs: list[str], how: Callable[[Image.Image], Image.Image], shop: Workshop) -> str:
    """Rows that are copies of each other are never on both sides of a split that fusetune makes."""
    names = [[str(shop.folder / f"{which}-{row}.png") for row in range(ROWS // 2)] for which in ("first", "second")]
    for row, (first, second) in enumerate(zip(*names, strict=True)):
        made = _scene(row)
        made.save(first)
        how(made).save(second)
    half = shop.frame.iloc[: ROWS // 2]
    twice = pd.concat([half.assign(scan=those) for those in names], ignore_index=True)
    twice = twice.assign(id=shop.frame["id"], age=shop.frame["age"])
    kept = ["doctor.policy.duplicate_rows=keep", "doctor.policy.duplicate_images=keep"]
    run = shop.fit(twice, inputs=inputs, split=None, row_id="id", sets=kept)
    part = pd.read_parquet(run.folder / "split.parquet").set_index("row_id")["part"]
    pairs = [(part.get(f"case-{row}"), part.get(f"case-{row + ROWS // 2}")) for row in range(ROWS // 2)]
    apart = sum(one is not None and other is not None and one != other for one, other in pairs)
    return need(apart == 0, f"{apart} of {ROWS // 2} pairs of copies are on both sides")


def _scene(row: int) -> Image.Image:
    """Return a picture of large shapes, which compression leaves as they are."""
    corners = np.random.default_rng(row).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((96, 96), Image.Resampling.BICUBIC)


def _compressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return Image.open(stream)


WRONG_KIND = [
    *(
        Case(11, f"paths that end in {suffix}", partial(_paths, "{}", suffix), "photo")
        for suffix in (".avif", ".jfif", ".jp2", ".ppm", ".PNG")
    ),
    Case(11, "paths with a query", partial(_paths, "{}?width=800", ".png"), "photo"),
    Case(11, "addresses without a suffix", partial(_paths, "https://shop.invalid/p?file={}", ".png"), "photo"),
    Case(11, "lists of paths", partial(_paths, "['{}']", ".png"), "photo"),
    *(
        Case(11, f"an id called {name}", partial(_names_rows, name))
        for name in (
            "PatientID",
            "Patient ID",
            "patient-id",
            "PassengerId",
            "case",
            "mrn",
            "MRN",
            "subject",
            "Unnamed: 0.1",
            "StudyInstanceUID",
        )
    ),
    Case(11, "copies of rows in a split to be made", partial(_copies, ["scan", "note", "site"], lambda image: image)),
    Case(11, "copies of pictures in a split to be made", partial(_copies, ["scan", "age"], lambda image: image)),
    Case(11, "compressed copies in a split to be made", partial(_copies, ["scan", "age"], _compressed)),
]

VALUE_KINDS = [*DATES, *UNKNOWN, *OBJECTS, *WRONG_KIND]
