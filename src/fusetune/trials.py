"""What a run would warn of, it tries: settings that a table's columns suggest, judged before anything is trained.

Both ways are read by frozen encoders under one solved head (`linear-probe`), which takes seconds, and compared row by
row on rows that the head did not learn from. A suggestion is followed where it lowers the NLL by more than chance does.
Where that does not decide it, and what is suggested is of use to encoders that learn rather than to those that stay as
they are, both ways are fine-tuned for a while on one fold (`strategies.one_fold`), if the time allows, and compared
again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fusetune.augment.safety import sizes_of_pixels
from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.bags import pictures_of
from fusetune.data.schema import Modality, Schema
from fusetune.data.source import Bag
from fusetune.data.split import Rows
from fusetune.errors import UserError
from fusetune.files import write_text
from fusetune.progress import Log
from fusetune.strategies.base import Fitted, NoSettings
from fusetune.strategies.linear_probe import LinearProbe
from fusetune.strategies.one_fold import OneFold

Floats = npt.NDArray[np.float64]

# One-sided 95 %: of suggestions that change nothing, one in twenty is followed.
_SURE = 1.645
# Each trial reads and encodes all pictures once more; of the time of a run, they may take a share together.
_SHARE = 0.25
_MOST = {"quick": 5_000, "good": 20_000}
_TUNED_SHARE = 0.3  # of the time that is left, for fine-tuning both ways on one fold
_FINE_TUNED = ", fine-tuned"
_UNTRIED = "untried.json"  # among the files of an unfinished run: for what there was no time
_LOOKED_AT, _DARK = 200, 64  # pictures whose borders are looked at, and what is dark


@dataclass(frozen=True)
class Suggestion:
    """Settings that may be better.

    Attributes:
        sets: The settings, as a layer of a configuration.
        settles: Columns of which nothing has to be said any more, once it was tried.
        learnt: Is it of use to encoders that learn, more than to those that stay as they are?
    """

    sets: Mapping[str, Any]
    settles: tuple[str, ...] = ()
    learnt: bool = False

    @property
    def words(self) -> str:
        """The settings as they are given on the command line."""
        each = [(section, name, value) for section, own in self.sets.items() for name, value in own.items()]
        return ", ".join(f"{section}.{name}={value}" for section, name, value in each)


@dataclass(frozen=True)
class Trial:
    """What became of a suggestion.

    Attributes:
        suggestion: It.
        before: NLL of held-out rows without it, in nats.
        after: The same with it.
        error: Standard error of the difference, of groups where there are any.
        kept: Is it followed?
        tuned: Was the encoder fine-tuned, on one fold?
    """

    suggestion: Suggestion
    before: float
    after: float
    error: float
    kept: bool
    tuned: bool = False

    @property
    def undecided(self) -> bool:
        """Was it shown neither to help nor to harm?"""
        return abs(self.after - self.before) <= _SURE * self.error

    @property
    def words(self) -> str:
        """What was tried and what came of it, for a report."""
        what = "followed" if self.kept else "tried and not followed"
        how = "fine-tuned on one fold" if self.tuned else "frozen"
        return f"{self.suggestion.words} {what} (NLL {self.after:.3f} instead of {self.before:.3f}, {how})"


def _sizes(config: Config, schema: Schema) -> list[Suggestion]:
    """Bring pictures to one physical scale, where a column sounds like the size of a pixel."""
    image = config.image
    # Who has chosen an augmentation has said whether sizes may change.
    if image.augment != Config().image.augment or image.encode_size is not None:
        return []
    columns = sizes_of_pixels(image, image.policy, schema)
    return [Suggestion({"image": {"spacing": name, "augment": "scan"}}, (name,), learnt=True) for name in columns]


def _shapes(config: Config, schema: Schema) -> list[Suggestion]:
    """Keep the shape of pictures between edges of one colour; on one physical scale they keep it anyway."""
    del schema
    plain = config.image.spacing is None and config.image.fit == Config().image.fit
    return [Suggestion({"image": {"fit": "pad"}})] if plain else []


def _edges(ctx: Context) -> dict[str, int]:
    """Return a dark background where the borders of training pictures are dark, so that edges do not stand out."""
    if ctx.config.image.background != Config().image.background:
        return {}
    name = next(name for name, modality in ctx.modalities.items() if modality.kind == "image")
    source, train = ctx.sources[name], ctx.split.rows("train")
    read: Any = source.read(train[source.present[train]][:_LOOKED_AT])
    pixels = read.elements if isinstance(read, Bag) else read
    sides = (pixels[:, :, 0], pixels[:, :, -1], pixels[:, :, :, 0], pixels[:, :, :, -1])
    borders = torch.cat([side.flatten() for side in sides])
    return {"background": 0} if float(borders.float().median()) < _DARK else {}


def _same_pictures(one: Context, other: Context) -> bool:
    """Are pictures the same under two settings, as square ones are with and without edges?"""
    for name in one.sources:
        first, second = pictures_of(one.sources[name]), pictures_of(other.sources[name])
        if first is None or second is None:
            continue
        rows = np.flatnonzero(first.present & second.present)
        some = rows[:: max(1, len(rows) // _LOOKED_AT)]
        if not torch.equal(torch.as_tensor(first.read(some)), torch.as_tensor(second.read(some))):
            return False
    return True


def tried(
    config: Config,
    schema: Schema,
    rows: int,
    make: Callable[[Config, Log, tuple[str, ...]], Context],
    log: Log,
    left: float = math.inf,
) -> tuple[Context, list[Trial]]:
    """Return the prepared run with every suggestion that helps, and what was tried.

    Args:
        config: The settings that were given.
        schema: The table's columns.
        rows: How many rows there are outside the test part.
        make: Prepares a run; it is given settings, a log, and columns of which nothing has to be said.
        log: Told of each trial.
        left: Seconds that the run has.
    """
    pictures = any(modality.kind == "image" for modality in schema.modalities().values())
    most = _MOST.get(config.preset, _MOST["good"])
    if not pictures or not (_sizes(config, schema) or _shapes(config, schema)):
        return make(config, log, ()), []
    if rows > most:
        log.say(f"  nothing is tried beforehand on more than {most:,} rows: it would take too long (here {rows:,})")
        return make(config, log, ()), []
    trials, settled = list[Trial](), tuple[str, ...]()
    started, tuning = time.monotonic(), 0.0
    best = make(config, Log(quiet=True), ())
    before = LinearProbe.fit(best, NoSettings())
    asked = [best.key, config.preset, config.minutes]
    ranks = best.runtime.ranks
    known, untried = ranks.lead(lambda: _untried(best, asked)), list[str]()
    # What is offered depends on what was kept before.
    for plain in (one for offer in (_sizes, _shapes) for one in offer(config, schema)):
        suggestion = replace(plain, sets={"image": {**plain.sets["image"], **_edges(best)}})
        took = (time.monotonic() - started - tuning) / (1 + len(trials))
        late = took * (2 + len(trials)) > _SHARE * left if known is None else suggestion.words in known
        late = ranks.agree(late)
        if late:
            untried.append(suggestion.words)
            log.say(
                f"  not tried: {suggestion.words} (it would take about {took:.0f} s; more minutes leave time for it)"
            )
            continue
        try:
            changed = Config.build(config, dict(suggestion.sets))
            ctx = make(changed, Log(quiet=True), ())
            if _same_pictures(best, ctx):
                log.record("not tried", settings=suggestion.words, because="pictures are the same either way")
                continue
            after = LinearProbe.fit(ctx, NoSettings())
        except UserError as error:  # a cell without a size, say: the run itself goes on without
            log.say(f"  not tried: {suggestion.words} ({error})")
            continue
        trial = _compared(suggestion, ctx, before, after)
        both = _both(best, ctx, log) if suggestion.learnt and trial.undecided else None
        _tell(log, trial, "undecided" if both else "")
        if both:
            begun = time.monotonic()
            deep, took = suggestion.words + _FINE_TUNED, sum(fold.seconds() for fold in both)
            late = took > _TUNED_SHARE * (left - begun + started) if known is None else deep in known
            late = ranks.agree(late)
            if late:
                untried.append(deep)
                log.say(f"  not decided by fine-tuning (about {took:.0f} s; more minutes leave time for it)")
            # What is killed from here on goes on with this; what goes on keeps all that it was told.
            _keep(best, asked, untried if known is None else known)
            trial = trial if late else _tuned(suggestion, both, log)
            tuning += time.monotonic() - begun
        trials.append(trial)
        settled += suggestion.settles
        if trial.kept:
            config, best, before = changed, ctx, after
    _keep(best, asked, untried if known is None else known)
    return make(config, log, settled), trials


def _tell(log: Log, trial: Trial, sign: str = "") -> None:
    """Say and write down what came of a suggestion."""
    sign = sign or ("kept" if trial.kept else "not kept")
    how = "of an encoder fine-tuned on one fold" if trial.tuned else "of frozen encoders"
    log.say(
        f"  tried {trial.suggestion.words}: held-out NLL {how} {trial.after:.3f} instead of "
        f"{trial.before:.3f}, {trial.after - trial.before:+.3f} +- {_SURE * trial.error:.3f}: {sign}"
    )
    facts = {"before": trial.before, "after": trial.after, "error": trial.error, "kept": trial.kept}
    log.record("tried", settings=trial.suggestion.words, tuned=trial.tuned, **facts)


def _both(before: Context, after: Context, log: Log) -> tuple[OneFold, OneFold] | None:
    """Return what fine-tuning on one fold would be without and with a suggestion; None where nothing is fine-tuned."""
    one, other = (OneFold.of(replace(ctx, log=log)) for ctx in (before, after))
    return (one, other) if one and other else None


def _tuned(suggestion: Suggestion, both: tuple[OneFold, OneFold], log: Log) -> Trial:
    """Compare encoders that are fine-tuned for a while on all folds but one, on the rows of that one."""
    log.say(f"  fine-tuning {both[0].name} for {both[0].epochs} epochs on all folds but one, without it and with it")
    stages = (f"{fold.name}, {how} {suggestion.words}" for fold, how in zip(both, ("without", "with"), strict=True))
    (rows, one), (_, other) = (fold.losses(stage) for fold, stage in zip(both, stages, strict=True))
    trial = replace(_difference(suggestion, both[0].ctx, rows, one, other), tuned=True)
    _tell(log, trial)
    return trial


def _keep(ctx: Context, asked: list[Any], untried: list[str]) -> None:
    """Keep what there was no time to try, for this run should it go on after a stop."""
    if ctx.folder is not None and ctx.runtime.ranks.first:
        write_text(ctx.folder / _UNTRIED, json.dumps({"asked": asked, "untried": untried}))


def _untried(ctx: Context, asked: list[Any]) -> list[str] | None:
    """Return what an earlier start of this run had no time to try, so that it goes on with the same settings."""
    kept = None if ctx.folder is None else ctx.folder / _UNTRIED
    if kept is None or not kept.exists():
        return None
    found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
    return list(found["untried"]) if found["asked"] == asked else None


def with_trials(fitted: Fitted, trials: Sequence[Trial], modalities: Mapping[str, Modality]) -> Fitted:
    """Return what a strategy left with a note on each picture of what was tried before."""
    told = "; ".join(trial.words for trial in trials)
    if not told:
        return fitted
    notes = dict(fitted.notes)
    for name, modality in modalities.items():
        if modality.kind == "image":
            notes[name] = "; ".join(filter(None, [notes.get(name), told]))
    return replace(fitted, notes=notes)


def _compared(suggestion: Suggestion, ctx: Context, before: Fitted, after: Fitted) -> Trial:
    rows = np.intersect1d(before.rows, after.rows)
    truth = torch.from_numpy(ctx.labels[rows])
    one, other = (ctx.target.losses(fitted.held_on(rows).f.double(), truth).numpy() for fitted in (before, after))
    return _difference(suggestion, ctx, rows, one, other)


def _difference(suggestion: Suggestion, ctx: Context, rows: Rows, one: Floats, other: Floats) -> Trial:
    """Return what became of a suggestion by the losses of rows without and with it, float64 [rows]."""
    weights = ctx.row_weights(rows)
    units = np.unique(ctx.units.iloc[rows].to_numpy(), return_inverse=True)[1]
    mean, error = _mean_of_units((other - one) * weights, weights, units)
    start = float(np.average(one, weights=weights))
    return Trial(suggestion, start, start + mean, error, mean + _SURE * error < 0)


def _mean_of_units(values: Floats, weights: Floats, units: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return sum(values) / sum(weights) and its standard error where whole units were drawn (a ratio's, linearised)."""
    total, weight = np.bincount(units, values), np.bincount(units, weights)
    mean, count = total.sum() / weight.sum(), len(total)
    if count < 2:
        return float(mean), float("inf")
    spread = (total - mean * weight).std(ddof=1)
    return float(mean), float(spread * np.sqrt(count) / weight.sum())
