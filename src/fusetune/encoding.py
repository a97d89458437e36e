"""What frozen encoders say of a table, put into the feature store before `fit` asks for it.

The table is taken in, divided and prepared as `fit` does it, and the store is asked what strategies ask it of encoders
that they leave as they are: the same rows in the same batches, so that `fit` finds what it would have computed, to the
last bit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fusetune.augment.own import Own
from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.images import Opener
from fusetune.data.roles import Roles
from fusetune.data.table import Table
from fusetune.display import card
from fusetune.doctor.images import Look, look_at_pictures
from fusetune.errors import UserError
from fusetune.features.store import Engine
from fusetune.heads.folds import make_folds
from fusetune.intake import schema_of, take_in, warn_of_reading
from fusetune.plan import announce_plan
from fusetune.process import threads_restored
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune.strategies.level import at_level

# Whose encoders take time. Cells and vectors are read by networks that are trained.
_ENCODED = ("image", "text")


@dataclass(frozen=True)
class Elsewhere:
    """Who does what takes time; by default it is done here.

    Attributes:
        look: Opens pictures for the doctor.
        scan: Opens pictures for the run.
        engine: Encodes.
    """

    look: Look = look_at_pictures
    scan: Opener | None = None
    engine: Engine | None = None


@dataclass(frozen=True, repr=False)
class Encoded:
    """What was put into the feature store.

    Attributes:
        folder: The store.
        passes: Rows that went through an encoder, once for each view, by input.
        reused: Those that did not have to, since they were there.
        seconds: What it took.
    """

    folder: Path
    passes: Mapping[str, int]
    reused: Mapping[str, int]
    seconds: float

    def lines(self) -> list[str]:
        """Return what is to be said, by input."""
        names = dict.fromkeys([*self.passes, *self.reused])
        return [
            f"{name}: {self.passes.get(name, 0):,} rows encoded, {self.reused.get(name, 0):,} were there"
            for name in names
        ]

    def __repr__(self) -> str:
        return f"Encoded({'; '.join(self.lines())})"

    def _repr_html_(self) -> str:
        """Return what notebooks show."""
        return card(f"Features in {self.folder}", dict(line.split(": ", 1) for line in self.lines()))


def encoded(
    data: Table, label: str, roles: Roles, settings: Config, own: Own | None, log: Log, elsewhere: Elsewhere
) -> Encoded:
    """Encode a table that was read; see `api.encode`."""
    started = time.perf_counter()
    schema = schema_of(data, roles, settings)
    if not any(modality.kind in _ENCODED for modality in schema.modalities().values()):
        raise UserError(f"{data.name} has no pictures and no texts among its inputs: nothing takes an encoder")
    if elsewhere.engine is None:
        announce_plan(data, schema, settings, log)
    intake = take_in(data, label, schema, settings, None, elsewhere.look)
    warn_of_reading(log, data)
    for line in intake.treatment.lines:
        log.warn(line)
    with threads_restored():
        runtime = start_runtime(settings)
        ctx = intake.context(settings, runtime, log, own=own, scan=elsewhere.scan, engine=elsewhere.engine)
        _fill(ctx)
    return Encoded(ctx.store.folder, dict(ctx.store.passes), dict(ctx.store.reused), time.perf_counter() - started)


def _fill(ctx: Context) -> None:
    """Ask the store for what strategies ask of encoders that are not trained: views for a head, and plain inputs."""
    if ctx.config.strategy.level == "features":
        at_level(ctx)
        return
    folds = make_folds(ctx)
    for name, modality in ctx.modalities.items():
        if modality.kind in _ENCODED:
            encoder = ctx.frozen_encoder(name)
            ctx.encode(name, encoder, folds.rows, ctx.views())
            ctx.encode(name, encoder, folds.rows)
            ctx.encode(name, encoder, folds.choice_rows)
