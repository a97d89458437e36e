"""A table after every check that can refuse it: its columns, classes and split, and what the doctor found in it.

Whatever begins from a table and a label begins here, before anything is created or changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.augment.own import Own
from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.bags import pictures_of
from fusetune.data.cache import PixelCache
from fusetune.data.choices import Kind
from fusetune.data.images import Keeper
from fusetune.data.imprint import imprint
from fusetune.data.infer import infer_schema, needed_columns
from fusetune.data.ocr import with_words
from fusetune.data.roles import Roles
from fusetune.data.schema import Modality, Schema
from fusetune.data.source import Source
from fusetune.data.spelling import as_words
from fusetune.data.split import PARTS, Split, part_codes
from fusetune.data.table import Table, TableLike, read_table, row_keys
from fusetune.data.weights import counting, refuse_weightless, weights_of
from fusetune.doctor.examine import Examination, copy_numbers, examine
from fusetune.doctor.findings import counts
from fusetune.doctor.images import Look, look_at_pictures
from fusetune.doctor.treat import Treatment, refuse, treat
from fusetune.encoders.known import check_encoders
from fusetune.errors import ConfigError, TableError, UserError, listed
from fusetune.evaluate.measures import measure_of
from fusetune.files import write_text
from fusetune.folder import refuse_other_run
from fusetune.inputs import image_input
from fusetune.prepare import image_folder, prepare, split_rows
from fusetune.progress import Log
from fusetune.record import Record
from fusetune.report.checks import write_checks
from fusetune.runtime import Runtime, find_runtime
from fusetune.strategies import refuse_target, refuse_weights, strategy_of
from fusetune.targets import Classification, Target, Truth
from fusetune.targets.choose import kind_of, learn_target

# Below this many independent units, bootstrap intervals are too uncertain to lean on.
_FEW = 30


@dataclass(frozen=True, eq=False)
class Intake:
    """A table after every check, and what is known of it.

    Attributes:
        table: The table after the doctor's treatment.
        label: The column to predict.
        schema: Its columns.
        target: What is predicted.
        labels: Each row's label as the target encodes it: class index, int64 [rows].
        split: Which row is in which part.
        copies: Number of the set of copies that each row belongs to, as `copy_numbers` returns it.
        examination: What the doctor found; None where it was not asked.
        treatment: What was done about it.
        made_from: Hashes of all of this, but for the pictures.
        before: What the run to be resumed was made from, where that is known.
        weightless: How many rows were left out since their weight is 0.
    """

    table: Table
    label: str
    schema: Schema
    target: Target
    labels: Truth
    split: Split
    copies: npt.NDArray[np.int64]
    examination: Examination | None
    treatment: Treatment
    made_from: Record
    before: Record | None
    weightless: int = 0

    def context(
        self,
        settings: Config,
        runtime: Runtime,
        log: Log,
        folder: Path | None = None,
        resume: bool = False,
        own: Own | None = None,
        settled: Sequence[str] = (),
        **elsewhere: Any,
    ) -> Context:
        """Read its inputs and load encoders; arguments and errors are those of `prepare`."""
        return prepare(
            self.table, self.schema, self.split, self.target, self.labels, settings, runtime, log, folder, resume, own,
            self.copies, settled, **elsewhere,
        )  # fmt: skip


def take_in(
    data: Table, label: str, schema: Schema, settings: Config, resumed: Path | None, look: Look = look_at_pictures
) -> Intake:
    """Check everything that can be refused; `resumed` is the folder of a run to go on with, `look` opens pictures."""
    if resumed is None:  # a finished run is shown on any machine
        find_runtime(settings)
        check_encoders({modality.kind for modality in schema.modalities().values()}, settings)
    data = schema.read(data)
    _refuse_unlabelled(data, label, settings)
    strategy, own = strategy_of(settings)
    refuse_target(strategy, schema.target)
    if schema.named("weight") is not None:
        refuse_weights(strategy, own)
    # Pictures count by their content, wherever they lie, and so do the words in them, but for those that are given.
    pictures = {c.name for c in schema.inputs if c.kind is Kind.IMAGE}
    pictures |= {c.name for c in schema.inputs if c.read_in is not None and c.name not in data.frame.columns}
    used = [c.name for c in schema.columns if c.role != "unused" and c.name not in pictures]
    used += filter(None, (settings.image.spacing, settings.image.orientation, settings.split.time))
    columns = imprint(data, used)
    data = words_read(data, schema, settings)
    looked_at = with_weight(data, schema)
    examination, treatment = _doctor(looked_at, schema, settings, look)
    table, schema = treatment.table, treatment.schema
    target = learn_target(schema.target, table, label)
    # A wrong aim, or a loss of another kind of label, must not cost a run.
    target.solved_by(settings.head.robust)
    measure_of(target).check_aim(settings.evaluate.aim, settings.evaluate.positive)
    labels, ids = target.encode(table, label), table.ids(schema.named("id"))
    made_from = Record(len(data), rows_hash(ids, labels), columns)
    before = None if resumed is None else refuse_other_run(resumed, settings, schema, made_from)
    copies = copy_numbers(table, schema, examination)
    saved = None if resumed is None else resumed / "split.parquet"
    split, target, labels = split_rows(table, schema, target, settings, saved, copies)
    if examination is not None and examination.examined.parts is None:
        examination.check_split(split)
        refuse(examination.findings, settings.doctor.policy)
    weightless = len(data) - len(looked_at)
    return Intake(
        table, label, schema, target, labels, split, copies, examination, treatment, made_from, before, weightless
    )


def read_for(source: TableLike, roles: Roles, config: Config) -> Table:
    """Read a table for `take_in`: of Parquet files the columns that it needs, where inputs are named.

    Raises:
        TableError: As `read_table`.
    """
    settled = (config.image.spacing, config.image.orientation, config.split.time)
    named = [name for name in settled if name is not None]
    return read_table(source, lambda names: needed_columns(names, roles, named))


def _refuse_unlabelled(table: Table, label: str, config: Config) -> None:
    """Refuse rows without a label before any picture is read, unless the policy leaves them out.

    Raises:
        TableError: Naming the rows and both remedies.
    """
    missing = np.flatnonzero(as_words(table.column(label)).isna().to_numpy())
    if len(missing) and not (config.doctor.check and config.doctor.policy["label_missing"] == "drop"):
        raise TableError(
            f"label column '{label}' of {table.name} is empty in {len(missing):,} of {len(table):,} row(s), "
            f"{listed(missing)}{table.empty(label)}; fill it in, or leave these rows out with "
            "--set doctor.policy.label_missing=drop"
        )


def with_weight(table: Table, schema: Schema) -> Table:
    """Return a table without the rows of weight 0, which are as if they were not there.

    Raises:
        TableError: If a weight is missing or none, or no row of a part that a split column names counts.
    """
    name, split = schema.named("weight"), schema.named("split")
    if name is None:
        return table
    if split is not None:
        codes = part_codes(table.column(split))
        refuse_weightless(weights_of(table, name), {part: codes == code for code, part in enumerate(PARTS)}, name)
    return counting(table, name)


def refuse_weight(schema: Schema, what: str) -> None:
    """Refuse a column of weights for what counts every row alike.

    Raises:
        ConfigError: Naming the column.
    """
    if (name := schema.named("weight")) is not None:
        raise ConfigError(
            f"{what} counts every row alike, and column '{name}' has the role weight: give it the role unused, or use "
            "fit, which follows it"
        )


def schema_of(table: Table, roles: Roles, config: Config) -> Schema:
    """Return the columns of a table: those of an edited schema file, or as they are inferred.

    Raises:
        UserError: If the file and the roles contradict each other, or the table has no such column.
    """
    edited = config.data.schema_file
    if not edited:
        return with_target(infer_schema(table, roles, config.data.outside == "refuse"), table, config)
    if roles.inputs is not None or roles.kinds or roles.vectors or roles.share or roles.gather:
        raise UserError(
            f"{edited} says which columns are used and what they are; leave out inputs, kinds, vectors, share, gather"
        )
    schema = Schema.load(Path(edited))
    schema.check(table)
    for role, name in roles.named().items():
        if schema.named(role) != name:
            raise UserError(f"{edited} has '{schema.named(role)}' as the {role}, not '{name}'")
    if config.target not in ("auto", schema.target):
        raise UserError(f"{edited} has the target {schema.target}, not {config.target}: change the one or the other")
    return schema


def with_target(schema: Schema, table: Table, config: Config) -> Schema:
    """Return a schema that says what kind of target the label is, and why."""
    label = schema.named("label")
    if label is None:
        return schema
    kind, reason = config.target, "given"
    if kind == "auto":
        only = Schema(columns=[column for column in schema.columns if column.name == label])
        kind, reason = kind_of(only.read(replace(table, frame=table.frame[[label]])), label)
    # What was found of the column's values takes each cell for one name, which is right of classes alone.
    said = {"reason": f"label column; {kind}: {reason}"}
    columns = [column.model_copy(update=said) if column.name == label else column for column in schema.columns]
    return schema.model_copy(
        update={"target": kind, "columns": columns if kind != Classification.kind else schema.columns}
    )


def _doctor(table: Table, schema: Schema, config: Config, look: Look) -> tuple[Examination | None, Treatment]:
    """Examine the table, unless that is switched off, and apply the policy."""
    if not config.doctor.check:
        return None, Treatment(table, schema, {}, {}, [])
    data = config.data
    examination = examine(
        table,
        schema,
        pixel_limit=data.pixel_limit,
        allow_remote=config.allow_download,
        outside=data.outside,
        keeper=_keeper(config),
        look=look,
    )
    return examination, treat(examination, config.doctor.policy)


def words_read(table: Table, schema: Schema, config: Config) -> Table:
    """Return a table with the words in pictures, where the schema asks for them; kept beside decoded pictures."""
    folder = image_folder(config)
    inputs = {name: image_input(config, name) for column in schema.inputs if (name := column.read_in) is not None}
    return with_words(table, schema, inputs, None if folder is None else folder.with_name("words"))


def _keeper(config: Config) -> Keeper | None:
    """Return what keeps the images that the doctor decodes for the run; one scale for all takes another decoding."""
    folder, settings = image_folder(config), image_input(config, "")
    if folder is None or settings.spacing is not None:
        return None
    return Keeper(settings, PixelCache(folder, settings.size, config.store.images_gb))


def rows_hash(ids: pd.Series, labels: Truth) -> str:
    """Hash which rows have which label."""
    return hashlib.sha256(row_keys(ids).tobytes() + labels.tobytes()).hexdigest()


def picture_hashes(sources: Mapping[str, Source]) -> dict[str, str]:
    """Return a hash of the content of each image column."""
    images = {name: source.digests for name, source in sources.items() if pictures_of(source) is not None}
    return {name: hashlib.sha256(digests.tobytes()).hexdigest() for name, digests in images.items()}


def report_findings(examination: Examination, treatment: Treatment, log: Log, folder: Path) -> None:
    """Write down what was found and done."""
    listing = {"findings": [finding.as_dict() for finding in examination.findings], **treatment.as_dict()}
    write_text(folder / "findings.json", json.dumps(listing, indent=1, ensure_ascii=False))
    write_checks(folder / "findings.html", examination, treatment.lines)
    for line in treatment.lines:
        log.warn(line)
    for finding in examination.findings:
        # A leak is said even where it is not certain: nobody looks for it in a list of columns.
        leak = finding.severity == "warn" and finding.kind.endswith(("gives_label", "give_label"))
        if finding.severity == "error" or leak:
            log.warn(f"{finding.evidence['what']} ({finding.certainty}); {finding.remedy} ({finding.kind})")
    tally = counts(examination.findings)
    log.say(f"  checks: {tally['error']} error(s), {tally['warn']} warning(s); see {folder / 'findings.html'}")


def warn_of_reading(log: Log, table: Table) -> None:
    """Say which rows are not what their file holds."""
    if table.problems:
        examples = listed(f"{row} ({text})" for row, text in table.problems.items())
        log.warn(f"{len(table.problems):,} row(s) were changed by reading them: {examples}")


def announce(log: Log, intake: Intake) -> None:
    """Say what is predicted, where it is no class, what rows count, the inputs, and which columns were left out."""
    schema = intake.schema
    if schema.target != Classification.kind:
        reason = next(column.reason for column in schema.columns if column.role == "label")
        log.say(f"  {reason} (--target classification, multilabel or regression says otherwise)")
    if (weight := schema.named("weight")) is not None:
        gone = f"; {intake.weightless:,} of weight 0 are left out" if intake.weightless else ""
        log.say(f"  rows count as column '{weight}' says, relative to each other{gone}")
    for name, modality in schema.modalities().items():
        log.say(f"  input {name}: {modality.kind}{_said(modality, schema)}")
    if intake.table.unread:
        log.say(f"  left in the file, not read: {listed(intake.table.unread)}")
    for column in schema.columns:
        if column.role == "unused" and not column.reason.startswith("not chosen"):
            log.say(f"  left out {column.name}: {column.reason}")


def _said(modality: Modality, schema: Schema) -> str:
    """Return what is to be said of an input beside its kind: its columns, or why a row can have several of it."""
    if modality.kind == "columns":
        return f" ({listed(modality.columns, 8)})"
    if not modality.several:
        return ""
    if len(modality.columns) > 1:
        return f", any number in a row (one encoder for {listed(modality.columns, 8)})"
    reason = next(column.reason for column in schema.columns if column.name == modality.columns[0])
    return f", any number in a row ({reason})"


def warn_about_parts(ctx: Context) -> None:
    """Say what the test part can not tell."""
    for code, part in enumerate(PARTS[1:], start=1):
        lost = [str(name) for name in ctx.target.lost(ctx.labels, ctx.split.part == code)]
        if lost:
            ctx.log.warn(f"no {part} row is of class {listed(lost)}: nothing is known about it from that part")
    units = ctx.split.counts()["test"] if ctx.groups is None else int(ctx.groups[ctx.split.part == 2].nunique())
    if units < _FEW:
        kind = "rows" if ctx.groups is None else "groups"
        ctx.log.warn(f"the test part has only {units} {kind}: intervals are wide, and themselves uncertain")


def part_counts(split: Split) -> str:
    """Return how many rows each part has, in words."""
    return ", ".join(f"{part} {count:,}" for part, count in split.counts().items())
